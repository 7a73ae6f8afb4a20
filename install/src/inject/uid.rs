// SPDX-License-Identifier: Apache-2.0
//! The sidecar's uid. The redirect knows the sidecar's connections by it, so no application may run as the same.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::pod::{LISTS, Pod};
use super::{Namespace, Refusal, Shape};

/// Annotation of an OpenShift namespace with the uids that its pods may have.
pub(super) const OPENSHIFT: &str = "openshift.io/sa.scc.uid-range";

/// Chooses the uid. `given` is the pod's own choice, `default` the one without a choice.
pub(super) fn choose(
    pod: &Pod<'_>,
    namespace: &Namespace,
    shape: Shape,
    given: Option<u32>,
    default: u32,
) -> Result<u32, Refusal> {
    let taken: BTreeSet<_> = pod
        .applications()
        // Before a plain sidecar starts, only its own uid has a network: an init container may have it on purpose.
        .filter(|place| shape == Shape::Native || place.list == LISTS[1])
        .filter_map(|place| pod.uid_of(&place))
        .collect();
    if let Some(given) = given {
        return if taken.contains(&given) { Err(both(pod, given)) } else { Ok(given) };
    }
    let among = match namespace.annotations.get(OPENSHIFT) {
        // The first of the range is what containers without a uid get.
        Some(text) => range(text).map(|range| range.start() + 1..=*range.end())?,
        None => default..=u32::MAX - 1,
    };
    let none =
        || Refusal::of(format!("annotation {OPENSHIFT} of the namespace has no uid left for the sidecar"));
    among.into_iter().find(|uid| !taken.contains(uid)).ok_or_else(none)
}

/// Refuses an application that runs as the sidecar's uid.
pub(super) fn both(pod: &Pod<'_>, uid: u32) -> Refusal {
    let same = pod.applications().filter(|place| pod.uid_of(place) == Some(uid));
    let names: Vec<_> = same.map(|place| place.name().to_owned()).collect();
    Refusal::of(format!(
        "container {} runs as uid {uid}, the sidecar's: its connections would not be redirected. Set culvert.dev/proxy-uid to \
         another one",
        names.join(", ")
    ))
}

/// `1000980000/10000`, a start and a number, or `1000980000-1000989999`.
fn range(text: &str) -> Result<RangeInclusive<u32>, Refusal> {
    let read = || {
        let (start, end) = if let Some((start, number)) = text.split_once('/') {
            let start: u32 = start.parse().ok()?;
            (start, start.checked_add(number.parse::<u32>().ok()?)?.checked_sub(1)?)
        } else {
            let (start, end) = text.split_once('-')?;
            (start.parse().ok()?, end.parse().ok()?)
        };
        (start < end && end < u32::MAX).then_some(start..=end)
    };
    let words = "must be a range of uids, as in 1000980000/10000";
    read().ok_or_else(|| {
        Refusal::of(format!("annotation {OPENSHIFT} of the namespace {words}: it is {text:?}"))
    })
}
