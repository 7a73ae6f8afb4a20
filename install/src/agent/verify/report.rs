// SPDX-License-Identifier: Apache-2.0
//! Texts about a pod: its row, a repair on one line, an event.

use std::time::SystemTime;

use culvert_cni::redirect::repair::Repaired;

use super::subjects::{Desired, Subject};
use crate::agent::status::{NOT_YET, Onboarded, PodRow, RedirectState};
use crate::cri::Network;
use crate::cri::sandboxes::Bypass;
use crate::kube::Events;
use crate::kube::events::{Event, Reason, Regarding};

/// Differences that a line names one by one.
const MAX_NAMED: usize = 3;

/// Makes the row of a pod that was not checked since its subject became this.
pub(crate) fn row(subject: &Subject, network: &Network, before: Option<&PodRow>) -> PodRow {
    let (onboarded, state, reason) = match &subject.desired {
        Desired::Redirect(..) if network.of_node => (
            Onboarded::No,
            RedirectState::Direct,
            "it uses the node's own network, which is never redirected".to_owned(),
        ),
        Desired::Redirect(_, setting) => {
            (Onboarded::Yes, RedirectState::Unknown, format!("{setting}; {NOT_YET}"))
        }
        Desired::Direct(reason) => (Onboarded::No, RedirectState::Direct, reason.clone()),
        Desired::Unknown(reason) => (Onboarded::Unknown, RedirectState::Unknown, reason.clone()),
    };
    let row = PodRow {
        pod: subject.name(),
        sandbox: subject.id.clone(),
        onboarded,
        engine: subject.engine.clone(),
        state,
        verified: None,
        repairs: 0,
        reason,
        beside: Vec::new(),
    };
    match before {
        // Only the record changed: the result of the last check still holds.
        Some(before) if before.onboarded == onboarded => PodRow {
            state: before.state,
            reason: before.reason.clone(),
            verified: before.verified.clone(),
            repairs: before.repairs,
            beside: before.beside.clone(),
            ..row
        },
        _ => row,
    }
}

/// Changes the row of a pod whose rules are as they should be: they are no redirect where packets bypass them.
pub(crate) fn with_bypass(row: PodRow, bypass: Option<Bypass>) -> PodRow {
    match bypass {
        Some(bypass) if row.state == RedirectState::Redirected => PodRow {
            state: RedirectState::Bypassed,
            reason: format!("{}; {}", row.reason, bypass.reason()),
            ..row
        },
        _ => row,
    }
}

/// Joins the first few differences to one line.
pub(super) fn summary_of_differences(differences: &[String]) -> String {
    let more = differences.len().saturating_sub(MAX_NAMED);
    let more = if more == 0 { String::new() } else { format!("; {more} more") };
    format!("{}{more}", differences.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; "))
}

/// Describes a repair on one line.
pub(super) fn summary_of_repair(repaired: &Repaired) -> String {
    let Repaired { differences, installed, established } = repaired;
    let open = match established.len() {
        0 => "no connection was open".to_owned(),
        n => format!("open connections go on as they are: {n}"),
    };
    format!("repaired by {}: {}; {open}", installed.engine.name(), summary_of_differences(differences))
}

/// Queues an event on the pod, where an API server is asked and the pod's uid is known.
pub(super) fn post_event(events: Option<&Events>, subject: &Subject, reason: &'static str, message: String) {
    let Subject { pod: (namespace, name), uid, .. } = subject;
    if let (Some(events), Some(uid)) = (events, uid) {
        let regarding = Regarding::pod(namespace.clone(), name.clone(), Some(uid.clone()));
        events.hand_in(Event { regarding, reason: Reason::warning(reason), message, at: SystemTime::now() });
    }
}
