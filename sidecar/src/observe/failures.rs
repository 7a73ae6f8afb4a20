// SPDX-License-Identifier: Apache-2.0
//! The latest connections that failed, in words, for the admin page.
//!
//! A peer can cause as many as it likes, so they are few, and the same again only counts.

use crate::net::addrs::{ClientAddr, Direction, OrigDst};
use crate::observe::close_reason::CloseReason;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Kinds of failures that are kept.
const KEPT: usize = 32;

/// A failure that happened once or more often.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) direction: Direction,
    /// Reason in the closing record.
    pub(crate) reason: CloseReason,
    pub(crate) orig_dst: Option<OrigDst>,
    /// Client of the latest one.
    pub(crate) client: ClientAddr,
    /// Error of the latest one, in words.
    pub(crate) words: Option<String>,
    pub(crate) count: u64,
    /// Time of the latest one.
    pub(crate) last: Instant,
}

/// The latest failures, one entry for each direction, reason and destination.
#[derive(Debug, Default)]
pub(crate) struct RecentFailures(Mutex<VecDeque<Failure>>);

impl RecentFailures {
    /// Notes a failure. `words` is called only for a new entry.
    pub(crate) fn note(
        &self,
        direction: Direction,
        client: ClientAddr,
        orig_dst: Option<OrigDst>,
        reason: CloseReason,
        words: impl FnOnce() -> Option<String>,
    ) {
        let last = Instant::now();
        let mut kept = self.kept();
        let same = |one: &Failure| (one.direction, one.reason, one.orig_dst) == (direction, reason, orig_dst);
        if let Some(one) = kept.iter_mut().rev().find(|one| same(one)) {
            one.count += 1;
            one.last = last;
            one.client = client;
            return;
        }
        if kept.len() == KEPT {
            let oldest = kept.iter().enumerate().min_by_key(|(_, one)| one.last).map_or(0, |(at, _)| at);
            kept.remove(oldest);
        }
        kept.push_back(Failure { direction, reason, orig_dst, client, words: words(), count: 1, last });
    }

    /// All entries, the latest first.
    pub(crate) fn latest(&self) -> Vec<Failure> {
        let mut all: Vec<_> = self.kept().iter().cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.last));
        all
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(failures: &RecentFailures, port: u16) {
        let orig_dst = OrigDst::new(([192, 0, 2, 1], port).into());
        let client = ClientAddr::new(([10, 0, 0, 2], 4000).into());
        let words = || Some(format!("refused {port}"));
        failures.note(Direction::Outbound, client, Some(orig_dst), CloseReason::ConnectRefused, words);
    }

    #[test]
    fn the_same_again_only_counts() {
        let failures = RecentFailures::default();
        for port in [1, 2, 1, 1] {
            note(&failures, port);
        }
        let latest = failures.latest();
        assert_eq!(latest.iter().map(|one| one.count).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(latest[0].words.as_deref(), Some("refused 1"));
    }

    #[test]
    fn few_are_kept_however_many_a_peer_causes() {
        let failures = RecentFailures::default();
        for port in 0..1000 {
            note(&failures, port);
        }
        let latest = failures.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].words.as_deref(), Some("refused 999"));
    }
}
