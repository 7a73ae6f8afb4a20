// SPDX-License-Identifier: Apache-2.0
//! The last connections that did not end well, in words, for the admin page.
//!
//! A peer can cause as many as it likes, so they are few, and the same again only counts.

use crate::net::addrs::{ClientAddr, Direction, OrigDst};
use crate::observe::close_reason::CloseReason;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many are kept.
const KEPT: usize = 32;

/// What went wrong, once or more often.
#[derive(Clone, Debug)]
pub struct Mishap {
    /// Which listener it came to.
    pub direction: Direction,
    /// How the closing record names it.
    pub reason: CloseReason,
    /// Where the connection was meant to go.
    pub orig_dst: Option<OrigDst>,
    /// Who opened the last one.
    pub client: ClientAddr,
    /// The last one's error in words.
    pub words: Option<String>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: Instant,
}

/// The last of them.
#[derive(Debug, Default)]
pub struct Mishaps(Mutex<VecDeque<Mishap>>);

impl Mishaps {
    /// Notes one. `words` is asked only when it is new.
    pub fn note(
        &self,
        direction: Direction,
        client: ClientAddr,
        orig_dst: Option<OrigDst>,
        reason: CloseReason,
        words: impl FnOnce() -> Option<String>,
    ) {
        let last = Instant::now();
        let mut kept = self.kept();
        let same = |one: &Mishap| (one.direction, one.reason, one.orig_dst) == (direction, reason, orig_dst);
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
        kept.push_back(Mishap { direction, reason, orig_dst, client, words: words(), count: 1, last });
    }

    /// All that are kept, the latest first.
    pub fn latest(&self) -> Vec<Mishap> {
        let mut all: Vec<_> = self.kept().iter().cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.last));
        all
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Mishap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(mishaps: &Mishaps, port: u16) {
        let orig_dst = OrigDst::new(([192, 0, 2, 1], port).into());
        let client = ClientAddr::new(([10, 0, 0, 2], 4000).into());
        let words = || Some(format!("refused {port}"));
        mishaps.note(Direction::Outbound, client, Some(orig_dst), CloseReason::ConnectRefused, words);
    }

    #[test]
    fn the_same_again_only_counts() {
        let mishaps = Mishaps::default();
        for port in [1, 2, 1, 1] {
            note(&mishaps, port);
        }
        let latest = mishaps.latest();
        assert_eq!(latest.iter().map(|one| one.count).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(latest[0].words.as_deref(), Some("refused 1"));
    }

    #[test]
    fn few_are_kept_whatever_a_peer_does() {
        let mishaps = Mishaps::default();
        for port in 0..1000 {
            note(&mishaps, port);
        }
        let latest = mishaps.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].words.as_deref(), Some("refused 999"));
    }
}
