// SPDX-License-Identifier: Apache-2.0
//! `targetRef` of a policy: which pods it is about, and which of their inbounds. Pure.

use super::dataplane::{Dataplane, Inbound};
use super::document::Document;
use super::part::Part;
use super::read::{At, Labels, Read, fields, words};
use crate::plan::tags::{SERVICE, Tags};
use serde_json::Value;

/// Kuma's own labels: what a policy of an application's namespace may be about, and which namespace something is of.
const ROLE: &str = "kuma.io/policy-role";
const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Some pods, or some of their inbounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// The pods.
    pub pods: Pods,
    /// Of those, proxies of these kinds; empty: all.
    pub proxy_types: Vec<ProxyType>,
    /// Of those, the inbound with this name or port; none: all.
    pub section: Option<String>,
}

/// Some pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// All of the mesh.
    Mesh,
    /// Those with these tags. Each inbound has its own.
    Tags(Tags),
    /// All that are Dataplanes.
    Dataplanes,
    /// Those whose Dataplane has these labels.
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
    /// The kinds of pods that can be named.
    pub enum TargetKind {
        /// All of the mesh.
        Mesh = "Mesh",
        /// By tags.
        MeshSubset = "MeshSubset",
        /// By service.
        MeshService = "MeshService" | "MeshServiceSubset",
        /// By name or labels.
        Dataplane = "Dataplane",
    }
}

words! {
    /// The kinds of proxies.
    pub enum ProxyType {
        /// Of a workload that others call.
        Sidecar = "Sidecar",
        /// Of a gateway.
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
            (TargetKind::MeshService, name, _) => {
                // One without a name, which the check tells, would choose nobody.
                tags.0.insert(SERVICE.into(), name.unwrap_or_default());
                Pods::Tags(tags)
            }
            (TargetKind::Dataplane, Some(name), _) => Pods::Dataplane { name, namespace },
            (TargetKind::Dataplane, None, Some(labels)) => Pods::Labels(labels),
            (TargetKind::Dataplane, None, None) => Pods::Dataplanes,
        };
        Some(Self { pods, proxy_types, section: section_name })
    }

    fn schema() -> Value {
        RawTarget::schema()
    }
}

impl TargetRef {
    /// What the fields say together. A field that says nothing for its kind would be a choice that nobody makes.
    pub(super) fn check(part: &Part<'_>, at: &mut At<'_>) {
        use TargetKind::{Dataplane, Mesh, MeshService, MeshSubset};
        let Ok(Some(kind)) = part.get::<TargetKind>("kind") else { return };
        let there = |field| part.has(field) == Ok(true);
        let some = |field| part.field(field).is_empty() == Some(false);
        for (field, there, kinds, allowed) in [
            ("name", there("name"), &[MeshService, Dataplane][..], "a name of a MeshService or Dataplane"),
            ("namespace", there("namespace"), &[Dataplane], "a namespace of a Dataplane"),
            ("labels", there("labels"), &[Dataplane], "labels of a Dataplane"),
            ("sectionName", there("sectionName"), &[Dataplane], "an inbound of a Dataplane"),
            ("tags", some("tags"), &[MeshSubset, MeshService], "tags of a MeshSubset or MeshServiceSubset"),
            ("proxyTypes", some("proxyTypes"), &[Mesh, MeshSubset], "proxyTypes of Mesh or MeshSubset"),
        ] {
            if there && !kinds.contains(&kind) {
                part.problem(at, field, format!("it beside kind {}", kind.name()), allowed);
            }
        }
        let nameless = part.has("name") == Ok(false);
        if kind == MeshService && nameless {
            part.problem(at, "name", "nothing", "the service's name");
        }
        if there("labels") && (there("name") || there("namespace")) {
            part.problem(at, "labels", "labels beside a name or namespace", "one or the other");
        }
        if there("namespace") && nameless {
            part.problem(at, "namespace", "it without a name", "name and namespace, or labels");
        }
    }

    /// Whether it chooses by tags, so inbounds rather than pods.
    pub(super) fn goes_by_tags(part: &Part<'_>) -> bool {
        matches!(part.get("kind"), Ok(Some(TargetKind::MeshSubset | TargetKind::MeshService)))
    }
}

impl TargetKind {
    fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::MeshSubset => "MeshSubset",
            Self::MeshService => "MeshService",
            Self::Dataplane => "Dataplane",
        }
    }
}

/// What a policy may be about: a pod, or one of its inbounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// The pod's document and what it says; none: nobody knows which pod this is.
    pub pod: Option<(&'a Document, &'a Dataplane)>,
    /// The tags: of the inbound, or of all that the pod has; one that fits is enough.
    pub tags: &'a [&'a Tags],
    /// The inbound, if it is one.
    pub inbound: Option<&'a Inbound>,
}

impl Subject<'_> {
    fn is(&self, kind: ProxyType) -> bool {
        let gateway = self.pod.is_some_and(|(_, of)| of.networking.gateway.is_some());
        gateway == (kind == ProxyType::Gateway)
    }
}

/// How specific a policy is about something; `None`: not about it. All of the mesh, tags, a service, any Dataplane, labels,
/// a name, as in Kuma; an inbound of its own before all of those.
pub(super) fn rank(target: Option<&TargetRef>, of: &Document, subject: &Subject<'_>) -> Option<u8> {
    if !reaches(of, subject) {
        return None;
    }
    let Some(TargetRef { pods, proxy_types, section }) = target else { return Some(0) };
    if !proxy_types.is_empty() && !proxy_types.iter().any(|kind| subject.is(*kind)) {
        return None;
    }
    let rank = match pods {
        Pods::Mesh => 0,
        Pods::Tags(wanted) => {
            let service = wanted.service().is_some();
            subject.tags.iter().any(|tags| wanted.select(tags)).then_some(1 + u8::from(service))?
        }
        Pods::Dataplanes => 3,
        Pods::Labels(wanted) => subject.pod?.0.labels.has_all(wanted).then_some(4)?,
        Pods::Dataplane { name, namespace } => {
            let (document, _) = subject.pod?;
            // `name.namespace` says both.
            let own = of.namespace.as_deref().filter(|_| document.name == *name);
            let wanted = namespace.as_deref().or(own);
            let elsewhere =
                document.namespace.as_deref().zip(wanted).is_some_and(|(has, wanted)| has != wanted);
            (document.is_named(name) && !elsewhere).then_some(5)?
        }
    };
    let Some(section) = section else { return Some(rank) };
    let inbound = subject.inbound?;
    is_section(inbound, section).then_some(10 + rank)
}

/// Whether a `sectionName` is that of an inbound: its name or port.
pub(super) fn is_section(inbound: &Inbound, section: &str) -> bool {
    inbound.name.as_deref() == Some(section) || section == inbound.port.0.to_string()
}

/// Whether a policy may be about the pod at all: Kuma marks those of an application's namespace, which are about that
/// namespace's pods only.
fn reaches(policy: &Document, subject: &Subject<'_>) -> bool {
    let owned = matches!(policy.labels.get(ROLE), Some("workload-owner" | "consumer"));
    let of = |document: &Document| document.labels.get(NAMESPACE).map(str::to_owned);
    !owned || subject.pod.is_some_and(|(pod, _)| of(pod).is_some() && of(pod) == of(policy))
}

/// Whether only some pods are meant, and it takes a pod's document to tell which.
pub(super) fn chooses(target: Option<&TargetRef>, policy: &Document) -> bool {
    let chosen = |target: &TargetRef| {
        let TargetRef { pods, proxy_types, section } = target;
        section.is_some() || !proxy_types.is_empty() || !matches!(pods, Pods::Mesh | Pods::Dataplanes)
    };
    target.is_some_and(chosen) || matches!(policy.labels.get(ROLE), Some("workload-owner" | "consumer"))
}
