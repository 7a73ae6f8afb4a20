// SPDX-License-Identifier: Apache-2.0
//! Listeners and clusters of passthrough, by options, Mesh and MeshPassthrough.

use crate::net::addrs::{Direction, Family, inbound_source};
use crate::options::config::Config;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::limits::Numbers;
use crate::plan::compile::{push_cluster, push_listener};
use crate::plan::outside::{Exit, Place, Says};
use crate::plan::{Discovery, ListenerPlan, Origin, Plan, Serve, wildcard};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use culvert_mesh::kinds::mesh::Mesh;
use culvert_mesh::kinds::mesh_passthrough::{
    Destination, MOST_MATCHES, MatchProtocol, MeshPassthrough, PassthroughMatch, PassthroughMode,
};
use culvert_mesh::select::{self, Effective, Subject};
use std::net::SocketAddr;
use std::sync::Arc;

/// Adds the listeners and clusters that exist without documents, as far as the documents leave them open, and a cluster for
/// each match.
pub(super) fn add(
    plan: &mut Plan,
    (config, mesh): (&Config, Option<&Mesh>),
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    let policies = select::effective::<MeshPassthrough>(ours, std::slice::from_ref(pod));
    if config.dataplane.is_none() && !config.any_pod {
        errors.extend(undecided(ours));
    }
    let mode = mode(&policies);
    plan.passthrough = match mode {
        Some(mode) => mode == PassthroughMode::All,
        None => mesh.is_none_or(Mesh::passthrough),
    };
    let redirected = pod.pod.is_none_or(|(_, this)| this.redirected(&config.context())[1]);
    if !policies.is_empty() && !redirected {
        const UNUSED: &str =
            "MeshPassthrough has no effect: calls of this pod are not redirected to the sidecar";
        plan.warnings.push(UNUSED.into());
    }
    for direction in Direction::ALL {
        for family in Family::ALL {
            add_listener(plan, config, direction, family);
        }
    }
    if !plan.passthrough {
        add_what_stays(plan, config);
    }
    // Under None matches have no effect, as in Kuma.
    if mode != Some(PassthroughMode::None) {
        add_exits(plan, config, &policies, errors);
    }
}

/// Returns an error for each policy that is only about some pods: one that is passed over may be the one that closes.
fn undecided(ours: &[&Document]) -> impl Iterator<Item = CompileError> {
    const ALLOWED: &str = "all pods of the mesh; or --dataplane, so that one knows which pod this is";
    let undecided =
        |document: &&&Document| document.kind() == Kind::MeshPassthrough && select::chooses(document);
    let error = |document: &&Document| document.error("spec.targetRef", "a choice of pods", ALLOWED);
    ours.iter().filter(undecided).map(error).map(CompileError::from)
}

/// Returns the mode of the most specific policy that says one; without a policy there is none.
fn mode(policies: &[Effective<'_, MeshPassthrough>]) -> Option<PassthroughMode> {
    let said = policies.iter().find_map(|one| one.policy.default.as_ref()?.mode);
    said.or((!policies.is_empty()).then_some(PassthroughMode::Matched))
}

fn add_listener(plan: &mut Plan, config: &Config, direction: Direction, family: Family) {
    let name: Arc<str> = format!("{direction}:passthrough:{}", family.name()).into();
    let source = (direction == Direction::Inbound).then(|| inbound_source(family));
    let on = direction == Direction::Inbound || plan.passthrough;
    let upstream = Discovery::OriginalDst { source };
    let numbers = Numbers::of_passthrough(config);
    let cluster =
        on.then(|| push_cluster(plan, numbers.cluster(Arc::clone(&name), Origin::Transparent, upstream)));
    let listener = ListenerPlan {
        name,
        direction,
        origin: Origin::Transparent,
        address: SocketAddr::new(wildcard(family), config.listen_port(direction)),
        binds: false,
        serve: Serve::Tcp,
        http: None,
        cluster,
        split: Vec::new(),
        idle_timeout: numbers.idle_timeout,
        service: None,
        rate: None,
    };
    push_listener(plan, listener);
}

/// Adds the ways that stay where passthrough is closed: to members by address, and to the API server.
fn add_what_stays(plan: &mut Plan, config: &Config) {
    let numbers = Numbers::of_passthrough(config);
    let outbound =
        |name: &str| numbers.cluster(name.into(), Origin::Outbound, Discovery::OriginalDst { source: None });
    if !plan.members.is_empty() {
        let cluster = push_cluster(plan, outbound("direct_access"));
        plan.direct_access = Some(cluster);
    }
    let Some(api_server) = config.api_server.filter(|_| config.api_server_bypass) else { return };
    const NAME: &str = "kube_api_server_bypass";
    let cluster = push_cluster(plan, outbound(NAME));
    let listener = ListenerPlan {
        name: NAME.into(),
        direction: Direction::Outbound,
        origin: Origin::Outbound,
        address: api_server,
        binds: false,
        serve: Serve::Tcp,
        http: None,
        cluster: Some(cluster),
        split: Vec::new(),
        idle_timeout: numbers.idle_timeout,
        service: None,
        rate: None,
    };
    push_listener(plan, listener);
}

/// Adds the matches of all policies, as Kuma appends them. Where passthrough is open they have no clusters: they are kept to
/// show which destinations would stay open without it.
fn add_exits(
    plan: &mut Plan,
    config: &Config,
    policies: &[Effective<'_, MeshPassthrough>],
    errors: &mut Vec<CompileError>,
) {
    let numbers = Numbers::of_passthrough(config);
    let confs = policies.iter().filter_map(|one| Some((one.document, one.policy.default.as_ref()?)));
    let matches = confs.flat_map(|(document, conf)| conf.append_match.iter().map(move |one| (document, one)));
    for (count, (document, one)) in matches.enumerate() {
        if count == MOST_MATCHES {
            let found = format!("more than {MOST_MATCHES} matches of all MeshPassthrough about this pod");
            errors.push(document.error("spec.default.appendMatch", found, "fewer").into());
            return;
        }
        let Some(exit) = exit(&document.name, one) else { continue };
        let cluster = Arc::clone(&exit.cluster);
        if plan.outside.add(exit) && !plan.passthrough {
            let upstream = Discovery::OriginalDst { source: None };
            push_cluster(plan, numbers.cluster(cluster, Origin::MeshPassthrough, upstream));
        }
    }
}

/// Compiles a match. Its cluster has Kuma's name.
fn exit(policy: &str, one: &PassthroughMatch) -> Option<Exit> {
    let protocol = one.protocol();
    let place = match one.destination()? {
        Destination::Network(network) => Place::Network(network),
        Destination::Domain(domain) => {
            let says = if protocol == MatchProtocol::Tls { Says::Tls } else { Says::Http };
            Place::Name(says, domain)
        }
    };
    let port = one.port.map(|port| port.0);
    let named = if protocol == MatchProtocol::Mysql { MatchProtocol::Tcp } else { protocol };
    let shown = port.map_or("*".into(), |port| port.to_string());
    let cluster = format!("meshpassthrough_{}_{}_{shown}", named.name(), one.value).into();
    Some(Exit { place, port, protocol: protocol.name(), policy: policy.into(), cluster })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    const HERE: &str = "---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}
";

    fn compiled(arguments: &[&str], documents: &str) -> Result<Plan, Vec<String>> {
        let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let loaded = read_with_mesh(&config, documents, "mesh.yaml");
        assert_eq!(loaded.errors, []);
        compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn plan(documents: &str) -> Plan {
        compiled(&["--dataplane=here"], &format!("{HERE}{documents}")).unwrap()
    }

    fn policy(name: &str, target: &str, conf: &str) -> String {
        format!(
            "---\n{{type: MeshPassthrough, name: {name}, spec: {{targetRef: {{{target}}}, default: {{{conf}}}}}}}\n"
        )
    }

    /// The clusters of matches.
    fn exits(plan: &Plan) -> Vec<&str> {
        let exits = plan.clusters.iter().filter(|cluster| cluster.origin == Origin::MeshPassthrough);
        exits.map(|cluster| &*cluster.name).collect()
    }

    const ALL: &str = "kind: Mesh";

    #[test]
    fn the_policy_decides_where_there_is_one_and_else_the_mesh() {
        let mesh = |passthrough: bool| {
            format!(
                "---\n{{type: Mesh, name: default, networking: {{outbound: {{passthrough: {passthrough}}}}}}}\n"
            )
        };
        let mode = |mode: &str| policy("p", ALL, &format!("passthroughMode: {mode}"));
        let one = "appendMatch: [{type: IP, value: 192.0.2.1}]";
        for (name, documents, open) in [
            ("nothing", String::new(), true),
            ("the Mesh", mesh(false), false),
            ("All", mesh(false) + &mode("All"), true),
            ("None", mesh(true) + &mode("None"), false),
            ("Matched without a match", mesh(true) + &mode("Matched"), false),
            ("no mode", mesh(true) + &policy("p", ALL, one), false),
            ("nothing said", mesh(true) + &policy("p", ALL, ""), false),
            ("about another pod", mesh(true) + &policy("p", "kind: Dataplane, labels: {app: web}", ""), true),
            (
                "the more specific one",
                mode("None") + &policy("q", "kind: Dataplane, labels: {app: here}", "passthroughMode: All"),
                true,
            ),
            (
                "the more specific one says no mode",
                mode("All") + &policy("q", "kind: Dataplane, labels: {app: here}", one),
                true,
            ),
        ] {
            let plan = plan(&documents);
            assert_eq!(plan.passthrough, open, "{name}");
            for family in ["ipv4", "ipv6"] {
                let name = format!("outbound:passthrough:{family}");
                let listener = plan.listeners.iter().find(|listener| *listener.name == name).unwrap();
                assert_eq!(listener.cluster.is_some(), open, "{name}");
            }
            assert_eq!(plan.direct_access.is_some(), !open, "{name}");
        }
    }

    #[test]
    fn each_match_has_a_cluster_by_kumas_name_and_those_of_all_policies_count_together() {
        let matched = policy(
            "a",
            ALL,
            "passthroughMode: Matched, appendMatch: [{type: Domain, value: '*.example.com', protocol: tls, port: 443},
             {type: CIDR, value: 172.12.2.2/24, protocol: mysql, port: 3307}, {type: IP, value: 'fd00::1', protocol: http},
             {type: Domain, value: Example.org, protocol: http, port: 80}]",
        );
        let more = policy(
            "b",
            "kind: Dataplane, labels: {app: here}",
            "appendMatch: [{type: IP, value: 192.0.2.1}, {type: IP, value: '0:0:0:0:0:0:0:1', port: 1}]",
        );
        let both = format!("{matched}{more}");
        let clusters = [
            "meshpassthrough_tcp_192.0.2.1_*",
            "meshpassthrough_tcp_0:0:0:0:0:0:0:1_1",
            "meshpassthrough_tls_*.example.com_443",
            "meshpassthrough_tcp_172.12.2.2/24_3307",
            "meshpassthrough_http_fd00::1_*",
            "meshpassthrough_http_Example.org_80",
        ];
        let closed = plan(&both);
        assert_eq!(exits(&closed), clusters);
        let exit = closed.outside.by_name(Says::Http, "example.org", 80).unwrap();
        assert_eq!((&*exit.cluster, exit.protocol, &*exit.policy), (clusters[5], "http", "a"));
        assert_eq!(closed.outside.by_address("172.12.2.9:3307".parse().unwrap()).unwrap().protocol, "mysql");
        // The same again, by a policy that is less specific.
        let again = policy("c", ALL, "appendMatch: [{type: CIDR, value: 192.0.2.1/32, protocol: http}]");
        assert_eq!(exits(&plan(&(both.clone() + &again))), clusters);
        let none =
            plan(&(both.clone() + &policy("d", "kind: Dataplane, name: here", "passthroughMode: None")));
        assert_eq!((exits(&none), none.outside.exits().len()), (vec![], 0));
        let open = plan(&(both + &policy("d", "kind: Dataplane, name: here", "passthroughMode: All")));
        assert_eq!((exits(&open), open.outside.exits().len()), (vec![], 6), "kept to be shown");
    }

    #[test]
    fn the_matches_of_all_policies_are_bounded_together() {
        let many = |name: &str, net: u8, count: usize| {
            let all = (0..count).map(|n| format!("{{type: IP, value: 10.{net}.{}.{}}}", n / 256, n % 256));
            policy(name, ALL, &format!("appendMatch: [{}]", all.collect::<Vec<_>>().join(", ")))
        };
        let documents = |last: usize| format!("{HERE}{}{}", many("a", 1, 600), many("b", 2, last));
        let compiled = |last| compiled(&["--dataplane=here"], &documents(last));
        assert_eq!(compiled(400).unwrap().outside.exits().len(), MOST_MATCHES);
        let error = "mesh.yaml: document 3 (MeshPassthrough b): spec.default.appendMatch: found more than 1000 matches of all \
                     MeshPassthrough about this pod; allowed: fewer";
        assert_eq!(compiled(401).unwrap_err(), [error]);
    }

    #[test]
    fn a_policy_about_some_pods_is_an_error_for_a_sidecar_that_does_not_know_its_pod() {
        let some = policy("p", "kind: Dataplane, labels: {app: here}", "passthroughMode: None");
        let error = "mesh.yaml: document 1 (MeshPassthrough p): spec.targetRef: found a choice of pods; allowed: all pods of the \
                     mesh; or --dataplane, so that one knows which pod this is";
        assert_eq!(compiled(&[], &some).unwrap_err(), [error]);
        assert!(
            !compiled(&[], &policy("p", "kind: Dataplane", "passthroughMode: None")).unwrap().passthrough
        );
    }
}
