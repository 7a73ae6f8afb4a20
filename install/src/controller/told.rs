// SPDX-License-Identifier: Apache-2.0
//! Events on mesh documents and on pods, each once in a while and at a bounded rate.

use std::time::Duration;

use culvert_mesh::kinds::Kind;
use prometheus_client::metrics::counter::Counter;

use super::key::Key;
use super::peers::Allowance;
use crate::kube::Events;
use crate::kube::events::{Reason, Regarding};
use crate::kube::told::Told;

/// A document that cannot be read, and one that can be again.
const INVALID: Reason = Reason::warning("DocumentInvalid");
const VALID: Reason = Reason::normal("DocumentValid");
/// A response that a pod's sidecar refused.
const REFUSED: Reason = Reason::warning("DocumentsRefused");
/// Time in which a pod has one event: its sidecar chooses the words.
const POD_EVERY: Duration = Duration::from_secs(600);

/// Events on mesh documents and on pods. Pods have a rate of their own, so that sidecars silence no document.
#[derive(Debug)]
pub(crate) struct Reports {
    documents: Told,
    pods: Told,
    of_pod: Allowance<Key>,
}

impl Reports {
    /// Hands events in there. `dropped` counts those that are too many.
    pub(crate) fn new(events: &Events, dropped: &Counter) -> Self {
        let told = || Told::new(events.clone(), dropped.clone());
        Self { documents: told(), pods: told(), of_pod: Allowance::new(1, POD_EVERY) }
    }

    /// Says at a document that it cannot be read, with the words of `validate`, or that it can be again.
    pub(crate) fn document(
        &self,
        api_version: String,
        kind: Kind,
        (key, uid): (&Key, &str),
        wrong: Option<&str>,
    ) {
        let regarding = Regarding {
            api_version,
            kind: kind.name().to_owned(),
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            uid: Some(uid).filter(|uid| !uid.is_empty()).map(str::to_owned),
        };
        match wrong {
            Some(words) => self.documents.tell(regarding, INVALID, words),
            None => self.documents.tell(regarding, VALID, "culvert has read it, and it is in force"),
        }
    }

    /// Says at a pod that its sidecar refuses what it was sent.
    pub(crate) fn refused(&self, pod: &Key, uid: &str, words: &str) {
        if self.of_pod.spend(pod.clone()) {
            let of = Regarding::pod(
                pod.namespace().to_owned(),
                pod.name().to_owned(),
                Some(uid).filter(|uid| !uid.is_empty()).map(str::to_owned),
            );
            let words: String = words.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
            self.pods.tell(
                of,
                REFUSED,
                &format!("its sidecar goes on with what it had, as it refuses: {words}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sidecars_have_one_event_each_and_silence_no_document() {
        let (events, mut queue) = Events::new();
        let dropped = Counter::default();
        let reports = Reports::new(&events, &dropped);
        let mut posted = || std::iter::from_fn(|| queue.try_recv().ok()).collect::<Vec<_>>();
        let web = Key::new("shop", "web");
        (0..100).for_each(|number| reports.refused(&web, "u", &format!("words {number}")));
        let of_web = posted();
        assert_eq!((of_web.len(), of_web[0].reason), (1, REFUSED));
        for number in 0..1000 {
            reports.refused(&Key::new("shop", &format!("pod-{number}")), "", "no");
        }
        assert_eq!((posted().len(), dropped.get()), (99, 901), "of all pods so many at once");
        let mesh = Key::new("", "default");
        for wrong in [Some("spec: found nothing"), None] {
            reports.document("kuma.io/v1alpha1".to_owned(), Kind::Mesh, (&mesh, "m"), wrong);
        }
        let of_mesh = posted();
        let reasons: Vec<Reason> = of_mesh.iter().map(|event| event.reason).collect();
        assert_eq!(reasons, [INVALID, VALID]);
        assert_eq!(
            (&*of_mesh[0].message, of_mesh[0].regarding.uid.as_deref()),
            ("spec: found nothing", Some("m"))
        );
    }
}
