// SPDX-License-Identifier: Apache-2.0
//! The matches of MeshPassthrough as chains of the listener that they let calls out of, in Envoy's shape.

use crate::cluster::registry::Running;
use crate::net::addrs::{Direction, Family};
use crate::plan::outside::{Exit, Place, Says};
use crate::plan::{ListenerPlan, Origin};
use serde_json::{Value, json};

/// Returns a chain for each match that a listener may let a call out by; none for another listener, and where passthrough is on.
pub(super) fn chains(
    running: &Running,
    listener: &ListenerPlan,
    filters: impl Fn(&str) -> Value,
) -> Vec<Value> {
    let plan = &running.plan;
    if plan.passthrough || (listener.direction, listener.origin) != (Direction::Outbound, Origin::Transparent)
    {
        return Vec::new();
    }
    let family = Family::of(listener.address.ip());
    let of_family = |exit: &Exit| match &exit.place {
        Place::Network(network) => Family::of(network.address()) == family,
        Place::Name(..) => true,
    };
    let exits = plan.outside.exits().iter().filter(|exit| of_family(exit));
    let chain = |exit: &Exit| json!({"name": &*exit.cluster, "filter_chain_match": matched(exit), "filters": filters(&exit.cluster)});
    exits.map(|exit| chain(exit)).collect()
}

/// Returns the connections of a match. A host of HTTP is no part of Envoy's: it stands in the chain's name.
fn matched(exit: &Exit) -> Value {
    let mut matched = match &exit.place {
        Place::Network(network) => {
            let range =
                json!({"address_prefix": network.address().to_string(), "prefix_len": network.length()});
            json!({"prefix_ranges": [range]})
        }
        Place::Name(Says::Tls, domain) => {
            json!({"transport_protocol": "tls", "server_names": [domain.to_string()]})
        }
        Place::Name(Says::Http, _) => {
            json!({"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1"]})
        }
    };
    if let Some(port) = exit.port {
        matched["destination_port"] = port.into();
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry::Registry;
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    /// The matches of the outbound listener of a family, by their names.
    fn shown(mode: &str, family: Family) -> Vec<(String, Value)> {
        let config =
            Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
        let documents = format!(
            "{{type: MeshPassthrough, name: p, spec: {{default: {{passthroughMode: {mode}, appendMatch: [
             {{type: CIDR, value: 10.1.2.3/8, port: 80}}, {{type: IP, value: 'fd00::1'}},
             {{type: Domain, value: '*.A.test', protocol: tls, port: 443}}, {{type: Domain, value: b.test, protocol: http}}]}}}}}}"
        );
        let loaded = read_with_mesh(&config, &documents, "mesh.yaml");
        assert_eq!(loaded.errors, []);
        let running = Registry::default().open(compile(&config, &loaded.found).unwrap());
        let all = running.plan.listeners.iter().flat_map(|listener| {
            let of_family = Family::of(listener.address.ip()) == family;
            let chains = chains(&running, listener, |cluster| cluster.into());
            chains.into_iter().filter(move |_| of_family)
        });
        all.map(|chain| {
            assert_eq!(chain["name"], chain["filters"], "its filters lead to its cluster");
            (chain["name"].as_str().unwrap().to_owned(), chain["filter_chain_match"].clone())
        })
        .collect()
    }

    #[test]
    fn each_match_is_a_chain_of_the_outbound_listeners_of_its_family() {
        let tls = json!({"transport_protocol": "tls", "server_names": ["*.a.test"], "destination_port": 443});
        let http = json!({"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1"]});
        let v4 = json!({"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}], "destination_port": 80});
        let v6 = json!({"prefix_ranges": [{"address_prefix": "fd00::1", "prefix_len": 128}]});
        let names = [
            ("meshpassthrough_tls_*.A.test_443".to_owned(), tls),
            ("meshpassthrough_http_b.test_*".to_owned(), http),
        ];
        let of_v4 = [("meshpassthrough_tcp_10.1.2.3/8_80".to_owned(), v4)];
        let of_v6 = [("meshpassthrough_tcp_fd00::1_*".to_owned(), v6)];
        assert_eq!(shown("Matched", Family::V4), [&of_v4[..], &names].concat());
        assert_eq!(shown("Matched", Family::V6), [&of_v6[..], &names].concat());
        assert!(shown("All", Family::V4).is_empty() && shown("None", Family::V4).is_empty());
    }
}
