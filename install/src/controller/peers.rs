// SPDX-License-Identifier: Apache-2.0
//! Bounds on what one peer has or does, so that none takes it all from the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Peers that an [`Allowance`] remembers before it forgets those whose time is over.
const REMEMBERED: usize = 1024;

/// Things that each peer has at a time.
#[derive(Debug)]
pub(crate) struct Shares<K: Eq + Hash> {
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One thing of a peer; dropped, the peer may have another one.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash + Clone> {
    shares: Arc<Shares<K>>,
    peer: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Lets each peer have so many.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Gives a peer one more. `None` if it has them all.
    pub(crate) fn take(self: &Arc<Self>, peer: K) -> Option<Share<K>> {
        let mut held = self.held();
        let count = held.entry(peer.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: Arc::clone(self), peer })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        let left = held.get_mut(&self.peer).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            held.remove(&self.peer);
        }
    }
}

/// Things that each peer may do within a time.
#[derive(Debug)]
pub(crate) struct Allowance<K> {
    most: usize,
    within: Duration,
    /// Begin of each peer's time, and the number since then.
    done: Mutex<HashMap<K, (Instant, usize)>>,
}

impl<K: Eq + Hash> Allowance<K> {
    /// Lets each peer do so many within each such time.
    pub(crate) fn new(most: usize, within: Duration) -> Self {
        Self { most, within, done: Mutex::default() }
    }

    /// Counts one more of a peer. False if it has done all that it may.
    pub(crate) fn spend(&self, peer: K) -> bool {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= REMEMBERED {
            done.retain(|_, (since, _)| since.elapsed() < self.within);
        }
        let (since, count) = done.entry(peer).or_insert_with(|| (Instant::now(), 0));
        if since.elapsed() >= self.within {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_no_more() {
        let shares = Shares::new(2);
        let (one, two) = (shares.take("a"), shares.take("a"));
        assert!(one.is_some() && two.is_some());
        assert!(shares.take("a").is_none());
        assert!(shares.take("b").is_some(), "others have theirs");
        drop(one);
        assert!(shares.take("a").is_some());
        drop(two);
        assert!(shares.held().is_empty(), "nothing is remembered of who has nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_does_so_many_within_a_time() {
        let allowance = Allowance::new(2, Duration::from_secs(60));
        assert_eq!([(); 3].map(|()| allowance.spend("a")), [true, true, false]);
        assert!(allowance.spend("b"));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(allowance.spend("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn peers_of_the_past_are_forgotten() {
        let allowance = Allowance::new(1, Duration::from_secs(60));
        (0..REMEMBERED).for_each(|peer| assert!(allowance.spend(peer)));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(allowance.spend(REMEMBERED));
        assert_eq!(allowance.done.lock().unwrap().len(), 1);
    }
}
