// SPDX-License-Identifier: Apache-2.0
//! `MeshLoadBalancingStrategy`: the endpoint that each call of some pods goes to.

mod check;
mod numbers;
mod older;

pub use numbers::{Between, TableSize};
pub use older::*;

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::Thousandths;
use crate::kinds::destination::{ConnectionPolicy, Positive, ToRef};
use crate::merge::{Merge, merge_fields};
use crate::read::part::Part;
use crate::read::{At, Mapping, Span, fields, words};
use crate::target::{PodsOrGateway, Target};

fields! {
    /// The endpoints that the calls of some pods go to.
    pub struct MeshLoadBalancingStrategy {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Calls of these pods.
        to: default Vec<StrategyTo> = "to",
    }
}

fields! {
    /// Calls to some destinations.
    pub struct StrategyTo {
        /// The destinations.
        target_ref: required ToRef = "targetRef",
        /// The choice of their endpoints.
        default: default StrategyConf = "default",
    }
}

fields! {
    /// A choice of endpoints; what is absent is left to wider policies.
    pub struct StrategyConf {
        /// The algorithm.
        load_balancer: optional LoadBalancer = "loadBalancer",
        /// The zones and endpoints that come first. Absent: this pod's zone before all others.
        locality_awareness: optional LocalityAwareness = "localityAwareness",
        /// Properties that RingHash and Maglev hash.
        hash_policies: optional Vec<HashPolicy> = "hashPolicies",
    }
}

fields! {
    /// An algorithm, and its settings.
    pub struct LoadBalancer {
        /// The algorithm.
        kind: required LoadBalancerKind = "type",
        /// Settings of RoundRobin, of which there are none.
        round_robin: optional Mapping = "roundRobin",
        /// Settings of LeastRequest.
        least_request: optional LeastRequest = "leastRequest",
        /// Settings of RingHash.
        ring_hash: optional RingHash = "ringHash",
        /// Settings of Random, of which there are none.
        random: optional Mapping = "random",
        /// Settings of Maglev.
        maglev: optional Maglev = "maglev",
    }
}

words! {
    /// Algorithms.
    pub enum LoadBalancerKind {
        /// One endpoint after the other.
        RoundRobin = "RoundRobin",
        /// The endpoint with the fewest open connections, of some random ones.
        LeastRequest = "LeastRequest",
        /// The endpoint that is next on a ring of hashes.
        RingHash = "RingHash",
        /// A random endpoint.
        Random = "Random",
        /// The endpoint that a table of hashes says.
        Maglev = "Maglev",
    }
}

fields! {
    /// Settings of LeastRequest.
    pub struct LeastRequest {
        /// Random endpoints of which the one with the fewest open connections is taken. Default: 2.
        choice_count: optional Between<2, { u32::MAX }> = "choiceCount",
        /// Weight of open connections where endpoints have different weights; here all have the same.
        active_request_bias: optional Thousandths = "activeRequestBias",
    }
}

merge_fields!(LeastRequest { choice_count, active_request_bias });

fields! {
    /// Settings of RingHash.
    pub struct RingHash {
        /// Hash of the endpoints' addresses. Default: XXHash.
        hash_function: optional HashFunction = "hashFunction",
        /// Fewest points of the ring. Default: 1024.
        min_ring_size: optional Between<1, 8_000_000> = "minRingSize",
        /// Most points of the ring. Default: 8000000.
        max_ring_size: optional Between<1, 8_000_000> = "maxRingSize",
        /// Properties of a connection that are hashed.
        hash_policies: optional Vec<HashPolicy> = "hashPolicies",
    }
}

merge_fields!(RingHash { hash_function, min_ring_size, max_ring_size, hash_policies });

words! {
    /// Hashes of endpoints' addresses.
    pub enum HashFunction {
        /// XXH64.
        XxHash = "XXHash",
        /// MurmurHash2 in 64 bits.
        MurmurHash2 = "MurmurHash2",
    }
}

fields! {
    /// Settings of Maglev.
    pub struct Maglev {
        /// Entries of the table, a prime number. Default: 65537.
        table_size: optional TableSize = "tableSize",
        /// Properties of a connection that are hashed.
        hash_policies: optional Vec<HashPolicy> = "hashPolicies",
    }
}

merge_fields!(Maglev { table_size, hash_policies });

fields! {
    /// A property that is hashed. Of a connection that is forwarded as TCP this is the client's address.
    pub struct HashPolicy {
        /// The property.
        kind: required HashPolicyKind = "type",
        /// True: the policies behind this one are used only where this one finds nothing.
        terminal: optional bool = "terminal",
        /// A header of a request, without effect.
        header: optional HashHeader = "header",
        /// A cookie of a request, without effect.
        cookie: optional HashCookie = "cookie",
        /// The connection.
        connection: optional HashConnection = "connection",
        /// A parameter of a request, without effect.
        query_parameter: optional HashQueryParameter = "queryParameter",
        /// A state of Envoy's filters, without effect.
        filter_state: optional HashFilterState = "filterState",
    }
}

words! {
    /// Properties that are hashed.
    pub enum HashPolicyKind {
        /// A header of a request.
        Header = "Header",
        /// A cookie of a request.
        Cookie = "Cookie",
        /// The connection, also in the older spelling.
        Connection = "Connection" | "SourceIP",
        /// A parameter of a request.
        QueryParameter = "QueryParameter",
        /// A state of Envoy's filters.
        FilterState = "FilterState",
    }
}

fields! {
    /// A header of a request.
    pub struct HashHeader {
        /// Name of the header.
        name: required String = "name",
    }
}

fields! {
    /// A cookie of a request.
    pub struct HashCookie {
        /// Name of the cookie.
        name: required String = "name",
        /// Lifetime of one that is made.
        ttl: optional Span = "ttl",
        /// Path of one that is made.
        path: optional String = "path",
    }
}

fields! {
    /// The connection.
    pub struct HashConnection {
        /// True: the client's address is hashed.
        source_ip: optional bool = "sourceIP",
    }
}

fields! {
    /// A parameter of a request.
    pub struct HashQueryParameter {
        /// Name of the parameter.
        name: required String = "name",
    }
}

fields! {
    /// A state of Envoy's filters.
    pub struct HashFilterState {
        /// Name of the state.
        key: required String = "key",
    }
}

fields! {
    /// The zones and endpoints that come first.
    pub struct LocalityAwareness {
        /// True: all endpoints are alike, in any zone.
        disabled: optional bool = "disabled",
        /// Shares of endpoints in this pod's zone.
        local_zone: optional LocalZone = "localZone",
        /// Other zones, for when this pod's zone has too few endpoints.
        cross_zone: optional CrossZone = "crossZone",
    }
}

merge_fields!(LocalityAwareness { disabled, local_zone, cross_zone });

fields! {
    /// Shares of endpoints in this pod's zone.
    pub struct LocalZone {
        /// Tags by which an endpoint is near this pod: both have the same value.
        affinity_tags: optional Vec<AffinityTag> = "affinityTags",
    }
}

fields! {
    /// A tag by which an endpoint is near this pod.
    pub struct AffinityTag {
        /// The tag.
        key: required String = "key",
        /// Weight of the endpoints with the same value. Default: nine tenths for the first tag, of the rest nine tenths for
        /// the second, and so on.
        weight: optional Positive = "weight",
    }
}

fields! {
    /// Other zones.
    pub struct CrossZone {
        /// Zones in the order in which they take over.
        failover: optional Vec<Failover> = "failover",
        /// Share of the endpoints in service below which the next zones take over.
        failover_threshold: optional FailoverThreshold = "failoverThreshold",
    }
}

fields! {
    /// Zones that take over.
    pub struct Failover {
        /// Zones of pods that the rule is for. Absent: all.
        from: optional FromZones = "from",
        /// The zones that take over.
        to: required ToZones = "to",
    }
}

fields! {
    /// Zones of pods that a rule is for.
    pub struct FromZones {
        /// Names of the zones.
        zones: required Vec<String> = "zones",
    }
}

fields! {
    /// Zones that take over.
    pub struct ToZones {
        /// The choice of zones.
        kind: required ToZonesKind = "type",
        /// Names of zones, for Only and AnyExcept.
        zones: default Vec<String> = "zones",
    }
}

words! {
    /// Choices of zones.
    pub enum ToZonesKind {
        /// No zone.
        Nowhere = "None",
        /// These zones.
        Only = "Only",
        /// Every zone.
        Any = "Any",
        /// Every zone but these.
        AnyExcept = "AnyExcept",
    }
}

fields! {
    /// Share of the endpoints in service below which the next zones take over.
    pub struct FailoverThreshold {
        /// The share in percent, above 0.
        percentage: required Thousandths = "percentage",
    }
}

/// Merges inside of an optional value: Kuma merges policies down to single settings.
fn within<T: Merge>(specific: Option<T>, less_specific: Option<T>) -> Option<T> {
    match (specific, less_specific) {
        (Some(specific), Some(less_specific)) => Some(specific.over(less_specific)),
        (specific, less_specific) => specific.or(less_specific),
    }
}

impl Default for StrategyConf {
    /// An entry that says nothing still is one: as in Kuma it puts this pod's zone first.
    fn default() -> Self {
        Self { load_balancer: None, locality_awareness: None, hash_policies: None }
    }
}

impl Merge for StrategyConf {
    fn over(self, less_specific: Self) -> Self {
        let Self { load_balancer, locality_awareness, hash_policies } = less_specific;
        Self {
            load_balancer: within(self.load_balancer, load_balancer),
            locality_awareness: within(self.locality_awareness, locality_awareness),
            hash_policies: self.hash_policies.or(hash_policies),
        }
    }
}

impl Merge for LoadBalancer {
    fn over(self, less_specific: Self) -> Self {
        let Self { kind: _, round_robin, least_request, ring_hash, random, maglev } = less_specific;
        Self {
            kind: self.kind,
            round_robin: self.round_robin.or(round_robin),
            least_request: within(self.least_request, least_request),
            ring_hash: within(self.ring_hash, ring_hash),
            random: self.random.or(random),
            maglev: within(self.maglev, maglev),
        }
    }
}

impl HashPolicy {
    /// Returns true if the client's address is hashed.
    fn is_by_source(&self) -> bool {
        let connection = self.connection.as_ref().filter(|_| self.kind == HashPolicyKind::Connection);
        connection.is_some_and(|connection| connection.source_ip == Some(true))
    }

    /// Returns its name in the warning, where it has no effect.
    fn passed_over(&self) -> Option<&'static str> {
        match self.kind {
            HashPolicyKind::Header => Some("hashPolicies of type Header"),
            HashPolicyKind::Cookie => Some("hashPolicies of type Cookie"),
            HashPolicyKind::QueryParameter => Some("hashPolicies of type QueryParameter"),
            HashPolicyKind::FilterState => Some("hashPolicies of type FilterState"),
            HashPolicyKind::Connection => None,
        }
    }
}

impl LoadBalancer {
    /// Returns what the algorithm hashes; empty where it hashes nothing.
    fn hash_policies(&self) -> &[HashPolicy] {
        let policies = match self.kind {
            LoadBalancerKind::RingHash => {
                self.ring_hash.as_ref().and_then(|ring| ring.hash_policies.as_ref())
            }
            LoadBalancerKind::Maglev => self.maglev.as_ref().and_then(|maglev| maglev.hash_policies.as_ref()),
            _ => None,
        };
        policies.map_or(&[], Vec::as_slice)
    }
}

impl StrategyConf {
    fn policies(&self) -> &[HashPolicy] {
        let of_algorithm = || self.load_balancer.as_ref().map_or(&[][..], LoadBalancer::hash_policies);
        self.hash_policies.as_deref().unwrap_or_else(of_algorithm)
    }

    /// Returns true if RingHash and Maglev hash the client's address; else each connection is a random one, as in Envoy.
    pub fn is_by_source(&self) -> bool {
        self.policies().iter().any(HashPolicy::is_by_source)
    }
}

impl LocalityAwareness {
    /// Returns true if it says which zones may be called; others may not.
    pub fn names_zones(&self) -> bool {
        self.disabled != Some(true) && (self.local_zone.is_some() || self.cross_zone.is_some())
    }
}

impl ToZones {
    /// Returns true if the zone takes over.
    pub fn has(&self, zone: &str) -> bool {
        let named = self.zones.iter().any(|one| one == zone);
        match self.kind {
            ToZonesKind::Nowhere => false,
            ToZonesKind::Only => named,
            ToZonesKind::Any => true,
            ToZonesKind::AnyExcept => !named,
        }
    }
}

impl ConnectionPolicy for MeshLoadBalancingStrategy {
    type Conf = StrategyConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &StrategyConf)> {
        self.to.iter().map(|to| (&to.target_ref, &to.default))
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &StrategyConf> {
        std::iter::empty()
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let policies = self.to.iter().flat_map(|to| to.default.policies());
        let mut all: Vec<_> = policies.filter_map(HashPolicy::passed_over).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Resource for MeshLoadBalancingStrategy {
    const NAME: &'static str = "MeshLoadBalancingStrategy";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check::check(part, at);
    }
}

#[cfg(test)]
mod tests;
