// SPDX-License-Identifier: Apache-2.0
//! Policies → the targets of each connection's line.

use crate::net::addrs::Direction;
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;

/// A pod with two inbounds that calls `web` by an outbound, and `web` itself.
const PODS: &str = "
{type: Dataplane, name: app, labels: {app: app}, networking: {address: 10.0.0.2,
  inbound: [{port: 80, servicePort: 81, name: http, tags: {kuma.io/service: app}},
            {port: 90, servicePort: 91, name: ops, tags: {kuma.io/service: app-ops}}],
  outbound: [{port: 7100, tags: {kuma.io/service: web}}, {port: 7101, tags: {kuma.io/service: db_shop_svc_5432}}]}}
---
{type: Dataplane, name: web, networking: {address: 10.0.0.3, inbound: [{port: 80, name: http, tags: {kuma.io/service: web}}]}}
";
const MESH: &str = "---\n{type: Mesh, name: default, logging: {defaultBackend: f, backends: [{name: f, type: file, conf: {path: /mesh}}, {name: t, type: tcp, conf: {address: 'logstash.logging:5000'}}]}}\n";

fn read(documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=app"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{PODS}{documents}"), "m.yaml");
    let words: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    if !words.is_empty() {
        return Err(words);
    }
    compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    read(documents).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The targets of a connection of a listener, to a service, from a caller.
fn targets(plan: &Plan, listener: &str, service: Option<&str>, caller: Option<&str>) -> String {
    let listener = plan.listeners.iter().find(|one| &*one.name == listener).unwrap();
    let caller = caller.map(|id| id.parse().unwrap());
    let targets = plan.logs.of(listener, service);
    let sinks = targets.map(|targets| targets.of(caller.as_ref())).unwrap_or_default();
    sinks.iter().map(|sink| sink.target.to_string()).collect::<Vec<_>>().join(" ")
}

const IN: &str = "inbound:10.0.0.2:80";
const OPS: &str = "inbound:10.0.0.2:90";
const OTHER_PORTS: &str = "inbound:passthrough:ipv4";
const WEB: &str = "outbound:127.0.0.1:7100";
const DB: &str = "outbound:127.0.0.1:7101";
const OUT: &str = "outbound:passthrough:ipv4";

fn policy(name: &str, target: &str, rest: &str) -> String {
    format!("---\n{{type: MeshAccessLog, name: {name}, spec: {{targetRef: {{{target}}}, {rest}}}}}\n")
}

fn backends(path: &str) -> String {
    format!("default: {{backends: [{{type: File, file: {{path: {path}}}}}]}}")
}

fn to(path: &str, whom: &str) -> String {
    format!("{{targetRef: {{{whom}}}, {}}}", backends(path))
}

fn older(name: &str, sources: &str, destinations: &str, conf: &str) -> String {
    format!(
        "---\n{{type: TrafficLog, name: {name}, mesh: default, sources: [{{match: {{kuma.io/service: {sources}}}}}], \
         destinations: [{{match: {{kuma.io/service: {destinations}}}}}]{conf}}}\n"
    )
}

#[test]
fn logs_are_merged_for_each_destination_and_the_meshs_come_last() {
    let of = |documents: &str, direction, service: Option<&str>| {
        let plan = plan(documents);
        let listener = match (direction, service) {
            (Direction::Inbound, _) => IN,
            (Direction::Outbound, None) => OUT,
            (Direction::Outbound, Some(_)) => WEB,
        };
        let found = targets(&plan, listener, service, None);
        // By the member's own address as by the outbound.
        assert!(service.is_none() || targets(&plan, OUT, service, None) == found, "{documents}");
        found
    };
    use Direction::{Inbound, Outbound};
    assert_eq!(of(MESH, Inbound, None), "/mesh");
    let all = policy(
        "all",
        "kind: Mesh",
        &format!("to: [{}, {}]", to("/all", "kind: Mesh"), to("/web", "kind: MeshService, name: web")),
    );
    let both = format!("{MESH}{all}");
    assert_eq!(of(&both, Outbound, None), "/all");
    assert_eq!(of(&both, Outbound, Some("web")), "/web");
    assert_eq!(of(&both, Inbound, None), "/mesh", "no policy says anything of it");
    let one = policy(
        "one",
        "kind: MeshService, name: app",
        &format!("to: [{}], from: [{}]", to("/app", "kind: Mesh"), to("/in", "kind: Mesh")),
    );
    let other =
        policy("other", "kind: MeshService, name: other", &format!("to: [{}]", to("/other", "kind: Mesh")));
    let three = format!("{both}{one}{other}");
    assert_eq!((of(&three, Outbound, Some("web")), of(&three, Inbound, None)), ("/app".into(), "/in".into()));
    let narrow = |name: &str, target: &str| {
        policy(name, target, &format!("to: [{}]", to("/narrow", "kind: MeshService, name: web")))
    };
    // A narrow policy for one destination leaves the others to the wide one.
    let merged = format!("{both}{}", narrow("narrow", "kind: Dataplane"));
    assert_eq!(
        (of(&merged, Outbound, Some("web")), of(&merged, Outbound, None)),
        ("/narrow".into(), "/all".into())
    );
    // Between even policies the entry for a service decides, whatever the names are.
    let wide = policy("a", "kind: Mesh", &format!("to: [{}]", to("/all", "kind: Mesh")));
    assert_eq!(of(&format!("{wide}{}", narrow("b", "kind: Mesh")), Outbound, Some("web")), "/narrow");
    let twice = format!("to: [{}, {}]", to("/first", "kind: Mesh"), to("/last", "kind: Mesh"));
    assert_eq!(of(&policy("a", "kind: Mesh", &twice), Outbound, None), "/last");
    let off =
        |target: &str| policy("off", target, "to: [{targetRef: {kind: Mesh}, default: {backends: []}}]");
    for (target, holds) in
        [("kind: MeshServiceSubset, name: app", true), ("kind: Dataplane, name: app", false)]
    {
        let logged = of(&format!("{three}{}", off(target)), Outbound, None);
        assert_eq!(logged, if holds { "" } else { "/app" }, "{target}");
    }
}

#[test]
fn a_destination_is_chosen_by_section_namespace_and_labels() {
    for (whom, web, db) in [
        ("kind: MeshService, name: web, sectionName: http", "/to", ""),
        ("kind: MeshService, name: web, sectionName: '80'", "/to", ""),
        ("kind: MeshService, name: web, sectionName: grpc", "", ""),
        ("kind: MeshService, name: db, namespace: shop", "", "/to"),
        ("kind: MeshService, name: db, namespace: other", "", ""),
        ("kind: MeshService, name: db, namespace: shop, sectionName: '5432'", "", "/to"),
        ("kind: MeshService, labels: {kuma.io/display-name: web}", "/to", ""),
        ("kind: MeshService, labels: {k8s.kuma.io/namespace: shop}", "", "/to"),
        ("kind: MeshExternalService, name: web", "", ""),
        ("kind: MeshMultiZoneService, name: web", "", ""),
        ("kind: MeshHTTPRoute, name: web", "", ""),
    ] {
        let plan = plan(&policy("l", "kind: Mesh", &format!("to: [{}]", to("/to", whom))));
        let found = [WEB, DB, OUT].map(|listener| targets(&plan, listener, None, None));
        assert_eq!(found, [web, db, ""], "{whom}");
        assert_eq!(targets(&plan, OUT, Some("web"), None), web, "{whom}, by the member's address");
        let warned = plan.warnings.iter().any(|warning| {
            warning.starts_with("MeshAccessLog l: without effect, ") && warning.contains("to[0] (Mesh")
        });
        assert_eq!(warned, whom.starts_with("kind: MeshHTTPRoute,"), "{whom}: {:?}", plan.warnings);
    }
}

#[test]
fn an_inbound_may_have_a_log_of_its_own() {
    let rule = |path: &str| format!("rules: [{{{}}}]", backends(path));
    let section = "kind: Dataplane, labels: {app: app}, sectionName: ";
    for (documents, expected) in [
        (policy("l", &format!("{section}ops"), &rule("/one")), ["", "/one", ""]),
        (policy("l", &format!("{section}'80'"), &rule("/one")), ["/one", "", ""]),
        (policy("l", &format!("{section}grpc"), &rule("/one")), ["", "", ""]),
        (policy("l", "kind: MeshService, name: app-ops", &rule("/one")), ["", "/one", "/one"]),
        (
            policy("a", "kind: Dataplane", &rule("/all"))
                + &policy("l", &format!("{section}ops"), &rule("/one")),
            ["/all", "/one", "/all"],
        ),
        (
            MESH.to_owned() + &policy("l", &format!("{section}ops"), "rules: [{default: {backends: []}}]"),
            ["/mesh", "", "/mesh"],
        ),
    ] {
        let plan = plan(&documents);
        let found = [IN, OPS, OTHER_PORTS].map(|listener| targets(&plan, listener, None, None));
        assert_eq!(found, expected, "{documents}");
    }
    let both = format!("to: [{}], {}", to("/to", "kind: Mesh"), rule("/in"));
    let errors = read(&policy("l", &format!("{section}ops"), &both)).unwrap_err();
    assert!(
        matches!(&errors[..], [inbound, beside] if inbound.contains("spec.targetRef.sectionName: found an inbound")
            && beside.contains("spec.to: found to beside rules")),
        "{errors:?}"
    );
}

#[test]
fn rules_about_callers_hold_beside_those_about_every_client() {
    let matching = |kind: &str, id: &str, path: &str| {
        format!("{{matches: [{{spiffeID: {{type: {kind}, value: '{id}'}}}}], {}}}", backends(path))
    };
    let exact = matching("Exact", "spiffe://default/ns/shop/sa/web", "/exact");
    let prefix = matching("Prefix", "spiffe://default/ns/shop/", "/prefix");
    let every = format!("{{{}}}", backends("/all"));
    const WEB_ID: Option<&str> = Some("spiffe://default/ns/shop/sa/web");
    const API_ID: Option<&str> = Some("spiffe://default/ns/shop/sa/api");
    const FAR_ID: Option<&str> = Some("spiffe://default/ns/far/sa/web");
    for (rules, mesh, expected) in [
        (exact.clone(), "", ["/exact", "", "", ""]),
        (format!("{exact}, {prefix}"), "", ["/prefix /exact", "/prefix", "", ""]),
        (format!("{exact}, {every}"), "", ["/all /exact", "/all", "/all", "/all"]),
        // Nobody says anything of the others, so the Mesh does.
        (exact.clone(), MESH, ["/mesh /exact", "/mesh", "/mesh", "/mesh"]),
        // The same callers again: the later rule holds. The same target again: one line.
        (format!("{}, {exact}", exact.replace("/exact", "/first")), "", ["/exact", "", "", ""]),
        (format!("{exact}, {}", every.replace("/all", "/exact")), "", ["/exact"; 4]),
    ] {
        let plan = plan(&format!("{mesh}{}", policy("l", "kind: Mesh", &format!("rules: [{rules}]"))));
        let found = [WEB_ID, API_ID, FAR_ID, None].map(|caller| targets(&plan, IN, None, caller));
        assert_eq!(found.join(", "), expected.join(", "), "{rules}");
    }
    // Of two policies the more specific decides about the same callers.
    let two = policy("a", "kind: Mesh", &format!("rules: [{exact}]"))
        + &policy("b", "kind: Dataplane", &format!("rules: [{}]", exact.replace("/exact", "/narrow")));
    assert_eq!(targets(&plan(&two), IN, None, WEB_ID), "/narrow");
    let wrong = matching("Exact", "web", "/x");
    let errors = read(&policy("l", "kind: Mesh", &format!("rules: [{wrong}]"))).unwrap_err();
    assert!(errors[0].contains("spec.rules[0].matches[0].spiffeID.value: found \"web\""), "{errors:?}");
}

#[test]
fn a_traffic_log_chooses_a_backend_of_the_mesh_below_the_newer_kind() {
    let tcp = "tcp://logstash.logging:5000";
    let all = older("all", "'*'", "'*'", "");
    let web = older("web", "app", "web", ", conf: {backend: t}");
    let outside = older("out", "'*'", "pass_through", ", conf: {backend: t}");
    let foreign = older("foreign", "other", "'*'", ", conf: {backend: t}");
    let newer = policy("new", "kind: Mesh", &format!("to: [{}]", to("/new", "kind: MeshService, name: web")));
    let no_default = MESH.replace("defaultBackend: f, ", "");
    for (documents, expected) in [
        (format!("{MESH}{all}"), ["/mesh"; 3]),
        (format!("{MESH}{web}"), [tcp, "/mesh", "/mesh"]),
        (format!("{MESH}{all}{web}{foreign}"), [tcp, "/mesh", "/mesh"]),
        (format!("{MESH}{outside}"), ["/mesh", "/mesh", tcp]),
        (format!("{MESH}{web}{newer}"), ["/new", "/mesh", "/mesh"]),
        (format!("{no_default}{all}"), [""; 3]),
        (format!("{no_default}{web}"), [tcp, "", ""]),
        (all.clone(), [""; 3]),
    ] {
        let plan = plan(&documents);
        let found = [WEB, DB, OUT].map(|listener| targets(&plan, listener, None, None));
        assert_eq!(found, expected, "{documents}");
        let default = if documents.contains("defaultBackend") { "/mesh" } else { "" };
        assert_eq!(targets(&plan, IN, None, None), default, "of calls alone: {documents}");
    }
    // Kubernetes' spelling, as the demo has it.
    let kubernetes = format!(
        "{MESH}---\n{{apiVersion: kuma.io/v1alpha1, kind: TrafficLog, mesh: default, metadata: {{namespace: kuma-demo, name: everything}}, \
         spec: {{sources: [{{match: {{kuma.io/service: '*'}}}}], destinations: [{{match: {{kuma.io/service: '*'}}}}], conf: {{backend: t}}}}}}\n"
    );
    assert_eq!(targets(&plan(&kubernetes), OUT, None, None), tcp);
    // As in Kuma, one whose backend is missing logs nothing; here it warns, too.
    for (mesh, has) in [(MESH, "f, t"), ("", "none")] {
        let plan = plan(&format!("{mesh}{}", web.replace("backend: t", "backend: splunk")));
        assert_eq!(targets(&plan, WEB, None, None), "");
        let line = format!(
            "TrafficLog web: its connections are not logged, as the Mesh has no backend \"splunk\"; it has: {has}"
        );
        assert!(plan.warnings.contains(&line), "{:?}", plan.warnings);
    }
    let errors = read(&web.replace("web}}]", "web, version: '1'}}]")).unwrap_err();
    let error = "destinations[0].match.version: found a tag beside the service";
    assert!(errors.len() == 1 && errors[0].contains(error), "{errors:?}");
}
