// SPDX-License-Identifier: Apache-2.0
//! The drain, as a state machine without a clock of its own:
//!
//! serving → (SIGTERM: not ready) delay → inbound closes → outbound serves until no connection is open or time is up →
//! the rest is reset → exit.

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
    /// Only the outbound half serves, and not for long.
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
    pub(crate) fn request(&mut self, request: DrainRequest, now: Instant, open: usize) -> Vec<DrainAction> {
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
        actions.extend(self.tick(now, open));
        actions
    }

    /// Returns the steps that time, or the end of a connection, brings.
    pub(crate) fn tick(&mut self, now: Instant, open: usize) -> Vec<DrainAction> {
        let mut actions = Vec::new();
        if let Phase::Delaying { until, then_exit } = self.phase
            && now >= until
        {
            actions.push(DrainAction::CloseInbound);
            self.phase =
                if then_exit { Phase::Draining { until: now + self.time } } else { Phase::InboundClosed };
        }
        if let Phase::Draining { until } = self.phase
            && (open == 0 || now >= until)
        {
            actions.push(DrainAction::Finish);
            self.phase = Phase::Finished;
        }
        actions
    }

    /// Time of the next tick, if time alone changes anything.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Delaying { until, .. } | Phase::Draining { until } => Some(until),
            Phase::Serving | Phase::InboundClosed | Phase::Finished => None,
        }
    }

    /// Returns true when the end of the last connection is the next step.
    pub(crate) fn waits_for_empty(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// The phase in words, for the log.
    pub(crate) fn name(&self) -> &'static str {
        match self.phase {
            Phase::Serving => "serving",
            Phase::Delaying { .. } => "not ready, still serving",
            Phase::InboundClosed => "inbound closed, outbound serving",
            Phase::Draining { .. } => "inbound closed, waiting for connections to end",
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
    fn sigterm_with_connections_that_end_in_time() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::All, start, 3), [NotReady]);
        assert_eq!(drain.deadline(), Some(start + DELAY));
        assert_eq!(drain.tick(start + seconds(4), 3), NONE);
        assert_eq!(drain.tick(start + DELAY, 3), [CloseInbound]);
        assert!(drain.waits_for_empty());
        assert_eq!(drain.tick(start + seconds(10), 1), NONE);
        assert_eq!(drain.tick(start + seconds(11), 0), [Finish]);
        assert_eq!(drain.tick(start + seconds(12), 0), NONE);
    }

    #[test]
    fn both_listeners_serve_through_the_delay_even_without_connections() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::All, start, 0), [NotReady]);
        assert_eq!(drain.tick(start + seconds(1), 0), NONE);
        assert_eq!(drain.tick(start + DELAY, 0), [CloseInbound, Finish]);
    }

    #[test]
    fn what_remains_is_reset_when_time_is_up() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.request(DrainRequest::All, start, 1);
        assert_eq!(drain.tick(start + DELAY, 1), [CloseInbound]);
        assert_eq!(drain.deadline(), Some(start + DELAY + TIME));
        assert_eq!(drain.tick(start + DELAY + TIME, 1), [Finish]);
    }

    #[test]
    fn a_second_sigterm_means_now() {
        let start = Instant::now();
        for delay in [DELAY, Duration::ZERO] {
            let mut drain = Drain::new(delay, TIME);
            drain.request(DrainRequest::All, start, 1);
            assert_eq!(drain.request(DrainRequest::All, start, 1), [NotReady, Finish], "delay {delay:?}");
        }
    }

    #[test]
    fn without_delay_and_connections_it_ends_at_once() {
        let mut drain = Drain::new(Duration::ZERO, TIME);
        assert_eq!(drain.request(DrainRequest::All, Instant::now(), 0), [NotReady, CloseInbound, Finish]);
    }

    #[test]
    fn the_inbound_half_alone_drains_and_the_process_goes_on() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.request(DrainRequest::Inbound, start, 2), [NotReady]);
        assert_eq!(drain.request(DrainRequest::Inbound, start, 2), NONE);
        assert_eq!(drain.tick(start + DELAY, 0), [CloseInbound]);
        assert_eq!(drain.deadline(), None);
        assert_eq!(drain.tick(start + seconds(1000), 0), NONE);
        // SIGTERM at last: the peers have long known, so no second delay.
        assert_eq!(drain.request(DrainRequest::All, start + seconds(1000), 1), NONE);
        assert_eq!(drain.tick(start + seconds(1001), 0), [Finish]);
    }

    #[test]
    fn sigterm_in_the_delay_of_the_inbound_half_does_not_lengthen_it() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.request(DrainRequest::Inbound, start, 1);
        assert_eq!(drain.request(DrainRequest::All, start + seconds(3), 1), NONE);
        assert_eq!(drain.tick(start + DELAY, 1), [CloseInbound]);
        assert!(drain.waits_for_empty());
    }

    #[test]
    fn now_means_now_in_every_phase() {
        let start = Instant::now();
        for before in [None, Some(DrainRequest::Inbound), Some(DrainRequest::All)] {
            let mut drain = Drain::new(DELAY, TIME);
            if let Some(request) = before {
                drain.request(request, start, 1);
            }
            assert_eq!(drain.request(DrainRequest::Now, start, 1), [NotReady, Finish], "{before:?}");
            assert_eq!(drain.request(DrainRequest::Now, start, 1), NONE, "{before:?}");
        }
    }
}
