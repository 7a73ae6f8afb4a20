// SPDX-License-Identifier: Apache-2.0
//! `HostnameGenerator`: names of services by a template.

use super::{LabelSelector, ServiceExtension};
use crate::context::Context;
use crate::kinds::Resource;
use crate::model::labels::Labels;
use crate::read::part::Part;
use crate::read::{At, fields};

fields! {
    /// Names of services by a template, in every mesh.
    pub struct HostnameGenerator {
        /// The services that get a name.
        selector: required GeneratorSelector = "selector",
        /// The name, as {{ .DisplayName }}.svc.mesh.local.
        template: required String = "template",
        /// Records of the names at a provider of DNS, which a program beside the control plane writes.
        extension: no_effect ServiceExtension = "extension",
    }
}

fields! {
    /// Services of one kind.
    pub struct GeneratorSelector {
        /// MeshServices.
        mesh_service: optional LabelSelector = "meshService",
        /// MeshExternalServices.
        mesh_external_service: optional LabelSelector = "meshExternalService",
        /// MeshMultiZoneServices.
        mesh_multi_zone_service: optional LabelSelector = "meshMultiZoneService",
    }
}

/// Services that a generator gives names to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generates<'g> {
    /// MeshServices with these labels.
    MeshService(&'g Labels),
    /// MeshExternalServices with these labels.
    MeshExternalService(&'g Labels),
    /// MeshMultiZoneServices with these labels.
    MeshMultiZoneService(&'g Labels),
}

impl HostnameGenerator {
    /// Returns the services that get a name; a document that was read has one selector.
    pub fn selected(&self) -> Option<Generates<'_>> {
        let GeneratorSelector { mesh_service, mesh_external_service, mesh_multi_zone_service } =
            &self.selector;
        let service = mesh_service.as_ref().map(|by| Generates::MeshService(&by.match_labels));
        let external =
            || mesh_external_service.as_ref().map(|by| Generates::MeshExternalService(&by.match_labels));
        let zones =
            || mesh_multi_zone_service.as_ref().map(|by| Generates::MeshMultiZoneService(&by.match_labels));
        service.or_else(external).or_else(zones)
    }
}

impl Resource for HostnameGenerator {
    const NAME: &'static str = "HostnameGenerator";
    const HAS_SPEC: bool = true;
    const IN_EVERY_MESH: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        const KINDS: [&str; 3] = ["meshService", "meshExternalService", "meshMultiZoneService"];
        let selector = part.field("selector");
        let there: Result<Vec<bool>, _> = KINDS.into_iter().map(|kind| selector.has(kind)).collect();
        if let Ok(there) = there {
            let count = there.into_iter().filter(|there| *there).count();
            if count != 1 {
                part.problem(
                    at,
                    "selector",
                    format!("{count} selectors"),
                    format!("one of {}", KINDS.join(", ")),
                );
            }
        }
        if part.get("template") == Ok(Some(String::new())) {
            part.problem(at, "template", "\"\"", "a name, as \"{{ .DisplayName }}.svc.mesh.local\"");
        }
    }
}
