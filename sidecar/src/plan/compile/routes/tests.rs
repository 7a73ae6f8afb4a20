// SPDX-License-Identifier: Apache-2.0
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::{ClusterPlan, Discovery, ListenerPlan, Plan};
use clap::Parser;
use std::time::Duration;

/// Services of other pods: `backend` in two versions and on two ports, `other`, and a Service of Kubernetes.
const PODS: &str = "
---
{type: Dataplane, name: b1, networking: {address: 10.0.0.3, inbound: [
  {port: 90, name: http, tags: {kuma.io/service: backend, version: v1}}, {port: 91, name: grpc, tags: {kuma.io/service: backend, version: v1}}]}}
---
{type: Dataplane, name: b2, networking: {address: 10.0.0.4, advertisedAddress: 192.0.2.4, inbound: [
  {port: 90, name: http, tags: {kuma.io/service: backend, version: v2}}]}}
---
{type: Dataplane, name: o, networking: {address: 10.0.0.5, inbound: [{port: 80, tags: {kuma.io/service: other}}]}}
---
{type: Dataplane, name: k, networking: {address: 10.0.0.6, inbound: [
  {port: 8080, name: main, tags: {kuma.io/service: redis_shop_svc_6379}}, {port: 8081, name: extra, tags: {kuma.io/service: redis_shop_svc_6380}}]}}
";

/// The documents with this pod, which has these outbounds.
fn pods(outbound: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: here, labels: {{app: here}}, networking: {{address: 10.0.0.2, inbound: [{{port: 70, tags: {{kuma.io/service: here, zone: a}}}}], outbound: [{outbound}]}}}}\n{PODS}"
    )
}

fn read(documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    read(documents).unwrap_or_else(|errors| panic!("{documents}: {errors:#?}"))
}

fn listener(plan: &Plan, port: u16) -> &ListenerPlan {
    let name = format!("outbound:127.0.0.1:{port}");
    plan.listeners.iter().find(|one| *one.name == *name).unwrap_or_else(|| panic!("no listener {name}"))
}

fn cluster<'p>(plan: &'p Plan, name: &str) -> &'p ClusterPlan {
    plan.cluster_named(name).unwrap_or_else(|| panic!("no cluster {name}"))
}

fn endpoints(plan: &Plan, name: &str) -> String {
    match &cluster(plan, name).upstream {
        Discovery::Endpoints(all) => {
            all.iter().map(|one| one.address.to_string()).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{other:?}"),
    }
}

/// The clusters of an outbound with weights and endpoints: `NAME*WEIGHT ENDPOINTS`, without a weight where there is one
/// cluster.
fn ways(plan: &Plan, port: u16) -> Vec<String> {
    let listener = listener(plan, port);
    let first = listener.cluster.as_deref().unwrap();
    if listener.split.is_empty() {
        return vec![format!("{first} {}", endpoints(plan, first))];
    }
    assert_eq!(*listener.split[0].cluster, *first);
    let share = |share: &crate::plan::Share| {
        format!("{}*{} {}", share.cluster, share.weight, endpoints(plan, &share.cluster))
    };
    listener.split.iter().map(share).collect()
}

const TO_BACKEND: &str = "{port: 1000, tags: {kuma.io/service: backend}}";
const ALL_OF_BACKEND: &str = "backend 10.0.0.3:90 10.0.0.3:91 192.0.2.4:90";
const BACKEND: &str = "kind: MeshService, name: backend";
/// The names of these subsets by Kuma's rule: `printf 'kuma.io/servicebackendversionv1' | sha256sum`.
const V1: &str = "backend-154693772bc47249";

fn route(name: &str, target: &str, entries: &[(&str, &str)]) -> String {
    let entry = |(to, backends): &(&str, &str)| match *backends {
        "" => format!("{{targetRef: {{{to}}}}}"),
        backends => {
            format!("{{targetRef: {{{to}}}, rules: [{{default: {{backendRefs: [{backends}]}}}}]}}")
        }
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    format!(
        "---\n{{type: MeshTCPRoute, name: {name}, spec: {{targetRef: {{{target}}}, to: [{}]}}}}\n",
        entries.join(", ")
    )
}

fn traffic_route(name: &str, source: &str, destination: &str, conf: &str) -> String {
    format!(
        "---\n{{type: TrafficRoute, name: {name}, sources: [{{match: {{kuma.io/service: {source}}}}}], destinations: [{{match: {{kuma.io/service: {destination}}}}}], conf: {{{conf}}}}}\n"
    )
}

#[test]
fn an_outbound_by_reference_is_a_service_of_the_dataplanes() {
    for (reference, expected) in [
        ("name: backend, port: 90", "default_backend___msvc_90 10.0.0.3:90 192.0.2.4:90"),
        ("name: backend, port: 91", "default_backend___msvc_91 10.0.0.3:91"),
        ("labels: {kuma.io/display-name: backend}, port: 91", "default_backend___msvc_91 10.0.0.3:91"),
        ("name: redis_shop_svc_6379, port: 6379", "default_redis_shop__msvc_6379 10.0.0.6:8080"),
        (
            "labels: {kuma.io/display-name: redis, k8s.kuma.io/namespace: shop}, port: 6380",
            "default_redis_shop__msvc_6380 10.0.0.6:8081",
        ),
        // The port of the Service, and that of its pods.
        (
            "labels: {k8s.kuma.io/service-name: redis}, port: 8081",
            "default_redis_shop__msvc_8081 10.0.0.6:8081",
        ),
        ("name: here, port: 70", "default_here___msvc_70 10.0.0.2:70"),
    ] {
        let plan = plan(&pods(&format!("{{port: 1000, backendRef: {{kind: MeshService, {reference}}}}}")));
        assert_eq!(ways(&plan, 1000), [expected], "{reference}");
        assert_eq!(plan.warnings, [""; 0], "{reference}");
    }
    for reference in ["name: backend, port: 92", "name: nobody, port: 80", "labels: {app: b}, port: 80"] {
        let plan = plan(&pods(&format!("{{port: 1000, backendRef: {{kind: MeshService, {reference}}}}}")));
        assert!(matches!(&plan.warnings[..], [one] if one.contains("no Dataplane offers")), "{reference}");
        assert_eq!(endpoints(&plan, listener(&plan, 1000).cluster.as_deref().unwrap()), "", "{reference}");
    }
    let named = plan(&pods("{port: 1000, backendRef: {kind: MeshService, name: backend, port: 90}}"));
    assert_eq!(listener(&named, 1000).service.as_deref(), Some("backend"), "in logs");
}

#[test]
fn a_reference_to_what_no_document_knows_is_a_cluster_without_endpoints() {
    // Each has the name of a service of another kind.
    for (documents, name) in [
        (
            pods("{port: 1000, backendRef: {kind: MeshExternalService, name: backend, port: 90}}"),
            "default_backend___extsvc_90 ",
        ),
        (
            pods(TO_BACKEND)
                + &route(
                    "r",
                    "kind: Mesh",
                    &[(BACKEND, "{kind: MeshMultiZoneService, name: other, port: 80}")],
                ),
            "default_other___mzsvc_80 ",
        ),
    ] {
        let plan = plan(&documents);
        assert_eq!(ways(&plan, 1000), [name]);
        assert!(
            matches!(&plan.warnings[..], [one] if one.contains("no document is it")),
            "{:?}",
            plan.warnings
        );
    }
    // Of a route for other pods and of another pod's outbound nothing is needed here.
    let external = "{kind: MeshExternalService, name: e}";
    let elsewhere = route("r", "kind: Dataplane, labels: {app: web}", &[(BACKEND, external)])
        + "---\n{type: Dataplane, name: x, networking: {address: 10.0.0.7, outbound: [{port: 1, backendRef: {kind: MeshExternalService, name: e}}]}}\n";
    assert_eq!(ways(&plan(&(pods(TO_BACKEND) + &elsewhere)), 1000), [ALL_OF_BACKEND]);
}

#[test]
fn a_route_leads_to_services_their_ports_and_their_subsets_by_weight() {
    let v1 = format!("{V1}*90 10.0.0.3:90 10.0.0.3:91");
    for (name, backends, expected) in [
        (
            "subsets",
            "{kind: MeshServiceSubset, name: backend, tags: {version: v1}, weight: 90}, {kind: MeshServiceSubset, name: backend, tags: {version: v2}, weight: 10}",
            &[v1.as_str(), "backend-5b73b3f4adf20020*10 192.0.2.4:90"][..],
        ),
        ("one service", "{kind: MeshService, name: other}", &["other 10.0.0.5:80"]),
        (
            "the default weight",
            "{kind: MeshService, name: backend}, {kind: MeshService, name: other, weight: 3}",
            &["backend*1 10.0.0.3:90 10.0.0.3:91 192.0.2.4:90", "other*3 10.0.0.5:80"],
        ),
        (
            "weight 0",
            "{kind: MeshService, name: backend, weight: 0}, {kind: MeshService, name: other, weight: 5}",
            &["other 10.0.0.5:80"],
        ),
        (
            "ports",
            "{kind: MeshService, name: backend, port: 90}, {kind: MeshService, name: backend, sectionName: grpc}",
            &[
                "default_backend___msvc_90*1 10.0.0.3:90 192.0.2.4:90",
                "default_backend___msvc_91*1 10.0.0.3:91",
            ],
        ),
        (
            "a Service of Kubernetes",
            "{kind: MeshService, name: redis, namespace: shop, port: 6380}, {kind: MeshService, name: redis_shop_svc_6379}",
            &["default_redis_shop__msvc_6380*1 10.0.0.6:8081", "redis_shop_svc_6379*1 10.0.0.6:8080"],
        ),
        (
            "one without endpoints keeps its share",
            "{kind: MeshService, name: other, weight: 9}, {kind: MeshService, name: nobody, weight: 1}",
            &["other*9 10.0.0.5:80", "nobody*1 "],
        ),
        (
            "the same twice",
            "{kind: MeshService, name: other, weight: 9}, {kind: MeshService, name: backend}, {kind: MeshService, name: other, weight: 1}",
            &["other*10 10.0.0.5:80", "backend*1 10.0.0.3:90 10.0.0.3:91 192.0.2.4:90"],
        ),
    ] {
        let plan = plan(&(pods(TO_BACKEND) + &route("r", "kind: Mesh", &[(BACKEND, backends)])));
        assert_eq!(ways(&plan, 1000), expected, "{name}");
        assert_eq!(listener(&plan, 1000).service.as_deref(), Some("backend"), "{name}: in logs");
    }
}

#[test]
fn of_several_routes_the_one_decides_that_decides_in_kuma_and_it_decides_alone() {
    let to = |name: &'static str| -> &'static str {
        match name {
            "other" => "{kind: MeshService, name: other}",
            "v1" => "{kind: MeshServiceSubset, name: backend, tags: {version: v1}}",
            _ => "",
        }
    };
    let v1 = format!("{V1} 10.0.0.3:90 10.0.0.3:91");
    let mesh = "kind: Mesh";
    let narrow = "kind: Dataplane, labels: {app: here}";
    for (name, routes, expected) in [
        ("none", String::new(), ALL_OF_BACKEND),
        (
            "another service",
            route("a", mesh, &[("kind: MeshService, name: other", to("v1"))]),
            ALL_OF_BACKEND,
        ),
        (
            "another pod",
            route("a", "kind: Dataplane, labels: {app: web}", &[(BACKEND, to("other"))]),
            ALL_OF_BACKEND,
        ),
        (
            "the narrower target",
            route("a", mesh, &[(BACKEND, to("v1"))]) + &route("b", narrow, &[(BACKEND, to("other"))]),
            "other 10.0.0.5:80",
        ),
        (
            "even ones by name",
            route("b", mesh, &[(BACKEND, to("v1"))]) + &route("a", mesh, &[(BACKEND, to("other"))]),
            "other 10.0.0.5:80",
        ),
        (
            "a port of the service",
            route("b", mesh, &[("kind: MeshService, name: backend, sectionName: http", to("other"))])
                + &route("a", mesh, &[(BACKEND, to("v1"))]),
            "other 10.0.0.5:80",
        ),
        ("the later entry", route("a", mesh, &[(BACKEND, to("other")), (BACKEND, to("v1"))]), v1.as_str()),
        (
            "an entry without a rule leads to the service itself",
            route("a", mesh, &[(BACKEND, to("other"))]) + &route("b", narrow, &[(BACKEND, to(""))]),
            ALL_OF_BACKEND,
        ),
        (
            "a policy on trial",
            route("a", mesh, &[(BACKEND, to("other"))])
                .replace("name: a", "name: a, labels: {kuma.io/effect: shadow}"),
            ALL_OF_BACKEND,
        ),
    ] {
        assert_eq!(ways(&plan(&(pods(TO_BACKEND) + &routes)), 1000), [expected], "{name}");
    }
}

#[test]
fn a_traffic_route_leads_to_a_service_or_a_split_and_a_star_is_the_outbounds_own() {
    let two = "{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: backend, version: v2}}";
    let split = "split: [{weight: 80, destination: {kuma.io/service: backend, version: v1}}, {weight: 20, destination: {kuma.io/service: other}}, \
                 {weight: 0, destination: {kuma.io/service: nobody}}]";
    let all = traffic_route(
        "route-all-default",
        "'*'",
        "'*'",
        "destination: {kuma.io/service: '*'}, loadBalancer: {roundRobin: {}}",
    );
    let split_ways = [format!("{V1}*80 10.0.0.3:90 10.0.0.3:91"), "other*20 10.0.0.5:80".into()];
    let own = ALL_OF_BACKEND.to_owned();
    for (name, routes, expected) in [
        ("a star", all.clone(), vec![own.clone()]),
        (
            "a service",
            traffic_route("a", "here", "backend", "destination: {kuma.io/service: other}"),
            vec!["other 10.0.0.5:80".into()],
        ),
        (
            "a split before the default",
            all.clone() + &traffic_route("z", "here", "backend", split),
            split_ways.to_vec(),
        ),
        ("another source", all.clone() + &traffic_route("a", "web", "backend", split), vec![own.clone()]),
        ("another destination", all + &traffic_route("a", "here", "redis", split), vec![own]),
    ] {
        let plan = plan(&(pods(TO_BACKEND) + &routes));
        assert_eq!(ways(&plan, 1000), expected, "{name}");
        assert_eq!(plan.warnings, [""; 0], "{name}");
    }
    let stars =
        plan(&(pods(two) + &traffic_route("a", "here", "backend", "destination: {kuma.io/service: '*'}")));
    assert_eq!(ways(&stars, 1001), ["backend[version=v2] 192.0.2.4:90"], "the outbound's other tags stay");
    let by_reference = "{port: 1000, backendRef: {kind: MeshService, name: backend, port: 91}}";
    let kept = plan(&(pods(by_reference) + &traffic_route("a", "here", "backend", split)));
    assert_eq!(ways(&kept, 1000), ["default_backend___msvc_91 10.0.0.3:91"], "as in Kuma, not by reference");
}

#[test]
fn a_mesh_tcp_route_puts_all_traffic_routes_out_of_force_and_says_so() {
    let two = format!("{TO_BACKEND}, {{port: 1001, tags: {{kuma.io/service: other}}}}");
    let old = traffic_route("old", "here", "'*'", "destination: {kuma.io/service: here}");
    let with = plan(
        &(pods(&two) + &old + &route("new", "kind: Mesh", &[(BACKEND, "{kind: MeshService, name: other}")])),
    );
    assert_eq!(ways(&with, 1000), ["other 10.0.0.5:80"]);
    assert_eq!(ways(&with, 1001), ["other 10.0.0.5:80"], "its own service");
    assert_eq!(with.warnings, ["TrafficRoute old is not in force: MeshTCPRoute new is about this pod"]);
    let elsewhere =
        route("new", "kind: Dataplane, labels: {app: web}", &[(BACKEND, "{kind: MeshService, name: other}")]);
    let without = plan(&(pods(&two) + &old + &elsewhere));
    assert_eq!(ways(&without, 1001), ["here 10.0.0.2:70"]);
    assert_eq!(without.warnings, [""; 0]);
}

#[test]
fn the_parts_of_a_traffic_route_that_have_no_effect_are_told_once() {
    let http = "destination: {kuma.io/service: other}, http: [{match: {path: {prefix: /}}, destination: {kuma.io/service: here}}], loadBalancer: {leastRequest: {choiceCount: 3}}";
    let plan = plan(
        &(pods(TO_BACKEND)
            + &traffic_route("r", "here", "backend", http)
            + &traffic_route("w", "web", "backend", http)),
    );
    assert_eq!(ways(&plan, 1000), ["other 10.0.0.5:80"]);
    assert!(
        matches!(&plan.warnings[..], [one] if one.starts_with("TrafficRoute r: passed over") && one.ends_with(": http")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn each_backend_has_the_numbers_of_its_service_and_the_listener_those_of_the_outbounds() {
    let timeout = |service: &str, conf: &str| {
        format!("{{targetRef: {{kind: MeshService, name: {service}}}, default: {{{conf}}}}}")
    };
    let timeouts = [
        timeout("backend", "connectionTimeout: 1s, idleTimeout: 11s"),
        timeout("other", "connectionTimeout: 2s, idleTimeout: 22s"),
    ];
    let policies = format!("---\n{{type: MeshTimeout, name: t, spec: {{to: [{}]}}}}\n", timeouts.join(", "))
        + "---\n{type: MeshCircuitBreaker, name: c, spec: {to: [{targetRef: {kind: MeshService, name: other}, default: {connectionLimits: {maxConnections: 7}}}]}}\n";
    let split = "{kind: MeshServiceSubset, name: backend, tags: {version: v1}, weight: 9}, {kind: MeshService, name: other}";
    let plan = plan(&(pods(TO_BACKEND) + &policies + &route("r", "kind: Mesh", &[(BACKEND, split)])));
    let numbers = |name| {
        let cluster = cluster(&plan, name);
        (cluster.connect_timeout.unwrap().as_secs(), cluster.thresholds.max_connections)
    };
    assert_eq!((numbers(V1), numbers("other")), ((1, 1024), (2, 7)));
    assert_eq!(listener(&plan, 1000).idle_timeout, Some(Duration::from_secs(11)), "as in Kuma");
}

#[test]
fn outbounds_that_lead_to_one_service_share_its_cluster() {
    let two = format!("{TO_BACKEND}, {{port: 1001, tags: {{kuma.io/service: other}}}}");
    let split = "{kind: MeshService, name: backend, weight: 9}, {kind: MeshService, name: other}";
    let plan = plan(&(pods(&two) + &route("r", "kind: Mesh", &[(BACKEND, split)])));
    assert_eq!(plan.clusters.iter().filter(|one| one.name.starts_with("other")).count(), 1);
    assert_eq!(ways(&plan, 1001), ["other 10.0.0.5:80"]);
}
