// SPDX-License-Identifier: Apache-2.0
//! What a plan that is made to be explained says of its ways, its passthrough and its logs.

mod logs;
mod passthrough;

pub(super) use logs::explain_logs;
pub(super) use passthrough::explain_passthrough;

use crate::plan::decisions::Claim;
use crate::plan::{Discovery, EndpointPlan, Plan};
use culvert_mesh::document::Document;

/// Endpoints that are named; a service may have thousands.
const NAMED: usize = 5;

/// Notes that the plan's last listener and its cluster come from an entry of the pod's Dataplane.
pub(super) fn explain_way(plan: &mut Plan, dataplane: &Document, list: &str, index: usize) {
    if !plan.decisions.are_kept() {
        return;
    }
    let Some(listener) = plan.listeners.last().cloned() else { return };
    let path = format!("networking.{list}[{index}]");
    let subject = format!("listener {}", listener.name);
    let Some(name) = &listener.cluster else { return };
    plan.decisions.first(&subject, "cluster", || vec![Claim::of(&**name, dataplane, &path)]);
    let Some(cluster) = plan.cluster_named(name).cloned() else { return };
    let endpoints = match &cluster.upstream {
        Discovery::Application { address, .. } => format!("{address}, the application"),
        Discovery::OriginalDst { .. } => return,
        Discovery::Endpoints(endpoints) if endpoints.is_empty() => "none".into(),
        Discovery::Endpoints(endpoints) => {
            let one = |one: &EndpointPlan| format!("{} ({})", one.address, one.member.dataplane);
            let named = endpoints.iter().take(NAMED).map(one).collect::<Vec<_>>().join(", ");
            match endpoints.len().saturating_sub(NAMED) {
                0 => named,
                more => format!("{named} and {more} more"),
            }
        }
    };
    let subject = format!("cluster {name}");
    plan.decisions.first(&subject, "endpoints", || vec![Claim::of(endpoints, dataplane, &path)]);
}
