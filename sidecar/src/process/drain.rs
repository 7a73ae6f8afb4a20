// SPDX-License-Identifier: Apache-2.0
//! The drain, as a state machine without a clock of its own:
//!
//! serving → (SIGTERM: not ready) delay → inbound closes → outbound serves until the application has ended or time is up →
//! the rest is reset → exit.
//!
//! An application that got its SIGTERM together with the sidecar may have something to send after the delay, though no
//! connection is open at that moment: [`holders`](super::holders) says when it has ended.

use crate::admin::DrainRequest;
use std::time::{Duration, Instant};

/// A step of the drain for the caller to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainAction {
    /// `/ready` answers 503 from here on.
    NotReady,
    /// The inbound listeners close.
    CloseInbound,
    /// Everything that is still open is reset, and the process ends.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Both listeners serve on, while the pod is taken out of its services.
    Delaying {
        until: Instant,
        then_exit: bool,
    },
    /// Only the outbound half serves, without end.
    InboundClosed,
    /// Only the outbound half serves: until the application has ended, and not for long.
    Draining {
        until: Instant,
    },
    Finished,
}

/// State of the drain.
#[derive(Debug)]
pub(crate) struct Drain {
    phase: Phase,
    delay: Duration,
    time: Duration,
}

impl Drain {
    pub(crate) fn new(delay: Duration, time: Duration) -> Self {
        Self { phase: Phase::Serving, delay, time }
    }

    /// Takes a request, and returns the steps that follow at once.
    pub(crate) fn request(&mut self, request: DrainRequest, now: Instant) -> Vec<DrainAction> {
        let mut actions = Vec::new();
        match (request, self.phase) {
            (_, Phase::Finished) => {}
            (DrainRequest::Now, _)
            | (DrainRequest::All, Phase::Delaying { then_exit: true, .. } | Phase::Draining { .. }) => {
                self.phase = Phase::Finished;
                actions.extend([DrainAction::NotReady, DrainAction::Finish]);
            }
            (DrainRequest::All | DrainRequest::Inbound, Phase::Serving) => {
                let then_exit = request == DrainRequest::All;
                self.phase = Phase::Delaying { until: now + self.delay, then_exit };
                actions.push(DrainAction::NotReady);
            }
            // The delay gives peers time to learn of the drain. It began with the first request and is not lengthened.
            (DrainRequest::All, Phase::Delaying { until, then_exit: false }) => {
                self.phase = Phase::Delaying { until, then_exit: true };
            }
            (DrainRequest::All, Phase::InboundClosed) => {
                self.phase = Phase::Draining { until: now + self.time };
            }
            (DrainRequest::Inbound, _) => {}
        }
        actions.extend(self.tick(now));
        actions
    }

    /// Returns the steps that time brings.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<DrainAction> {
        let mut actions = Vec::new();
        if let Phase::Delaying { until, then_exit } = self.phase
            && now >= until
        {
            actions.push(DrainAction::CloseInbound);
            self.phase =
                if then_exit { Phase::Draining { until: now + self.time } } else { Phase::InboundClosed };
        }
        if let Phase::Draining { until } = self.phase
            && now >= until
        {
            actions.push(DrainAction::Finish);
            self.phase = Phase::Finished;
        }
        actions
    }

    /// Returns the steps that follow when no connection is open and the application has ended.
    pub(crate) fn unused(&mut self) -> Vec<DrainAction> {
        if !self.waits_for_unused() {
            return Vec::new();
        }
        self.phase = Phase::Finished;
        vec![DrainAction::Finish]
    }

    /// Time of the next tick, if time alone changes anything.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Delaying { until, .. } | Phase::Draining { until } => Some(until),
            Phase::Serving | Phase::InboundClosed | Phase::Finished => None,
        }
    }

    /// Returns true when [`Self::unused`] would be the next step.
    pub(crate) fn waits_for_unused(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// The phase in words, for the log.
    pub(crate) fn name(&self) -> &'static str {
        match self.phase {
            Phase::Serving => "serving",
            Phase::Delaying { .. } => "not ready, still serving",
            Phase::InboundClosed => "inbound closed, outbound serving",
            Phase::Draining { .. } => "inbound closed, outbound serving until the application has ended",
            Phase::Finished => "finished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DrainAction::{CloseInbound, Finish, NotReady};

    const DELAY: Duration = Duration::from_secs(5);
    const TIME: Duration = Duration::from_secs(30);
    const NONE: [DrainAction; 0] = [];

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn sigterm_to_an_application_that_ends_in_time() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::All, start), [NotReady]);
        assert_eq!(drain.deadline(), Some(start + DELAY));
        assert_eq!(drain.tick(start + seconds(4)), NONE);
        assert!(!drain.waits_for_unused());
        assert_eq!(drain.tick(start + DELAY), [CloseInbound]);
        assert!(drain.waits_for_unused());
        assert_eq!(drain.tick(start + seconds(10)), NONE);
        assert_eq!(drain.unused(), [Finish]);
        assert_eq!(drain.tick(start + seconds(12)), NONE);
        assert_eq!(drain.unused(), NONE);
    }

    #[test]
    fn both_listeners_serve_through_the_delay_even_when_nothing_uses_them() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::All, start), [NotReady]);
        assert_eq!(drain.unused(), NONE);
        assert_eq!(drain.tick(start + DELAY), [CloseInbound]);
        assert_eq!(drain.unused(), [Finish]);
    }

    #[test]
    fn what_remains_is_reset_when_time_is_up() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.request(DrainRequest::All, start);
        assert_eq!(drain.tick(start + DELAY), [CloseInbound]);
        assert_eq!(drain.deadline(), Some(start + DELAY + TIME));
        assert_eq!(drain.tick(start + DELAY + TIME), [Finish]);
    }

    #[test]
    fn a_second_sigterm_means_now() {
        let start = Instant::now();
        for delay in [DELAY, Duration::ZERO] {
            let mut drain = Drain::new(delay, TIME);
            drain.request(DrainRequest::All, start);
            assert_eq!(drain.request(DrainRequest::All, start), [NotReady, Finish], "delay {delay:?}");
        }
    }

    #[test]
    fn without_delay_and_time_it_ends_at_once() {
        let mut drain = Drain::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(drain.request(DrainRequest::All, Instant::now()), [NotReady, CloseInbound, Finish]);
    }

    #[test]
    fn the_inbound_half_alone_drains_and_the_process_goes_on() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::Inbound, start), [NotReady]);
        assert_eq!(drain.request(DrainRequest::Inbound, start), NONE);
        assert_eq!(drain.tick(start + DELAY), [CloseInbound]);
        assert_eq!(drain.deadline(), None);
        assert_eq!(drain.unused(), NONE);
        assert_eq!(drain.tick(start + seconds(1000)), NONE);
        // SIGTERM at last: the peers have long known, so no second delay.
        assert_eq!(drain.request(DrainRequest::All, start + seconds(1000)), NONE);
        assert_eq!(drain.deadline(), Some(start + seconds(1000) + TIME));
        assert_eq!(drain.unused(), [Finish]);
    }

    #[test]
    fn sigterm_in_the_delay_of_the_inbound_half_does_not_lengthen_it() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.request(DrainRequest::Inbound, start);
        assert_eq!(drain.request(DrainRequest::All, start + seconds(3)), NONE);
        assert_eq!(drain.tick(start + DELAY), [CloseInbound]);
        assert!(drain.waits_for_unused());
    }

    #[test]
    fn now_means_now_in_every_phase() {
        let start = Instant::now();
        for before in [None, Some(DrainRequest::Inbound), Some(DrainRequest::All)] {
            for later in [Duration::ZERO, DELAY] {
                let mut drain = Drain::new(DELAY, TIME);
                if let Some(request) = before {
                    drain.request(request, start);
                }
                drain.tick(start + later);
                assert_eq!(drain.request(DrainRequest::Now, start + later), [NotReady, Finish], "{before:?}");
                assert_eq!(drain.request(DrainRequest::Now, start + later), NONE, "{before:?}");
            }
        }
    }
}
