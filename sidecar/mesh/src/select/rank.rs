// SPDX-License-Identifier: Apache-2.0
//! Rank of a policy: how specific it is about a subject.

use crate::document::Document;
use crate::kinds::dataplane::Inbound;
use crate::model::tags::Tags;
use crate::select::subject::Subject;
use crate::target::{Pods, Target, TargetRef};

/// Kuma's own labels: the pods that a policy of an application's namespace may be about, and the namespace of a document.
const ROLE: &str = "kuma.io/policy-role";
const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Rank of a policy among those of its kind; the higher is the more specific.
///
/// Of a `targetRef`: an inbound of its own first, then the pods as in Kuma: a name, labels, any Dataplane, a service, tags,
/// all of the mesh. Of selectors: the number of tags with a value, then the number of tags with any value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank([usize; 2]);

/// Returns how specific a policy is about a subject; `None` when it is not about it.
pub fn rank(target: &Target<'_>, policy: &Document, subject: &Subject<'_>) -> Option<Rank> {
    match target {
        Target::NoPolicy => None,
        Target::Selectors(selectors) => {
            selectors.iter().filter_map(|wanted| rank_of_selector(wanted, subject)).max()
        }
        Target::Ref(target) => reaches(policy, subject).then(|| rank_of_ref(*target, policy, subject))?,
    }
}

/// Without a Dataplane the pod's tags are not known: then only a selector that takes any value fits.
fn rank_of_selector(wanted: &Tags, subject: &Subject<'_>) -> Option<Rank> {
    let fits = match subject.pod {
        Some(_) => subject.tags.iter().any(|tags| wanted.select(tags)),
        None => takes_any(wanted),
    };
    let any = wanted.0.values().filter(|value| *value == "*").count();
    fits.then_some(Rank([wanted.0.len() - any, any]))
}

fn takes_any(wanted: &Tags) -> bool {
    wanted.0.values().all(|value| value == "*")
}

fn rank_of_ref(target: Option<&TargetRef>, policy: &Document, subject: &Subject<'_>) -> Option<Rank> {
    let Some(TargetRef { pods, proxy_types, section }) = target else { return Some(Rank([0, 0])) };
    if !proxy_types.is_empty() && !proxy_types.iter().any(|kind| subject.is(*kind)) {
        return None;
    }
    let rank = match pods {
        Pods::Mesh => 0,
        Pods::Tags(wanted) => {
            let service = wanted.service().is_some();
            subject.tags.iter().any(|tags| wanted.select(tags)).then_some(1 + usize::from(service))?
        }
        Pods::Dataplanes => 3,
        Pods::Labels(wanted) => subject.pod?.0.labels.has_all(wanted).then_some(4)?,
        Pods::Dataplane { name, namespace } => {
            let (document, _) = subject.pod?;
            // `name.namespace` names both.
            let own = policy.namespace.as_deref().filter(|_| document.name == *name);
            let wanted = namespace.as_deref().or(own);
            let elsewhere =
                document.namespace.as_deref().zip(wanted).is_some_and(|(has, wanted)| has != wanted);
            (document.is_named(name) && !elsewhere).then_some(5)?
        }
    };
    let Some(section) = section else { return Some(Rank([0, rank])) };
    is_section(subject.inbound?, section).then_some(Rank([1, rank]))
}

/// Returns true if a `sectionName` names the inbound, by its name or port.
pub fn is_section(inbound: &Inbound, section: &str) -> bool {
    inbound.name.as_deref() == Some(section) || section == inbound.port.0.to_string()
}

/// Returns true if Kuma marks the policy as one of an application's namespace. It is about pods of that namespace only.
fn is_owned(policy: &Document) -> bool {
    matches!(policy.labels.get(ROLE), Some("workload-owner" | "consumer"))
}

fn reaches(policy: &Document, subject: &Subject<'_>) -> bool {
    let namespace = |document: &Document| document.labels.get(NAMESPACE).map(str::to_owned);
    let same = |pod| namespace(pod).is_some() && namespace(pod) == namespace(policy);
    !is_owned(policy) || subject.pod.is_some_and(|(pod, _)| same(pod))
}

/// Returns true if a document is about some pods only, and a pod's Dataplane decides which.
pub fn chooses(document: &Document) -> bool {
    match document.spec.target() {
        Target::NoPolicy => false,
        Target::Selectors(selectors) => !selectors.iter().any(|wanted| takes_any(wanted)),
        Target::Ref(target) => target.is_some_and(chooses_pods) || is_owned(document),
    }
}

fn chooses_pods(TargetRef { pods, proxy_types, section }: &TargetRef) -> bool {
    section.is_some() || !proxy_types.is_empty() || !matches!(pods, Pods::Mesh | Pods::Dataplanes)
}
