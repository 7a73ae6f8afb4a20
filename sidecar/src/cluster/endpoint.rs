// SPDX-License-Identifier: Apache-2.0
//! Endpoints of a cluster, their failures, and the order in which a connection tries them.

use crate::cluster::outsider::{Opened, Outsider, OutsiderMetrics};
use crate::plan::{Discovery, FailedAnswers, Member};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// An endpoint of the plan in force.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The server behind the address.
    pub(crate) behind: Behind,
    /// Shared with the same address of the same cluster in earlier plans, so that a reload forgets no failure.
    pub(crate) ejection: Arc<Ejection>,
}

/// The server behind an endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Behind {
    /// A mesh member. TLS to it expects the identity of its service.
    Member(Arc<Member>),
    /// A server outside of the mesh.
    Outsider(Arc<Outsider>),
}

impl Behind {
    /// Returns the servers of a cluster by their addresses. `counters` are the cluster's.
    pub(super) fn all(
        upstream: &Discovery,
        counters: &OnceLock<Arc<OutsiderMetrics>>,
        opened: &Opened,
    ) -> Vec<(SocketAddr, Self)> {
        match upstream {
            Discovery::Endpoints(endpoints) => {
                endpoints.iter().map(|one| (one.address, Self::Member(Arc::clone(&one.member)))).collect()
            }
            Discovery::External(endpoints) => {
                let outsider = |one| Self::Outsider(Outsider::new(one, counters, opened).into());
                endpoints.iter().map(|one| (one.address, outsider(one))).collect()
            }
            Discovery::OriginalDst { .. } | Discovery::Application { .. } => Vec::new(),
        }
    }
}

/// The longest pause between two trials, in milliseconds. Envoy's is five minutes; a minute costs one connection's delay, and
/// an endpoint that recovered is used four minutes sooner.
const LONGEST_PAUSE: u64 = 60_000;

/// The time until which an endpoint comes after all others of its cluster, and the failures that led there.
///
/// An endpoint that fails is ejected for a pause. When that is over, one connection tries the endpoint; the others leave it
/// last until the trial has succeeded. Each trial that fails doubles the pause. Written by each connection that dials the
/// endpoint, on any worker; read by each that chooses one.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    /// A [`State`] in one word, so that it changes as a whole; 0 = in service.
    word: AtomicU64,
    /// Failed connects in a row while it is in service; 0 once one succeeds.
    streak: AtomicU32,
    /// Failed answers in a row: of 500 to 599, and of a gateway. Counted where the plan says so.
    answers: [AtomicU32; 2],
    /// True while it is ejected because of them.
    by_answers: AtomicBool,
    /// True while it fails its active checks. Written by the task of the checks alone.
    unhealthy: AtomicBool,
    /// Connections that are open or being made, where the cluster's algorithm asks for them; see [`InUse`].
    uses: AtomicU32,
}

/// A connection to an endpoint, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Ejection>);

impl InUse {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        endpoint.ejection.uses.fetch_add(1, Relaxed);
        Self(Arc::clone(&endpoint.ejection))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Relaxed);
    }
}

#[derive(Clone, Copy)]
struct State {
    /// Milliseconds of the cluster's clock.
    until: u64,
    /// Failures in a row that ejected it; 0 = it was slow, and did not fail yet.
    failures: u64,
}

/// The standing of an endpoint when a connection chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    InService,
    /// Its pause is over, and this connection tries it for all.
    Trial,
    /// It is ejected, and nothing else is left.
    LastResort,
}

impl State {
    const IN_SERVICE: Self = Self { until: 0, failures: 0 };
    /// More would overflow the shift in [`State::pause`]; the longest pause is reached long before.
    const MOST_FAILURES: u64 = 32;

    fn from_word(word: u64) -> Self {
        Self { until: word >> 8, failures: word & 0xff }
    }

    fn word(self) -> u64 {
        self.until << 8 | self.failures
    }

    fn is_out(self, now: u64) -> bool {
        self.until > now || self.failures != 0
    }

    /// The pause after so many failures, the first of which costs `first` milliseconds.
    fn pause(self, first: u64) -> u64 {
        first.saturating_mul(1 << self.failures.saturating_sub(1)).min(LONGEST_PAUSE.max(first))
    }
}

impl Ejection {
    /// Notes a failure, and returns true if it ejected the endpoint. Connections that failed together count as one, and one
    /// that tried an ejected endpoint as a last resort proves nothing new.
    pub(crate) fn failed(&self, now: u64, first_pause: u64, standing: Standing) -> bool {
        let failed = |word| {
            let before = State::from_word(word);
            if before.failures != 0 && standing != Standing::Trial {
                return None;
            }
            let mut after = State { failures: (before.failures + 1).min(State::MOST_FAILURES), ..before };
            after.until = now.saturating_add(after.pause(first_pause));
            Some(after.word())
        };
        let before = self.word.fetch_update(Relaxed, Relaxed, failed);
        before.is_ok_and(|word| State::from_word(word).failures == 0)
    }

    /// Counts a failed connect of an endpoint that is in service. Returns true if `most` in a row have failed.
    pub(crate) fn strikes_out(&self, most: u32) -> bool {
        let counted = |streak: u32| Some(streak.saturating_add(1));
        let before = self.streak.fetch_update(Relaxed, Relaxed, counted).unwrap_or_default();
        before.saturating_add(1) >= most
    }

    /// Counts an answer of an endpoint that is in service. Returns true if so many in a row have failed; the counts begin anew
    /// then.
    pub(crate) fn answered(&self, status: u16, most: FailedAnswers) -> bool {
        let [all, gateway] = &self.answers;
        let counted = [
            (all, most.all, matches!(status, 500..=599)),
            (gateway, most.gateway, matches!(status, 502..=504)),
        ];
        let mut struck = false;
        for (count, most, failed) in counted {
            let Some(most) = most else { continue };
            if failed {
                struck |= count.fetch_add(1, Relaxed).saturating_add(1) >= most;
            } else if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        }
        if struck {
            all.store(0, Relaxed);
            gateway.store(0, Relaxed);
        }
        struck
    }

    /// Lets it come after the others for `time`, as an answer is overdue. Once it has failed, that counts.
    pub(crate) fn suspect(&self, now: u64, time: u64) {
        let slow = State { until: now.saturating_add(time), failures: 0 };
        let suspected = |word| (!State::from_word(word).is_out(now)).then_some(slow.word());
        let _ = self.word.fetch_update(Relaxed, Relaxed, suspected);
    }

    /// Puts it in service, and returns true if it was ejected. Reads first: a store would take the cache line from all other
    /// workers at each connect.
    pub(crate) fn end(&self) -> bool {
        if self.streak.load(Relaxed) != 0 {
            self.streak.store(0, Relaxed);
        }
        if self.by_answers.load(Relaxed) {
            self.by_answers.store(false, Relaxed);
        }
        let word = self.word.load(Relaxed);
        if word != State::IN_SERVICE.word() {
            self.word.store(State::IN_SERVICE.word(), Relaxed);
        }
        State::from_word(word).failures != 0
    }

    /// Notes that failed answers have ejected it.
    pub(crate) fn was_by_answers(&self) {
        self.by_answers.store(true, Relaxed);
    }

    /// Returns true while it is ejected by failed answers.
    pub(crate) fn is_ejected_by_answers(&self) -> bool {
        self.by_answers.load(Relaxed)
    }

    /// Returns true while it is ejected; one that is only slow is not.
    pub(crate) fn is_ejected(&self) -> bool {
        State::from_word(self.word.load(Relaxed)).failures != 0
    }

    /// Returns the number of connections that are open or being made.
    pub(crate) fn uses(&self) -> u32 {
        self.uses.load(Relaxed)
    }

    /// Returns the time of the next trial, `None` while it is not ejected.
    pub(crate) fn trial_at(&self) -> Option<u64> {
        let state = State::from_word(self.word.load(Relaxed));
        (state.failures != 0).then_some(state.until)
    }

    /// Returns true while it comes after all others, but for trials.
    pub(crate) fn is_out(&self, now: u64) -> bool {
        State::from_word(self.word.load(Relaxed)).is_out(now)
    }

    /// Returns true while it fails its active checks.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed)
    }

    /// Notes whether it fails its active checks, and returns true if that is new.
    pub(crate) fn set_unhealthy(&self, unhealthy: bool) -> bool {
        self.unhealthy.swap(unhealthy, Relaxed) != unhealthy
    }

    /// Takes the trial that is due, if no other connection did. The next one is due after another pause, even if this one has
    /// no outcome.
    pub(crate) fn take_trial(&self, now: u64, first_pause: u64) -> bool {
        let word = self.word.load(Relaxed);
        let state = State::from_word(word);
        if state.failures == 0 || state.until > now {
            return false;
        }
        let taken = State { until: now.saturating_add(state.pause(first_pause)), ..state };
        self.word.compare_exchange(word, taken.word(), Relaxed, Relaxed).is_ok()
    }
}

/// The endpoints in the order in which one connection tries them: round robin, and ejected ones after all others.
#[derive(Debug)]
pub(crate) struct Turns<'a> {
    endpoints: &'a [Arc<Endpoint>],
    /// The place of the first; less than the number of endpoints.
    start: usize,
    /// Steps taken; beyond the number of endpoints they go through `ejected`.
    step: usize,
    /// Passed over in the first round. Allocates only where there is one.
    ejected: Vec<&'a Arc<Endpoint>>,
    /// Endpoints that were returned.
    tried: usize,
    most: usize,
    now: u64,
    first_pause: u64,
    /// True: ejections do not count.
    all: bool,
    /// True: endpoints that fail their active checks are left out.
    checked: bool,
    /// True: endpoints are tried by trials alone.
    trials: bool,
}

/// An endpoint for the next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) standing: Standing,
}

impl<'a> Turns<'a> {
    /// Begins with the endpoint that `turn` chooses, and tries `most` at most. `now` is the cluster's clock.
    pub(crate) fn new(
        endpoints: &'a [Arc<Endpoint>],
        turn: usize,
        most: usize,
        now: u64,
        first_pause: u64,
    ) -> Self {
        let start = turn % endpoints.len().max(1);
        Self {
            endpoints,
            start,
            step: 0,
            ejected: Vec::new(),
            tried: 0,
            most,
            now,
            first_pause,
            all: false,
            checked: false,
            trials: false,
        }
    }

    /// Tries all endpoints in turn, whether they are ejected or not.
    pub(crate) fn without_ejections(self) -> Self {
        Self { all: true, ..self }
    }

    /// Leaves out endpoints that fail their active checks. The most to be tried is then at most the number of the others.
    pub(crate) fn without_unhealthy(self) -> Self {
        Self { checked: true, ..self }
    }

    /// Tries endpoints by trials alone.
    pub(crate) fn only_trials(self) -> Self {
        Self { trials: true, ..self }
    }

    /// Returns true if there is an endpoint to try after this one.
    pub(crate) fn has_more(&self) -> bool {
        self.tried < self.endpoints.len().min(self.most)
    }

    fn turn(&mut self, endpoint: &'a Arc<Endpoint>, standing: Standing) -> Turn<'a> {
        self.tried += 1;
        Turn { endpoint, standing }
    }
}

impl<'a> Iterator for Turns<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let endpoints = self.endpoints;
        if !self.has_more() {
            return None;
        }
        while self.step < endpoints.len() {
            let endpoint = &endpoints[(self.start + self.step) % endpoints.len()];
            self.step += 1;
            if self.checked && endpoint.ejection.is_unhealthy() {
                continue;
            }
            if self.all || !endpoint.ejection.is_out(self.now) {
                if self.trials {
                    continue;
                }
                return Some(self.turn(endpoint, Standing::InService));
            }
            // A connection whose first endpoint failed must not wait for a doubtful one while others are in service.
            if self.tried == 0 && endpoint.ejection.take_trial(self.now, self.first_pause) {
                return Some(self.turn(endpoint, Standing::Trial));
            }
            if !self.trials && self.ejected.len() < self.most {
                self.ejected.push(endpoint);
            }
        }
        // One that this connection failed to reach is not among these: it was not ejected when it was chosen.
        let endpoint = *self.ejected.get(self.step - endpoints.len())?;
        self.step += 1;
        Some(self.turn(endpoint, Standing::LastResort))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{InService, LastResort, Trial};

    const FIRST: u64 = 5_000;

    #[test]
    fn failed_answers_in_a_row_strike_out_and_any_other_ends_the_row() {
        let both = |all, gateway| FailedAnswers { all, gateway };
        for (most, answers, struck) in [
            (both(None, None), &[500, 503, 503, 503][..], None),
            (both(Some(3), None), &[500, 503, 500], Some(3)),
            (both(Some(3), None), &[500, 503, 200, 500, 500, 404, 599, 500, 500], Some(9)),
            (both(None, Some(2)), &[502, 500, 503, 504], Some(4)),
            (both(None, Some(2)), &[502, 505, 501, 503], None),
            (both(Some(4), Some(2)), &[500, 500, 500, 500], Some(4)),
            (both(Some(4), Some(2)), &[500, 503, 504, 500], Some(3)),
        ] {
            let ejection = Ejection::default();
            let found = answers.iter().position(|status| ejection.answered(*status, most));
            assert_eq!(found.map(|place| place + 1), struck, "{most:?} {answers:?}");
            let again = answers.iter().position(|status| ejection.answered(*status, most));
            assert!(struck.is_none() || again.is_some(), "the counts begin anew: {most:?} {answers:?}");
        }
    }

    #[test]
    fn pauses_double_by_trials_alone_and_end_with_a_success() {
        let ejection = Ejection::default();
        assert!(!ejection.is_out(1));
        assert!(ejection.failed(1, FIRST, InService), "the first");
        for _ in 0..20 {
            assert!(!ejection.failed(2, FIRST, InService), "those that failed together with it");
            assert!(!ejection.failed(3, FIRST, LastResort));
        }
        let mut now = 1;
        for pause in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert!(!ejection.take_trial(now + pause - 1, FIRST), "too early, after {pause}");
            now += pause;
            assert!(ejection.is_out(now), "for all but the trial");
            assert!(ejection.take_trial(now, FIRST), "after {pause}");
            assert!(!ejection.take_trial(now, FIRST), "one at a time");
            assert!(!ejection.failed(now, FIRST, Trial), "it is ejected already");
        }
        ejection.end();
        assert!(!ejection.is_out(now) && !ejection.take_trial(now, FIRST));
        assert!(ejection.failed(now, FIRST, InService));
        assert!(ejection.take_trial(now + 5_000, FIRST), "from the beginning");
    }

    #[test]
    fn a_trial_without_an_outcome_is_followed_by_another() {
        let ejection = Ejection::default();
        ejection.failed(1, FIRST, InService);
        assert!(ejection.take_trial(10_000, FIRST));
        assert!(!ejection.take_trial(14_999, FIRST));
        assert!(ejection.take_trial(15_000, FIRST));
    }

    #[test]
    fn a_slow_endpoint_comes_last_for_its_time_and_is_not_ejected_by_that() {
        let ejection = Ejection::default();
        ejection.suspect(1_000, 2_000);
        assert!(ejection.is_out(2_999) && !ejection.is_out(3_000));
        assert!(!ejection.take_trial(3_000, FIRST), "nothing to prove");
        ejection.suspect(1_000, 2_000);
        assert!(ejection.failed(2_000, FIRST, InService), "slow, then failed");
        ejection.suspect(2_000, 60_000);
        assert!(ejection.take_trial(7_000, FIRST), "a suspicion changes no pause");
    }

    #[test]
    fn failures_in_a_row_strike_out_and_a_success_begins_anew() {
        let ejection = Ejection::default();
        assert_eq!([3, 3, 3, 3].map(|most| ejection.strikes_out(most)), [false, false, true, true]);
        assert!(!ejection.end() && !ejection.strikes_out(2), "a success in between");
        assert!(ejection.strikes_out(2));
        ejection.failed(1, FIRST, InService);
        assert!(ejection.is_ejected() && ejection.end() && !ejection.is_ejected());
        ejection.suspect(1, 1_000);
        assert!(!ejection.is_ejected() && ejection.is_out(1) && !ejection.end(), "slow only");
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let year = Ejection::default();
        for _ in 0..100 {
            year.failed(1, 31_536_000_000, Trial);
        }
        assert!(!year.take_trial(31_536_000_000, FIRST) && year.take_trial(31_536_000_001, FIRST));
        let ejection = Ejection::default();
        for now in 0..1_000 {
            ejection.failed(now * 100_000, FIRST, Trial);
        }
        assert!(ejection.take_trial(999 * 100_000 + 60_000, FIRST));
    }
}
