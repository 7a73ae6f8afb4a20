// SPDX-License-Identifier: Apache-2.0
//! Whether `/ready` says yes, and if not, why.

use crate::metrics::{Gauge, metrics};
use crate::net::addrs::Family;
use crate::observe::capture::{Capture, Proof};
use crate::options::config::VerifyRedirect;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Envoy says of a process, with its number in `server.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Ready.
    Live = 0,
    /// On its way out.
    Draining = 1,
    /// Not ready yet.
    Initializing = 3,
}

impl State {
    /// Envoy's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

metrics! {
    /// The answer of `/ready`.
    #[derive(Clone, Default)]
    pub(crate) struct ReadinessMetrics {
        ready: Gauge = "ready", "Whether /ready says yes" => "server.ready";
    }
}

/// What readiness depends on besides the proof of capture.
#[derive(Debug, Default)]
pub struct Readiness {
    serving: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    /// Both listeners accept.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// The pod is leaving. There is no way back.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the pod is leaving.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Ready, or everything that stands in the way, one reason a line.
    ///
    /// # Errors
    /// The reasons.
    pub fn check(
        &self,
        inbound_on: bool,
        verify: VerifyRedirect,
        capture: &Capture,
        identity_missing: Option<String>,
    ) -> Result<(), String> {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("draining: the sidecar was told to stop".to_owned());
        }
        if !self.serving.load(Ordering::Acquire) {
            reasons.push("starting: the listeners do not accept yet".to_owned());
        }
        reasons.extend(identity_missing);
        // Without an inbound listener there is nothing that the connection could come back on.
        if inbound_on {
            reasons.extend(unproved(verify, |family| capture.proof(family)));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) }
    }
}

/// What keeps the proof of capture from being complete. Pure.
fn unproved(verify: VerifyRedirect, proof: impl Fn(Family) -> Proof) -> Vec<String> {
    let families = verify.families();
    if !families.is_empty() && families.iter().all(|&family| proof(family) == Proof::Absent) {
        return vec![
            "the pod has no address yet that a peer could dial, so the redirect cannot be proved".into(),
        ];
    }
    families
        .iter()
        .filter_map(|&family| match proof(family) {
            Proof::Proved | Proof::Absent => None,
            Proof::Pending => Some(format!("{}: the redirect is not proved yet", family.title())),
            Proof::Missing(why) => Some(format!("{}: {why}", family.title())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::capture::CaptureMetrics;

    #[test]
    fn every_family_that_the_pod_has_must_be_proved() {
        use Proof::{Absent, Pending, Proved};
        let missing = || Proof::Missing("no rules".into());
        for (verify, v4, v6, expected) in [
            (VerifyRedirect::On, Proved, Proved, vec![]),
            (VerifyRedirect::On, Proved, Absent, vec![]),
            (VerifyRedirect::On, Absent, Proved, vec![]),
            (VerifyRedirect::On, Proved, Pending, vec!["IPv6: the redirect is not proved yet"]),
            (VerifyRedirect::On, Proved, missing(), vec!["IPv6: no rules"]),
            (VerifyRedirect::On, missing(), missing(), vec!["IPv4: no rules", "IPv6: no rules"]),
            (
                VerifyRedirect::On,
                Absent,
                Absent,
                vec!["the pod has no address yet that a peer could dial, so the redirect cannot be proved"],
            ),
            (VerifyRedirect::V4, Proved, missing(), vec![]),
            (VerifyRedirect::V6, missing(), Proved, vec![]),
            (VerifyRedirect::Off, missing(), Pending, vec![]),
        ] {
            let got = unproved(verify, |family| match family {
                Family::V4 => v4.clone(),
                Family::V6 => v6.clone(),
            });
            assert_eq!(got, expected, "{verify:?} {v4:?} {v6:?}");
        }
    }

    #[test]
    fn starting_and_draining_are_reasons() {
        let readiness = Readiness::default();
        let capture = Capture::new(CaptureMetrics::default());
        let check = || readiness.check(true, VerifyRedirect::Off, &capture, None);
        assert!(check().unwrap_err().starts_with("starting"));
        readiness.serving();
        assert_eq!(check(), Ok(()));
        readiness.draining();
        assert!(check().unwrap_err().starts_with("draining"));
    }

    #[test]
    fn without_an_inbound_listener_there_is_nothing_to_prove() {
        let readiness = Readiness::default();
        readiness.serving();
        assert_eq!(
            readiness.check(false, VerifyRedirect::On, &Capture::new(CaptureMetrics::default()), None),
            Ok(())
        );
        assert!(
            readiness
                .check(true, VerifyRedirect::On, &Capture::new(CaptureMetrics::default()), None)
                .is_err()
        );
    }
}
