// SPDX-License-Identifier: Apache-2.0
//! How not to wage a war of writes, nor to fill a log about it. Pure.

use std::time::{Duration, Instant};

/// An entry that is gone again this soon after it was written may have been taken out because it was written.
const AN_ANSWER: Duration = Duration::from_millis(100);
/// This soon it most probably was: who is told of a change needs some milliseconds to make another.
const A_REFLEX: Duration = Duration::from_millis(15);
/// So many times in a row one that may be an answer, and is no reflex, is answered at once all the same: while the entry is
/// away pods start without rules, and twenty writes a second for a while are no war.
const FOR_FREE: u32 = 100;
/// The first wait.
const FIRST: Duration = Duration::from_millis(10);
/// The longest: the entry is to be back within a second.
const LONGEST: Duration = Duration::from_millis(800);
/// How long somebody who was seen to write by a clock of their own counts as such.
const BY_CLOCK: Duration = Duration::from_secs(300);

/// How long to wait before the entry is put back.
///
/// Somebody who answers our own write would answer the next one as well: so the wait doubles each time. Somebody who writes by
/// a clock of their own, however often, writes during such a wait too: they are answered at once from then on, and the entry
/// is away for a fraction of a millisecond each time.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Patience {
    wait: Duration,
    free: u32,
    by_clock: Option<Instant>,
}

impl Patience {
    /// The wait, after the entry has stood there for so long.
    pub(crate) fn before_answer(&mut self, survived: Duration, now: Instant) -> Duration {
        let by_clock = self.by_clock.is_some_and(|since| now.duration_since(since) < BY_CLOCK);
        if by_clock || survived >= AN_ANSWER {
            (self.wait, self.free) = (Duration::ZERO, 0);
        } else if survived >= A_REFLEX && self.free < FOR_FREE {
            // One answer of ours that came late makes a clock look like a reflex.
            let wait = if self.wait > FIRST { self.wait / 2 } else { Duration::ZERO };
            (self.wait, self.free) = (wait, self.free + 1);
        } else {
            // Long enough to see a clock that beats this often.
            let first = if survived >= A_REFLEX { survived * 2 } else { FIRST };
            self.wait = (self.wait * 2).clamp(first, LONGEST);
        }
        self.wait
    }

    /// Whether the answer may come at once; if so, that it does is noted.
    pub(crate) fn is_none(&mut self, survived: Duration, now: Instant) -> bool {
        let mut then = *self;
        let at_once = then.before_answer(survived, now).is_zero();
        if at_once {
            *self = then;
        }
        at_once
    }

    /// The file was written once more during the wait, though there was nothing to answer.
    pub(crate) fn written_meanwhile(&mut self, now: Instant) {
        (self.wait, self.by_clock) = (Duration::ZERO, Some(now));
    }
}

/// Between two lines about the same.
const BETWEEN: Duration = Duration::from_secs(60);

/// Says when something that happens often is worth another line.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    since: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// It happened so many times more. How often since the last line, if it is time for one.
    pub(crate) fn now(&mut self, times: u64, now: Instant) -> Option<u64> {
        self.times += times;
        if self.since.is_some_and(|since| now.duration_since(since) < BETWEEN) {
            return None;
        }
        self.since = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_followed_ever_later_and_a_clock_at_once() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let millis = |patience: &mut Patience, survived, at| {
            patience
                .before_answer(Duration::from_millis(survived), start + Duration::from_secs(at))
                .as_millis()
        };
        assert_eq!(millis(&mut patience, 30_000, 0), 0);
        let waits: Vec<_> = (0..9).map(|_| millis(&mut patience, 4, 0)).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 800, 800]);
        assert_eq!(millis(&mut patience, 30_000, 1), 0);
        assert_eq!(millis(&mut patience, 4, 1), 10);
        patience.written_meanwhile(start + Duration::from_secs(1));
        assert_eq!((0..5).map(|_| millis(&mut patience, 1, 300)).collect::<Vec<_>>(), [0; 5]);
        assert_eq!(millis(&mut patience, 1, 301), 10);
    }

    #[test]
    fn what_may_be_a_clock_is_answered_at_once_a_hundred_times() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let survived = Duration::from_millis(49);
        assert!((0..100).all(|_| patience.is_none(survived, start)));
        assert!(!patience.is_none(survived, start));
        let waits: Vec<_> = (0..3).map(|_| patience.before_answer(survived, start).as_millis()).collect();
        assert_eq!(waits, [98, 196, 392]);
        // A reflex gets nothing for free, and one that comes late once gets little.
        let mut patience = Patience::default();
        let waits = [4, 4, 4, 40, 4, 40, 40, 40].map(|survived| {
            let wait = patience.before_answer(Duration::from_millis(survived), start);
            wait.as_millis()
        });
        assert_eq!(waits, [10, 20, 40, 20, 40, 20, 10, 0]);
    }

    #[test]
    fn one_line_a_minute_says_how_often() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seldom.now(1, at(0)), Some(1));
        assert_eq!(seldom.now(1, at(1)), None);
        assert_eq!(seldom.now(1, at(59)), None);
        assert_eq!(seldom.now(1, at(61)), Some(3));
    }
}
