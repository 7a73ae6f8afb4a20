// SPDX-License-Identifier: Apache-2.0
//! Routes that Kuma's control plane refuses, and those that it takes.

use crate::context::Context;
use crate::load::Loaded;
use std::path::Path;

/// Fields and words of the errors, and the lines about fields without effect.
fn read(text: &str) -> (Vec<String>, Vec<String>) {
    let mut loaded = Loaded::default();
    let context = Context { mesh: "default".into(), ..Context::default() };
    loaded.add(&context, text, Path::new("a.yaml"));
    let words = loaded.errors.iter().map(ToString::to_string);
    let words = words.map(|words| words.split_once("): ").map_or(words.clone(), |(_, rest)| rest.into()));
    (words.collect(), loaded.found.left_out.warnings())
}

fn assert_rows(rows: &[(String, &[&str])]) {
    for (text, expected) in rows {
        let (errors, _) = read(text);
        let fits = errors.len() == expected.len()
            && errors.iter().zip(*expected).all(|(error, expected)| error.starts_with(expected));
        assert!(fits, "{text}: {errors:#?}\nexpected {expected:#?}");
    }
}

fn route(spec: &str) -> String {
    format!("{{type: MeshTCPRoute, name: r, spec: {{{spec}}}}}")
}

/// A route to these backends.
fn to(backends: &str) -> String {
    route(&format!(
        "to: [{{targetRef: {{kind: MeshService, name: backend}}, rules: [{{default: {{backendRefs: [{backends}]}}}}]}}]"
    ))
}

#[test]
fn every_rule_of_kuma_about_mesh_tcp_routes_is_a_check() {
    const ONE: &str = "rules: [{default: {backendRefs: [{kind: MeshService, name: other}]}}]";
    const FIRST: &str = "spec.to[0].rules[0].default.backendRefs";
    let backends = |field: &str| format!("{FIRST}{field}");
    let entry = |target: &str| format!("to: [{{targetRef: {{{target}}}, {ONE}}}]");
    assert_rows(&[
        (to("{kind: MeshService, name: other}"), &[]),
        (
            to(
                "{kind: MeshService, name: other, port: 8080, weight: 90}, {kind: MeshService, name: b, sectionName: http, weight: 0}",
            ),
            &[],
        ),
        (to("{kind: MeshServiceSubset, name: backend, tags: {version: v1}, weight: 90}"), &[]),
        (
            to(
                "{kind: MeshService, labels: {kuma.io/display-name: b, k8s.kuma.io/namespace: shop}, port: 80}",
            ),
            &[],
        ),
        (
            to("{kind: MeshMultiZoneService, name: other, port: 8080}, {kind: MeshExternalService, name: e}"),
            &[],
        ),
        (
            route(
                "targetRef: {kind: MeshService, name: frontend}, to: [{targetRef: {kind: MeshService, name: backend}}]",
            ),
            &[],
        ),
        (
            route(&format!(
                "targetRef: {{kind: Dataplane, labels: {{app: f}}}}, {}",
                entry("kind: MeshService, name: b, sectionName: http")
            )),
            &[],
        ),
        (route(&entry("kind: MeshMultiZoneService, name: other, sectionName: '8080'")), &[]),
        (
            route(&format!(
                "targetRef: {{kind: MeshGateway, name: edge, tags: {{port: '6000'}}}}, {}",
                entry("kind: Mesh")
            )),
            &[],
        ),
        (
            route(&format!(
                "targetRef: {{kind: BlahBlah, name: f}}, {}",
                entry("kind: MeshService, name: b")
            )),
            &["spec.targetRef.kind: found \"BlahBlah\""],
        ),
        (
            route(&format!(
                "targetRef: {{kind: Dataplane, sectionName: http}}, {}",
                entry("kind: MeshService, name: b")
            )),
            &["spec.targetRef.sectionName: found an inbound"],
        ),
        (route(&entry("kind: Mesh")), &["spec.to[0].targetRef.kind: found \"Mesh\"; allowed: MeshService, "]),
        (
            route(&format!(
                "targetRef: {{kind: MeshGateway, name: edge}}, {}",
                entry("kind: MeshService, name: b")
            )),
            &["spec.to[0].targetRef.kind: found a service"],
        ),
        (
            route(&entry("kind: MeshHTTPRoute, name: b")),
            &["spec.to[0].targetRef.kind: found \"MeshHTTPRoute\""],
        ),
        (route("to: []"), &["spec.to: found no entry"]),
        (route(""), &["spec.to: found no entry"]),
        (
            route("to: [{targetRef: {kind: MeshService, name: b}, rules: [{default: {}}]}]"),
            &[&backends(": found no backend")],
        ),
        (
            route(
                "to: [{targetRef: {kind: MeshService, name: b}, rules: [{default: {backendRefs: [{kind: MeshService, name: a}]}}, {default: {backendRefs: [{kind: MeshService, name: a}]}}]}]",
            ),
            &["spec.to[0].rules: found a list of 2; allowed: one entry"],
        ),
        (to(""), &[&backends(": found no backend")]),
        (to("{kind: MeshServiceSubset, tags: {version: v1}}"), &[&backends("[0].name: found nothing")]),
        (to("{kind: MeshService}"), &[&backends("[0].name: found nothing")]),
        (to("{kind: MeshMultiZoneService, name: t}"), &[&backends("[0].port: found nothing")]),
        (to("{kind: Mesh}"), &[&backends("[0].kind: found \"Mesh\"")]),
        (
            to("{kind: MeshService, name: a, tags: {version: v1}}"),
            &[&backends("[0].tags: found it beside kind MeshService")],
        ),
        (
            to("{kind: MeshServiceSubset, name: a, port: 80}"),
            &[&backends("[0].port: found it beside kind MeshServiceSubset")],
        ),
        (
            to("{kind: MeshService, name: a, labels: {kuma.io/display-name: a}}"),
            &[&backends("[0].labels: found labels beside a name")],
        ),
        (
            to("{kind: MeshService, name: a, port: 80, sectionName: http}"),
            &[&backends("[0].sectionName: found sectionName beside port")],
        ),
        (to("{kind: MeshService, name: a, weight: -1}"), &[&backends("[0].weight: found -1")]),
        (
            to("{kind: MeshService, name: a, weight: 0}, {kind: MeshService, name: b, weight: 0}"),
            &[&backends(": found weights of 0 alone")],
        ),
        (
            to(&vec!["{kind: MeshService, name: a}"; 101].join(", ")),
            &[&backends(": found a list of 101; allowed: at most 100")],
        ),
    ]);
}

#[test]
fn a_route_of_a_built_in_gateway_is_about_no_pod_and_says_so() {
    let text = route(
        "targetRef: {kind: MeshGateway, name: edge}, to: [{targetRef: {kind: Mesh}, rules: [{default: {backendRefs: [{kind: MeshService, name: a, weight: 90}]}}]}]",
    );
    let (errors, left_out) = read(&text);
    assert_eq!(errors, [""; 0]);
    assert!(matches!(&left_out[..], [one] if one.contains("targetRef of 1 MeshTCPRoute")), "{left_out:?}");
}

#[test]
fn every_rule_of_kuma_about_traffic_routes_is_a_check() {
    const ANY: &str =
        "sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: '*'}}]";
    let route = |selectors: &str, conf: &str| {
        format!("{{type: TrafficRoute, name: r, {selectors}, conf: {{{conf}}}}}")
    };
    let of = |conf: &str| route(ANY, conf);
    let redis = "kuma.io/service: redis";
    let with_http =
        |http: &str| of(&format!("destination: {{{redis}}}, http: [{{{http}, destination: {{{redis}}}}}]"));
    assert_rows(&[
        (of("destination: {kuma.io/service: '*'}, loadBalancer: {roundRobin: {}}"), &[]),
        (
            of(
                "split: [{weight: 90, destination: {kuma.io/service: redis, version: '1.0'}}, {weight: 0, destination: {kuma.io/service: redis}}]",
            ),
            &[],
        ),
        (
            of(
                "http: [{match: {path: {prefix: /}}, destination: {kuma.io/service: a}}], destination: {kuma.io/service: b}",
            ),
            &[],
        ),
        (
            route(
                &format!(
                    "sources: [{{match: {{k8s.kuma.io/namespace: orders}}}}], destinations: [{{match: {{{redis}}}}}]"
                ),
                "destination: {kuma.io/service: '*'}",
            ),
            &["sources[0].match.\"kuma.io/service\": found nothing"],
        ),
        (
            route(
                &format!(
                    "sources: [{{match: {{{redis}}}}}], destinations: [{{match: {{{redis}, version: '1'}}}}]"
                ),
                "destination: {kuma.io/service: '*'}",
            ),
            &["destinations[0].match.version: found a tag beside the service"],
        ),
        (of(""), &["conf: found none of its fields; allowed: at least one of destination, split"]),
        (of("http: []"), &["conf: found none of its fields; allowed: at least one of destination, split"]),
        (
            of(&format!("destination: {{{redis}}}, split: [{{weight: 1, destination: {{{redis}}}}}]")),
            &["conf.split: found split beside destination"],
        ),
        (of("destination: {version: '1'}"), &["conf.destination.\"kuma.io/service\": found nothing"]),
        (of("split: []"), &["conf.split: found an empty list"]),
        (
            of("split: [{weight: 1, destination: {version: '1'}}]"),
            &["conf.split[0].destination.\"kuma.io/service\": found nothing"],
        ),
        (of(&format!("split: [{{destination: {{{redis}}}}}]")), &["conf.split[0].weight: found nothing"]),
        (
            of(&format!("split: [{{weight: 0, destination: {{{redis}}}}}]")),
            &["conf.split: found weights of 0 alone"],
        ),
        (
            of(&format!(
                "destination: {{{redis}}}, loadBalancer: {{ringHash: {{hashFunction: XX_HASH, minRingSize: 64}}}}"
            )),
            &[],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{random: {{}}, maglev: {{}}}}")),
            &["conf.loadBalancer: found random and maglev; allowed: one algorithm"],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{leastRequest: {{choiceCount: 1}}}}")),
            &["conf.loadBalancer.leastRequest.choiceCount: found 1"],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{ringHash: {{hashFunction: MD5}}}}")),
            &["conf.loadBalancer.ringHash.hashFunction: found \"MD5\"; allowed: XX_HASH, MURMUR_HASH_2"],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{ringHash: {{}}}}")),
            &["conf.loadBalancer.ringHash.hashFunction: found nothing"],
        ),
        (
            of(&format!(
                "destination: {{{redis}}}, loadBalancer: {{ringHash: {{hashFunction: XX_HASH, minRingSize: 9, maxRingSize: 8}}}}"
            )),
            &["conf.loadBalancer.ringHash.minRingSize: found 9; allowed: at most maxRingSize, 8"],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{roundRobin: []}}")),
            &["conf.loadBalancer.roundRobin: found a list of 0; allowed: a mapping"],
        ),
        (
            with_http("match: {}"),
            &["conf.http[0].match: found none of its fields; allowed: at least one of method, path, headers"],
        ),
        (with_http("modify: {}"), &["conf.http[0].match: found nothing"]),
        (with_http("match: {method: {}}"), &["conf.http[0].match.method: found none of its fields"]),
        (
            with_http("match: {method: GET}"),
            &["conf.http[0].match.method: found \"GET\"; allowed: a mapping"],
        ),
        (with_http("match: {path: {prefix: ''}}"), &["conf.http[0].match.path.prefix: found an empty text"]),
        (with_http("match: {path: {regex: ''}}"), &["conf.http[0].match.path.regex: found an empty text"]),
        (with_http("match: {headers: {}}"), &["conf.http[0].match.headers: found none"]),
        (with_http("match: {headers: {a: {}}}"), &["conf.http[0].match.headers.a: found none of its fields"]),
        (
            with_http(
                "match: {headers: {a: {exact: ''}}, path: {exact: ''}}, modify: {path: {rewritePrefix: /b}}",
            ),
            &[],
        ),
        (
            of(&format!("destination: {{{redis}}}, http: [{{match: {{path: {{prefix: /}}}}}}]")),
            &["conf.http[0]: found none of its fields; allowed: at least one of destination, split"],
        ),
        (
            of(&format!("destination: {{{redis}}}, http: [{{match: {{path: {{prefix: /}}}}, split: []}}]")),
            &["conf.http[0].split: found an empty list"],
        ),
        (
            of(&format!(
                "destination: {{{redis}}}, http: [{{match: {{path: {{prefix: /}}}}, destination: {{version: '1'}}}}]"
            )),
            &["conf.http[0].destination.\"kuma.io/service\": found nothing"],
        ),
        (
            of(&format!("destination: {{{redis}}}, loadBalancer: {{sticky: {{}}}}")),
            &["conf.loadBalancer.sticky: found a field that culvert does not have"],
        ),
    ]);
}
