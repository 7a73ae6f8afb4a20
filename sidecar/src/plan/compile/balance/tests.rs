// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::{ClusterPlan, Plan};
use clap::Parser;

/// The pod of Kuma's golden files, which calls `backend`, and the endpoints of that: four in its own zone, one in each of
/// three others.
const PODS: &str = "---
{type: Dataplane, name: here, labels: {kuma.io/zone: zone-1}, networking: {address: 10.0.0.2,
  inbound: [{port: 80, tags: {kuma.io/service: here, k8s.io/node: node1, k8s.io/az: test, k8s.io/region: test}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: other}}]}}
---
{type: Dataplane, name: b1, networking: {address: 192.168.1.1, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/zone: zone-1, k8s.io/node: node1}}]}}
---
{type: Dataplane, name: b2, networking: {address: 192.168.1.2, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/zone: zone-1, k8s.io/node: node2}}]}}
---
{type: Dataplane, name: b3, networking: {address: 192.168.1.3, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/zone: zone-1, k8s.io/az: test}}]}}
---
{type: Dataplane, name: b4, labels: {kuma.io/zone: zone-1}, networking: {address: 192.168.1.4, inbound: [{port: 80, tags: {kuma.io/service: backend, k8s.io/region: test}}]}}
---
{type: Dataplane, name: b5, networking: {address: 192.168.1.5, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/zone: zone-2}}]}}
---
{type: Dataplane, name: b6, labels: {kuma.io/zone: zone-3}, networking: {address: 192.168.1.6, inbound: [{port: 80, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b7, networking: {address: 192.168.1.7, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/zone: zone-4}}]}}
---
{type: Dataplane, name: o, networking: {address: 192.168.2.1, inbound: [{port: 80, tags: {kuma.io/service: other}}]}}
";

fn read(documents: &str) -> Plan {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    compile(&config, &loaded.found).unwrap()
}

/// The plan with a strategy for `backend`.
fn plan(conf: &str) -> Plan {
    read(&format!("{PODS}{}", strategy("s", "kind: MeshService, name: backend", conf)))
}

fn strategy(name: &str, to: &str, conf: &str) -> String {
    format!(
        "---\n{{type: MeshLoadBalancingStrategy, name: {name}, spec: {{to: [{{targetRef: {{{to}}}, default: {{{conf}}}}}]}}}}\n"
    )
}

fn cluster<'p>(plan: &'p Plan, name: &str) -> &'p ClusterPlan {
    plan.cluster_named(name).unwrap()
}

/// Localities as `priority/zone/sub zone/weight: last bytes of the endpoints' addresses`.
fn localities(plan: &Plan) -> Vec<String> {
    let cluster = cluster(plan, "backend");
    let Discovery::Endpoints(endpoints) = &cluster.upstream else { panic!("{cluster:?}") };
    let Some(localities) = &cluster.balance.localities else { return Vec::new() };
    let shown = |(from, locality): (usize, &Locality)| {
        let last = |endpoint: &EndpointPlan| endpoint.address.ip().to_string().split_off(10);
        let own: Vec<_> = endpoints[from..from + locality.endpoints].iter().map(last).collect();
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("-").to_owned();
        let weight = locality.weight.map_or("-".to_owned(), |weight| weight.to_string());
        let (zone, sub_zone) = (text(&locality.zone), text(&locality.sub_zone));
        format!("{}/{zone}/{sub_zone}/{weight}: {}", locality.priority, own.join(" "))
    };
    assert_eq!(localities.all.iter().map(|one| one.endpoints).sum::<usize>(), endpoints.len());
    localities.with_places().map(shown).collect()
}

const ADVANCED: &str = "localityAwareness: {localZone: {affinityTags: [{key: k8s.io/node}, {key: k8s.io/az}, {key: k8s.io/region}, {key: unknown}]},
  crossZone: {failover: [{to: {type: Only, zones: [zone-2]}}, {from: {zones: [zone-1]}, to: {type: AnyExcept, zones: [zone-4]}}, {to: {type: Any}}]}}";

#[test]
fn without_a_strategy_all_endpoints_are_alike() {
    let plan = read(PODS);
    assert_eq!(cluster(&plan, "backend").balance, Balance::default());
    let plan = self::plan("localityAwareness: {disabled: true}, loadBalancer: {type: Random}");
    assert_eq!(localities(&plan), [""; 0]);
    assert_eq!(cluster(&plan, "backend").balance.algorithm, Algorithm::Random);
    assert_eq!(cluster(&plan, "other").balance, Balance::default(), "another destination");
}

#[test]
fn a_strategy_that_says_nothing_of_zones_puts_this_pods_zone_first() {
    for conf in ["", "loadBalancer: {type: RoundRobin}", "localityAwareness: {}"] {
        let plan = plan(conf);
        let expected = ["0/zone-1/-/-: 1 2 3 4", "1/zone-2/-/-: 5", "1/zone-3/-/-: 6", "1/zone-4/-/-: 7"];
        assert_eq!(localities(&plan), expected, "{conf}");
        assert_eq!(cluster(&plan, "backend").balance.localities.as_ref().unwrap().threshold, None);
    }
}

/// As in Kuma's golden file `locality_aware_basic.endpoints`.
#[test]
fn endpoints_near_the_pod_have_weights_and_other_zones_follow_in_order() {
    let plan = plan(ADVANCED);
    assert_eq!(
        localities(&plan),
        [
            "0/zone-1/k8s.io/node=node1/9000: 1",
            "0/zone-1/k8s.io/az=test/900: 3",
            "0/zone-1/k8s.io/region=test/90: 4",
            "0/zone-1/-/1: 2",
            "1/zone-2/-/-: 5",
            "2/zone-3/-/-: 6",
            "3/zone-4/-/-: 7",
        ]
    );
    assert_eq!(cluster(&plan, "backend").balance.localities.as_ref().unwrap().threshold, Some(50_000));
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn zones_that_no_rule_names_are_not_called() {
    let local = "0/zone-1/-/-: 1 2 3 4";
    for (conf, expected) in [
        ("localityAwareness: {localZone: {}}", vec![local]),
        ("localityAwareness: {crossZone: {}}", vec![local]),
        (
            "localityAwareness: {crossZone: {failover: [{to: {type: None}}, {to: {type: Only, zones: [zone-3]}}]}}",
            vec![local, "2/zone-3/-/-: 6"],
        ),
        (
            "localityAwareness: {crossZone: {failover: [{from: {zones: [zone-2]}, to: {type: Any}}, {from: {zones: [zone-9, zone-1]}, to: {type: AnyExcept, zones: [zone-2]}}]}}",
            vec![local, "2/zone-3/-/-: 6", "2/zone-4/-/-: 7"],
        ),
        (
            "localityAwareness: {localZone: {affinityTags: []}, crossZone: {failover: [{to: {type: Any}}]}}",
            vec![local, "1/zone-2/-/-: 5", "1/zone-3/-/-: 6", "1/zone-4/-/-: 7"],
        ),
        (
            "localityAwareness: {localZone: {affinityTags: [{key: k8s.io/node, weight: 80}, {key: k8s.io/az, weight: 20}]}}",
            vec!["0/zone-1/k8s.io/node=node1/80: 1", "0/zone-1/k8s.io/az=test/20: 3", "0/zone-1/-/1: 2 4"],
        ),
    ] {
        assert_eq!(localities(&plan(conf)), expected, "{conf}");
    }
    let plan = plan("localityAwareness: {crossZone: {failoverThreshold: {percentage: '25.5'}}}");
    assert_eq!(cluster(&plan, "backend").balance.localities.as_ref().unwrap().threshold, Some(25_500));
}

#[test]
fn where_no_document_says_this_pods_zone_all_zones_are_alike_and_a_warning_says_so() {
    let pods = PODS.replace(", labels: {kuma.io/zone: zone-1}", "");
    let of = |conf: &str| read(&format!("{pods}{}", strategy("s", "kind: Mesh", conf)));
    let plan = of("localityAwareness: {crossZone: {failover: [{to: {type: Only, zones: [zone-2]}}]}}");
    assert_eq!(localities(&plan), ["0/-/-/-: 1 2 3 4 5 6 7"]);
    let warning =
        "MeshLoadBalancingStrategy s: all zones are alike, as this pod's Dataplane has no kuma.io/zone";
    assert_eq!(plan.warnings, [warning]);
    let plan = of("loadBalancer: {type: Random}");
    assert_eq!((localities(&plan).len(), plan.warnings.len()), (0, 0));
}

#[test]
fn algorithms_have_envoys_numbers_where_none_are_said() {
    let of = |conf: &str| cluster(&plan(conf), "backend").balance.clone();
    let ring = |least, most, function| Algorithm::RingHash { least, most, function };
    for (conf, algorithm) in [
        ("loadBalancer: {type: RoundRobin}", Algorithm::RoundRobin),
        ("loadBalancer: {type: Random}", Algorithm::Random),
        ("loadBalancer: {type: LeastRequest}", Algorithm::LeastRequest { choices: 2, bias: None }),
        (
            "loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: 5, activeRequestBias: '1.3'}}",
            Algorithm::LeastRequest { choices: 5, bias: Some(1300) },
        ),
        ("loadBalancer: {type: RingHash}", ring(1024, 8_000_000, HashFunction::XxHash)),
        (
            "loadBalancer: {type: RingHash, ringHash: {maxRingSize: 100}}",
            ring(100, 100, HashFunction::XxHash),
        ),
        (
            "loadBalancer: {type: RingHash, ringHash: {minRingSize: 9, maxRingSize: 100, hashFunction: MurmurHash2}}",
            ring(9, 100, HashFunction::MurmurHash2),
        ),
        ("loadBalancer: {type: Maglev}", Algorithm::Maglev { size: 65_537 }),
        ("loadBalancer: {type: Maglev, maglev: {tableSize: 251}}", Algorithm::Maglev { size: 251 }),
    ] {
        let balance = of(conf);
        assert_eq!((balance.algorithm, balance.by_source), (algorithm, false), "{conf}");
    }
    let by = |kind: &str| {
        of(&format!(
            "loadBalancer: {{type: RingHash}}, hashPolicies: [{{type: {kind}, connection: {{sourceIP: true}}}}]"
        ))
    };
    assert!(by("SourceIP").by_source && by("Connection").by_source);
}

fn traffic_route(name: &str, service: &str, conf: &str) -> String {
    format!(
        "---\n{{type: TrafficRoute, name: {name}, sources: [{{match: {{kuma.io/service: '*'}}}}], destinations: [{{match: {{kuma.io/service: {service}}}}}], conf: {{{conf}}}}}\n"
    )
}

#[test]
fn the_algorithm_of_a_traffic_route_holds_where_no_strategy_says_one() {
    let own = "destination: {kuma.io/service: '*'}";
    let of = |route: &str, more: &str| {
        let route = traffic_route("r", "backend", &format!("{own}, loadBalancer: {{{route}}}"));
        let plan = read(&format!("{PODS}{route}{more}"));
        assert_eq!(plan.warnings, [""; 0], "{route}");
        plan
    };
    for (said, algorithm) in [
        ("roundRobin: {}", Algorithm::RoundRobin),
        ("leastRequest: {}", Algorithm::LeastRequest { choices: 2, bias: None }),
        ("leastRequest: {choiceCount: 5}", Algorithm::LeastRequest { choices: 5, bias: None }),
        (
            "ringHash: {hashFunction: MURMUR_HASH_2, minRingSize: 64, maxRingSize: 1024}",
            Algorithm::RingHash { least: 64, most: 1024, function: HashFunction::MurmurHash2 },
        ),
        ("random: {}", Algorithm::Random),
        ("maglev: {}", Algorithm::Maglev { size: 65_537 }),
    ] {
        let plan = of(said, "");
        let balance = Balance { algorithm, ..Balance::default() };
        assert_eq!(cluster(&plan, "backend").balance, balance, "{said}: all zones alike");
        assert_eq!(cluster(&plan, "other").balance, Balance::default(), "{said}: another destination");
    }
    let to = "kind: MeshService, name: backend";
    let said = of("random: {}", &strategy("s", to, "loadBalancer: {type: LeastRequest}"));
    let least = Algorithm::LeastRequest { choices: 2, bias: None };
    assert_eq!(cluster(&said, "backend").balance.algorithm, least, "a strategy decides");
    let silent = of("random: {}", &strategy("s", to, "localityAwareness: {localZone: {}}"));
    assert_eq!(cluster(&silent, "backend").balance.algorithm, Algorithm::Random);
    assert_eq!(localities(&silent), ["0/zone-1/-/-: 1 2 3 4"], "each says its own part");
}

#[test]
fn the_algorithm_of_a_traffic_route_is_that_of_all_clusters_behind_the_outbound() {
    let away = "destination: {kuma.io/service: other}, loadBalancer: {random: {}}";
    let all = traffic_route("all", "'*'", "destination: {kuma.io/service: '*'}");
    let of = |documents: &str| {
        let plan = read(&format!("{PODS}{all}{documents}"));
        let behind = |port: u16| {
            let name = format!("outbound:127.0.0.1:{port}");
            let listener = plan.listeners.iter().find(|one| *one.name == *name).unwrap();
            cluster(&plan, listener.cluster.as_deref().unwrap()).balance.algorithm
        };
        [behind(1000), behind(1001)]
    };
    let route = traffic_route("r", "backend", away);
    assert_eq!(of(&route), [Algorithm::Random, Algorithm::RoundRobin], "as in Kuma");
    let replaced =
        "---\n{type: MeshTCPRoute, name: m, spec: {to: [{targetRef: {kind: MeshService, name: other}}]}}\n";
    assert_eq!(of(&format!("{route}{replaced}")), [Algorithm::RoundRobin; 2], "out of force");
    let elsewhere = replaced.replace("spec: {", "spec: {targetRef: {kind: Dataplane, name: b1}, ");
    assert_eq!(of(&format!("{route}{elsewhere}")), [Algorithm::Random, Algorithm::RoundRobin]);
}

#[test]
fn strategies_are_merged_as_other_policies_about_destinations() {
    let narrow = strategy("a", "kind: MeshService, name: backend", "loadBalancer: {type: LeastRequest}");
    let wide = strategy(
        "b",
        "kind: Mesh",
        "localityAwareness: {localZone: {}}, loadBalancer: {type: Random, leastRequest: {choiceCount: 9}}",
    );
    let plan = read(&format!("{PODS}{narrow}{wide}"));
    let balance = &cluster(&plan, "backend").balance;
    assert_eq!(balance.algorithm, Algorithm::LeastRequest { choices: 9, bias: None });
    assert_eq!(localities(&plan), ["0/zone-1/-/-: 1 2 3 4"]);
    assert_eq!(cluster(&plan, "other").balance.algorithm, Algorithm::Random);
    let ring = strategy(
        "a",
        "kind: Mesh",
        "loadBalancer: {type: RingHash}, hashPolicies: [{type: Header, header: {name: x}}]",
    );
    let warning = "MeshLoadBalancingStrategy a: passed over, as the sidecar does nothing by it: hashPolicies of type Header";
    assert_eq!(read(&format!("{PODS}{ring}")).warnings, [warning]);
}
