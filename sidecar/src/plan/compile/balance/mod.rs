// SPDX-License-Identifier: Apache-2.0
//! The endpoints that come first, by MeshLoadBalancingStrategy.
//!
//! As in Kuma a strategy about a destination puts this pod's zone first, and all others together behind it, unless it says
//! `disabled`. One with `localZone` or `crossZone` says by itself which other zones may be called; none may by default.

use crate::plan::balance::{Algorithm, Balance, HashFunction, Localities, Locality};
use crate::plan::compile::external;
use crate::plan::{Discovery, EndpointPlan};
use culvert_mesh::document::{Document, ZONE};
use culvert_mesh::kinds::connections::mesh_circuit_breaker::Thousandths;
use culvert_mesh::kinds::connections::mesh_load_balancing_strategy as kind;
use culvert_mesh::kinds::connections::mesh_load_balancing_strategy::{
    Between, CrossZone, LoadBalancerKind, LocalityAwareness, MeshLoadBalancingStrategy, StrategyConf, ToZones,
};
use culvert_mesh::kinds::destination::{ConnectionPolicy, Positive};
use culvert_mesh::select::Subject;
use std::cmp::Reverse;
use std::sync::Arc;

/// Envoy's sizes of a ring.
const RING: [u32; 2] = [1024, 8_000_000];
/// Envoy's size of a table of Maglev.
const TABLE: u32 = 65_537;
/// Envoy's number of endpoints that LeastRequest compares.
const CHOICES: u32 = 2;
/// Kuma's threshold of a strategy that names zones, in thousandths of a percent.
const THRESHOLD: u32 = 50_000;

/// The choice of endpoints for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Strategy {
    algorithm: Algorithm,
    /// True if a policy says the algorithm.
    said: bool,
    by_source: bool,
    zones: Zones,
}

/// The order of endpoints by their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Zones {
    /// All are alike.
    #[default]
    Alike,
    /// Those of this zone come first, all others together behind them.
    LocalFirst(Arc<str>),
    /// As a policy says.
    Ruled(Rules),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    /// This pod's zone; `None` where no document says it: then every endpoint counts as one of this zone.
    zone: Option<Arc<str>>,
    /// Tags of this pod by which an endpoint is near, in the order in which they decide.
    near: Vec<Near>,
    /// True if the policy names such tags, whether this pod has them or not.
    weighted: bool,
    /// Zones that take over, with their priorities.
    failover: Vec<(u32, ToZones)>,
    threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Near {
    tag: String,
    value: String,
    weight: u32,
}

/// The place of an endpoint in the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: u32,
    weight: Reverse<Option<u32>>,
    zone: Option<String>,
    sub_zone: Option<String>,
}

/// Returns this pod's zone.
fn zone(pod: &Subject<'_>) -> Option<Arc<str>> {
    pod.pod.and_then(|(document, _)| document.label_or_tag(ZONE)).map(Into::into)
}

/// Returns a warning for a policy that names zones where this pod's zone is not known.
pub(super) fn without_a_zone(
    (document, policy): (&Document, &MeshLoadBalancingStrategy),
    pod: &Subject<'_>,
) -> Option<String> {
    let names_zones =
        |conf: &StrategyConf| conf.locality_awareness.as_ref().is_some_and(LocalityAwareness::names_zones);
    let concerned = policy.to().any(|(_, conf)| names_zones(conf)) && zone(pod).is_none();
    concerned.then(|| {
        let (kind, name) = (document.kind().name(), &document.name);
        format!("{kind} {name}: all zones are alike, as this pod's Dataplane has no {ZONE}")
    })
}

pub(super) fn algorithm(balancer: &kind::LoadBalancer) -> Algorithm {
    let of = |number: Option<u32>, default| number.unwrap_or(default);
    match balancer.kind {
        LoadBalancerKind::RoundRobin => Algorithm::RoundRobin,
        LoadBalancerKind::Random => Algorithm::Random,
        LoadBalancerKind::LeastRequest => {
            let settings = balancer.least_request.as_ref();
            let choices = settings.and_then(|of| of.choice_count).map(|Between(count)| count);
            let bias = settings.and_then(|of| of.active_request_bias).map(|Thousandths(bias)| bias);
            Algorithm::LeastRequest { choices: of(choices, CHOICES), bias }
        }
        LoadBalancerKind::RingHash => {
            let settings = balancer.ring_hash.as_ref();
            let [least, most] = RING;
            let most = of(settings.and_then(|of| of.max_ring_size).map(|Between(size)| size), most);
            let least = of(settings.and_then(|of| of.min_ring_size).map(|Between(size)| size), least);
            let function = match settings.and_then(|of| of.hash_function) {
                Some(kind::HashFunction::MurmurHash2) => HashFunction::MurmurHash2,
                Some(kind::HashFunction::XxHash) | None => HashFunction::XxHash,
            };
            // Two policies may say one each.
            Algorithm::RingHash { least: least.min(most), most, function }
        }
        LoadBalancerKind::Maglev => {
            let size =
                balancer.maglev.as_ref().and_then(|of| of.table_size).map(|kind::TableSize(size)| size);
            Algorithm::Maglev { size: of(size, TABLE) }
        }
    }
}

impl Strategy {
    /// Makes the choice that the merged policies say; without any, endpoints take turns and all are alike.
    pub(super) fn new(conf: Option<StrategyConf>, pod: &Subject<'_>) -> Self {
        let Some(conf) = conf else { return Self::default() };
        let algorithm = conf.load_balancer.as_ref().map_or(Algorithm::RoundRobin, algorithm);
        let zones = match &conf.locality_awareness {
            Some(awareness) if awareness.disabled == Some(true) => Zones::Alike,
            Some(awareness) if awareness.names_zones() => Zones::Ruled(Rules::new(awareness, pod)),
            _ => zone(pod).map_or(Zones::Alike, Zones::LocalFirst),
        };
        let said = conf.load_balancer.is_some();
        Self { algorithm, said, by_source: conf.is_by_source(), zones }
    }

    /// Takes the algorithm of a TrafficRoute, where no policy says one. It says nothing of zones, nor what is hashed.
    pub(super) fn or_of_route(&mut self, route: Option<Algorithm>) {
        if let Some(algorithm) = route.filter(|_| !self.said) {
            self.algorithm = algorithm;
        }
    }

    /// Sorts the endpoints of a cluster by their places, and leaves out those that may not be called.
    pub(super) fn arrange(&self, upstream: Discovery) -> (Discovery, Balance) {
        let endpoints = match upstream {
            Discovery::Endpoints(endpoints) => endpoints,
            Discovery::External(endpoints) => {
                // Zones are places of members.
                let (endpoints, localities) = external::arranged(endpoints);
                let Self { algorithm, by_source, .. } = *self;
                return (Discovery::External(endpoints), Balance { algorithm, by_source, localities });
            }
            other => return (other, Balance::default()),
        };
        let Self { algorithm, said: _, by_source, zones } = self;
        let balance = Balance { algorithm: *algorithm, by_source: *by_source, localities: None };
        let threshold = match zones {
            Zones::Alike => return (Discovery::Endpoints(endpoints), balance),
            Zones::LocalFirst(_) => None,
            Zones::Ruled(rules) => Some(rules.threshold),
        };
        let place = |endpoint: EndpointPlan| Some((zones.place(&endpoint)?, endpoint.address, endpoint));
        let mut placed: Vec<_> = endpoints.into_iter().filter_map(place).collect();
        placed.sort_by(|(one, address, _), (other, another, _)| (one, address).cmp(&(other, another)));
        let all = localities(placed.iter().map(|(place, ..)| place));
        let endpoints = placed.into_iter().map(|(.., endpoint)| endpoint).collect();
        let localities = Some(Localities { all, threshold });
        (Discovery::Endpoints(endpoints), Balance { localities, ..balance })
    }
}

/// Counts endpoints that have the same place; they stand together.
fn localities<'p>(places: impl Iterator<Item = &'p Place>) -> Vec<Locality> {
    let mut all: Vec<Locality> = Vec::new();
    let mut last = None;
    for place in places {
        match all.last_mut() {
            Some(locality) if last == Some(place) => locality.endpoints += 1,
            _ => all.push(Locality {
                zone: place.zone.as_deref().map(Into::into),
                sub_zone: place.sub_zone.as_deref().map(Into::into),
                priority: place.priority,
                weight: place.weight.0,
                endpoints: 1,
            }),
        }
        last = Some(place);
    }
    all
}

impl Zones {
    /// Returns the place of an endpoint, `None` for one that may not be called.
    fn place(&self, endpoint: &EndpointPlan) -> Option<Place> {
        let own = match self {
            Self::Alike => None,
            Self::LocalFirst(zone) => Some(zone),
            Self::Ruled(rules) => rules.zone.as_ref(),
        };
        let tags = &endpoint.member.tags.0;
        // An endpoint whose zone no document says is taken for one of this zone: a mesh of one zone says none.
        let other = own.and_then(|own| tags.get(ZONE).filter(|zone| zone.as_str() != &**own));
        let weighted = matches!(self, Self::Ruled(Rules { weighted: true, .. }));
        let mut place = Place {
            priority: 0,
            weight: Reverse(weighted.then_some(1)),
            zone: other.cloned().or_else(|| own.map(|own| (**own).to_owned())),
            sub_zone: None,
        };
        match (self, other) {
            (Self::Alike, _) | (Self::LocalFirst(_), None) => {}
            (Self::LocalFirst(_), Some(_)) => place.priority = 1,
            (Self::Ruled(rules), None) => {
                let near = rules.near.iter().find(|near| tags.get(&near.tag) == Some(&near.value));
                if let Some(Near { tag, value, weight }) = near {
                    place.sub_zone = Some(format!("{tag}={value}"));
                    place.weight = Reverse(Some(*weight));
                }
            }
            (Self::Ruled(rules), Some(zone)) => {
                let (priority, _) = rules.failover.iter().find(|(_, zones)| zones.has(zone))?;
                // Envoy has no weights in these priorities: each endpoint counts the same.
                (place.priority, place.weight) = (*priority, Reverse(None));
            }
        }
        Some(place)
    }
}

impl Rules {
    fn new(awareness: &LocalityAwareness, pod: &Subject<'_>) -> Self {
        let zone = zone(pod);
        let tags = awareness.local_zone.as_ref().and_then(|zone| zone.affinity_tags.as_deref());
        let tags = tags.unwrap_or_default();
        let cross = awareness.cross_zone.as_ref();
        Self {
            near: near(tags, pod),
            weighted: !tags.is_empty(),
            failover: cross.map(|cross| failover(cross, zone.as_deref())).unwrap_or_default(),
            threshold: cross
                .and_then(|cross| cross.failover_threshold.as_ref())
                .map_or(THRESHOLD, |threshold| threshold.percentage.0),
            zone,
        }
    }
}

/// Returns the tags that this pod has, by its inbounds or else its labels, with their weights.
fn near(tags: &[kind::AffinityTag], pod: &Subject<'_>) -> Vec<Near> {
    // 9, 90, 900 and so on from the last one: nine tenths for the first, nine tenths of the rest for the second.
    let by_place = |index: usize| {
        let behind = u32::try_from(tags.len() - index - 1).unwrap_or(u32::MAX);
        10u32.checked_pow(behind).and_then(|power| power.checked_mul(9)).unwrap_or(u32::MAX)
    };
    let of = |(index, tag): (usize, &kind::AffinityTag)| {
        let by_tag = pod.tags.iter().find_map(|tags| tags.0.get(&tag.key).map(String::as_str));
        let by_label = || pod.pod.and_then(|(document, _)| document.labels.get(&tag.key));
        let value = by_tag.or_else(by_label)?.to_owned();
        let weight = tag.weight.map_or_else(|| by_place(index), |Positive(weight)| weight);
        Some(Near { tag: tag.key.clone(), value, weight })
    };
    tags.iter().enumerate().filter_map(of).collect()
}

/// Returns the rules for pods of this zone, each with its place in the list as its priority, as Kuma counts.
fn failover(cross: &CrossZone, zone: Option<&str>) -> Vec<(u32, ToZones)> {
    let rules = cross.failover.as_deref().unwrap_or_default();
    let is_for = |rule: &kind::Failover| {
        rule.from.as_ref().is_none_or(|from| from.zones.iter().any(|one| Some(one.as_str()) == zone))
    };
    let numbered = (1..).zip(rules).filter(|(_, rule)| is_for(rule));
    numbered.map(|(priority, rule)| (priority, rule.to.clone())).collect()
}

#[cfg(test)]
mod tests;
