// SPDX-License-Identifier: Apache-2.0
//! How not to wage a war of writes, nor to fill a log about it. Pure.

use std::time::{Duration, Instant};

/// An entry that is gone again this soon after it was written was taken out because it was written.
const AN_ANSWER: Duration = Duration::from_millis(20);
/// The first wait.
const FIRST: Duration = Duration::from_millis(10);
/// The longest: the entry is to be back within a second.
const LONGEST: Duration = Duration::from_millis(800);

/// How long to wait before the entry is put back.
///
/// Somebody who writes by a clock of their own, however often, is answered at once: so the entry is away for a
/// millisecond or two each time. Somebody who answers our own write would answer the next one as well: there the wait doubles.
#[derive(Debug, Default)]
pub struct Patience {
    wait: Duration,
}

impl Patience {
    /// The wait, after the entry has stood there for so long.
    pub fn before_answer(&mut self, survived: Duration) -> Duration {
        self.wait = if survived < AN_ANSWER { (self.wait * 2).clamp(FIRST, LONGEST) } else { Duration::ZERO };
        self.wait
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
    fn a_clock_is_answered_at_once_and_an_answer_ever_later() {
        let mut patience = Patience::default();
        let millis = |patience: &mut Patience, survived| {
            patience.before_answer(Duration::from_millis(survived)).as_millis()
        };
        for _ in 0..5 {
            assert_eq!(millis(&mut patience, 49), 0);
        }
        let waits: Vec<_> = (0..9).map(|_| millis(&mut patience, 1)).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 800, 800]);
        assert_eq!(millis(&mut patience, 30_000), 0);
        assert_eq!(millis(&mut patience, 1), 10);
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
