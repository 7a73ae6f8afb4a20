// SPDX-License-Identifier: Apache-2.0
//! Zone, workload and service of the pod, which logs and metrics name, and the members that it calls by address.

use crate::plan::Plan;
use crate::plan::decisions::Claim;
use culvert_mesh::document::Document;

const SUBJECT: &str = "this pod";

/// Notes where the words come from that logs and metrics have of this pod.
pub(super) fn explain_pod(plan: &mut Plan, dataplane: Option<&Document>) {
    let Some(dataplane) = dataplane.filter(|_| plan.decisions.are_kept()) else { return };
    let Plan { decisions, zone, workload, service, direct_access, members, .. } = plan;
    for (field, value, path) in [
        ("zone", zone, "label or tag kuma.io/zone"),
        ("workload", workload, "label or tag kuma.io/workload"),
        ("service", service, "tags"),
    ] {
        if let Some(value) = value {
            decisions.first(SUBJECT, field, || vec![Claim::of(&**value, dataplane, path)]);
        }
    }
    if direct_access.is_some() {
        let count = format!("{}, by direct_access", members.len());
        decisions.first("outbound passthrough", "members' own addresses", || {
            vec![Claim::new(count, "the Dataplanes of the mesh")]
        });
    }
}
