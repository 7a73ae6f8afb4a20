// SPDX-License-Identifier: Apache-2.0
//! State of the proof of capture: what is known of each family, and the attempts in flight.

use crate::metrics::{By, Gauge, metrics};
use crate::net::addrs::{ClientAddr, Family, OrigDst};
use crate::net::original_dst::Redirected;
use crate::options::config::VerifyRedirect;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// State of the proof for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// No attempt has ended yet.
    Pending,
    /// The pod has no address of this family that a peer could dial, so there is nothing to prove.
    Absent,
    /// The rules are in place.
    Proved,
    /// An attempt failed, with its reason: the rules are missing.
    Missing(String),
}

/// An attempt in flight.
#[derive(Debug)]
pub(crate) struct ProbeAttempt {
    pub(crate) source: ClientAddr,
    pub(crate) target: OrigDst,
    pub(crate) arrived: oneshot::Sender<()>,
}

metrics! {
    /// Proofs of the redirect.
    #[derive(Clone, Default)]
    pub(crate) struct CaptureMetrics {
        proved: By<Family, Gauge> = "capture_proved", "Whether the redirect was proved";
    }
}

/// The proofs, and the attempts in flight.
#[derive(Debug)]
pub(crate) struct Capture {
    /// By family. Those that `--verify-redirect` does not ask for stay pending.
    proofs: Mutex<[Proof; 2]>,
    /// At most one per family.
    attempts: Mutex<Vec<ProbeAttempt>>,
    /// True while an attempt is in flight, so that other accepted connections need not take the lock.
    probing: AtomicBool,
    metrics: CaptureMetrics,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Capture ===

impl Capture {
    /// Nothing is proved yet.
    pub(crate) fn new(metrics: CaptureMetrics) -> Self {
        Self {
            proofs: Mutex::new([Proof::Pending, Proof::Pending]),
            attempts: Mutex::new(Vec::new()),
            probing: AtomicBool::new(false),
            metrics,
        }
    }

    /// Returns true when an inbound connection is an attempt of ours: redirected, from the address that we dialled from
    /// and to the one that we dialled.
    pub(crate) fn recognise(&self, client: ClientAddr, redirected: Redirected) -> bool {
        if !self.probing.load(Ordering::Acquire) {
            return false;
        }
        let Redirected::From(target) = redirected else { return false };
        let mut attempts = lock(&self.attempts);
        let Some(at) =
            attempts.iter().position(|attempt| attempt.source == client && attempt.target == target)
        else {
            return false;
        };
        // The prober may have given up this moment; the connection is ours all the same.
        let _ = attempts.swap_remove(at).arrived.send(());
        true
    }

    pub(crate) fn proof(&self, family: Family) -> Proof {
        lock(&self.proofs)[family as usize].clone()
    }

    /// Reasons against readiness, one for each family that is asked for and not proved.
    pub(crate) fn unproved(&self, verify: VerifyRedirect) -> Vec<String> {
        unproved(verify, |family| self.proof(family))
    }

    pub(crate) fn set(&self, family: Family, proof: Proof) {
        self.metrics.proved[family].set(i64::from(proof == Proof::Proved));
        lock(&self.proofs)[family as usize] = proof;
    }

    /// Returns true when no attempt is in flight.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.attempts).is_empty()
    }

    pub(crate) fn register(&self, attempt: ProbeAttempt) -> Registered<'_> {
        let source = attempt.source;
        lock(&self.attempts).push(attempt);
        self.probing.store(true, Ordering::Release);
        Registered { capture: self, source }
    }
}

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

/// An attempt in flight. Dropping it ends the attempt: no connection is recognised as it any more.
pub(crate) struct Registered<'a> {
    capture: &'a Capture,
    source: ClientAddr,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut attempts = lock(&self.capture.attempts);
        attempts.retain(|attempt| attempt.source != self.source);
        self.capture.probing.store(!attempts.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn from(text: &str) -> Redirected {
        Redirected::From(OrigDst::new(addr(text)))
    }

    #[test]
    fn only_the_connection_that_was_dialled_is_recognised_and_only_once() {
        let capture = Capture::new(CaptureMetrics::default());
        let source = ClientAddr::new(addr("10.0.0.2:4000"));
        let (arrived, mut arrival) = oneshot::channel();
        let registered =
            capture.register(ProbeAttempt { source, target: OrigDst::new(addr("10.0.0.2:1")), arrived });
        for (name, client, redirected) in [
            ("not redirected", source, Redirected::Not),
            ("another destination", source, from("10.0.0.2:80")),
            ("another source port", ClientAddr::new(addr("10.0.0.2:4001")), from("10.0.0.2:1")),
            ("a peer", ClientAddr::new(addr("10.0.0.9:4000")), from("10.0.0.2:1")),
        ] {
            assert!(!capture.recognise(client, redirected), "{name}");
        }
        assert!(arrival.try_recv().is_err());
        assert!(capture.recognise(source, from("10.0.0.2:1")));
        assert!(arrival.try_recv().is_ok());
        assert!(!capture.recognise(source, from("10.0.0.2:1")));
        drop(registered);
        assert!(!capture.probing.load(Ordering::Acquire));
    }

    #[test]
    fn a_try_that_was_given_up_is_forgotten() {
        let capture = Capture::new(CaptureMetrics::default());
        let source = ClientAddr::new(addr("10.0.0.2:4000"));
        let (arrived, _arrival) = oneshot::channel();
        drop(capture.register(ProbeAttempt { source, target: OrigDst::new(addr("10.0.0.2:1")), arrived }));
        assert!(!capture.recognise(source, from("10.0.0.2:1")));
        assert!(lock(&capture.attempts).is_empty());
    }

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
}
