// SPDX-License-Identifier: Apache-2.0
//! `targetRef` of a policy: which pods it is about, and which of their inbounds. Pure.

mod elsewhere;

pub use elsewhere::*;

use crate::model::labels::Labels;
use crate::model::tags::{SERVICE, Tags};
use crate::read::part::Part;
use crate::read::{At, Read, fields, words};
use serde_json::Value;

/// The pods that a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'d> {
    /// None: the document is no policy.
    NoPolicy,
    /// Pods with the tags of one of these selectors, as the older policies say it.
    Selectors(Vec<&'d Tags>),
    /// Pods of a `targetRef`, as the newer policies say it; without one, all pods of the mesh.
    Ref(Option<&'d TargetRef>),
}

/// Some pods, or some of their inbounds, as the newer policies name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// The word that it is spelt with, by which Kuma orders policies.
    pub kind: TargetKind,
    /// The pods, by name, labels or tags.
    pub pods: Pods,
    /// Of those, proxies of these kinds; empty: all.
    pub proxy_types: Vec<ProxyType>,
    /// Of those, the inbound with this name or port; none: all.
    pub section: Option<String>,
}

/// Pods of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// All pods of the mesh.
    Mesh,
    /// Pods with these tags. Each inbound has tags of its own.
    Tags(Tags),
    /// All pods with a Dataplane.
    Dataplanes,
    /// Pods whose Dataplane has these labels.
    Labels(Labels),
    /// One Dataplane.
    Dataplane {
        /// Its name; without a namespace in Kubernetes also `name.namespace`.
        name: String,
        /// Its namespace; none: the policy's own, where it has one.
        namespace: Option<String>,
    },
}

fields! {
    struct RawTarget {
        kind: required TargetKind = "kind",
        name: optional String = "name",
        namespace: optional String = "namespace",
        labels: optional Labels = "labels",
        tags: default Tags = "tags",
        section_name: optional String = "sectionName",
        proxy_types: default Vec<ProxyType> = "proxyTypes",
    }
}

words! {
    /// Kinds of targets.
    pub enum TargetKind {
        /// All pods of the mesh.
        Mesh = "Mesh",
        /// Pods by tags.
        MeshSubset = "MeshSubset",
        /// Pods by the service of an inbound.
        MeshService = "MeshService",
        /// Pods by the service and further tags of an inbound.
        MeshServiceSubset = "MeshServiceSubset",
        /// Pods by the name or labels of their Dataplane.
        Dataplane = "Dataplane",
    }
}

words! {
    /// Kinds of proxies.
    pub enum ProxyType {
        /// Sidecar of a workload that others call.
        Sidecar = "Sidecar",
        /// Proxy of a gateway.
        Gateway = "Gateway",
    }
}

impl Read for TargetRef {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let RawTarget { kind, name, namespace, labels, mut tags, section_name, proxy_types } =
            RawTarget::read(value, at)?;
        let pods = match (kind, name, labels) {
            (TargetKind::Mesh, ..) => Pods::Mesh,
            (TargetKind::MeshSubset, ..) => Pods::Tags(tags),
            (TargetKind::MeshService | TargetKind::MeshServiceSubset, name, _) => {
                // A service without a name is an error of the check; an empty name fits no pod.
                tags.0.insert(SERVICE.into(), name.unwrap_or_default());
                Pods::Tags(tags)
            }
            (TargetKind::Dataplane, Some(name), _) => Pods::Dataplane { name, namespace },
            (TargetKind::Dataplane, None, Some(labels)) => Pods::Labels(labels),
            (TargetKind::Dataplane, None, None) => Pods::Dataplanes,
        };
        Some(Self { kind, pods, proxy_types, section: section_name })
    }

    fn schema() -> Value {
        RawTarget::schema()
    }
}

impl TargetRef {
    /// Notes problems that several fields make together, as a field without a meaning for its kind.
    pub(crate) fn check(part: &Part<'_>, at: &mut At<'_>) {
        use TargetKind::{Dataplane, Mesh, MeshService, MeshServiceSubset, MeshSubset};
        let Ok(Some(kind)) = part.get::<TargetKind>("kind") else { return };
        let there = |field| part.has(field) == Ok(true);
        let some = |field| part.field(field).is_empty() == Some(false);
        for (field, there, kinds, allowed) in [
            (
                "name",
                there("name"),
                &[MeshService, MeshServiceSubset, Dataplane][..],
                "a name of a MeshService or Dataplane",
            ),
            ("namespace", there("namespace"), &[Dataplane], "a namespace of a Dataplane"),
            ("labels", there("labels"), &[Dataplane], "labels of a Dataplane"),
            ("sectionName", there("sectionName"), &[Dataplane], "an inbound of a Dataplane"),
            (
                "tags",
                some("tags"),
                &[MeshSubset, MeshServiceSubset],
                "tags of a MeshSubset or MeshServiceSubset",
            ),
            ("proxyTypes", some("proxyTypes"), &[Mesh, MeshSubset], "proxyTypes of Mesh or MeshSubset"),
        ] {
            if there && !kinds.contains(&kind) {
                part.problem(at, field, format!("it beside kind {}", kind.name()), allowed);
            }
        }
        let nameless = part.has("name") == Ok(false);
        if matches!(kind, MeshService | MeshServiceSubset) && nameless {
            part.problem(at, "name", "nothing", "the service's name");
        }
        if there("labels") && (there("name") || there("namespace")) {
            part.problem(at, "labels", "labels beside a name or namespace", "one or the other");
        }
        if there("namespace") && nameless {
            part.problem(at, "namespace", "it without a name", "name and namespace, or labels");
        }
    }

    /// Returns true if the target chooses by tags, so inbounds rather than pods.
    pub(crate) fn goes_by_tags(part: &Part<'_>) -> bool {
        use TargetKind::{MeshService, MeshServiceSubset, MeshSubset};
        matches!(part.get("kind"), Ok(Some(MeshSubset | MeshService | MeshServiceSubset)))
    }
}

impl TargetKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::MeshSubset => "MeshSubset",
            Self::MeshService => "MeshService",
            Self::MeshServiceSubset => "MeshServiceSubset",
            Self::Dataplane => "Dataplane",
        }
    }
}

fields! {
    /// All pods of the mesh.
    pub struct WholeMesh {
        /// Only the word Mesh.
        kind: required MeshKind = "kind",
    }
}

words! {
    /// All pods of the mesh.
    pub enum MeshKind {
        /// All pods of the mesh.
        Mesh = "Mesh",
    }
}

#[cfg(test)]
mod tests;
