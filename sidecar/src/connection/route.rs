// SPDX-License-Identifier: Apache-2.0
//! Original destination + the plan in force → listener and cluster. Pure, but that the cluster of a split is drawn.
//!
//! | a redirected connection to | comes to the listener | and goes to |
//! |---|---|---|
//! | the address and port of a listener of that direction | of that name | its cluster |
//! | an address of a name of the mesh, outbound | of the service's port | its cluster |
//! | anything else, inbound | `inbound:passthrough:*` | where it was meant to go |
//! | anything else, outbound | `outbound:passthrough:*` | where it was meant to go |
//! | the same where passthrough is off, an address of the mesh | `outbound:passthrough:*` | where it was meant to go, by `direct_access` |
//! | the same, an address that a MeshPassthrough matches | `outbound:passthrough:*` | where it was meant to go, by `meshpassthrough_*` |
//! | the same, any other | `outbound:passthrough:*` | nowhere: it is denied, unless the name that it asks for is matched |

use crate::cluster::registry::{Cluster, Listener, Running};
use crate::net::addrs::{Direction, Family, OrigDst};
use crate::plan::{Discovery, Member, Origin};
use std::sync::Arc;

/// The way of a connection.
#[derive(Clone, Debug)]
pub struct Route {
    /// The listener that the connection came to, or stands for.
    pub listener: Arc<Listener>,
    /// `None`: the mesh denies it.
    pub cluster: Option<Arc<Cluster>>,
    /// The mesh member at the original destination, where that is dialled and a document names it.
    pub member: Option<Arc<Member>>,
}

/// Finds the route of a redirected connection that passed the guards.
pub fn route(running: &Running, direction: Direction, original: OrigDst) -> Route {
    let address = original.get();
    let named = running.listener_for(direction, address);
    let passthrough = || Arc::clone(running.passthrough(direction, Family::of(address.ip())));
    let mut route = of_listener(named.unwrap_or_else(passthrough));
    if direction == Direction::Outbound && dials_original(route.cluster.as_deref()) {
        route.member = running.member_at(&address);
        // An outbound whose cluster a patch took out is closed.
        if route.cluster.is_none() && route.listener.plan.origin == Origin::Transparent {
            let exit = || running.plan.outside.by_address(address).and_then(|exit| running.exit(exit));
            let way = if route.member.is_some() { running.direct_access.as_ref() } else { exit() };
            route.cluster = way.cloned();
        }
    }
    route
}

/// Returns the route of a connection to a listener that binds its own port.
pub(crate) fn of_listener(listener: Arc<Listener>) -> Route {
    Route { cluster: listener.next_cluster().cloned(), listener, member: None }
}

fn dials_original(cluster: Option<&Cluster>) -> bool {
    cluster.is_none_or(|cluster| matches!(cluster.plan.upstream, Discovery::OriginalDst { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry::Registry;
    use crate::net::addrs::Direction::{Inbound, Outbound};
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;
    use std::net::SocketAddr;

    fn running(arguments: &[&str], documents: &str) -> Arc<Running> {
        let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
        let mut config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        config.api_server = Some("10.96.0.1:443".parse().unwrap());
        let loaded = read_with_mesh(&config, documents, "test.yaml");
        assert_eq!(loaded.errors, []);
        Registry::default().open(compile(&config, &loaded.found).unwrap())
    }

    /// `LISTENER → CLUSTER (MEMBER)`
    fn way(running: &Running, direction: Direction, original: &str) -> String {
        let route = route(running, direction, OrigDst::new(original.parse().unwrap()));
        let cluster = route.cluster.as_ref().map_or("denied", |cluster| &cluster.plan.name);
        let member = route.member.map_or(String::new(), |member| format!(" ({})", member.dataplane));
        format!("{} → {cluster}{member}", route.listener.plan.name)
    }

    #[test]
    fn without_documents_every_connection_goes_where_it_was_meant_to_go() {
        let running = running(&[], "");
        for (direction, original, name) in [
            (Inbound, "10.0.0.2:80", "inbound:passthrough:ipv4"),
            (Inbound, "[fd00::2]:80", "inbound:passthrough:ipv6"),
            (Inbound, "[::ffff:10.0.0.2]:80", "inbound:passthrough:ipv4"),
            (Outbound, "192.0.2.1:443", "outbound:passthrough:ipv4"),
            (Outbound, "[2001:db8::1]:443", "outbound:passthrough:ipv6"),
        ] {
            assert_eq!(way(&running, direction, original), format!("{name} → {name}"), "{original}");
        }
    }

    const CLOSED: &str = "type: Mesh\nname: default\nnetworking: {outbound: {passthrough: false}}\n";
    const WORLD: &str = "---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: here}}],
  outbound: [{port: 80, address: 240.0.0.1, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-1, networking: {address: 10.0.0.9, inbound: [{port: 8000, tags: {kuma.io/service: web}}]}}
";

    #[test]
    fn what_a_document_names_has_its_own_way() {
        let running = running(&["--dataplane=here"], WORLD);
        for (direction, original, expected) in [
            (Inbound, "10.0.0.2:80", "inbound:10.0.0.2:80 → localhost:8080"),
            (Inbound, "10.0.0.2:81", "inbound:passthrough:ipv4 → inbound:passthrough:ipv4"),
            // The other direction has other listeners.
            (Outbound, "10.0.0.2:80", "outbound:passthrough:ipv4 → outbound:passthrough:ipv4 (here)"),
            (Outbound, "240.0.0.1:80", "outbound:240.0.0.1:80 → web"),
            (Outbound, "10.0.0.9:8000", "outbound:passthrough:ipv4 → outbound:passthrough:ipv4 (web-1)"),
            (Outbound, "10.0.0.9:8001", "outbound:passthrough:ipv4 → outbound:passthrough:ipv4"),
        ] {
            assert_eq!(way(&running, direction, original), expected);
        }
    }

    #[test]
    fn a_closed_mesh_denies_what_no_document_names_and_nothing_else() {
        let running = running(&["--dataplane=here"], &format!("{CLOSED}{WORLD}"));
        for (direction, original, expected) in [
            (Inbound, "10.0.0.2:80", "inbound:10.0.0.2:80 → localhost:8080"),
            (Inbound, "10.0.0.2:81", "inbound:passthrough:ipv4 → inbound:passthrough:ipv4"),
            (Outbound, "240.0.0.1:80", "outbound:240.0.0.1:80 → web"),
            (Outbound, "10.0.0.9:8000", "outbound:passthrough:ipv4 → direct_access (web-1)"),
            (Outbound, "10.0.0.9:8001", "outbound:passthrough:ipv4 → denied"),
            (Outbound, "[2001:db8::1]:443", "outbound:passthrough:ipv6 → denied"),
            (Outbound, "10.96.0.1:443", "kube_api_server_bypass → kube_api_server_bypass"),
            (Outbound, "10.96.0.1:80", "outbound:passthrough:ipv4 → denied"),
        ] {
            assert_eq!(way(&running, direction, original), expected);
        }
    }

    const MATCHED: &str = "---
{type: MeshPassthrough, name: out, spec: {default: {passthroughMode: Matched, appendMatch: [
  {type: CIDR, value: 192.0.2.0/24, port: 443, protocol: tls}, {type: IP, value: 192.0.2.9}, {type: IP, value: 10.0.0.9},
  {type: CIDR, value: 'fd00::/8', port: 80}, {type: Domain, value: a.test, protocol: http, port: 80}]}}}
";

    #[test]
    fn a_match_opens_its_addresses_and_no_other() {
        let running = running(&["--dataplane=here"], &format!("{CLOSED}{WORLD}{MATCHED}"));
        let out = "outbound:passthrough:ipv4 → ";
        for (direction, original, expected) in [
            (Outbound, "192.0.2.1:443", format!("{out}meshpassthrough_tls_192.0.2.0/24_443")),
            (Outbound, "[::ffff:192.0.2.1]:443", format!("{out}meshpassthrough_tls_192.0.2.0/24_443")),
            (Outbound, "192.0.2.1:80", format!("{out}denied")),
            (Outbound, "192.0.2.9:443", format!("{out}meshpassthrough_tcp_192.0.2.9_*")),
            (Outbound, "192.0.2.9:1", format!("{out}meshpassthrough_tcp_192.0.2.9_*")),
            (Outbound, "192.0.3.1:443", format!("{out}denied")),
            (Outbound, "[fd00::1]:80", "outbound:passthrough:ipv6 → meshpassthrough_tcp_fd00::/8_80".into()),
            (Outbound, "[2001:db8::1]:80", "outbound:passthrough:ipv6 → denied".into()),
            // A member is called as a member.
            (Outbound, "10.0.0.9:8000", format!("{out}direct_access (web-1)")),
            (Outbound, "10.0.0.9:8001", format!("{out}meshpassthrough_tcp_10.0.0.9_*")),
            (Outbound, "240.0.0.1:80", "outbound:240.0.0.1:80 → web".into()),
            (Outbound, "10.96.0.1:443", "kube_api_server_bypass → kube_api_server_bypass".into()),
            (Inbound, "10.0.0.2:81", "inbound:passthrough:ipv4 → inbound:passthrough:ipv4".into()),
        ] {
            assert_eq!(way(&running, direction, original), expected);
        }
    }

    const SPLIT: &str = "---
{type: Dataplane, name: db-1, networking: {address: 10.0.0.8, inbound: [{port: 8000, tags: {kuma.io/service: db}}]}}
---
{type: MeshTCPRoute, name: r, spec: {to: [{targetRef: {kind: MeshService, name: web}, rules: [{default: {backendRefs: [
  {kind: MeshService, name: web}, {kind: MeshService, name: db}, {kind: MeshService, name: here, weight: 0}]}}]}]}}
";

    #[test]
    fn of_several_clusters_each_call_draws_one_and_the_others_are_not_called() {
        let running = running(&["--dataplane=here"], &format!("{CLOSED}{WORLD}{SPLIT}"));
        // That 64 draws are alike has a probability of 10^-19.
        let ways: std::collections::BTreeSet<_> =
            (0..64).map(|_| way(&running, Outbound, "240.0.0.1:80")).collect();
        let expected = ["outbound:240.0.0.1:80 → db", "outbound:240.0.0.1:80 → web"];
        assert_eq!(ways.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        let listener = running.listener_for(Outbound, "240.0.0.1:80".parse().unwrap()).unwrap();
        let clusters = listener.clusters();
        assert_eq!(clusters.map(|one| &*one.plan.name).collect::<Vec<_>>(), ["web", "db"]);
    }

    #[test]
    fn an_address_of_a_name_leads_to_its_service_in_either_family_and_where_passthrough_is_off() {
        for documents in [WORLD.to_owned(), format!("{CLOSED}{WORLD}")] {
            let running = running(&["--dataplane=here"], &documents);
            let name = running.plan.names.find("web.mesh").unwrap();
            let [v4, v6] = name.addresses[..] else { panic!("{:?}", name.addresses) };
            for ip in [v4, v6] {
                for port in [80, 8000] {
                    let expected = format!("outbound:{v4}:{port} → web");
                    assert_eq!(way(&running, Outbound, &SocketAddr::new(ip, port).to_string()), expected);
                }
                let inbound = way(&running, Inbound, &SocketAddr::new(ip, 80).to_string());
                assert!(inbound.starts_with("inbound:passthrough:"), "{inbound}");
                let other = way(&running, Outbound, &SocketAddr::new(ip, 81).to_string());
                assert!(other.starts_with("outbound:passthrough:"), "{other}");
            }
        }
    }

    #[test]
    fn the_way_to_the_api_server_can_be_closed_too() {
        let running = running(&["--api-server-bypass=off"], CLOSED);
        assert_eq!(way(&running, Outbound, "10.96.0.1:443"), "outbound:passthrough:ipv4 → denied");
    }
}
