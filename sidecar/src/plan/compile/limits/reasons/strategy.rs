// SPDX-License-Identifier: Apache-2.0
//! The documents behind the choice of endpoints: MeshLoadBalancingStrategy.

use super::{Voice, percent};
use crate::plan::balance::{Algorithm, Balance, Localities, Locality, THRESHOLD};
use crate::plan::decisions::Claim;
use culvert_mesh::kinds::connections::mesh_load_balancing_strategy::{
    CrossZone, Failover, HashPolicy, LoadBalancer, LoadBalancerKind, LocalZone, LocalityAwareness,
    StrategyConf, ToZones, ToZonesKind,
};

const ALGORITHM: &str = "load balancing";
const HASHED: &str = "hashed of a connection";
const ZONES: &str = "zones";
const NEAR: &str = "near endpoints, by tag and weight";
const FAILOVER: &str = "zones that take over";
const TAKES_OVER: &str = "others take over below";
const GROUPS: &str = "groups of endpoints";

const ALIKE: &str = "all alike";
const LOCAL_FIRST: &str = "this pod's first, then all others";
const RULED: &str = "as localZone and crossZone say";
/// Groups that are named; tags may make hundreds.
const NAMED: usize = 5;

type Voices<'v, 'd> = &'v [Voice<'d, StrategyConf>];
type Claims = Vec<(&'static str, Claim)>;

/// Returns the claims about a cluster's choice of endpoints; none where no policy says anything.
pub(super) fn claims(voices: Voices<'_, '_>, balance: &Balance) -> Claims {
    if voices.is_empty() {
        return Vec::new();
    }
    let mut claims = algorithm(voices, balance);
    claims.extend(zones(voices, balance.localities.as_ref()));
    claims
}

/// Returns the claims of the entries that say anything of a field, and the default behind them.
fn of(
    voices: Voices<'_, '_>,
    field: &'static str,
    says: impl Fn(&StrategyConf) -> Option<String>,
    default: impl Into<String>,
) -> Claims {
    let said = voices.iter().filter_map(|voice| Some(voice.claim(says(&voice.conf)?)));
    said.chain([Claim::new(default, "default")]).map(|claim| (field, claim)).collect()
}

/// Returns the claims about a number of the algorithm. What holds is the number of the plan: one may bound another.
fn number(
    voices: Voices<'_, '_>,
    (field, holds): (&'static str, u32),
    says: impl Fn(&LoadBalancer) -> Option<u32>,
    default: u32,
) -> Claims {
    let said = |conf: &StrategyConf| Some(says(conf.load_balancer.as_ref()?)?.to_string());
    let mut claims = of(voices, field, said, default.to_string());
    if let Some((_, first)) = claims.first_mut() {
        first.value = holds.to_string();
    }
    claims
}

fn algorithm(voices: Voices<'_, '_>, balance: &Balance) -> Claims {
    let kind = |conf: &StrategyConf| Some(format!("{:?}", conf.load_balancer.as_ref()?.kind));
    let mut claims = of(voices, ALGORITHM, kind, "RoundRobin");
    match balance.algorithm {
        Algorithm::RoundRobin | Algorithm::Random => {}
        Algorithm::LeastRequest { choices, bias: _ } => {
            let says = |of: &LoadBalancer| Some(of.least_request.as_ref()?.choice_count?.0);
            claims.extend(number(voices, ("endpoints that are compared", choices), says, 2));
        }
        Algorithm::RingHash { least, most, function } => {
            let says = |of: &LoadBalancer| Some(of.ring_hash.as_ref()?.min_ring_size?.0);
            claims.extend(number(voices, ("points of the ring, at least", least), says, 1024));
            let says = |of: &LoadBalancer| Some(of.ring_hash.as_ref()?.max_ring_size?.0);
            claims.extend(number(voices, ("points of the ring, at most", most), says, 8_000_000));
            let says = |conf: &StrategyConf| {
                let ring = conf.load_balancer.as_ref()?.ring_hash.as_ref()?;
                Some(format!("{:?}", ring.hash_function?))
            };
            let mut functions = of(voices, "hash of endpoints", says, "XxHash");
            if let Some((_, first)) = functions.first_mut() {
                first.value = format!("{function:?}");
            }
            claims.extend(functions);
            claims.extend(hashed(voices, LoadBalancerKind::RingHash));
        }
        Algorithm::Maglev { size } => {
            let says = |of: &LoadBalancer| Some(of.maglev.as_ref()?.table_size?.0);
            claims.extend(number(voices, ("entries of the table", size), says, 65_537));
            claims.extend(hashed(voices, LoadBalancerKind::Maglev));
        }
    }
    claims
}

/// Returns the claims about what is hashed: the entries' own lists come before those of their algorithms.
fn hashed(voices: Voices<'_, '_>, kind: LoadBalancerKind) -> Claims {
    const NOTHING: &str = "nothing: each goes to a random endpoint";
    let words = |list: &Vec<HashPolicy>| {
        let alone = StrategyConf { hash_policies: Some(list.clone()), ..StrategyConf::default() };
        if alone.is_by_source() { "the client's address" } else { NOTHING }.to_owned()
    };
    let own = of(voices, HASHED, |conf| conf.hash_policies.as_ref().map(words), NOTHING);
    let of_algorithm = |conf: &StrategyConf| {
        let balancer = conf.load_balancer.as_ref()?;
        let list = match kind {
            LoadBalancerKind::RingHash => balancer.ring_hash.as_ref()?.hash_policies.as_ref(),
            _ => balancer.maglev.as_ref()?.hash_policies.as_ref(),
        };
        list.map(words)
    };
    let (default, own) = own.split_last().map(|(default, own)| (default.clone(), own.to_vec())).unzip();
    let mut behind = of(voices, HASHED, of_algorithm, NOTHING);
    behind.pop();
    own.into_iter().flatten().chain(behind).chain(default).collect()
}

/// Returns the words for an entry's own order of zones.
fn order(awareness: Option<&LocalityAwareness>) -> &'static str {
    match awareness {
        Some(awareness) if awareness.disabled == Some(true) => ALIKE,
        Some(awareness) if awareness.names_zones() => RULED,
        _ => LOCAL_FIRST,
    }
}

fn zones(voices: Voices<'_, '_>, localities: Option<&Localities>) -> Claims {
    let awareness = |voice: &Voice<'_, StrategyConf>| voice.conf.locality_awareness.clone();
    let says = |voice: &Voice<'_, StrategyConf>, of: fn(&LocalityAwareness) -> bool| {
        voice.conf.locality_awareness.as_ref().is_some_and(of)
    };
    let disabled = voices.iter().find_map(|voice| awareness(voice)?.disabled) == Some(true);
    let decides = |voice: &Voice<'_, StrategyConf>| {
        if disabled {
            return says(voice, |of| of.disabled == Some(true));
        }
        says(voice, |of| of.local_zone.is_some() || of.cross_zone.is_some())
    };
    let first = voices.iter().position(decides).unwrap_or(0);
    let holds = match localities {
        None if disabled => ALIKE,
        None => "all alike, as this pod's zone is not known",
        Some(Localities { threshold: Some(_), .. }) => RULED,
        Some(_) => LOCAL_FIRST,
    };
    let mut claims = vec![(ZONES, voices[first].claim(holds))];
    let others = voices
        .iter()
        .enumerate()
        .filter(|(index, voice)| *index != first && voice.conf.locality_awareness.is_some());
    claims
        .extend(others.map(|(_, voice)| (ZONES, voice.claim(order(voice.conf.locality_awareness.as_ref())))));
    claims.push((ZONES, Claim::new(ALIKE, "default")));
    let Some(Localities { all, threshold }) = localities else { return claims };
    if let Some(threshold) = threshold {
        claims.extend(rules(voices, *threshold));
    } else {
        claims.push((TAKES_OVER, Claim::new(percent(THRESHOLD), "default")));
    }
    if !all.is_empty() {
        claims.push((GROUPS, voices[first].claim(groups(all))));
    }
    claims
}

/// Returns the claims of localZone and crossZone, each of which is one policy's as a whole.
fn rules(voices: Voices<'_, '_>, threshold: u32) -> Claims {
    let local = |conf: &StrategyConf| conf.locality_awareness.as_ref()?.local_zone.as_ref().map(near);
    let cross = |conf: &StrategyConf| conf.locality_awareness.as_ref()?.cross_zone.as_ref().map(failover);
    let mut claims = of(voices, NEAR, local, "none");
    claims.extend(of(voices, FAILOVER, cross, "none"));
    let says = |conf: &StrategyConf| {
        let cross = conf.locality_awareness.as_ref()?.cross_zone.as_ref()?;
        Some(percent(cross.failover_threshold.as_ref()?.percentage.0))
    };
    let mut thresholds = of(voices, TAKES_OVER, says, percent(50_000));
    // A rule of another policy without a threshold has the default.
    let place = thresholds.iter().position(|(_, claim)| claim.value == percent(threshold)).unwrap_or(0);
    let holds = thresholds.remove(place);
    claims.push(holds);
    claims.extend(thresholds);
    claims
}

fn near(zone: &LocalZone) -> String {
    let tags = zone.affinity_tags.as_deref().unwrap_or_default();
    let one = tags.iter().map(|tag| match &tag.weight {
        Some(weight) => format!("{} ({})", tag.key, weight.0),
        None => tag.key.clone(),
    });
    if tags.is_empty() { "none".into() } else { one.collect::<Vec<_>>().join(", ") }
}

fn failover(cross: &CrossZone) -> String {
    let rules = cross.failover.as_deref().unwrap_or_default();
    let one = |Failover { from, to }: &Failover| {
        let from = from.as_ref().map(|from| format!("of {}: ", from.zones.join(", ")));
        format!("{}{}", from.unwrap_or_default(), to_zones(to))
    };
    if rules.is_empty() { "none".into() } else { rules.iter().map(one).collect::<Vec<_>>().join("; ") }
}

fn to_zones(ToZones { kind, zones }: &ToZones) -> String {
    let named = zones.join(", ");
    match kind {
        ToZonesKind::Nowhere => "none".into(),
        ToZonesKind::Any => "any".into(),
        ToZonesKind::Only => named,
        ToZonesKind::AnyExcept => format!("any but {named}"),
    }
}

fn groups(all: &[Locality]) -> String {
    let one = |Locality { zone, sub_zone, priority, weight, endpoints }: &Locality| {
        let zone = zone.as_deref().unwrap_or("no zone");
        let near = sub_zone.as_ref().map(|near| format!(" {near}")).unwrap_or_default();
        let weight = weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
        let s = if *endpoints == 1 { "" } else { "s" };
        format!("{zone}{near} ({endpoints} endpoint{s}, priority {priority}{weight})")
    };
    let named = all.iter().take(NAMED).map(one).collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}
