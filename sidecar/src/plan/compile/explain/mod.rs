// SPDX-License-Identifier: Apache-2.0
//! The reasons that a plan which is made to be explained gives for its ways and its passthrough.

mod passthrough;

pub(super) use passthrough::explain_passthrough;

use crate::plan::compile::routes::{Destination, Routed};
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

/// Notes the route that splits the connections of the plan's last listener, or leads them to another service.
pub(super) fn explain_split(plan: &mut Plan, routed: &Routed) {
    let (Some(by), Some(listener)) = (&routed.by, plan.listeners.last().cloned()) else { return };
    plan.decisions.each(&format!("listener {}", listener.name), "route", || {
        let claim = |(weight, to): &(u32, Destination)| Claim::new(share(*weight, to), by.clone());
        routed.shares.iter().map(claim).collect()
    });
}

fn share(weight: u32, to: &Destination) -> String {
    format!("weight {weight} to {}", to.cluster)
}
