// SPDX-License-Identifier: Apache-2.0
//! Which policies are about a pod or one of its inbounds, and how specific each is. Pure.

use crate::document::Document;
use crate::kinds::dataplane::{Dataplane, Inbound};
use crate::model::tags::Tags;
use crate::target::{Pods, ProxyType, TargetRef};

/// Kuma's own labels: what a policy of an application's namespace may be about, and which namespace something is of.
const ROLE: &str = "kuma.io/policy-role";
const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// What a policy may be about: a pod, or one of its inbounds.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
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
pub fn rank(target: Option<&TargetRef>, of: &Document, subject: &Subject<'_>) -> Option<u8> {
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
pub fn is_section(inbound: &Inbound, section: &str) -> bool {
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
pub fn chooses(target: Option<&TargetRef>, policy: &Document) -> bool {
    let chosen = |target: &TargetRef| {
        let TargetRef { pods, proxy_types, section } = target;
        section.is_some() || !proxy_types.is_empty() || !matches!(pods, Pods::Mesh | Pods::Dataplanes)
    };
    target.is_some_and(chosen) || matches!(policy.labels.get(ROLE), Some("workload-owner" | "consumer"))
}
