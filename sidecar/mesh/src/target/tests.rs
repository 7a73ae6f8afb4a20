// SPDX-License-Identifier: Apache-2.0
//! Policies about built-in gateways and about requests of routes.

use super::Target;
use crate::context::Context;
use crate::load::Loaded;
use crate::select::{self, Subject};
use std::path::Path;

/// Each kind that may be about a gateway, with something to say.
static KINDS: [(&str, &str); 9] = [
    ("MeshTimeout", "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 10s}}]"),
    ("MeshRetry", "to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: 1}}}]"),
    (
        "MeshCircuitBreaker",
        "to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 1}}}]",
    ),
    ("MeshHealthCheck", "to: [{targetRef: {kind: Mesh}, default: {tcp: {}}}]"),
    (
        "MeshRateLimit",
        "to: [{targetRef: {kind: Mesh}, default: {local: {tcp: {connectionRate: {num: 1, interval: 1s}}}}}]",
    ),
    ("MeshLoadBalancingStrategy", "to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Random}}}]"),
    ("MeshAccessLog", "to: [{targetRef: {kind: Mesh}, default: {backends: []}}]"),
    ("MeshMetric", "default: {backends: [{type: Prometheus, prometheus: {}}]}"),
    (
        "MeshProxyPatch",
        "default: {appendModifications: [{networkFilter: {operation: Patch, match: {name: \
         envoy.filters.network.http_connection_manager, origin: gateway}, jsonPatches: [{op: replace, path: \
         /streamIdleTimeout, value: 15s}]}}]}",
    ),
];

fn read(kind: &str, target: &str, rest: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let context = Context { mesh: "default".into(), ..Context::default() };
    let text = format!("{{type: {kind}, name: p, spec: {{targetRef: {{{target}}}, {rest}}}}}");
    loaded.add(&context, &text, Path::new("a.yaml"));
    loaded
}

fn errors(loaded: &Loaded) -> Vec<String> {
    let words = |error: &crate::load::LoadError| {
        let words = error.to_string();
        words.split_once("): ").map_or(words.clone(), |(_, rest)| rest.into())
    };
    loaded.errors.iter().map(words).collect()
}

#[test]
fn a_policy_of_a_gateway_or_route_passes_with_a_warning_and_is_about_no_pod() {
    let gateways = ["kind: MeshGateway, name: edge", "kind: MeshGateway, name: edge, tags: {port: http-80}"];
    let gateways = KINDS.into_iter().flat_map(|(kind, rest)| gateways.map(|target| (kind, target, rest)));
    let of_routes = |kind: &str| ["MeshTimeout", "MeshRetry", "MeshRateLimit"].contains(&kind);
    let routes = KINDS.iter().filter(|(kind, _)| of_routes(kind));
    let routes = routes.map(|(kind, rest)| (*kind, "kind: MeshHTTPRoute, name: r", *rest));
    for (kind, target, rest) in gateways.chain(routes) {
        let loaded = read(kind, target, rest);
        assert_eq!(errors(&loaded), [""; 0], "{kind} {target}");
        let warnings = loaded.found.left_out.warnings();
        let told = format!("without effect here: targetRef of 1 {kind} document ");
        assert!(matches!(&warnings[..], [one] if one.starts_with(&told)), "{kind} {target}: {warnings:?}");
        let document = &loaded.found.documents[0];
        let pod = Subject { pod: None, tags: &[], inbound: None };
        let target = document.spec.target();
        assert_eq!(target, Target::Selectors(Vec::new()), "{kind}");
        assert_eq!(select::rank(&target, document, &pod), None, "{kind}");
        assert!(!select::chooses(document), "{kind}: no --dataplane would make it hold");
    }
}

#[test]
fn a_policy_that_kuma_refuses_for_a_gateway_or_route_is_refused() {
    let gateway = "kind: MeshGateway, name: edge";
    let route = "kind: MeshHTTPRoute, name: r";
    let permission = "from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]";
    let unknown = |kind: &str| format!("spec.targetRef.kind: found {kind:?}; allowed: Mesh, MeshSubset, ");
    let rows = [
        ("MeshTrafficPermission", gateway, permission, unknown("MeshGateway")),
        ("MeshTLS", gateway, "rules: [{default: {mode: Strict}}]", unknown("MeshGateway")),
        ("MeshPassthrough", gateway, "default: {passthroughMode: None}", unknown("MeshGateway")),
        (
            "MeshTrafficPermission",
            "kind: Mesh",
            "from: [{targetRef: {kind: MeshGateway, name: edge}, default: {action: Allow}}]",
            "spec.from[0].targetRef.kind: found \"MeshGateway\"; allowed: ".into(),
        ),
        ("MeshTimeout", "kind: MeshGateway", KINDS[0].1, "spec.targetRef.name: found nothing".into()),
        (
            "MeshTimeout",
            "kind: MeshHTTPRoute, name: r, tags: {a: b}",
            KINDS[0].1,
            "spec.targetRef.tags: found a field that culvert does not have".into(),
        ),
    ];
    let of_routes = |kind: &str| ["MeshTimeout", "MeshRetry", "MeshRateLimit"].contains(&kind);
    let others = KINDS.iter().filter(|(kind, _)| !of_routes(kind));
    let routes = others.map(|(kind, rest)| (*kind, route, *rest, unknown("MeshHTTPRoute")));
    for (kind, target, rest, expected) in rows.into_iter().chain(routes) {
        let errors = errors(&read(kind, target, rest));
        let told = errors.iter().any(|error| error.starts_with(&expected));
        assert!(told, "{kind} {target}: {errors:#?}\nexpected {expected}");
    }
}

#[test]
fn the_contents_of_a_gateways_patch_are_its_own_and_those_of_a_pods_are_checked() {
    let (kind, rest) = KINDS[8];
    assert!(!errors(&read(kind, "kind: Mesh", rest)).is_empty());
    assert_eq!(errors(&read(kind, "kind: MeshGateway, name: edge", "default: 5")).len(), 1);
}
