// SPDX-License-Identifier: Apache-2.0
//! The way out, as a state machine without a clock of its own:
//!
//! serving → (told to stop: not ready) delay → inbound closes → outbound serves until nobody is left or time is up →
//! the rest is reset → exit.

use crate::admin::Ask;
use std::time::{Duration, Instant};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `/ready` says no from here on.
    NotReady,
    /// The inbound listener closes.
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

/// The state.
#[derive(Debug)]
pub struct Drain {
    phase: Phase,
    delay: Duration,
    time: Duration,
}

impl Drain {
    /// Serving.
    pub fn new(delay: Duration, time: Duration) -> Self {
        Self { phase: Phase::Serving, delay, time }
    }

    /// Somebody asked for something.
    pub fn ask(&mut self, ask: Ask, now: Instant, open: usize) -> Vec<Act> {
        let mut acts = Vec::new();
        match (ask, self.phase) {
            (_, Phase::Finished) => {}
            (Ask::Now, _) | (Ask::All, Phase::Delaying { then_exit: true, .. } | Phase::Draining { .. }) => {
                self.phase = Phase::Finished;
                acts.extend([Act::NotReady, Act::Finish]);
            }
            (Ask::All | Ask::Inbound, Phase::Serving) => {
                let then_exit = ask == Ask::All;
                self.phase = Phase::Delaying { until: now + self.delay, then_exit };
                acts.push(Act::NotReady);
            }
            // The delay is for the peers, and they know already: it is not lengthened.
            (Ask::All, Phase::Delaying { until, then_exit: false }) => {
                self.phase = Phase::Delaying { until, then_exit: true };
            }
            (Ask::All, Phase::InboundClosed) => {
                self.phase = Phase::Draining { until: now + self.time };
            }
            (Ask::Inbound, _) => {}
        }
        acts.extend(self.tick(now, open));
        acts
    }

    /// Time passed, or the number of open connections changed.
    pub fn tick(&mut self, now: Instant, open: usize) -> Vec<Act> {
        let mut acts = Vec::new();
        if let Phase::Delaying { until, then_exit } = self.phase
            && now >= until
        {
            acts.push(Act::CloseInbound);
            self.phase =
                if then_exit { Phase::Draining { until: now + self.time } } else { Phase::InboundClosed };
        }
        if let Phase::Draining { until } = self.phase
            && (open == 0 || now >= until)
        {
            acts.push(Act::Finish);
            self.phase = Phase::Finished;
        }
        acts
    }

    /// When to tick next, if time alone changes anything.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Delaying { until, .. } | Phase::Draining { until } => Some(until),
            Phase::Serving | Phase::InboundClosed | Phase::Finished => None,
        }
    }

    /// Whether the last connection's end is what it waits for.
    pub fn waits_for_empty(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// The phase, for people.
    pub fn name(&self) -> &'static str {
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
    use Act::{CloseInbound, Finish, NotReady};

    const DELAY: Duration = Duration::from_secs(5);
    const TIME: Duration = Duration::from_secs(30);
    const NONE: [Act; 0] = [];

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn sigterm_with_connections_that_end_in_time() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.ask(Ask::All, start, 3), [NotReady]);
        assert_eq!(drain.deadline(), Some(start + DELAY));
        assert_eq!(drain.tick(start + seconds(4), 3), NONE);
        assert_eq!(drain.tick(start + DELAY, 3), [CloseInbound]);
        assert!(drain.waits_for_empty());
        assert_eq!(drain.tick(start + seconds(10), 1), NONE);
        assert_eq!(drain.tick(start + seconds(11), 0), [Finish]);
        assert_eq!(drain.tick(start + seconds(12), 0), NONE);
    }

    #[test]
    fn both_listeners_serve_through_the_delay_even_when_nobody_is_there() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.ask(Ask::All, start, 0), [NotReady]);
        assert_eq!(drain.tick(start + seconds(1), 0), NONE);
        assert_eq!(drain.tick(start + DELAY, 0), [CloseInbound, Finish]);
    }

    #[test]
    fn what_remains_is_reset_when_time_is_up() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.ask(Ask::All, start, 1);
        assert_eq!(drain.tick(start + DELAY, 1), [CloseInbound]);
        assert_eq!(drain.deadline(), Some(start + DELAY + TIME));
        assert_eq!(drain.tick(start + DELAY + TIME, 1), [Finish]);
    }

    #[test]
    fn a_second_sigterm_means_now() {
        let start = Instant::now();
        for delay in [DELAY, Duration::ZERO] {
            let mut drain = Drain::new(delay, TIME);
            drain.ask(Ask::All, start, 1);
            assert_eq!(drain.ask(Ask::All, start, 1), [NotReady, Finish], "delay {delay:?}");
        }
    }

    #[test]
    fn without_delay_and_connections_it_ends_at_once() {
        let mut drain = Drain::new(Duration::ZERO, TIME);
        assert_eq!(drain.ask(Ask::All, Instant::now(), 0), [NotReady, CloseInbound, Finish]);
    }

    #[test]
    fn the_inbound_half_alone_drains_and_the_process_goes_on() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        assert_eq!(drain.ask(Ask::Inbound, start, 2), [NotReady]);
        assert_eq!(drain.ask(Ask::Inbound, start, 2), NONE);
        assert_eq!(drain.tick(start + DELAY, 0), [CloseInbound]);
        assert_eq!(drain.deadline(), None);
        assert_eq!(drain.tick(start + seconds(1000), 0), NONE);
        // SIGTERM at last: the peers have long known, so no second delay.
        assert_eq!(drain.ask(Ask::All, start + seconds(1000), 1), NONE);
        assert_eq!(drain.tick(start + seconds(1001), 0), [Finish]);
    }

    #[test]
    fn sigterm_in_the_delay_of_the_inbound_half_does_not_lengthen_it() {
        let start = Instant::now();
        let mut drain = Drain::new(DELAY, TIME);
        drain.ask(Ask::Inbound, start, 1);
        assert_eq!(drain.ask(Ask::All, start + seconds(3), 1), NONE);
        assert_eq!(drain.tick(start + DELAY, 1), [CloseInbound]);
        assert!(drain.waits_for_empty());
    }

    #[test]
    fn now_means_now_in_every_phase() {
        let start = Instant::now();
        for before in [None, Some(Ask::Inbound), Some(Ask::All)] {
            let mut drain = Drain::new(DELAY, TIME);
            if let Some(ask) = before {
                drain.ask(ask, start, 1);
            }
            assert_eq!(drain.ask(Ask::Now, start, 1), [NotReady, Finish], "{before:?}");
            assert_eq!(drain.ask(Ask::Now, start, 1), NONE, "{before:?}");
        }
    }
}
