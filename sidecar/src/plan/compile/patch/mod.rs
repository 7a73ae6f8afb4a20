// SPDX-License-Identifier: Apache-2.0
//! Changes of clusters and listeners by MeshProxyPatch, and then by a ProxyTemplate, as Kuma's control plane makes them.

mod policy;

use crate::options::config::Config;
use crate::plan::compile::error::CompileError;
use crate::plan::decisions::{Claim, Decisions, field, words};
use crate::plan::{ClusterPlan, ListenerPlan, Origin, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::proxy_template::{
    self as template, CircuitBreakers, ClusterPatch, ClusterValue, FilterPatch, FilterValue, Modification,
    ProxyTemplate,
};
use culvert_mesh::select::{self, Effective, Subject};
use std::sync::Arc;

/// Makes the changes of all MeshProxyPatches, and then those of the most specific template: as in Kuma one template holds,
/// they do not add up.
pub(super) fn apply(
    plan: &mut Plan,
    config: &Config,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    policy::apply(plan, config, ours, pod, errors);
    let templates = select::effective::<ProxyTemplate>(ours, std::slice::from_ref(pod));
    let Some(Effective { document, policy: template, .. }) = templates.first() else { return };
    for (index, modification) in template.conf.modifications.iter().enumerate() {
        let by = Source { document, path: format!("conf.modifications[{index}]") };
        let changed = match modification {
            Modification::Cluster(patch) => change_clusters(plan, patch, &by),
            Modification::NetworkFilter(patch) => change_filters(plan, patch, &by),
        };
        if changed == 0 {
            plan.warnings.push(by.changes_nothing());
        }
    }
}

/// A change in a document.
struct Source<'d> {
    document: &'d Document,
    path: String,
}

impl Source<'_> {
    fn claim(&self, value: &str) -> Claim {
        Claim::of(value, self.document, &self.path)
    }

    fn changes_nothing(&self) -> String {
        let (kind, name, path) = (self.document.kind().name(), &self.document.name, &self.path);
        format!("{kind} {name}: {path} changes nothing: no cluster or listener fits its match")
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

fn change_clusters(plan: &mut Plan, patch: &ClusterPatch, by: &Source<'_>) -> usize {
    let name = patch.which.as_ref().and_then(|which| which.name.as_deref());
    let origin = patch.which.as_ref().and_then(|which| which.origin);
    let mut changed = 0;
    for cluster in &mut plan.clusters {
        if name.is_some_and(|name| name != &*cluster.name) || !comes_from(origin, cluster.origin) {
            continue;
        }
        changed += 1;
        set_cluster(Arc::make_mut(cluster), &patch.value.0, by, &mut plan.decisions);
    }
    changed
}

fn change_filters(plan: &mut Plan, patch: &FilterPatch, by: &Source<'_>) -> usize {
    let name = patch.which.as_ref().and_then(|which| which.listener_name.as_deref());
    let origin = patch.which.as_ref().and_then(|which| which.origin);
    let mut changed = 0;
    for listener in &mut plan.listeners {
        if name.is_some_and(|name| name != &*listener.name) || !comes_from(origin, listener.origin) {
            continue;
        }
        changed += 1;
        set_listener(Arc::make_mut(listener), &patch.value.0, by, &mut plan.decisions);
    }
    changed
}

/// Sets the fields of a cluster that a value has.
fn set_cluster(cluster: &mut ClusterPlan, value: &ClusterValue, by: &Source<'_>, decisions: &mut Decisions) {
    let ClusterValue { connect_timeout, circuit_breakers } = value;
    let subject = format!("cluster {}", cluster.name);
    if let Some(timeout) = connect_timeout {
        cluster.connect_timeout = timeout.get();
        decisions.instead(&subject, field::CONNECT_TIMEOUT, || by.claim(&words(timeout.get())));
    }
    let thresholds =
        circuit_breakers.as_ref().and_then(|CircuitBreakers { thresholds }| thresholds.0.as_ref());
    let Some(thresholds) = thresholds else { return };
    let of = &mut cluster.thresholds;
    for (limit, new, field) in [
        (&mut of.max_connections, thresholds.max_connections, field::MAX_CONNECTIONS),
        (&mut of.max_pending_requests, thresholds.max_pending_requests, field::MAX_PENDING),
        (&mut of.max_requests, thresholds.max_requests, field::MAX_REQUESTS),
        (&mut of.max_retries, thresholds.max_retries, field::MAX_RETRIES),
    ] {
        if let Some(new) = new {
            *limit = new.0;
            decisions.instead(&subject, field, || by.claim(&new.0.to_string()));
        }
    }
}

/// Sets the fields of a listener that a value has.
fn set_listener(
    listener: &mut ListenerPlan,
    value: &FilterValue,
    by: &Source<'_>,
    decisions: &mut Decisions,
) {
    let FilterValue { idle_timeout } = value;
    if let Some(timeout) = idle_timeout {
        listener.idle_timeout = timeout.get();
        let subject = format!("listener {}", listener.name);
        decisions.instead(&subject, field::IDLE_TIMEOUT, || by.claim(&words(timeout.get())));
    }
}

#[cfg(test)]
mod tests;
