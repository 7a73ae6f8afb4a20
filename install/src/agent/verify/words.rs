// SPDX-License-Identifier: Apache-2.0
//! What is told of a pod: its row, a repair on one line, an event.

use std::time::SystemTime;

use culvert_cni::redirect::repair::Repaired;

use super::subjects::{Subject, Wanted};
use crate::agent::status::{NOT_YET, Onboarded, Row, State};
use crate::cri::Network;
use crate::kube::{Events, events::Event};

/// Differences that are told one by one.
const MAX_TOLD: usize = 3;

/// The row of a pod that was not looked at since its subject became this.
pub(crate) fn row(subject: &Subject, network: &Network, before: Option<&Row>) -> Row {
    let (onboarded, state, reason) = match &subject.wanted {
        Wanted::Redirect(..) if network.of_node => (
            Onboarded::No,
            State::Direct,
            "it uses the node's own network, which is never redirected".to_owned(),
        ),
        Wanted::Redirect(_, setting) => (Onboarded::Yes, State::Unknown, format!("{setting}; {NOT_YET}")),
        Wanted::Direct(reason) => (Onboarded::No, State::Direct, reason.clone()),
        Wanted::Unknown(reason) => (Onboarded::Unknown, State::Unknown, reason.clone()),
    };
    let row = Row {
        pod: subject.name(),
        sandbox: subject.id.clone(),
        onboarded,
        engine: subject.engine.clone(),
        state,
        verified: None,
        repairs: 0,
        reason,
    };
    match before {
        // Only its record changed: what was seen of it holds.
        Some(before) if before.onboarded == onboarded => Row {
            state: before.state,
            reason: before.reason.clone(),
            verified: before.verified.clone(),
            repairs: before.repairs,
            ..row
        },
        _ => row,
    }
}

/// The first few differences, on one line.
pub(crate) fn told(differences: &[String]) -> String {
    let more = differences.len().saturating_sub(MAX_TOLD);
    let more = if more == 0 { String::new() } else { format!("; {more} more") };
    format!("{}{more}", differences.iter().take(MAX_TOLD).cloned().collect::<Vec<_>>().join("; "))
}

/// What a repair did, on one line.
pub(crate) fn put_right(repaired: &Repaired) -> String {
    let Repaired { differences, installed, established } = repaired;
    let open = match established.len() {
        0 => "no connection was open".to_owned(),
        n => format!("open connections go on as they are: {n}"),
    };
    format!("put right by {}: {}; {open}", installed.engine.name(), told(differences))
}

/// Hands in an event on the pod, where an API server is asked and the pod's uid is known.
pub(crate) fn tell(events: Option<&Events>, subject: &Subject, reason: &'static str, message: String) {
    let Subject { pod: (namespace, name), uid, .. } = subject;
    if let (Some(events), Some(uid)) = (events, uid) {
        let (namespace, name, uid) = (namespace.clone(), name.clone(), uid.clone());
        events.hand_in(Event { namespace, name, uid, reason, message, at: SystemTime::now() });
    }
}
