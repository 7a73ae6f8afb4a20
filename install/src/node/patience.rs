// SPDX-License-Identifier: Apache-2.0
//! How not to wage a war of writes, nor to fill a log about it. Pure.

use std::time::{Duration, Instant};

/// An entry that is gone again this soon after it was written may have been taken out because it was written.
const AN_ANSWER: Duration = Duration::from_millis(100);
/// The first wait.
const FIRST: Duration = Duration::from_millis(10);
/// The longest: the entry is to be back within a second.
const LONGEST: Duration = Duration::from_millis(800);
/// How long somebody who was seen to write by a clock of their own counts as such.
const BY_CLOCK: Duration = Duration::from_secs(60);

/// How long to wait before the entry is put back.
///
/// Somebody who answers our own write would answer the next one as well: so the wait doubles each time. Somebody who writes by
/// a clock of their own, however often, writes during such a wait too: they are answered at once from then on, and the entry
/// is away for some milliseconds each time.
#[derive(Debug, Default)]
pub struct Patience {
    wait: Duration,
    by_clock: Option<Instant>,
}

impl Patience {
    /// The wait, after the entry has stood there for so long.
    pub fn before_answer(&mut self, survived: Duration, now: Instant) -> Duration {
        let by_clock = self.by_clock.is_some_and(|since| now.duration_since(since) < BY_CLOCK);
        let is_answer = survived < AN_ANSWER && !by_clock;
        self.wait = if is_answer { (self.wait * 2).clamp(FIRST, LONGEST) } else { Duration::ZERO };
        self.wait
    }

    /// The file was written once more during the wait, though there was nothing to answer.
    pub fn written_meanwhile(&mut self, now: Instant) {
        (self.wait, self.by_clock) = (Duration::ZERO, Some(now));
    }
}

/// Between two lines about the same.
const BETWEEN: Duration = Duration::from_secs(60);

/// Says when something that happens often is worth another line.
#[derive(Debug, Default)]
pub struct Seldom {
    since: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// It happened. How often since the last line, if it is time for one.
    pub fn now(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
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
        let waits: Vec<_> = (0..9).map(|_| millis(&mut patience, 40, 0)).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 800, 800]);
        assert_eq!(millis(&mut patience, 30_000, 1), 0);
        assert_eq!(millis(&mut patience, 40, 1), 10);
        patience.written_meanwhile(start + Duration::from_secs(1));
        assert_eq!((0..5).map(|_| millis(&mut patience, 1, 60)).collect::<Vec<_>>(), [0; 5]);
        assert_eq!(millis(&mut patience, 1, 61), 10);
    }

    #[test]
    fn one_line_a_minute_says_how_often() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seldom.now(at(0)), Some(1));
        assert_eq!(seldom.now(at(1)), None);
        assert_eq!(seldom.now(at(59)), None);
        assert_eq!(seldom.now(at(61)), Some(3));
    }
}
