// SPDX-License-Identifier: Apache-2.0
//! Pauses between attempts.

use std::time::Duration;

/// Pause before another attempt: doubles each time and differs between the nodes of a cluster.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    /// The API server is found again within half a minute, and a thousand nodes ask it 30 times a second.
    const LAST: Duration = Duration::from_secs(30);

    /// Starts with the shortest pause.
    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Starts over after a success.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// Returns the next pause, which is no shorter than `asked` up to one minute.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.next.mul_f64(jitter());
        self.next = (self.next * 2).min(Self::LAST);
        pause.max(asked.unwrap_or_default().min(Duration::from_secs(60)))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// A factor between 0.5 and 1 from the clock's nanoseconds, enough to keep nodes apart.
fn jitter() -> f64 {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    0.5 + f64::from(nanos % 1_000_000) / 2_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..20).map(|_| backoff.pause(None)).collect();
        assert!(pauses[0] >= Backoff::FIRST / 2 && pauses[0] <= Backoff::FIRST, "{pauses:?}");
        assert!(pauses[19] >= Backoff::LAST / 2 && pauses[19] <= Backoff::LAST, "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause(None) <= Backoff::FIRST);
        assert!(backoff.pause(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.pause(Some(Duration::from_secs(9999))) <= Duration::from_secs(60));
    }
}
