// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::merge::merged;
use crate::read::{Problems, Read};
use serde_json::{Value, json};

/// Reads and checks a policy, and returns it with its problems, each as `field: found`.
fn read(value: &Value) -> (Option<MeshLoadBalancingStrategy>, Vec<String>) {
    let mut problems = Problems::default();
    let mut at = At::root(&mut problems);
    let read = MeshLoadBalancingStrategy::read(value, &mut at);
    let unknown = at.take_unknown_fields();
    MeshLoadBalancingStrategy::check(&Part::new(value, "", &unknown), None, &mut at);
    let all = problems.into_all();
    (read, all.iter().map(|problem| format!("{}: {}", problem.path, problem.found)).collect())
}

/// A policy with one entry for the service `backend`.
fn to_backend(conf: &Value) -> Value {
    json!({"to": [{"targetRef": {"kind": "MeshService", "name": "backend"}, "default": conf}]})
}

fn conf(value: &Value) -> StrategyConf {
    let (read, problems) = read(&to_backend(value));
    assert_eq!(problems, [""; 0], "{value}");
    read.unwrap().to.remove(0).default
}

#[test]
fn what_kumas_control_plane_takes_is_taken() {
    for value in [
        json!({"targetRef": {"kind": "Dataplane", "labels": {"app": "web"}}, "to": []}),
        json!({}),
        json!({"to": [{"targetRef": {"kind": "Mesh"}}]}),
        to_backend(&json!({
            "localityAwareness": {"disabled": true},
            "hashPolicies": [{"type": "Cookie", "cookie": {"name": "c", "ttl": "1s", "path": "/absolute-path"}}],
            "loadBalancer": {"type": "Maglev"},
        })),
        to_backend(&json!({
            "localityAwareness": {"disabled": true},
            "loadBalancer": {"type": "LeastRequest", "leastRequest": {"activeRequestBias": "1.3"}},
        })),
        to_backend(&json!({"localityAwareness": {
            "localZone": {"affinityTags": [{"key": "k8s/node"}, {"key": "k8s/az"}]},
            "crossZone": {
                "failover": [
                    {"from": {"zones": ["zone-1"]}, "to": {"type": "Only", "zones": ["zone-2"]}},
                    {"from": {"zones": ["zone-3"]}, "to": {"type": "Any"}},
                    {"from": {"zones": ["zone-4"]}, "to": {"type": "AnyExcept", "zones": ["zone-1"]}},
                    {"to": {"type": "None"}},
                ],
                "failoverThreshold": {"percentage": 70},
            },
        }})),
        to_backend(&json!({"loadBalancer": {"type": "RingHash", "ringHash": {
            "hashFunction": "MurmurHash2", "minRingSize": 100, "maxRingSize": 1000,
            "hashPolicies": [
                {"type": "Header", "header": {"name": "x-header"}, "terminal": true},
                {"type": "Connection", "connection": {"sourceIP": true}},
                {"type": "SourceIP", "connection": {"sourceIP": false}},
                {"type": "QueryParameter", "queryParameter": {"name": "q"}},
                {"type": "FilterState", "filterState": {"key": "k"}},
            ],
        }}})),
        json!({"to": [{"targetRef": {"kind": "MeshHTTPRoute", "name": "r"},
            "default": {"hashPolicies": [{"type": "Header", "header": {"name": "x"}}]}}]}),
    ] {
        assert_eq!(read(&value).1, [""; 0], "{value}");
    }
}

#[test]
fn what_kumas_control_plane_or_envoy_refuses_is_refused() {
    let policies = json!([{"type": "Header"}, {"type": "Cookie"}, {"type": "SourceIP"}, {"type": "QueryParameter"}, {"type": "FilterState"}]);
    let failover =
        |rules: Value| to_backend(&json!({"localityAwareness": {"crossZone": {"failover": rules}}}));
    let percentage = |percentage: Value| {
        to_backend(
            &json!({"localityAwareness": {"crossZone": {"failoverThreshold": {"percentage": percentage}}}}),
        )
    };
    let ring = |ring: Value| to_backend(&json!({"loadBalancer": {"type": "RingHash", "ringHash": ring}}));
    for (value, expected) in [
        (json!({"targetRef": {"kind": "MeshGatewayRoute", "name": "r"}, "to": []}), vec!["targetRef.kind"]),
        (
            json!({"to": [{"targetRef": {"kind": "MeshServiceSubset", "name": "a"}}]}),
            vec!["to[0].targetRef.kind"],
        ),
        (
            json!({"to": [{"targetRef": {"kind": "MeshService", "name": "a", "sectionName": "http"},
                "default": {"localityAwareness": {"crossZone": {}}}}]}),
            vec!["to[0].default.localityAwareness.crossZone"],
        ),
        (
            ring(json!({"hashPolicies": policies})),
            vec![
                "to[0].default.loadBalancer.ringHash.hashPolicies[0].header",
                "to[0].default.loadBalancer.ringHash.hashPolicies[1].cookie",
                "to[0].default.loadBalancer.ringHash.hashPolicies[2].connection",
                "to[0].default.loadBalancer.ringHash.hashPolicies[3].queryParameter",
                "to[0].default.loadBalancer.ringHash.hashPolicies[4].filterState",
            ],
        ),
        (
            to_backend(
                &json!({"hashPolicies": [{"type": "Cookie", "cookie": {"name": "", "path": "relative"}}]}),
            ),
            vec!["to[0].default.hashPolicies[0].cookie.name", "to[0].default.hashPolicies[0].cookie.path"],
        ),
        (
            to_backend(&json!({
                "hashPolicies": [{"type": "Header", "header": {"name": "x"}}],
                "loadBalancer": {"type": "Maglev", "maglev": {"hashPolicies": []}, "ringHash": {"hashPolicies": []}},
            })),
            vec![
                "to[0].default.loadBalancer.ringHash.hashPolicies",
                "to[0].default.loadBalancer.maglev.hashPolicies",
            ],
        ),
        (to_backend(&json!({"loadBalancer": {"type": "Fastest"}})), vec!["to[0].default.loadBalancer.type"]),
        (
            to_backend(
                &json!({"loadBalancer": {"type": "LeastRequest", "leastRequest": {"choiceCount": 1, "activeRequestBias": -1}}}),
            ),
            vec![
                "to[0].default.loadBalancer.leastRequest.choiceCount",
                "to[0].default.loadBalancer.leastRequest.activeRequestBias",
            ],
        ),
        (ring(json!({"minRingSize": 0})), vec!["to[0].default.loadBalancer.ringHash.minRingSize"]),
        (ring(json!({"maxRingSize": 8_000_001})), vec!["to[0].default.loadBalancer.ringHash.maxRingSize"]),
        (
            ring(json!({"minRingSize": 9, "maxRingSize": 8})),
            vec!["to[0].default.loadBalancer.ringHash.minRingSize"],
        ),
        (
            to_backend(&json!({"loadBalancer": {"type": "Maglev", "maglev": {"tableSize": 65_536}}})),
            vec!["to[0].default.loadBalancer.maglev.tableSize"],
        ),
        (
            to_backend(
                &json!({"localityAwareness": {"localZone": {"affinityTags": [{"key": "node", "weight": 0}, {"key": "", "weight": 10}]}}}),
            ),
            vec![
                "to[0].default.localityAwareness.localZone.affinityTags[0].weight",
                "to[0].default.localityAwareness.localZone.affinityTags[1].key",
            ],
        ),
        (
            to_backend(
                &json!({"localityAwareness": {"localZone": {"affinityTags": [{"key": "node", "weight": 1}, {"key": "az"}]}}}),
            ),
            vec!["to[0].default.localityAwareness.localZone.affinityTags"],
        ),
        (
            percentage(json!(0)),
            vec!["to[0].default.localityAwareness.crossZone.failoverThreshold.percentage"],
        ),
        (
            percentage(json!(101)),
            vec!["to[0].default.localityAwareness.crossZone.failoverThreshold.percentage"],
        ),
        (
            percentage(json!("hello")),
            vec!["to[0].default.localityAwareness.crossZone.failoverThreshold.percentage"],
        ),
        (
            failover(json!([
                {"from": {"zones": []}, "to": {"type": "None", "zones": ["a"]}},
                {"from": {"zones": ["a", ""]}, "to": {"type": "Any"}},
                {"to": {"type": "Any", "zones": ["a"]}},
                {"to": {"type": "Only", "zones": []}},
                {"to": {"type": "AnyExcept"}},
            ])),
            vec![
                "to[0].default.localityAwareness.crossZone.failover[0].from.zones",
                "to[0].default.localityAwareness.crossZone.failover[0].to.zones",
                "to[0].default.localityAwareness.crossZone.failover[1].from.zones[1]",
                "to[0].default.localityAwareness.crossZone.failover[2].to.zones",
                "to[0].default.localityAwareness.crossZone.failover[3].to.zones",
                "to[0].default.localityAwareness.crossZone.failover[4].to.zones",
            ],
        ),
        (
            json!({"to": [{"targetRef": {"kind": "MeshHTTPRoute", "name": "r"},
                "default": {"loadBalancer": {"type": "Random"}, "localityAwareness": {"disabled": true}}}]}),
            vec!["to[0].default.loadBalancer", "to[0].default.localityAwareness"],
        ),
    ] {
        let (_, problems) = read(&value);
        let fields: Vec<_> = problems.iter().filter_map(|one| one.split(": ").next()).collect();
        assert_eq!(fields, expected, "{value}: {problems:#?}");
    }
}

#[test]
fn settings_are_merged_one_by_one_and_lists_as_a_whole() {
    let narrow = conf(&json!({
        "loadBalancer": {"type": "RingHash", "ringHash": {"minRingSize": 64}},
        "localityAwareness": {"crossZone": {"failover": [{"to": {"type": "Any"}}]}},
    }));
    let wide = conf(&json!({
        "loadBalancer": {"type": "Random", "ringHash": {"minRingSize": 128, "maxRingSize": 256}},
        "localityAwareness": {"disabled": true, "localZone": {}},
        "hashPolicies": [{"type": "Connection", "connection": {"sourceIP": true}}],
    }));
    let both = merged([narrow, wide]).unwrap();
    let balancer = both.load_balancer.as_ref().unwrap();
    let ring = balancer.ring_hash.as_ref().unwrap();
    assert_eq!(balancer.kind, LoadBalancerKind::RingHash);
    assert_eq!((ring.min_ring_size, ring.max_ring_size), (Some(Between(64)), Some(Between(256))));
    let zones = both.locality_awareness.as_ref().unwrap();
    assert!(zones.local_zone.is_some() && zones.cross_zone.is_some());
    assert!(!zones.names_zones(), "disabled by the wide one");
    assert!(both.is_by_source());
}

#[test]
fn only_the_clients_address_is_hashed() {
    let policies = |policies: Value| {
        conf(&json!({"loadBalancer": {"type": "Maglev", "maglev": {"hashPolicies": policies}}}))
    };
    for (value, by_source) in [
        (json!([]), false),
        (json!([{"type": "Header", "header": {"name": "x"}}]), false),
        (json!([{"type": "SourceIP", "connection": {"sourceIP": true}}]), true),
        (json!([{"type": "Connection", "connection": {"sourceIP": true}}]), true),
        (json!([{"type": "Connection", "connection": {}}]), false),
        (
            json!([{"type": "Header", "header": {"name": "x"}}, {"type": "Connection", "connection": {"sourceIP": true}}]),
            true,
        ),
    ] {
        assert_eq!(policies(value.clone()).is_by_source(), by_source, "{value}");
    }
    let of_another = conf(&json!({"loadBalancer": {"type": "RingHash", "maglev": {
        "hashPolicies": [{"type": "Connection", "connection": {"sourceIP": true}}]}}}));
    assert!(!of_another.is_by_source(), "they are Maglev's");
    let (policy, _) = read(&to_backend(&json!({"hashPolicies": [
        {"type": "Header", "header": {"name": "x"}}, {"type": "Header", "header": {"name": "y"}},
        {"type": "Connection", "connection": {"sourceIP": true}}]})));
    assert_eq!(policy.unwrap().passed_over(), ["hashPolicies of type Header"]);
}

#[test]
fn zones_take_over_by_name() {
    for (kind, zones, expected) in [
        ("None", vec![], [false, false]),
        ("Any", vec![], [true, true]),
        ("Only", vec!["east"], [true, false]),
        ("AnyExcept", vec!["east"], [false, true]),
    ] {
        let zones: Vec<_> = zones.into_iter().map(str::to_owned).collect();
        let value = json!({"type": kind, "zones": zones});
        let to = ToZones::read(&value, &mut At::root(&mut Problems::default())).unwrap();
        assert_eq!(["east", "west"].map(|zone| to.has(zone)), expected, "{kind}");
    }
}
