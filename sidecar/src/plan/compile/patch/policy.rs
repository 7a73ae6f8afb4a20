// SPDX-License-Identifier: Apache-2.0
//! Changes by MeshProxyPatch: those of all policies about the pod, the least specific policy's first.

use crate::net::addrs::Direction;
use crate::options::config::{Config, Thresholds};
use crate::plan::balance::Balance;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::patch::{Source, set_cluster, set_listener};
use crate::plan::decisions::Decisions;
use crate::plan::{ClusterPlan, Discovery, ListenerPlan, MOST_ATTEMPTS, Origin, Plan};
use culvert_mesh::document::{Document, DocumentError};
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::proxy_template::{
    ClusterChange, ClusterChoice, ClusterValue, FilterChange, FilterChoice, FilterValue, MeshProxyPatch,
    NewCluster, NewValue, PatchFailure, PatchOrigin, ProxyPatch,
};
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::{self, Effective, Subject};
use std::sync::Arc;
use std::time::Duration;

/// Deadline of a connect where a cluster does not say it: Envoy's.
const ENVOYS_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the changes of all policies about the pod.
pub(super) fn apply(
    plan: &mut Plan,
    config: &Config,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    let policies = select::effective::<MeshProxyPatch>(ours, std::slice::from_ref(pod));
    let this = pod.pod.map(|(_, this)| this);
    for Effective { document, policy, .. } in policies.iter().rev() {
        for (index, change) in policy.default.modifications.iter().enumerate() {
            let path = format!("spec.default.appendModifications[{index}]");
            let by = Source { document, path };
            let made = match change {
                ProxyPatch::Cluster(ClusterChange::Add(new)) => add(plan, config, new, &by),
                ProxyPatch::Cluster(ClusterChange::Patch(which, value)) => {
                    change_clusters(plan, which.as_ref(), value, &by)
                }
                ProxyPatch::Cluster(ClusterChange::Remove(which)) => Ok(remove(plan, which.as_ref(), &by)),
                ProxyPatch::NetworkFilter(change) => change_filters(plan, change, this, &by),
            };
            match made {
                Ok(0) => plan.warnings.push(by.changes_nothing()),
                Ok(_) => {}
                Err(error) => errors.push((*error).into()),
            }
        }
    }
}

/// Returns the name that culvert has for one of Kuma 3's names of passthrough.
fn older_name(name: &str) -> Option<String> {
    let (direction, family) = name.strip_prefix("self_transparentproxy_passthrough_")?.split_once('_')?;
    Some(format!("{direction}:passthrough:{family}"))
}

fn is_named(wanted: Option<&str>, name: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == name || older_name(wanted).is_some_and(|older| older == name))
}

/// Returns true if a cluster or listener comes from there. `direct_access` tells those of direct access from outbounds.
fn comes_from(wanted: Option<PatchOrigin>, origin: Origin, direct_access: bool) -> bool {
    let Some(wanted) = wanted else { return true };
    match wanted {
        PatchOrigin::Inbound => origin == Origin::Inbound,
        PatchOrigin::Outbound => origin == Origin::Outbound && !direct_access,
        PatchOrigin::Transparent => origin == Origin::Transparent,
        PatchOrigin::DirectAccess => direct_access,
        PatchOrigin::MeshPassthrough => origin == Origin::MeshPassthrough,
        // Kuma has these where its proxies do more than culvert's.
        PatchOrigin::Prometheus | PatchOrigin::Ingress | PatchOrigin::Egress | PatchOrigin::Gateway => false,
    }
}

fn fits(which: Option<&ClusterChoice>, cluster: &ClusterPlan, direct_access: Option<&Arc<str>>) -> bool {
    which.is_none_or(|ClusterChoice { name, origin }| {
        let direct_access = direct_access == Some(&cluster.name);
        is_named(name.as_deref(), &cluster.name) && comes_from(*origin, cluster.origin, direct_access)
    })
}

/// Adds a cluster. As in Kuma nothing leads to it by that alone.
fn add(
    plan: &mut Plan,
    config: &Config,
    new: &NewCluster,
    by: &Source<'_>,
) -> Result<usize, Box<DocumentError>> {
    let NewCluster { name, kind: _, circuit_breakers, connect_timeout } = new;
    if plan.cluster_named(name).is_some() {
        let path = format!("{}.cluster.value.name", by.path);
        let error =
            by.document.error(&path, format!("{name:?}, which is there"), "the name of no other cluster");
        return Err(Box::new(error));
    }
    let mut cluster = ClusterPlan {
        name: name.as_str().into(),
        origin: Origin::ProxyPatch,
        upstream: Discovery::Endpoints(Vec::new()),
        thresholds: config.thresholds,
        connect_timeout: Some(ENVOYS_CONNECT_TIMEOUT),
        most_attempts: MOST_ATTEMPTS,
        outlier: None,
        balance: Balance::default(),
        health: None,
    };
    let value =
        ClusterValue { connect_timeout: *connect_timeout, circuit_breakers: circuit_breakers.clone() };
    let subject = format!("cluster {name}");
    plan.decisions.first(&subject, "endpoints", || vec![by.claim("none: nothing leads to it")]);
    set_cluster(&mut cluster, &value, by, &mut plan.decisions);
    plan.clusters.push(Arc::new(cluster));
    Ok(1)
}

fn change_clusters(
    plan: &mut Plan,
    which: Option<&ClusterChoice>,
    value: &NewValue<ClusterValue>,
    by: &Source<'_>,
) -> Result<usize, Box<DocumentError>> {
    let mut changed = 0;
    let direct_access = plan.direct_access.clone();
    for cluster in &mut plan.clusters {
        if !fits(which, cluster, direct_access.as_ref()) {
            continue;
        }
        changed += 1;
        let cluster = Arc::make_mut(cluster);
        let changes = value.changes(&cluster_value(cluster));
        let changes = changes.map_err(|failure| refused(failure, by, "cluster", &cluster.name))?;
        set_cluster(cluster, &changes, by, &mut plan.decisions);
    }
    Ok(changed)
}

/// Takes clusters out. A listener without its cluster refuses every connection, as in Envoy.
fn remove(plan: &mut Plan, which: Option<&ClusterChoice>, by: &Source<'_>) -> usize {
    let Plan { clusters, listeners, direct_access, decisions, passthrough, .. } = plan;
    let (gone, stay): (Vec<_>, Vec<_>) =
        std::mem::take(clusters).into_iter().partition(|one| fits(which, one, direct_access.as_ref()));
    *clusters = stay;
    let is_gone = |name: &Arc<str>| gone.iter().any(|cluster| cluster.name == *name);
    // A split whose cluster is gone refuses that share.
    let closes = |one: &&mut Arc<ListenerPlan>| match &one.split[..] {
        [] => one.cluster.as_ref().is_some_and(is_gone),
        split => split.iter().all(|share| is_gone(&share.cluster)),
    };
    for listener in listeners.iter_mut().filter(closes) {
        let listener = Arc::make_mut(listener);
        listener.split.clear();
        listener.cluster = None;
        close(listener, by, decisions);
    }
    // So that the way back is told as one that was opened.
    let passes = (Direction::Outbound, Origin::Transparent);
    *passthrough &=
        listeners.iter().any(|one| (one.direction, one.origin) == passes && one.cluster.is_some());
    if direct_access.as_ref().is_some_and(is_gone) {
        *direct_access = None;
    }
    for cluster in &gone {
        decisions
            .instead(&format!("cluster {}", cluster.name), "endpoints", || by.claim("none: it is taken out"));
    }
    gone.len()
}

fn close(listener: &ListenerPlan, by: &Source<'_>, decisions: &mut Decisions) {
    let subject = format!("listener {}", listener.name);
    decisions.instead(&subject, "cluster", || by.claim("none: every connection is refused"));
}

fn change_filters(
    plan: &mut Plan,
    change: &FilterChange,
    this: Option<&Dataplane>,
    by: &Source<'_>,
) -> Result<usize, Box<DocumentError>> {
    // There is no other filter that the name could say.
    let FilterChange { which: FilterChoice { name: _, listener_name, listener_tags, origin }, value } =
        change;
    let mut changed = 0;
    for listener in &mut plan.listeners {
        let fits = is_named(listener_name.as_deref(), &listener.name)
            && comes_from(*origin, listener.origin, false)
            && has_tags(listener_tags, listener, this);
        if !fits {
            continue;
        }
        changed += 1;
        let listener = Arc::make_mut(listener);
        let changes = value.changes(&FilterValue::whole(listener.idle_timeout.unwrap_or_default()));
        let changes = changes.map_err(|failure| refused(failure, by, "networkFilter", &listener.name))?;
        set_listener(listener, &changes, by, &mut plan.decisions);
    }
    Ok(changed)
}

/// Returns true if the inbound or outbound of a listener has these tags. Kuma writes them into the listener.
fn has_tags(wanted: &Tags, listener: &ListenerPlan, this: Option<&Dataplane>) -> bool {
    if wanted.0.is_empty() {
        return true;
    }
    let Some(this) = this else { return false };
    match listener.origin {
        Origin::Inbound => this
            .networking
            .inbound
            .iter()
            .any(|inbound| this.listener(inbound) == listener.address && wanted.select(&inbound.tags)),
        Origin::Outbound => this
            .networking
            .outbound
            .iter()
            .any(|outbound| outbound.listener() == listener.address && wanted.select(&outbound.tags)),
        Origin::Transparent | Origin::MeshPassthrough | Origin::Prometheus | Origin::ProxyPatch => false,
    }
}

fn refused(failure: PatchFailure, by: &Source<'_>, what: &str, name: &str) -> Box<DocumentError> {
    let PatchFailure { index, found, allowed } = failure;
    let path = format!("{}.{what}.jsonPatches[{index}]", by.path);
    Box::new(by.document.error(&path, format!("{found}, of {name}"), allowed))
}

fn cluster_value(cluster: &ClusterPlan) -> ClusterValue {
    let Thresholds { max_connections, max_pending_requests, max_requests, max_retries } = cluster.thresholds;
    let limits = [max_connections, max_pending_requests, max_requests, max_retries];
    ClusterValue::whole(cluster.connect_timeout.unwrap_or_default(), limits)
}
