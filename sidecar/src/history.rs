// SPDX-License-Identifier: Apache-2.0
//! The last minutes, one sample a second, for the plots of the admin page.

use crate::addrs::{Direction, Family};
use crate::metrics::Metrics;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a sample is taken.
const EVERY: Duration = Duration::from_secs(1);
/// How many are kept: five minutes.
const KEPT: usize = 300;

/// What happened within one second, and what was open at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Bytes from clients to servers.
    pub to_server: u64,
    /// Bytes from servers to clients.
    pub to_client: u64,
    /// Connections accepted.
    pub opened: u64,
    /// Open inbound connections.
    pub inbound: i64,
    /// Open outbound connections.
    pub outbound: i64,
}

/// Counters as they were at the last sample.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    to_server: u64,
    to_client: u64,
    opened: u64,
}

/// The samples.
#[derive(Debug, Default)]
pub struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    last: Totals,
    samples: VecDeque<Sample>,
}

impl History {
    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.ring().samples.iter().copied().collect()
    }

    /// Takes a sample each second, for ever.
    pub async fn keep(&self, metrics: &Metrics) {
        let mut interval = tokio::time::interval(EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.take(metrics);
        }
    }

    fn take(&self, metrics: &Metrics) {
        let (mut now, mut sample) = (Totals::default(), Sample::default());
        for (direction, family) in Direction::ALL.into_iter().flat_map(|d| Family::ALL.map(|f| (d, f))) {
            let totals = metrics.totals(direction, family);
            now.to_server += totals.upstream.to_server.get();
            now.to_client += totals.upstream.to_client.get();
            now.opened += totals.opened.get();
            match direction {
                Direction::Inbound => sample.inbound += totals.active.get(),
                Direction::Outbound => sample.outbound += totals.active.get(),
            }
        }
        let mut ring = self.ring();
        sample.to_server = now.to_server.saturating_sub(ring.last.to_server);
        sample.to_client = now.to_client.saturating_sub(ring.last.to_client);
        sample.opened = now.opened.saturating_sub(ring.last.opened);
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

    #[test]
    fn a_sample_holds_what_happened_since_the_last_and_the_oldest_go() {
        let (history, metrics) = (History::default(), Metrics::default());
        let totals = metrics.totals(Direction::Outbound, Family::V4);
        totals.upstream.to_server.inc_by(5);
        totals.active.inc();
        history.take(&metrics);
        totals.upstream.to_server.inc_by(2);
        totals.opened.inc();
        history.take(&metrics);
        let expected = [
            Sample { to_server: 5, outbound: 1, ..Sample::default() },
            Sample { to_server: 2, opened: 1, outbound: 1, ..Sample::default() },
        ];
        assert_eq!(history.samples(), expected);
        for _ in 0..KEPT {
            history.take(&metrics);
        }
        assert_eq!(history.samples().len(), KEPT);
    }
}
