// SPDX-License-Identifier: Apache-2.0
//! A review's body → the answer: reads it, finds its namespace, decides, counts, and tells.

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use hyper::StatusCode;

use super::metrics::{Metrics, Outcome, Why};
use super::namespaces::{Namespaces, Unknown};
use super::review::{self, Answer, Malformed, Request, Verdict};
use super::told::{self, REFUSED, SKIPPED};
use crate::inject::{Decision, Injected, Namespace, Settings, Skipped, decide};
use crate::kube::Client;
use crate::kube::events::Reason;
use crate::kube::told::Told;

/// Everything that an answer depends on.
#[derive(Debug)]
pub(super) struct Injector {
    pub settings: Settings,
    pub namespaces: Namespaces,
    pub client: Arc<Client>,
    pub metrics: Arc<Metrics>,
    pub told: Told,
}

/// An outcome with its answer, and what is told about it.
struct Judged {
    outcome: Outcome,
    why: Why,
    answer: Answer,
    /// Reason and text of an event.
    event: Option<(Reason, String)>,
    /// The labels of the namespace made it so.
    is_by_namespace: bool,
}

impl Injector {
    /// Answers a whole body.
    pub(super) async fn admit(&self, body: &[u8]) -> Result<Vec<u8>, Malformed> {
        let began = Instant::now();
        let request = review::read(body)?;
        let judged = match &request.aside {
            Some(words) => Judged::aside(words),
            None => self.judge(&request).await,
        };
        let Judged { outcome, why, answer, event, .. } = judged;
        let answer = review::write(&request.uid, &answer);
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.review(outcome, why);
        if let Some((reason, words)) = event.filter(|_| !request.dry_run) {
            let pod = request.pod().unwrap_or_default();
            told::tell(&self.told, &pod, (&request.namespace, &request.name), reason, &words);
        }
        Ok(answer)
    }

    async fn judge(&self, request: &Request<'_>) -> Judged {
        let namespace = match self.namespaces.get(&self.client, &request.namespace).await {
            Ok(namespace) => namespace,
            Err(unknown) => return Judged::without_namespace(&request.namespace, &unknown),
        };
        let judged = judged(request, &namespace, &self.settings);
        if !judged.is_by_namespace {
            return judged;
        }
        // The rules of the webhook select by the same labels, so it was called for a label that the watch has yet to bring;
        // to leave the pod without a sidecar now would be an error that nobody sees.
        match self.namespaces.get_fresh(&self.client, &request.namespace).await {
            Ok(fresh) if fresh == namespace => judged,
            Ok(fresh) => self::judged(request, &fresh, &self.settings),
            Err(unknown) => Judged::without_namespace(&request.namespace, &unknown),
        }
    }
}

fn judged(request: &Request<'_>, namespace: &Namespace, settings: &Settings) -> Judged {
    let pod = match request.pod() {
        Ok(pod) => pod,
        Err(reason) => {
            let words =
                format!("culvert cannot read this pod, and lets none through that it cannot read: {reason}");
            return Judged::denied(Why::Pod, StatusCode::FORBIDDEN, words);
        }
    };
    // A bug must end neither the connection, with an error that names nothing, nor let the pod through.
    match catch_unwind(AssertUnwindSafe(|| decide(&pod, namespace, settings))) {
        Ok(decision) => Judged::of(decision),
        Err(_) => Judged::denied(
            Why::Bug,
            StatusCode::INTERNAL_SERVER_ERROR,
            "culvert failed to decide about this pod, which is a bug: see the injector's log, and report it"
                .to_owned(),
        ),
    }
}

impl Judged {
    const fn new(outcome: Outcome, why: Why, answer: Answer) -> Self {
        Self { outcome, why, answer, event: None, is_by_namespace: false }
    }

    fn of(decision: Decision) -> Self {
        match decision {
            Decision::Injected(Injected { operations, is_first, notes, .. }) => {
                let (outcome, why) = match (is_first, operations.is_empty()) {
                    (true, _) => (Outcome::Injected, Why::Label),
                    (false, true) => (Outcome::Again, Why::Same),
                    (false, false) => (Outcome::Again, Why::Changed),
                };
                // The first call has said them already.
                let notes = notes.iter().filter(|_| is_first);
                let warnings = notes.map(|note| format!("culvert: {note}")).collect();
                let answer = Answer { warnings, verdict: Verdict::Allowed(operations) };
                Self::new(outcome, why, answer)
            }
            Decision::Skipped(skipped) => Self::skipped(&skipped),
            Decision::Refused(refusal) => {
                Self::denied(Why::Pod, StatusCode::FORBIDDEN, format!("culvert: {refusal}"))
            }
        }
    }

    fn skipped(skipped: &Skipped) -> Self {
        let why = match skipped {
            Skipped::NotAsked => Why::NotAsked,
            Skipped::Disabled(_) => Why::Disabled,
            Skipped::System(_) => Why::System,
            Skipped::Excluded(_) => Why::Excluded,
            Skipped::Mirror => Why::Mirror,
            Skipped::HostNetwork => Why::HostNetwork,
            Skipped::Windows => Why::Windows,
            Skipped::OtherMesh(_) => Why::OtherMesh,
            Skipped::Present => Why::Present,
        };
        let event = skipped.is_a_surprise().then(|| (SKIPPED, format!("no sidecar: {skipped}")));
        let warnings = event.iter().map(|(_, words)| format!("culvert: {words}")).collect();
        let answer = Answer { warnings, verdict: Verdict::Allowed(Vec::new()) };
        let is_by_namespace = skipped.is_by_namespace();
        Self { event, is_by_namespace, ..Self::new(Outcome::Skipped, why, answer) }
    }

    fn denied(why: Why, code: StatusCode, message: String) -> Self {
        let event = Some((REFUSED, message.clone()));
        let answer = Answer { warnings: Vec::new(), verdict: Verdict::Denied { code, message } };
        Self { event, ..Self::new(Outcome::Refused, why, answer) }
    }

    /// A namespace that cannot be read may ask for a sidecar.
    fn without_namespace(name: &str, unknown: &Unknown) -> Self {
        let words = if unknown.is_absent() {
            format!("culvert: there is no namespace {name:?}")
        } else {
            format!(
                "culvert cannot read namespace {name:?}, whose labels decide about a sidecar, so try again: {unknown}"
            )
        };
        let denied = Self::denied(Why::Namespace, StatusCode::SERVICE_UNAVAILABLE, words);
        // An event needs a namespace.
        if unknown.is_absent() { Self { event: None, ..denied } } else { denied }
    }

    fn aside(words: &str) -> Self {
        let verdict = Verdict::Allowed(Vec::new());
        let answer = Answer { warnings: vec![format!("culvert: {words}")], verdict };
        Self::new(Outcome::Skipped, Why::NoPod, answer)
    }
}
