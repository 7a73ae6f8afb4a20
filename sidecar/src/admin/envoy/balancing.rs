// SPDX-License-Identifier: Apache-2.0
//! Balancing in Envoy's words: the algorithm, the localities, and the place of each endpoint.

use crate::plan::balance::{Algorithm, Balance, HashFunction, Localities, Locality};
use crate::plan::{ClusterPlan, Discovery};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Returns Envoy's name of the algorithm.
pub(super) fn policy(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "ROUND_ROBIN",
        Algorithm::LeastRequest { .. } => "LEAST_REQUEST",
        Algorithm::Random => "RANDOM",
        Algorithm::RingHash { .. } => "RING_HASH",
        Algorithm::Maglev { .. } => "MAGLEV",
    }
}

/// Adds the settings of the algorithm to a cluster, and its weights. `common_lb_config` is added to, not replaced.
pub(super) fn add_settings(balance: &Balance, cluster: &mut Value) {
    match balance.algorithm {
        Algorithm::RoundRobin | Algorithm::Random => {}
        Algorithm::LeastRequest { choices, bias } => {
            cluster["least_request_lb_config"] = json!({"choice_count": choices});
            if let Some(bias) = bias {
                let bias = json!({"default_value": f64::from(bias) / 1000.0});
                cluster["least_request_lb_config"]["active_request_bias"] = bias;
            }
        }
        Algorithm::RingHash { least, most, function } => {
            let function = match function {
                HashFunction::XxHash => "XX_HASH",
                HashFunction::MurmurHash2 => "MURMUR_HASH_2",
            };
            cluster["ring_hash_lb_config"] = json!({
                "minimum_ring_size": least.to_string(),
                "maximum_ring_size": most.to_string(),
                "hash_function": function,
            });
        }
        Algorithm::Maglev { size } => {
            cluster["maglev_lb_config"] = json!({"table_size": size.to_string()});
        }
    }
    let all = balance.localities.as_ref().map_or(&[][..], |localities| localities.all.as_slice());
    if all.iter().any(|locality| locality.weight.is_some()) {
        cluster["common_lb_config"]["locality_weighted_lb_config"] = json!({});
    }
}

/// Makes the `load_assignment` of a cluster from its endpoints, in their order.
pub(super) fn assignment(name: &str, endpoints: &[Value], localities: Option<&Localities>) -> Value {
    let Some(localities) = localities else {
        return json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
    };
    let group = |(from, locality): (usize, &Locality)| {
        let own = endpoints.iter().skip(from).take(locality.endpoints).collect::<Vec<_>>();
        let mut group = json!({"locality": place(locality), "lb_endpoints": own});
        if let Some(weight) = locality.weight {
            group["load_balancing_weight"] = weight.into();
        }
        // Protobuf's default is left out.
        if locality.priority > 0 {
            group["priority"] = locality.priority.into();
        }
        group
    };
    let groups: Vec<_> = localities.with_places().map(group).collect();
    let mut assignment = json!({"cluster_name": name, "endpoints": groups});
    if let Some(threshold) = localities.threshold.filter(|threshold| *threshold > 0) {
        // Envoy's word for a threshold of 50 % is that each endpoint counts twice.
        assignment["policy"] = json!({"overprovisioning_factor": 10_000_000 / threshold});
    }
    assignment
}

fn place(locality: &Locality) -> Value {
    let mut place = json!({});
    for (key, value) in [("zone", &locality.zone), ("sub_zone", &locality.sub_zone)] {
        if let Some(value) = value {
            place[key] = (&**value).into();
        }
    }
    place
}

/// The place of an endpoint, as `/clusters` shows it.
#[derive(Clone, Copy)]
pub(super) struct HostPlace<'a>(Option<&'a Locality>);

/// Returns the places of a cluster's endpoints; those that are alike have the priority 0.
pub(super) fn places(of: &ClusterPlan) -> HashMap<SocketAddr, HostPlace<'_>> {
    let endpoints: Vec<SocketAddr> = match &of.upstream {
        Discovery::Endpoints(endpoints) => endpoints.iter().map(|endpoint| endpoint.address).collect(),
        Discovery::External(endpoints) => endpoints.iter().map(|endpoint| endpoint.address).collect(),
        Discovery::OriginalDst { .. } | Discovery::Application { .. } => return HashMap::new(),
    };
    let mut places: HashMap<_, _> = endpoints.iter().map(|address| (*address, HostPlace(None))).collect();
    for (from, locality) in of.balance.localities.iter().flat_map(Localities::with_places) {
        for address in endpoints.iter().skip(from).take(locality.endpoints) {
            places.insert(*address, HostPlace(Some(locality)));
        }
    }
    places
}

impl HostPlace<'_> {
    fn priority(self) -> u32 {
        self.0.map_or(0, |locality| locality.priority)
    }

    /// Returns the values of `/clusters`. In Envoy `weight` is that of the endpoint alone, which is 1 in a mesh.
    pub(super) fn lines(self) -> Vec<(&'static str, String)> {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let mut lines = vec![
            ("weight", "1".to_owned()),
            ("zone", text(self.0.and_then(|locality| locality.zone.as_deref()))),
            ("sub_zone", text(self.0.and_then(|locality| locality.sub_zone.as_deref()))),
            ("priority", self.priority().to_string()),
        ];
        if let Some(weight) = self.0.and_then(|locality| locality.weight) {
            lines.push(("locality_weight", weight.to_string()));
        }
        lines
    }

    /// Adds the same to a host of `/clusters?format=json`.
    pub(super) fn add_to(self, host: &mut Value) {
        host["weight"] = 1.into();
        host["priority"] = self.priority().into();
        if let Some(locality) = self.0 {
            host["locality"] = place(locality);
            if let Some(weight) = locality.weight {
                host["locality_weight"] = weight.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    #[test]
    fn settings_and_localities_are_envoys() {
        let text = "
{type: Dataplane, name: here, labels: {kuma.io/zone: east}, networking: {address: 10.0.0.2,
  inbound: [{port: 80, tags: {kuma.io/service: here, node: a}}], outbound: [{port: 1000, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-1, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web, kuma.io/zone: east, node: a}}]}}
---
{type: Dataplane, name: web-2, networking: {address: 10.0.0.4, inbound: [{port: 80, tags: {kuma.io/service: web, kuma.io/zone: west}}]}}
---
{type: MeshLoadBalancingStrategy, name: s, spec: {to: [{targetRef: {kind: Mesh}, default: {
  loadBalancer: {type: RingHash, ringHash: {hashFunction: MurmurHash2, minRingSize: 100, maxRingSize: 1000}},
  localityAwareness: {localZone: {affinityTags: [{key: node, weight: 9000}]}, crossZone: {failover: [{to: {type: Any}}], failoverThreshold: {percentage: 25}}}}}]}}
";
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let loaded = read_with_mesh(&config, text, "m.yaml");
        let plan = compile(&config, &loaded.found).unwrap();
        let cluster = plan.cluster_named("web").unwrap();
        let localities = cluster.balance.localities.as_ref();
        assert_eq!(
            assignment("web", &[json!(1), json!(2)], localities),
            json!({
                "cluster_name": "web",
                "endpoints": [
                    {"locality": {"zone": "east", "sub_zone": "node=a"}, "lb_endpoints": [1], "load_balancing_weight": 9000},
                    {"locality": {"zone": "west"}, "lb_endpoints": [2], "priority": 1},
                ],
                "policy": {"overprovisioning_factor": 400},
            })
        );
        let mut shown = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 1.0}}});
        add_settings(&cluster.balance, &mut shown);
        assert_eq!(
            shown,
            json!({
                "ring_hash_lb_config":
                    {"minimum_ring_size": "100", "maximum_ring_size": "1000", "hash_function": "MURMUR_HASH_2"},
                "common_lb_config":
                    {"healthy_panic_threshold": {"value": 1.0}, "locality_weighted_lb_config": {}},
            })
        );
        let places = places(cluster);
        let at = |at: &str| places[&at.parse::<SocketAddr>().unwrap()];
        let lines = |text: &str| {
            let place = at(text);
            place
                .lines()
                .into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            lines("10.0.0.3:80"),
            "weight=1 zone=east sub_zone=node=a priority=0 locality_weight=9000"
        );
        assert_eq!(lines("10.0.0.4:80"), "weight=1 zone=west sub_zone= priority=1");
        let mut host = json!({});
        at("10.0.0.4:80").add_to(&mut host);
        assert_eq!(host, json!({"weight": 1, "priority": 1, "locality": {"zone": "west"}}));
    }

    #[test]
    fn algorithms_have_envoys_names() {
        let of = |algorithm| {
            let mut cluster = json!({});
            add_settings(&Balance { algorithm, ..Balance::default() }, &mut cluster);
            (policy(algorithm), cluster)
        };
        assert_eq!(of(Algorithm::RoundRobin), ("ROUND_ROBIN", json!({})));
        assert_eq!(of(Algorithm::Random), ("RANDOM", json!({})));
        let (name, settings) = of(Algorithm::LeastRequest { choices: 3, bias: Some(1_300) });
        let expected = json!({"least_request_lb_config": {"choice_count": 3, "active_request_bias": {"default_value": 1.3}}});
        assert_eq!((name, settings), ("LEAST_REQUEST", expected));
        let (name, settings) = of(Algorithm::Maglev { size: 65_537 });
        assert_eq!((name, settings), ("MAGLEV", json!({"maglev_lb_config": {"table_size": "65537"}})));
    }
}
