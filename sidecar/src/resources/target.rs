// SPDX-License-Identifier: Apache-2.0
//! `targetRef` of a policy: which pods it is about, and which of their inbounds. Pure.

use super::dataplane::{Dataplane, Inbound};
use super::document::Document;
use super::read::{At, Labels, Read, SERVICE, Tags, fields, words};
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
    enum TargetKind {
        Mesh = "Mesh",
        MeshSubset = "MeshSubset",
        MeshService = "MeshService" | "MeshServiceSubset",
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
        let raw = RawTarget::read(value, at)?;
        let before = at.count();
        raw.check(at);
        let RawTarget { kind, name, namespace, labels, mut tags, section_name, proxy_types } = raw;
        let pods = match (kind, name, labels) {
            (TargetKind::Mesh, ..) => Pods::Mesh,
            (TargetKind::MeshSubset, ..) => Pods::Tags(tags),
            (TargetKind::MeshService, name, _) => {
                tags.0.insert(SERVICE.into(), name?);
                Pods::Tags(tags)
            }
            (TargetKind::Dataplane, Some(name), _) => Pods::Dataplane { name, namespace },
            (TargetKind::Dataplane, None, Some(labels)) => Pods::Labels(labels),
            (TargetKind::Dataplane, None, None) => Pods::Dataplanes,
        };
        (at.count() == before).then_some(Self { pods, proxy_types, section: section_name })
    }

    fn schema() -> Value {
        RawTarget::schema()
    }
}

impl RawTarget {
    /// A field that says nothing for its kind would be a choice that nobody makes.
    fn check(&self, at: &mut At<'_>) {
        use TargetKind::{Dataplane, Mesh, MeshService, MeshSubset};
        let Self { kind, name, namespace, labels, tags, section_name, proxy_types } = self;
        let mut only = |field: &str, there: bool, kinds: &[TargetKind], allowed: &str| {
            if there && !kinds.contains(kind) {
                at.field(field, |at| at.problem(format!("it beside kind {}", kind.name()), allowed));
            }
        };
        only("name", name.is_some(), &[MeshService, Dataplane], "a name of a MeshService or Dataplane");
        only("namespace", namespace.is_some(), &[Dataplane], "a namespace of a Dataplane");
        only("labels", labels.is_some(), &[Dataplane], "labels of a Dataplane");
        only("sectionName", section_name.is_some(), &[Dataplane], "an inbound of a Dataplane");
        only(
            "tags",
            !tags.0.is_empty(),
            &[MeshSubset, MeshService],
            "tags of a MeshSubset or MeshServiceSubset",
        );
        only("proxyTypes", !proxy_types.is_empty(), &[Mesh, MeshSubset], "proxyTypes of Mesh or MeshSubset");
        if *kind == MeshService && name.is_none() {
            at.field("name", |at| at.problem("nothing", "the service's name"));
        }
        if labels.is_some() && (name.is_some() || namespace.is_some()) {
            at.field("labels", |at| at.problem("labels beside a name or namespace", "one or the other"));
        }
        if namespace.is_some() && name.is_none() {
            at.field("namespace", |at| at.problem("it without a name", "name and namespace, or labels"));
        }
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
