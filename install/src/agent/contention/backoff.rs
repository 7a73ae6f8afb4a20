// SPDX-License-Identifier: Apache-2.0
//! Backoff of restores, so that two programs that both insist do not write without end. Pure.

use std::time::{Duration, Instant};

/// A loss this soon after our write may have been an answer to it.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// A loss this soon was most probably an answer: a program that waits for changes needs some milliseconds for its own.
const REFLEX_WITHIN: Duration = Duration::from_millis(15);
/// Losses in a row between the two limits above that are repaired at once. While the entry is missing pods start without
/// rules, and twenty writes a second for a while do no harm.
const FREE_RESTORES: u32 = 100;
/// The first wait, doubled after each further answer.
const FIRST: Duration = Duration::from_millis(10);
/// The longest wait, so that the entry is back within a second.
const LONGEST: Duration = Duration::from_millis(800);
/// Time for which a neighbour that was seen to write on a schedule is taken to do so.
const SCHEDULE_HOLDS_FOR: Duration = Duration::from_secs(300);

/// The wait before the entry is written again.
///
/// A neighbour that answers our write would answer the next one too, so the wait doubles each time. A neighbour that writes on
/// a schedule of its own, however often, also writes during such a wait: from then on its losses are repaired at once, and
/// the entry is missing for a fraction of a millisecond each time.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RestoreBackoff {
    wait: Duration,
    free: u32,
    scheduled_since: Option<Instant>,
}

impl RestoreBackoff {
    /// Returns the wait after a loss of an entry that had `survived` for so long.
    pub(super) fn wait_after(&mut self, survived: Duration, now: Instant) -> Duration {
        let is_scheduled =
            self.scheduled_since.is_some_and(|since| now.duration_since(since) < SCHEDULE_HOLDS_FOR);
        if is_scheduled || survived >= ANSWER_WITHIN {
            (self.wait, self.free) = (Duration::ZERO, 0);
        } else if survived >= REFLEX_WITHIN && self.free < FREE_RESTORES {
            // The wait is halved rather than dropped: one late write of ours makes a schedule look like a reflex.
            let wait = if self.wait > FIRST { self.wait / 2 } else { Duration::ZERO };
            (self.wait, self.free) = (wait, self.free + 1);
        } else {
            // A wait of twice the interval sees a schedule of that interval.
            let first = if survived >= REFLEX_WITHIN { survived * 2 } else { FIRST };
            self.wait = (self.wait * 2).clamp(first, LONGEST);
        }
        self.wait
    }

    /// Returns true and records the restore if no wait is due; else records nothing.
    pub(super) fn allows_now(&mut self, survived: Duration, now: Instant) -> bool {
        let mut then = *self;
        let is_free = then.wait_after(survived, now).is_zero();
        if is_free {
            *self = then;
        }
        is_free
    }

    /// The neighbour wrote the file during a wait, when there was no entry of ours to answer: it writes on a schedule.
    pub(super) fn written_during_wait(&mut self, now: Instant) {
        (self.wait, self.scheduled_since) = (Duration::ZERO, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_followed_ever_later_and_a_schedule_at_once() {
        let (mut backoff, start) = (RestoreBackoff::default(), Instant::now());
        let millis = |backoff: &mut RestoreBackoff, survived, at| {
            backoff.wait_after(Duration::from_millis(survived), start + Duration::from_secs(at)).as_millis()
        };
        assert_eq!(millis(&mut backoff, 30_000, 0), 0);
        let waits: Vec<_> = (0..9).map(|_| millis(&mut backoff, 4, 0)).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 800, 800]);
        assert_eq!(millis(&mut backoff, 30_000, 1), 0);
        assert_eq!(millis(&mut backoff, 4, 1), 10);
        backoff.written_during_wait(start + Duration::from_secs(1));
        assert_eq!((0..5).map(|_| millis(&mut backoff, 1, 300)).collect::<Vec<_>>(), [0; 5]);
        assert_eq!(millis(&mut backoff, 1, 301), 10);
    }

    #[test]
    fn a_loss_that_may_be_scheduled_is_repaired_at_once_a_hundred_times() {
        let (mut backoff, start) = (RestoreBackoff::default(), Instant::now());
        let survived = Duration::from_millis(49);
        assert!((0..100).all(|_| backoff.allows_now(survived, start)));
        assert!(!backoff.allows_now(survived, start));
        let waits: Vec<_> = (0..3).map(|_| backoff.wait_after(survived, start).as_millis()).collect();
        assert_eq!(waits, [98, 196, 392]);
        // A reflex gets no free restore, and one late write of a reflex gets few.
        let mut backoff = RestoreBackoff::default();
        let waits = [4, 4, 4, 40, 4, 40, 40, 40].map(|survived| {
            let wait = backoff.wait_after(Duration::from_millis(survived), start);
            wait.as_millis()
        });
        assert_eq!(waits, [10, 20, 40, 20, 40, 20, 10, 0]);
    }
}
