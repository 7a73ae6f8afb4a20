// SPDX-License-Identifier: Apache-2.0
//! The last minutes, one sample a second, for the plots of the admin page.

use crate::observe::requests::Second;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(1);
/// Samples that are kept: five minutes.
const KEPT: usize = 300;

/// Traffic within one second, and connections open at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Bytes from clients to servers.
    pub(crate) to_server: u64,
    /// Bytes from servers to clients.
    pub(crate) to_client: u64,
    pub(crate) opened: u64,
    pub(crate) inbound: i64,
    pub(crate) outbound: i64,
    /// Requests of HTTP, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<Second>,
}

/// Counters and gauges at one moment, since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Bytes from clients to servers.
    pub(crate) to_server: u64,
    /// Bytes from servers to clients.
    pub(crate) to_client: u64,
    pub(crate) opened: u64,
    pub(crate) inbound: i64,
    pub(crate) outbound: i64,
    /// Requests since the last reading.
    pub(crate) requests: Second,
}

/// The samples of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    last: Reading,
    samples: VecDeque<Sample>,
}

impl History {
    /// The samples, oldest first.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.ring().samples.iter().copied().collect()
    }

    /// Takes a sample of what `read` returns each second, without end.
    pub(crate) async fn keep(&self, read: impl Fn() -> Reading) {
        let mut interval = tokio::time::interval(EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.take(read());
        }
    }

    fn take(&self, now: Reading) {
        let mut ring = self.ring();
        let sample = Sample {
            to_server: now.to_server.saturating_sub(ring.last.to_server),
            to_client: now.to_client.saturating_sub(ring.last.to_client),
            opened: now.opened.saturating_sub(ring.last.opened),
            inbound: now.inbound,
            outbound: now.outbound,
            requests: Some(now.requests).filter(|second| *second != Second::default()),
        };
        ring.last = now;
        if ring.samples.len() == KEPT {
            ring.samples.pop_front();
        }
        ring.samples.push_back(sample);
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::requests::Flow;

    #[test]
    fn a_sample_holds_what_happened_since_the_last_and_the_oldest_go() {
        let history = History::default();
        let first = Reading { to_server: 5, outbound: 1, ..Reading::default() };
        history.take(first);
        let requests = Second { inbound: Flow { requests: 3, ..Flow::default() }, ..Second::default() };
        let second = Reading { to_server: 7, opened: 1, requests, ..first };
        history.take(second);
        let expected = [
            Sample { to_server: 5, outbound: 1, ..Sample::default() },
            Sample { to_server: 2, opened: 1, outbound: 1, requests: Some(requests), ..Sample::default() },
        ];
        assert_eq!(history.samples(), expected);
        for _ in 0..KEPT {
            history.take(second);
        }
        assert_eq!(history.samples().len(), KEPT);
    }
}
