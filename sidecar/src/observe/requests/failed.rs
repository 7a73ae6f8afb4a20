// SPDX-License-Identifier: Apache-2.0
//! The latest requests that failed, in words.
//!
//! A client can cause as many as it likes, so they are few, and the same again only counts.

use super::Origin;
use super::fold::{fold, shown};
use super::noted::Noted;
use crate::net::addrs::Direction;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Requests that are kept.
const KEPT: usize = 50;

/// A request that failed, once or more often in the same way.
#[derive(Clone, Debug)]
pub(crate) struct FailedRequest {
    pub(crate) direction: Direction,
    pub(crate) cluster: String,
    /// Of the latest one, as the next ones: its caller or the service that it called.
    pub(crate) peer: String,
    pub(crate) method: String,
    pub(crate) authority: String,
    /// Without its query, and without what may be secret.
    pub(crate) path: String,
    /// Path of its route.
    route: String,
    /// Status of the answer; 0 without one.
    pub(crate) status: u16,
    pub(crate) why: String,
    pub(crate) took: Duration,
    pub(crate) at: SystemTime,
    /// The same by a clock that nobody sets.
    pub(crate) last: Instant,
    pub(crate) count: u64,
}

/// The latest failed requests: one entry for each route, status and reason, below 500 one for each status and reason.
#[derive(Debug, Default)]
pub(super) struct Failed(Mutex<VecDeque<FailedRequest>>);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Failed {
    /// Notes a failed request.
    pub(super) fn note(&self, origin: &Origin<'_>, noted: &Noted, why: &str, took: Duration) {
        let mut route = Vec::new();
        fold(noted.path(), &mut route);
        let Origin { direction, cluster, peer } = *origin;
        let new = FailedRequest {
            direction,
            cluster: cluster.to_owned(),
            peer: peer.to_owned(),
            method: text(noted.method()),
            authority: text(noted.authority()),
            path: shown(noted.path()),
            route: text(&route),
            status: noted.status,
            why: why.to_owned(),
            took,
            at: SystemTime::now(),
            last: Instant::now(),
            count: 1,
        };
        let mut kept = self.kept();
        let gone = if let Some(one) = kept.iter_mut().rev().find(|one| one.is_like(&new)) {
            let count = one.count + 1;
            Some(std::mem::replace(one, FailedRequest { count, ..new }))
        } else {
            let oldest = kept.iter().enumerate().min_by_key(|(_, one)| one.last).map_or(0, |(at, _)| at);
            let gone = if kept.len() == KEPT { kept.remove(oldest) } else { None };
            kept.push_back(new);
            gone
        };
        drop(kept);
        // Behind the lock, which all workers take.
        drop(gone);
    }

    /// Returns all entries, the latest first.
    pub(super) fn latest(&self) -> Vec<FailedRequest> {
        let mut all: Vec<_> = self.kept().iter().cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.last));
        all
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<FailedRequest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailedRequest {
    fn is_like(&self, other: &Self) -> bool {
        // A client decides how many paths it calls in vain: of these it has one entry, and others keep theirs.
        let by_client = self.status < 500;
        (self.direction, self.status, &self.cluster, &self.why)
            == (other.direction, other.status, &other.cluster, &other.why)
            && (by_client || (&self.route, &self.method) == (&other.route, &other.method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(failed: &Failed, peer: &str, path: &str, why: &str) {
        let mut noted = Noted::of("GET", b"shop", path);
        noted.status = 503;
        let origin = Origin { direction: Direction::Inbound, cluster: "localhost:80", peer };
        failed.note(&origin, &noted, why, Duration::from_millis(3));
    }

    #[test]
    fn the_same_again_only_counts_and_the_latest_comes_first() {
        let failed = Failed::default();
        for (peer, path, why) in [
            ("web", "/a/1?secret=2", "it is down"),
            ("web", "/b", "it is down"),
            ("web", "/b", "it is late"),
            ("ops", "/a/2", "it is down"),
        ] {
            note(&failed, peer, path, why);
        }
        let latest: Vec<_> = failed
            .latest()
            .into_iter()
            .map(|FailedRequest { peer, path, why, count, .. }| format!("{count} {peer} {path} {why}"))
            .collect();
        assert_eq!(latest, ["2 ops /a/2 it is down", "1 web /b it is late", "1 web /b it is down"]);
    }

    #[test]
    fn few_are_kept_however_many_a_client_causes() {
        let failed = Failed::default();
        for number in 0..1_000 {
            note(&failed, "web", "/", &format!("reason {number}"));
        }
        let latest = failed.latest();
        assert_eq!(
            (latest.len(), &*latest[0].why, &*latest[KEPT - 1].why),
            (KEPT, "reason 999", "reason 950")
        );
    }
}
