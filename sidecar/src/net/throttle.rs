// SPDX-License-Identifier: Apache-2.0
//! Keeps a peer from filling the log with lines that it causes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Is ready at most once per period.
#[derive(Debug)]
pub(crate) struct Throttle {
    period: Duration,
    last: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(period: Duration) -> Self {
        Self { period, last: Mutex::new(None) }
    }

    /// Returns true if the period is over, and begins the next one.
    pub(crate) fn ready(&self) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.duration_since(last) < self.period) {
            return false;
        }
        *last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_once_per_period() {
        let throttle = Throttle::new(Duration::from_secs(3600));
        assert!(throttle.ready());
        assert!(!throttle.ready());
        assert!(Throttle::new(Duration::ZERO).ready());
    }
}
