// SPDX-License-Identifier: Apache-2.0
//! Responses of one stream that its sidecar has not answered yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::controller::metrics::Sent;

/// Responses that are remembered: the oldest ones, as their age is asked for.
const MOST: usize = 64;

/// Responses of one stream that its sidecar has not answered yet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged(Mutex<VecDeque<Waits>>);

/// A response that waits.
#[derive(Debug)]
struct Waits {
    about: Sent,
    nonce: u64,
    since: Instant,
}

impl Unacknowledged {
    /// Notes a response.
    pub(crate) fn sent(&self, about: Sent, nonce: &str) {
        let mut waiting = self.waiting();
        if let (true, Ok(nonce)) = (waiting.len() < MOST, nonce.parse()) {
            waiting.push_back(Waits { about, nonce, since: Instant::now() });
        }
    }

    /// Notes an answer, be it a refusal. It counts for earlier responses about the same, too.
    pub(crate) fn answered(&self, about: Sent, nonce: &str) {
        if let Ok(nonce) = nonce.parse::<u64>() {
            self.waiting().retain(|one| one.about != about || one.nonce > nonce);
        }
    }

    /// Age of the oldest one.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.waiting().front().map(|oldest| oldest.since.elapsed())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waits>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_that_is_not_answered_counts() {
        let waiting = Unacknowledged::default();
        let age = || waiting.age().map(|age| age.as_secs());
        assert_eq!(age(), None);
        for (about, nonce) in [(Sent::Documents, "1"), (Sent::Destinations, "2"), (Sent::Documents, "3")] {
            waiting.sent(about, nonce);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(age(), Some(30));
        waiting.answered(Sent::Destinations, "");
        waiting.answered(Sent::Destinations, "1");
        assert_eq!(age(), Some(30), "an answer about something else");
        waiting.answered(Sent::Documents, "3");
        assert_eq!(age(), Some(20), "it counts for the first one, too");
        waiting.answered(Sent::Destinations, "2");
        assert_eq!(age(), None);
        // A sidecar that never answers fills nothing.
        (0..1000_u32).for_each(|nonce| waiting.sent(Sent::Documents, &nonce.to_string()));
        assert_eq!(waiting.waiting().len(), MOST);
    }
}
