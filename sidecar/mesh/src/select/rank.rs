// SPDX-License-Identifier: Apache-2.0
//! Rank of a policy: how specific it is about a subject.

use crate::document::{Document, ZONE};
use crate::kinds::dataplane::Inbound;
use crate::model::tags::Tags;
use crate::select::subject::Subject;
use crate::target::{Pods, Target, TargetKind, TargetRef};

/// Label with the pods that Kuma lets a policy be about, by the namespace that it was written in.
const ROLE: &str = "kuma.io/policy-role";
/// Label with the namespace of a document.
const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// Label with the control plane that a policy comes from: `global` or `zone`.
const ORIGIN: &str = "kuma.io/origin";

/// Rank of a policy among those of its kind; the higher decides.
///
/// Of a `targetRef`, as Kuma 2.10 to 2.14 sorts policies: its kind; of Dataplanes one by name before others, then one with a
/// `sectionName`; the origin; the role. Kuma 3.0 sorts alike, and has no names and no tags. Of selectors: the number of tags
/// with a value, then the number of tags with any value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank([usize; 5]);

/// Returns how specific a policy is about a subject; `None` when it is not about it.
pub fn rank(target: &Target<'_>, policy: &Document, subject: &Subject<'_>) -> Option<Rank> {
    match target {
        Target::NoPolicy => None,
        Target::Selectors(selectors) => {
            selectors.iter().filter_map(|wanted| rank_of_selector(wanted, subject)).max()
        }
        Target::Ref(target) => rank_of_ref(*target, policy, subject).filter(|_| reaches(policy, subject)),
    }
}

/// Without a Dataplane the pod's tags are not known: then only a selector that takes any value fits.
fn rank_of_selector(wanted: &Tags, subject: &Subject<'_>) -> Option<Rank> {
    let fits = match subject.pod {
        Some(_) => subject.tags.iter().any(|tags| wanted.select(tags)),
        None => takes_any(wanted),
    };
    let any = wanted.0.values().filter(|value| *value == "*").count();
    fits.then_some(Rank([wanted.0.len() - any, any, 0, 0, 0]))
}

fn takes_any(wanted: &Tags) -> bool {
    wanted.0.values().all(|value| value == "*")
}

fn rank_of_ref(target: Option<&TargetRef>, policy: &Document, subject: &Subject<'_>) -> Option<Rank> {
    let (kind, named, section) = match target {
        Some(target) if is_about(target, policy, subject) => {
            (target.kind, matches!(target.pods, Pods::Dataplane { .. }), target.section.is_some())
        }
        Some(_) => return None,
        None => (TargetKind::Mesh, false, false),
    };
    // Kuma has three more kinds between these, which are no choice of pods.
    let kind = match kind {
        TargetKind::Mesh => 1,
        TargetKind::Dataplane => 2,
        TargetKind::MeshSubset => 3,
        TargetKind::MeshService => 5,
        TargetKind::MeshServiceSubset => 8,
    };
    let origin = match policy.labels.get(ORIGIN) {
        Some("global") => 1,
        Some("zone") => 3,
        _ => 2,
    };
    let role = match policy.labels.get(ROLE) {
        Some("producer") => 2,
        Some("consumer") => 3,
        Some("workload-owner") => 4,
        _ => 1,
    };
    Some(Rank([kind, named.into(), section.into(), origin, role]))
}

fn is_about(target: &TargetRef, policy: &Document, subject: &Subject<'_>) -> bool {
    let TargetRef { kind: _, pods, proxy_types, section } = target;
    let pods = match pods {
        Pods::Mesh | Pods::Dataplanes => true,
        Pods::Tags(wanted) => subject.tags.iter().any(|tags| wanted.select(tags)),
        Pods::Labels(wanted) => subject.pod.is_some_and(|(pod, _)| pod.labels.has_all(wanted)),
        Pods::Dataplane { name, namespace } => subject.pod.is_some_and(|(pod, _)| {
            // `name.namespace` names both.
            let own = policy.namespace.as_deref().filter(|_| pod.name == *name);
            let wanted = namespace.as_deref().or(own);
            let elsewhere = pod.namespace.as_deref().zip(wanted).is_some_and(|(has, wanted)| has != wanted);
            pod.is_named(name) && !elsewhere
        }),
    };
    let proxy = proxy_types.is_empty() || proxy_types.iter().any(|kind| subject.is(*kind));
    let inbound = section
        .as_ref()
        .is_none_or(|section| subject.inbound.is_some_and(|inbound| is_section(inbound, section)));
    pods && proxy && inbound
}

/// Returns true if a `sectionName` names the inbound, by its name or port.
pub fn is_section(inbound: &Inbound, section: &str) -> bool {
    inbound.name.as_deref() == Some(section) || section == inbound.port.0.to_string()
}

/// Returns true if Kuma marks the policy as one of an application's namespace. It is about pods of that namespace only.
fn is_owned(policy: &Document) -> bool {
    matches!(policy.labels.get(ROLE), Some("workload-owner" | "consumer"))
}

/// Returns true if Kuma's control plane would tell the pod of the policy: by namespace and by zone.
fn reaches(policy: &Document, subject: &Subject<'_>) -> bool {
    let namespace = |document: &Document| document.labels.get(NAMESPACE).map(str::to_owned);
    let same = |pod| namespace(pod).is_some() && namespace(pod) == namespace(policy);
    let namespace = !is_owned(policy) || subject.pod.is_some_and(|(pod, _)| same(pod));
    namespace && !is_of_another_zone(policy, subject)
}

/// Returns true if the document was written in another zone. A policy of a producer is for the clients of all zones.
pub fn is_of_another_zone(policy: &Document, subject: &Subject<'_>) -> bool {
    let of_a_zone = policy.labels.get(ORIGIN) == Some("zone") && policy.labels.get(ROLE) != Some("producer");
    let Some((policy, pod)) = policy.labels.get(ZONE).filter(|_| of_a_zone).zip(subject.zone()) else {
        return false;
    };
    policy != pod
}

/// Returns true if a document is about some pods only, and a pod's Dataplane decides which.
pub fn chooses(document: &Document) -> bool {
    match document.spec.target() {
        Target::NoPolicy => false,
        // Without a selector it is about no pod at all.
        Target::Selectors(selectors) => {
            !selectors.is_empty() && !selectors.iter().any(|wanted| takes_any(wanted))
        }
        Target::Ref(target) => target.is_some_and(chooses_pods) || is_owned(document),
    }
}

fn chooses_pods(TargetRef { kind: _, pods, proxy_types, section }: &TargetRef) -> bool {
    section.is_some() || !proxy_types.is_empty() || !matches!(pods, Pods::Mesh | Pods::Dataplanes)
}
