// SPDX-License-Identifier: Apache-2.0
//! The names of the mesh: hosts of services, their addresses, and the listeners on these.
//!
//! | host | leads to | by |
//! |---|---|---|
//! | `SERVICE.mesh`, also with dots for underscores | the service, on port 80 and its inbounds' ports | `kuma.io/service` |
//! | the host of an ExternalService | the service, on its port | its document |
//! | of a VirtualOutbound | inbounds with the tags of its parameters | [`virtual_outbound`] |
//! | of a HostnameGenerator, or of a status | the ports of the service | [`generator`] |
//!
//! [`table`] decides which of several claims of a host holds. All hosts are known before anything is cut, so that each has the
//! same addresses in every pod.

mod generator;
mod listeners;
mod service;
mod table;
mod template;
mod virtual_outbound;

use crate::plan::Plan;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::services::Services;
use crate::plan::compile::ways::Ways;
use crate::plan::names::Standing;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Dataplane;
use std::sync::Arc;
use table::Table;

/// Adds the names of the mesh, and for a pod whose connections are redirected (`this`) their listeners. Services that come from
/// the document `own` alone get none.
pub(super) fn add<'a>(
    plan: &mut Plan,
    (services, ways): (&'a Services<'a>, &mut Ways<'_>),
    (ours, this, own): (&[&'a Document], Option<(&Document, &Dataplane)>, Option<&Document>),
    standing: &Standing,
    errors: &mut Vec<CompileError>,
) {
    let (mesh, zone) = (Arc::clone(&plan.mesh), plan.zone.clone());
    let mut table = Table::default();
    // First, as their names go before those of services.
    virtual_outbound::add(&mut table, services, ours);
    let is_named = |by: &Document| own.is_none_or(|own| by.place != own.place);
    let mut held = service::add(&mut table, services, &plan.workloads, is_named);
    held.retain(|(service, _)| is_named(service.by));
    service::add_hosts(&mut table, services, ours);
    generator::add(&mut table, &held, ours, (&mesh, zone.as_deref()));
    errors.append(&mut table.errors);
    plan.warnings.append(&mut table.warnings);
    if let Some(this) = this {
        listeners::add(plan, ways, (table, this), standing, errors);
        Arc::make_mut(&mut plan.names).ends = ends(ours);
    }
}

/// Returns the ends of names that the mesh may have.
fn ends(ours: &[&Document]) -> Box<[Box<str>]> {
    let mut ends = generator::ends(ours);
    ends.extend(virtual_outbound::ends(ours));
    ends.insert(format!(".{}", service::DOMAIN).into());
    ends.into_iter().collect()
}

#[cfg(test)]
mod tests;
