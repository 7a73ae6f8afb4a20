// SPDX-License-Identifier: Apache-2.0
//! Changes of clusters and listeners by a ProxyTemplate.

use crate::plan::{Origin, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::proxy_template::{
    self as template, ClusterPatch, FilterPatch, Modification, ProxyTemplate,
};
use culvert_mesh::select::{self, Effective, Subject};
use std::sync::Arc;

/// Applies the most specific template: as in Kuma one template holds, they do not add up.
pub(super) fn apply(plan: &mut Plan, ours: &[&Document], pod: &Subject<'_>) {
    let templates = select::effective::<ProxyTemplate>(ours, std::slice::from_ref(pod));
    let Some(Effective { document, policy: template, .. }) = templates.first() else { return };
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
