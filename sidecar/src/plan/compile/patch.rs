// SPDX-License-Identifier: Apache-2.0
//! What a ProxyTemplate changes.

use crate::plan::{Origin, Plan};
use culvert_mesh::document::{Document, Spec};
use culvert_mesh::kinds::proxy_template::{
    self as template, ClusterPatch, FilterPatch, Modification, ProxyTemplate,
};
use culvert_mesh::model::tags::Tags;
use std::sync::Arc;

/// Applies the one template that fits this pod best. Without a Dataplane document the pod's tags are not known: then only
/// selectors that take any value fit.
pub(super) fn apply(plan: &mut Plan, ours: &[&Document], tags: Option<&[&Tags]>) {
    let templates = ours.iter().filter_map(|document| match &document.spec {
        Spec::ProxyTemplate(template) => Some((rank(template, tags)?, document, template)),
        _ => None,
    });
    // As in Kuma one holds, not all: the one whose selector says most; by name where that is even.
    let best = templates.max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.name.cmp(&a.1.name)));
    let Some((_, document, template)) = best else { return };
    for (index, modification) in template.conf.modifications.iter().enumerate() {
        let changed = match modification {
            Modification::Cluster(patch) => change_clusters(plan, patch),
            Modification::NetworkFilter(patch) => change_filters(plan, patch),
        };
        if changed == 0 {
            plan.warnings.push(format!(
                "ProxyTemplate {}: conf.modifications[{index}] changes nothing: no cluster or listener fits its match",
                document.name
            ));
        }
    }
}

/// How much the best fitting selector says: exact tags first. `None`: none fits.
fn rank(template: &ProxyTemplate, tags: Option<&[&Tags]>) -> Option<(usize, usize)> {
    let fits = |wanted: &Tags| match tags {
        Some(tags) => tags.iter().any(|tags| wanted.select(tags)),
        None => takes_any(wanted),
    };
    let fitting = template.selectors.iter().map(|selector| &selector.tags).filter(|tags| fits(tags));
    fitting
        .map(|tags| {
            let any = tags.0.values().filter(|value| *value == "*").count();
            (tags.0.len() - any, any)
        })
        .max()
}

fn takes_any(wanted: &Tags) -> bool {
    wanted.0.values().all(|value| value == "*")
}

/// Whether one of its selectors takes any value, so that the pod's tags need not be known.
pub(super) fn is_for_all(template: &ProxyTemplate) -> bool {
    template.selectors.iter().any(|selector| takes_any(&selector.tags))
}

fn comes_from(wanted: Option<template::Origin>, origin: Origin) -> bool {
    wanted.is_none_or(|wanted| {
        let wanted = match wanted {
            template::Origin::Inbound => Origin::Inbound,
            template::Origin::Outbound => Origin::Outbound,
            template::Origin::Transparent => Origin::Transparent,
        };
        wanted == origin
    })
}

fn change_clusters(plan: &mut Plan, patch: &ClusterPatch) -> usize {
    let name = patch.which.as_ref().and_then(|which| which.name.as_deref());
    let origin = patch.which.as_ref().and_then(|which| which.origin);
    let mut changed = 0;
    for cluster in &mut plan.clusters {
        if name.is_some_and(|name| name != &*cluster.name) || !comes_from(origin, cluster.origin) {
            continue;
        }
        changed += 1;
        let cluster = Arc::make_mut(cluster);
        if let Some(timeout) = patch.value.0.connect_timeout {
            cluster.connect_timeout = timeout.get();
        }
        let breakers = patch.value.0.circuit_breakers.as_ref();
        if let Some(thresholds) = breakers.and_then(|breakers| breakers.thresholds.0.as_ref()) {
            let of = &mut cluster.thresholds;
            for (limit, new) in [
                (&mut of.max_connections, thresholds.max_connections),
                (&mut of.max_pending_requests, thresholds.max_pending_requests),
                (&mut of.max_requests, thresholds.max_requests),
                (&mut of.max_retries, thresholds.max_retries),
            ] {
                *limit = new.map_or(*limit, |new| new.0);
            }
        }
    }
    changed
}

fn change_filters(plan: &mut Plan, patch: &FilterPatch) -> usize {
    let name = patch.which.as_ref().and_then(|which| which.listener_name.as_deref());
    let origin = patch.which.as_ref().and_then(|which| which.origin);
    let mut changed = 0;
    for listener in &mut plan.listeners {
        if name.is_some_and(|name| name != &*listener.name) || !comes_from(origin, listener.origin) {
            continue;
        }
        changed += 1;
        if let Some(timeout) = patch.value.0.idle_timeout {
            Arc::make_mut(listener).idle_timeout = timeout.get();
        }
    }
    changed
}
