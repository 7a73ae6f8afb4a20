// SPDX-License-Identifier: Apache-2.0
//! The documents that decide where connections are logged.

use crate::net::addrs::Direction;
use crate::observe::traffic_log::Sink;
use crate::plan::Plan;
use crate::plan::compile::logs::{Entry, entries, from_mesh, sink};
use crate::plan::decisions::Claim;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use culvert_mesh::kinds::mesh::Mesh;
use culvert_mesh::kinds::mesh_access_log::MeshAccessLog;
use culvert_mesh::select::{self, Subject};

/// Notes the logs of inbound connections, of outbound ones to each service that a policy names, and of all others.
pub(in crate::plan::compile) fn explain_logs(
    plan: &mut Plan,
    mesh: Option<&Mesh>,
    ours: &[&Document],
    pod: &Subject<'_>,
) {
    if !plan.decisions.are_kept() {
        return;
    }
    let policies = select::effective::<MeshAccessLog>(ours, std::slice::from_ref(pod));
    let document = ours.iter().find(|document| document.kind() == Kind::Mesh);
    let default = from_mesh(mesh)
        .zip(document)
        .map(|(rule, document)| Claim::of(targets(&rule.sinks), document, "logging.defaultBackend"));
    for direction in Direction::ALL {
        let all = entries(&policies, direction);
        let claims = |service: Option<&String>| {
            let about = all.iter().filter(|entry| entry.service.is_none() || entry.service == service);
            about.map(claim).chain(default.clone()).collect::<Vec<_>>()
        };
        let mut services: Vec<_> = all.iter().filter_map(|entry| entry.service).collect();
        services.sort();
        services.dedup();
        for service in services {
            let subject = format!("{direction} connections to {service}");
            plan.decisions.first(&subject, "log", || claims(Some(service)));
        }
        plan.decisions.first(&format!("{direction} connections"), "log", || claims(None));
    }
}

fn claim(entry: &Entry<'_>) -> Claim {
    let (list, index) = entry.place;
    let sinks: Vec<_> = entry.backends.backends.iter().filter_map(sink).collect();
    Claim::of(targets(&sinks), entry.document, &format!("spec.{list}[{index}]"))
}

fn targets(sinks: &[Sink]) -> String {
    let all: Vec<_> = sinks.iter().map(|sink| sink.target.to_string()).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
