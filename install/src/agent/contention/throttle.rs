// SPDX-License-Identifier: Apache-2.0
//! A throttle for one log line. Pure.

use std::time::{Duration, Instant};

/// The least time between two lines.
const BETWEEN: Duration = Duration::from_secs(60);

/// Lets a line pass once in [`BETWEEN`], and counts what it stands for.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    since: Option<Instant>,
    times: u64,
}

impl Throttle {
    /// Adds `times`. Returns the sum since the last line, if it is time for another.
    pub(super) fn pass(&mut self, times: u64, now: Instant) -> Option<u64> {
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
    fn one_line_a_minute_says_how_often() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(throttle.pass(1, at(0)), Some(1));
        assert_eq!(throttle.pass(1, at(1)), None);
        assert_eq!(throttle.pass(1, at(59)), None);
        assert_eq!(throttle.pass(1, at(61)), Some(3));
    }
}
