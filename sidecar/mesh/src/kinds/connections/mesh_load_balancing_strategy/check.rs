// SPDX-License-Identifier: Apache-2.0
//! The rules of a strategy that several fields make together: those of Kuma's control plane, and those by which Envoy
//! refuses a cluster.

use super::{Between, HashPolicyKind, ToZonesKind};
use crate::kinds::connections::mesh_circuit_breaker::Thousandths;
use crate::kinds::destination::{ToKind, ToRef};
use crate::read::At;
use crate::read::part::Part;
use crate::target::PodsOrGateway;

pub(super) fn check(part: &Part<'_>, at: &mut At<'_>) {
    let target = part.field("targetRef");
    PodsOrGateway::check(&target, at);
    if target.has("sectionName") == Ok(true) {
        target.problem(
            at,
            "sectionName",
            "an inbound",
            "whole pods: calls in to leave a pod, not an inbound",
        );
    }
    for item in part.items("to").unwrap_or_default() {
        let to = item.field("targetRef");
        ToRef::check(&to, true, at);
        let conf = item.field("default");
        let kind = to.get::<ToKind>("kind").ok().flatten();
        check_hash_policies(&conf, at);
        if kind == Some(ToKind::MeshHttpRoute) {
            for field in ["loadBalancer", "localityAwareness"] {
                if conf.has(field) == Ok(true) {
                    conf.problem(at, field, "it beside kind MeshHTTPRoute", "hashPolicies alone");
                }
            }
            continue;
        }
        if conf.has("loadBalancer") == Ok(true) {
            check_algorithm(&conf, at);
        }
        if conf.has("localityAwareness") == Ok(true) {
            check_localities(&conf.field("localityAwareness"), &to, kind, at);
        }
    }
}

fn check_algorithm(conf: &Part<'_>, at: &mut At<'_>) {
    let balancer = conf.field("loadBalancer");
    for algorithm in ["ringHash", "maglev"] {
        let settings = balancer.field(algorithm);
        check_hash_policies(&settings, at);
        if conf.has("hashPolicies") == Ok(true) && settings.has("hashPolicies") == Ok(true) {
            let allowed = "hashPolicies in one place: default.hashPolicies is the newer one";
            settings.problem(at, "hashPolicies", "hashPolicies beside default.hashPolicies", allowed);
        }
    }
    let ring = balancer.field("ringHash");
    let size = |field| ring.get::<Between<1, 8_000_000>>(field).ok().flatten();
    if let (Some(Between(least)), Some(Between(most))) = (size("minRingSize"), size("maxRingSize"))
        && least > most
    {
        ring.problem(at, "minRingSize", least.to_string(), format!("at most maxRingSize, {most}"));
    }
}

fn check_hash_policies(part: &Part<'_>, at: &mut At<'_>) {
    for policy in part.items("hashPolicies").unwrap_or_default() {
        let Ok(Some(kind)) = policy.get::<HashPolicyKind>("type") else { continue };
        let (field, name) = match kind {
            HashPolicyKind::Header => ("header", "name"),
            HashPolicyKind::Cookie => ("cookie", "name"),
            HashPolicyKind::Connection => ("connection", ""),
            HashPolicyKind::QueryParameter => ("queryParameter", "name"),
            HashPolicyKind::FilterState => ("filterState", "key"),
        };
        if policy.has(field) == Ok(false) {
            policy.problem(at, field, "nothing", "this field, as the type says");
        }
        let settings = policy.field(field);
        if settings.get::<String>(name).is_ok_and(|name| name.is_some_and(|name| name.is_empty())) {
            settings.problem(at, name, "an empty text", "a name");
        }
        if let Ok(Some(path)) = settings.get::<String>("path")
            && !path.starts_with('/')
        {
            settings.problem(at, "path", format!("{path:?}"), "an absolute path, as \"/\"");
        }
    }
}

fn check_localities(part: &Part<'_>, to: &Part<'_>, kind: Option<ToKind>, at: &mut At<'_>) {
    if part.has("localZone") == Ok(true) {
        check_affinity(&part.field("localZone"), at);
    }
    if part.has("crossZone") != Ok(true) {
        return;
    }
    let one_zone = to.has("sectionName") == Ok(true) || to.has("labels") == Ok(true);
    if kind == Some(ToKind::MeshService) && one_zone {
        let allowed = "nothing beside sectionName or labels: such a MeshService is of one zone";
        part.problem(at, "crossZone", "other zones", allowed);
    }
    let cross = part.field("crossZone");
    for rule in cross.items("failover").unwrap_or_default() {
        check_failover(&rule, at);
    }
    let threshold = cross.field("failoverThreshold");
    if let Ok(Some(Thousandths(percent))) = threshold.get::<Thousandths>("percentage")
        && !(1..=100_000).contains(&percent)
    {
        let found = if percent == 0 { "0" } else { "more than 100" };
        threshold.problem(at, "percentage", found, "a percentage above 0, at most 100");
    }
}

fn check_affinity(zone: &Part<'_>, at: &mut At<'_>) {
    let tags = zone.items("affinityTags").unwrap_or_default();
    for tag in &tags {
        if tag.get::<String>("key").is_ok_and(|key| key.is_some_and(|key| key.is_empty())) {
            tag.problem(at, "key", "an empty text", "a tag");
        }
    }
    let weighted: Vec<_> = tags.iter().filter_map(|tag| tag.has("weight").ok()).collect();
    if weighted.contains(&true) && weighted.contains(&false) {
        zone.problem(
            at,
            "affinityTags",
            "a weight on some of the tags",
            "a weight on all of them, or on none",
        );
    }
}

fn check_failover(rule: &Part<'_>, at: &mut At<'_>) {
    let from = rule.field("from");
    if from.field("zones").is_empty() == Some(true) {
        from.problem(at, "zones", "none", "at least one zone; without from the rule is for all");
    }
    let to = rule.field("to");
    for part in [&from, &to] {
        let names = part.get::<Vec<String>>("zones").ok().flatten().unwrap_or_default();
        let items = part.items("zones").unwrap_or_default();
        for (item, _) in items.iter().zip(&names).filter(|(_, name)| name.is_empty()) {
            item.problem_here(at, "an empty text", "the name of a zone");
        }
    }
    let Ok(Some(kind)) = to.get::<ToZonesKind>("type") else { return };
    let named = matches!(kind, ToZonesKind::Only | ToZonesKind::AnyExcept);
    let none = to.has("zones") == Ok(false) || to.field("zones").is_empty() == Some(true);
    if named && none {
        to.problem(at, "zones", "none", "at least one zone, as the type says");
    }
    if !named && to.field("zones").is_empty() == Some(false) {
        to.problem(at, "zones", "zones beside type Any or None", "zones of type Only or AnyExcept");
    }
}
