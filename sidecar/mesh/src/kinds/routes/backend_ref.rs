// SPDX-License-Identifier: Apache-2.0
//! `backendRefs[]` of a route: a service with its share of the connections.

use crate::kinds::destination::{ToKind, ToRef};
use crate::model::labels::Labels;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Port, fields, words};

/// The weight of a backend that says none, as in Kuma.
const WEIGHT: u32 = 1;

fields! {
    /// A service that connections go to.
    pub struct BackendRef {
        /// Kind of the service.
        kind: required BackendKind = "kind",
        /// Name of the service: of its MeshService, or kuma.io/service.
        name: optional String = "name",
        /// Namespace of the service. Default: the policy's own.
        namespace: optional String = "namespace",
        /// The service with these labels.
        labels: optional Labels = "labels",
        /// Of a MeshServiceSubset, tags that its inbounds have.
        tags: default Tags = "tags",
        /// Of the service, the port with this name or number.
        section_name: optional String = "sectionName",
        /// Of the service, this port.
        port: optional Port = "port",
        /// Share of the connections, beside the weights of the other backends; 0 = none. Default: 1.
        weight: optional u32 = "weight",
    }
}

words! {
    /// Kinds of services that connections can go to.
    pub enum BackendKind {
        /// A service of the mesh.
        MeshService = "MeshService",
        /// Inbounds of a service with some tags.
        MeshServiceSubset = "MeshServiceSubset",
        /// A service outside of the mesh.
        MeshExternalService = "MeshExternalService",
        /// A service of several zones.
        MeshMultiZoneService = "MeshMultiZoneService",
    }
}

impl BackendKind {
    /// Returns the kind as a policy's destination has it.
    pub fn to_kind(self) -> ToKind {
        match self {
            Self::MeshService | Self::MeshServiceSubset => ToKind::MeshService,
            Self::MeshExternalService => ToKind::MeshExternalService,
            Self::MeshMultiZoneService => ToKind::MeshMultiZoneService,
        }
    }

    /// Returns the word that it is spelt with.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeshService => "MeshService",
            Self::MeshServiceSubset => "MeshServiceSubset",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
        }
    }
}

impl BackendRef {
    /// Returns the weight, with the default.
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(WEIGHT)
    }

    /// Returns the port of the service, by its name or number.
    pub fn section(&self) -> Option<String> {
        self.section_name.clone().or_else(|| self.port.map(|port| port.0.to_string()))
    }

    /// Returns the whole service as a destination.
    pub fn service(&self) -> ToRef {
        ToRef {
            kind: self.kind.to_kind(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            section_name: None,
        }
    }

    /// Notes problems that several fields make together.
    pub(super) fn check(part: &Part<'_>, at: &mut At<'_>) {
        use BackendKind::{MeshExternalService, MeshMultiZoneService, MeshService, MeshServiceSubset};
        let Ok(Some(kind)) = part.get::<BackendKind>("kind") else { return };
        let there = |field| part.has(field) == Ok(true);
        let subset = kind == MeshServiceSubset;
        for (field, there, fits, allowed) in [
            ("tags", part.field("tags").is_empty() == Some(false), subset, "tags of a MeshServiceSubset"),
            (
                "namespace",
                there("namespace"),
                !subset,
                "the name of a MeshServiceSubset, as kuma.io/service has it",
            ),
            ("labels", there("labels"), !subset, "name and tags of a MeshServiceSubset"),
            ("sectionName", there("sectionName"), !subset, "name and tags of a MeshServiceSubset"),
            ("port", there("port"), !subset, "name and tags of a MeshServiceSubset"),
        ] {
            if there && !fits {
                part.problem(at, field, format!("it beside kind {}", kind.name()), allowed);
            }
        }
        if part.has("name") == Ok(false) && (subset || part.has("labels") == Ok(false)) {
            let allowed = if subset { "the service's name" } else { "the service's name, or labels" };
            part.problem(at, "name", "nothing", allowed);
        }
        if matches!(kind, MeshService | MeshExternalService | MeshMultiZoneService)
            && there("labels")
            && (there("name") || there("namespace"))
        {
            part.problem(at, "labels", "labels beside a name or namespace", "one or the other");
        }
        if there("sectionName") && there("port") {
            part.problem(at, "sectionName", "sectionName beside port", "one or the other");
        }
        if kind == MeshMultiZoneService && part.has("port") == Ok(false) {
            part.problem(at, "port", "nothing", "the port of a MeshMultiZoneService");
        }
    }
}
