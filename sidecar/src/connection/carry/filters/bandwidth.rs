// SPDX-License-Identifier: Apache-2.0
//! The bandwidth that a fault leaves a response.

use std::time::{Duration, Instant};

/// Time between two portions. Envoy's limiter has the same.
const PORTION: Duration = Duration::from_millis(50);

/// Bytes of a response's body that may pass, a portion at a time.
#[derive(Debug)]
pub(in crate::connection::carry) struct Bandwidth {
    /// Bytes of a portion, at least one.
    portion: usize,
    left: usize,
    /// The time of the next portion.
    next: Instant,
}

// === impl Bandwidth ===

impl Bandwidth {
    /// Begins with a full portion. `most` is in KiB a second.
    pub(in crate::connection::carry) fn new(most: u64, now: Instant) -> Self {
        let portions = 1000 / PORTION.as_millis() as u64;
        let bytes = (most.saturating_mul(1024) / portions).max(1);
        let portion = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { portion, left: portion, next: now + PORTION }
    }

    /// Takes bytes, as many as are wanted or fewer, or returns the time of the next portion. A portion that was not taken in
    /// time is lost: it is a limit, not a promise.
    pub(in crate::connection::carry) fn take(
        &mut self,
        wanted: usize,
        now: Instant,
    ) -> Result<usize, Instant> {
        if now >= self.next {
            (self.left, self.next) = (self.portion, now + PORTION);
        }
        if self.left == 0 {
            return Err(self.next);
        }
        let taken = wanted.min(self.left);
        self.left -= taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_twenty_portions_and_no_more() {
        for (most, wanted) in [(1, 10_000), (100, 7), (1_000, 65_536), (1, 1)] {
            let began = Instant::now();
            let mut bandwidth = Bandwidth::new(most, began);
            let (mut now, mut bytes) = (began, 0);
            // The portion at the end of the second is the next second's.
            while now < began + Duration::from_secs(1) {
                match bandwidth.take(wanted, now) {
                    Ok(taken) => bytes += taken as u64,
                    Err(next) => now = next,
                }
            }
            assert_eq!(bytes, most * 1024 / 20 * 20, "{most}");
        }
    }

    #[test]
    fn a_portion_that_was_not_taken_is_lost() {
        let began = Instant::now();
        let mut bandwidth = Bandwidth::new(20, began);
        let late = began + Duration::from_secs(10);
        assert_eq!(bandwidth.take(10_000, late), Ok(1024));
        assert_eq!(bandwidth.take(1, late), Err(late + PORTION));
    }
}
