// SPDX-License-Identifier: Apache-2.0
//! Pauses between attempts.

use std::time::Duration;

/// How long to wait before another attempt: doubled each time, and never the same for all nodes of a cluster.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    /// So the API server is found again within half a minute, and a thousand nodes ask it for 30 pages a second.
    const LAST: Duration = Duration::from_secs(30);

    /// Begins anew.
    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// After what went well.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// The next pause; no shorter than what the server asks for, within a minute.
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

/// Between 0.5 and 1, of the clock's nanoseconds: this only keeps nodes apart.
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
