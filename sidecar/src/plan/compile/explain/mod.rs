// SPDX-License-Identifier: Apache-2.0
//! The reasons that a plan which is made to be explained gives for its ways and its passthrough, and what policies on trial
//! would do.

mod passthrough;
mod pod;
mod probe;
mod trial;

pub(super) use passthrough::explain_passthrough;
pub(super) use trial::{add_trial, trial_warning};

use crate::plan::compile::routes::Routed;
use crate::plan::compile::services::Destination;
use crate::plan::decisions::Claim;
use crate::plan::external::ExternalEndpoint;
use crate::plan::{ClusterPlan, Discovery, EndpointPlan, ListenerPlan, Plan};
use culvert_mesh::document::Document;

/// Endpoints that are named; a service may have thousands.
const NAMED: usize = 5;

/// Notes that the plan's last listener, an inbound's, and its cluster come from an entry of the pod's Dataplane.
pub(super) fn explain_inbound(plan: &mut Plan, dataplane: &Document, index: usize) {
    if !plan.decisions.are_kept() {
        return;
    }
    let Some(listener) = plan.listeners.last().cloned() else { return };
    let path = format!("networking.inbound[{index}]");
    explain_listener(plan, &listener, dataplane, &path);
    let Some(name) = &listener.cluster else { return };
    let claim = |value: String| Claim::of(value, dataplane, &path);
    plan.decisions.first(&format!("listener {}", listener.name), "cluster", || vec![claim(name.to_string())]);
    let Some(cluster) = plan.cluster_named(name).cloned() else { return };
    plan.decisions.first(&format!("cluster {name}"), "endpoints", || {
        endpoints(&cluster).map(claim).into_iter().collect()
    });
    probe::explain(plan, &cluster, dataplane, index);
}

/// Notes that the plan's last listener, of calls, and its clusters come from the document that asks for the way, or from a route
/// that leads its connections elsewhere. `lost` are the routes that say others.
pub(super) fn explain_outbound(
    plan: &mut Plan,
    (to, (document, path)): (&Destination, (&Document, &str)),
    Routed { shares: _, by }: &Routed,
    lost: &[Claim],
) {
    let Some(listener) = plan.listeners.last().cloned() else { return };
    explain_listener(plan, &listener, document, path);
    let claim = |value: String| match by {
        Some(by) => Claim::new(value, by.clone()),
        None => Claim::of(value, document, path),
    };
    let field = if listener.split.is_empty() { "cluster" } else { "route" };
    plan.decisions.first(&format!("listener {}", listener.name), field, || {
        let mut claims = vec![claim(way(&listener))];
        claims.extend(lost.iter().cloned());
        claims.extend(by.is_some().then(|| Claim::of(&*to.cluster, document, path)));
        claims
    });
    for name in listener.clusters() {
        let Some(cluster) = plan.cluster_named(name).cloned() else { continue };
        plan.decisions.first(&format!("cluster {name}"), "endpoints", || {
            endpoints(&cluster).map(claim).into_iter().collect()
        });
    }
}

/// Notes the port of a listener, and its name in logs.
fn explain_listener(plan: &mut Plan, listener: &ListenerPlan, dataplane: &Document, path: &str) {
    let subject = format!("listener {}", listener.name);
    let port = if listener.binds { "bound by the sidecar" } else { "redirected connections" };
    plan.decisions.first(&subject, "port", || vec![Claim::of(port, dataplane, path)]);
    if let Some(service) = &listener.service {
        plan.decisions.first(&subject, "service in logs", || vec![Claim::of(&**service, dataplane, path)]);
    }
}

/// Returns the clusters of a listener, with their weights where there are several.
fn way(listener: &ListenerPlan) -> String {
    match &listener.split[..] {
        [] => listener.cluster.as_deref().unwrap_or("none").into(),
        split => {
            let shares = split.iter().map(|share| format!("weight {} to {}", share.weight, share.cluster));
            shares.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Returns the servers of a cluster; `None` where each connection has its own.
fn endpoints(cluster: &ClusterPlan) -> Option<String> {
    match &cluster.upstream {
        Discovery::Application { address, .. } => Some(format!("{address}, the application")),
        Discovery::OriginalDst { .. } => None,
        Discovery::Endpoints(endpoints) => {
            let one = |one: &EndpointPlan| format!("{} ({})", one.address, one.member.dataplane);
            Some(some(endpoints, one))
        }
        Discovery::External(endpoints) => {
            let one = |one: &ExternalEndpoint| format!("{} ({})", one.address, one.document);
            Some(some(endpoints, one))
        }
    }
}

/// Names some endpoints.
fn some<E>(endpoints: &[E], one: impl Fn(&E) -> String) -> String {
    if endpoints.is_empty() {
        return "none".into();
    }
    let named = endpoints.iter().take(NAMED).map(one).collect::<Vec<_>>().join(", ");
    match endpoints.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
