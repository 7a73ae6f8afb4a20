// SPDX-License-Identifier: Apache-2.0
//! Servers in the pod that ask the sidecar again.
//!
//! ```text
//! application ─▶ sidecar ─▶ a cache at 127.0.0.1 ─▶ its own server, 10.96.0.10 ─▶ rules ─▶ sidecar ─▶ the cache …
//! ```
//! The rules let out the sidecar's user alone. A query that such a cache passes on comes back with another id and from another
//! port, so that it cannot be told from any other; it would go round until all places are taken. The hint is a question that
//! comes while the same one is at the server, and the proof is a probe: a name that nothing else can know. dnsmasq and CoreDNS
//! find loops in the same way, at their start; here the server may start later than the sidecar.

use crate::dns::message::{HEADER, MOST_NAME, question_end};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Equal questions at a server of which nothing is known yet. More are no proof, but a loop has as many within a moment; the
/// answer of the next probe opens the server again.
const MOST_EQUAL: usize = 256;

/// Shortest time between two probes of a server, and time without queries after too many equal ones.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Time for which a server whose probe came back is not asked. Then the pod's owner may have let its user out.
const CLOSED_FOR: Duration = Duration::from_secs(30);

/// Time for which a server whose probe was answered needs no other.
const OPEN_FOR: Duration = Duration::from_secs(60);

/// Begin of a probe's first label; 16 digits follow.
const PREFIX: &str = "culvert-";
const LABEL: usize = PREFIX.len() + 16;

/// A server in the pod, as far as loops go.
#[derive(Debug)]
pub(crate) struct PodServer {
    address: SocketAddr,
    state: Mutex<PodServerState>,
}

#[derive(Debug, Default)]
struct PodServerState {
    /// The questions that it is being asked, in lower case, with their number.
    asked: HashMap<Box<[u8]>, usize>,
    probed: Option<Instant>,
    verdict: LoopVerdict,
}

#[derive(Clone, Copy, Debug, Default)]
enum LoopVerdict {
    #[default]
    Unknown,
    /// A probe was answered and did not come back.
    OpenUntil(Instant),
    ClosedUntil {
        until: Instant,
        /// A probe came back.
        proved: bool,
    },
}

/// Keeps a question noted until it is dropped.
#[derive(Debug)]
pub(crate) struct AskedQuestion {
    of: Arc<PodServer>,
    question: Box<[u8]>,
}

/// Leave to ask a server.
#[derive(Debug)]
pub(crate) struct Leave {
    /// Held until the server has answered.
    pub(crate) asked: AskedQuestion,
    /// True if a probe has to be sent too.
    pub(crate) probe: bool,
}

// === impl PodServer ===

impl PodServer {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { address, state: Mutex::default() })
    }

    /// Returns true if queries to it come back.
    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        self.state().is_closed(now)
    }

    /// Notes a query that goes to it, unless it is closed.
    pub(crate) fn enter(self: &Arc<Self>, query: &[u8], now: Instant) -> Option<Leave> {
        let mut state = self.state();
        if state.is_closed(now) {
            return None;
        }
        // Its case too may have been changed on the way, against forged answers.
        let question = query.get(HEADER..question_end(query)?)?.to_ascii_lowercase().into_boxed_slice();
        let equal = 1 + state.asked.get(&question).copied().unwrap_or_default();
        let is_open = matches!(state.verdict, LoopVerdict::OpenUntil(until) if now < until);
        if equal > MOST_EQUAL && !is_open {
            state.verdict = LoopVerdict::ClosedUntil { until: now + PROBE_EVERY, proved: false };
            return None;
        }
        let is_due = state.probed.is_none_or(|at| now.duration_since(at) >= PROBE_EVERY);
        let probe = equal > 1 && !is_open && is_due;
        if probe {
            state.probed = Some(now);
        }
        state.asked.insert(question.clone(), equal);
        drop(state);
        Some(Leave { asked: AskedQuestion { of: Arc::clone(self), question }, probe })
    }

    /// Notes that a probe was answered.
    pub(crate) fn answered(&self, now: Instant) {
        let mut state = self.state();
        // The answer to a probe that came back is the sidecar's own.
        if !matches!(state.verdict, LoopVerdict::ClosedUntil { proved: true, .. }) || !state.is_closed(now) {
            state.verdict = LoopVerdict::OpenUntil(now + OPEN_FOR);
        }
    }

    fn came_back(&self, now: Instant) {
        self.state().verdict = LoopVerdict::ClosedUntil { until: now + CLOSED_FOR, proved: true };
        tracing::warn!(
            server = %self.address,
            "queries to this DNS server of the pod come back to the sidecar, as its own queries are redirected too; it is not \
             asked for {} s. Let its user out: exclude-outbound-ports-for-uids with *:53:UID",
            CLOSED_FOR.as_secs(),
        );
    }

    fn state(&self) -> MutexGuard<'_, PodServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodServerState {
    fn is_closed(&self, now: Instant) -> bool {
        matches!(self.verdict, LoopVerdict::ClosedUntil { until, .. } if now < until)
    }
}

impl Drop for AskedQuestion {
    fn drop(&mut self) {
        let mut state = self.of.state();
        if let Some(count) = state.asked.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                state.asked.remove(&self.question);
            }
        }
    }
}

/// The probes in flight, by their first label.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoopProbes(Arc<Mutex<HashMap<[u8; LABEL], Arc<PodServer>>>>);

/// Keeps a probe noted until it is dropped.
#[derive(Debug)]
pub(crate) struct LoopProbe {
    of: LoopProbes,
    label: [u8; LABEL],
    /// The query to send; its id is 0.
    pub(crate) query: Vec<u8>,
}

// === impl LoopProbes ===

impl LoopProbes {
    /// Makes a probe of a server: a name below that of a query which it passes on, so that it passes the probe on too. `secret`
    /// is drawn at random.
    pub(crate) fn begin(&self, server: &Arc<PodServer>, query: &[u8], secret: u64) -> Option<LoopProbe> {
        let mut label = [0; LABEL];
        label.copy_from_slice(format!("{PREFIX}{secret:016x}").as_bytes());
        let end = question_end(query)?;
        let mut below = query.get(HEADER..end)?;
        // Of the longest names the first labels give way. What follows the name are 4 bytes.
        while 1 + LABEL + below.len() - 4 > MOST_NAME {
            below = below.get(1 + usize::from(*below.first()?)..)?;
        }
        // A standard query with one question, recursion desired.
        let mut probe = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        probe.push(LABEL as u8);
        probe.extend_from_slice(&label);
        probe.extend_from_slice(below);
        self.lock().insert(label, Arc::clone(server));
        Some(LoopProbe { of: self.clone(), label, query: probe })
    }

    /// Returns true for a query that is a probe of the sidecar's own. Its server is closed then.
    pub(crate) fn arrived(&self, query: &[u8]) -> bool {
        let label = query.get(HEADER + 1..=HEADER + LABEL).map(<[u8]>::to_ascii_lowercase);
        let Some(label) = label.and_then(|label| <[u8; LABEL]>::try_from(label).ok()) else { return false };
        if !label.starts_with(PREFIX.as_bytes()) {
            return false;
        }
        let Some(server) = self.lock().get(&label).cloned() else { return false };
        server.came_back(Instant::now());
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; LABEL], Arc<PodServer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LoopProbe {
    fn drop(&mut self) {
        self.of.lock().remove(&self.label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for a name of these labels.
    fn query(labels: &[&str]) -> Vec<u8> {
        let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0, 0, 1, 0, 1]);
        message
    }

    #[test]
    fn equal_questions_are_a_hint_and_only_without_a_proof_too_many_close_the_server() {
        let server = PodServer::new("127.0.0.1:53".parse().unwrap());
        let now = Instant::now();
        let mut held = vec![server.enter(&query(&["a", "test"]), now).unwrap()];
        assert!(!held[0].probe);
        assert!(!server.enter(&query(&["b", "test"]), now).unwrap().probe, "another question");
        let second = server.enter(&query(&["A", "Test"]), now).unwrap();
        assert!(second.probe, "the same in another case");
        assert!(!server.enter(&query(&["a", "test"]), now).unwrap().probe, "one probe a second");
        held.push(second);
        let later = now + PROBE_EVERY;
        assert!(server.enter(&query(&["a", "test"]), later).unwrap().probe);
        for _ in 2..MOST_EQUAL {
            held.push(server.enter(&query(&["a", "test"]), now).unwrap());
        }
        assert!(server.enter(&query(&["a", "test"]), now).is_none());
        assert!(server.enter(&query(&["b", "test"]), now).is_none(), "closed for all");
        assert!(!server.is_closed(later));
        server.answered(now);
        assert!(!server.is_closed(now));
        let more = server.enter(&query(&["a", "test"]), now).unwrap();
        assert!(!more.probe, "as many as come");
        held.push(more);
        held.clear();
        assert!(server.state().asked.is_empty());
    }

    #[test]
    fn a_probe_that_comes_back_closes_its_server() {
        let (server, probes) = (PodServer::new("127.0.0.1:53".parse().unwrap()), LoopProbes::default());
        let asked = query(&["a", "test"]);
        let probe = probes.begin(&server, &asked, 0xfeed).unwrap();
        assert_eq!(probe.query[2..], query(&["culvert-000000000000feed", "a", "test"])[2..]);
        assert!(!probes.arrived(&asked) && !probes.arrived(&asked[..HEADER]));
        assert!(!probes.arrived(&query(&["culvert-000000000000beef", "a", "test"])));
        assert!(!server.is_closed(Instant::now()));
        assert!(probes.arrived(&probe.query.to_ascii_uppercase()));
        let now = Instant::now();
        assert!(server.is_closed(now) && !server.is_closed(now + CLOSED_FOR));
        server.answered(now);
        assert!(server.is_closed(now), "the answer was the sidecar's own");
        assert!(server.enter(&asked, now).is_none());
        let arrived = probe.query.clone();
        drop(probe);
        assert!(!probes.arrived(&arrived), "it is over");
    }

    #[test]
    fn a_probe_below_the_longest_name_is_a_name() {
        let (server, probes) = (PodServer::new("127.0.0.1:53".parse().unwrap()), LoopProbes::default());
        let label = "a".repeat(63);
        for last in 1..=61 {
            let asked = query(&[&label, &label, &label, &"b".repeat(last)]);
            let probe = probes.begin(&server, &asked, 1).unwrap();
            assert_eq!(question_end(&probe.query), Some(probe.query.len()), "{last}");
            assert!(probe.query.ends_with(&asked[asked.len() - last - 6..]), "{last}");
        }
        assert!(probes.begin(&server, &query(&[]), 1).is_some(), "the root");
        assert!(probes.begin(&server, &[0; 5], 1).is_none());
    }
}
