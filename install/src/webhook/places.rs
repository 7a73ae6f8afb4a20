// SPDX-License-Identifier: Apache-2.0
//! Places of bodies and answers in memory. Any pod can send reviews, and none may take them all from the API servers.
//!
//! A body has its places from its head until its answer is sent. Where none is free, the connection is cut that keeps us waiting
//! longest, of the peer that does so most.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// Time that a body or an answer may keep us waiting for its peer while others wait for a place. An API server sends and takes a
/// review at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval at which a wait for a place cuts one more connection.
const CUT_EVERY: Duration = Duration::from_millis(20);
/// Time for a place to become free; an API server waits 5 s for the answer.
const PLACE_WITHIN: Duration = Duration::from_secs(2);

/// No place becomes free in time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many reviews at once: try again")]
pub(super) struct Busy;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// In the order of their age.
    all: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    peer: IpAddr,
    /// Ends the connection.
    cut: Arc<Notify>,
    /// Time since which we wait for the peer; None while it waits for us.
    waits: Option<Instant>,
}

/// The places of one body and its answer; dropped, they are free.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    permits: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), held: Mutex::default() })
    }

    /// Takes a place for the body of a peer, which is yet to come. `cut` ends its connection.
    pub(super) async fn take(self: &Arc<Self>, peer: IpAddr, cut: &Arc<Notify>) -> Result<Place, Busy> {
        let permits = self.acquire(1).await?;
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        let holder = Holder { peer, cut: Arc::clone(cut), waits: Some(Instant::now()) };
        held.all.insert(number, holder);
        drop(held);
        Ok(Place { places: Arc::clone(self), number, permits })
    }

    async fn acquire(&self, count: u32) -> Result<OwnedSemaphorePermit, Busy> {
        if let Ok(permits) = Arc::clone(&self.free).try_acquire_many_owned(count) {
            return Ok(permits);
        }
        let waiting = async {
            let mut permits = std::pin::pin!(Arc::clone(&self.free).acquire_many_owned(count));
            loop {
                self.cut_one();
                tokio::select! {
                    permits = &mut permits => return permits.map_err(|_| Busy),
                    () = sleep(CUT_EVERY) => {}
                }
            }
        };
        timeout(PLACE_WITHIN, waiting).await.unwrap_or(Err(Busy))
    }

    /// Cuts the connection whose body or answer waits longest for its peer, of the peer with most of these.
    fn cut_one(&self) {
        let held = self.held();
        let is_late = |holder: &&Holder| holder.waits.is_some_and(|since| since.elapsed() >= PATIENCE);
        let late: Vec<_> = held.all.values().filter(is_late).collect();
        if let Some(at) = culvert_serve::oldest_of_most(late.iter().map(|holder| holder.peer)) {
            late[at].cut.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes more places for the same body.
    pub(super) async fn more(&mut self, count: u32) -> Result<(), Busy> {
        self.is_with_us();
        let permits = self.places.acquire(count).await?;
        self.permits.merge(permits);
        self.is_with_peer();
        Ok(())
    }

    /// Notes that the peer waits for us from now on.
    pub(super) fn is_with_us(&self) {
        self.wait(None);
    }

    /// Notes that we wait for the peer from now on: the rest of its body, or until it takes the answer.
    pub(super) fn is_with_peer(&self) {
        self.wait(Some(Instant::now()));
    }

    fn wait(&self, waits: Option<Instant>) {
        if let Some(holder) = self.places.held().all.get_mut(&self.number) {
            holder.waits = waits;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// So many places, each of a connection of its own, by the last byte of its peer.
    async fn taken(places: &Arc<Places>, peers: &[u8]) -> Vec<(Place, Arc<Notify>)> {
        let mut all = Vec::new();
        for peer in peers {
            let cut = Arc::<Notify>::default();
            all.push((places.take(ip(*peer), &cut).await.unwrap(), cut));
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_peer_that_keeps_us_waiting_most_gives_way() {
        let places = Places::new(4);
        let mut all = taken(&places, &[1, 2, 2, 3]).await;
        // It is alone, and older; what a peer waits for is not its fault.
        all[0].0.is_with_us();
        let cut = Arc::<Notify>::default();
        let mut fifth = Box::pin(places.take(ip(4), &cut));
        tokio::select! {
            _ = &mut fifth => panic!("a place"),
            () = all[1].1.notified() => {}
            () = sleep(PATIENCE * 3 / 2) => panic!("nobody is cut"),
        }
        drop(all.remove(1));
        assert!(fifth.await.is_ok());
        // Those of one place have a moment before they give way, too.
        for (_, cut) in &all {
            assert!(timeout(Duration::ZERO, cut.notified()).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_anyone_to_cut_the_wait_ends() {
        let places = Places::new(2);
        let all = taken(&places, &[1, 1]).await;
        for (place, _) in &all {
            place.is_with_us();
        }
        let cut = Arc::<Notify>::default();
        assert_eq!(places.take(ip(2), &cut).await.unwrap_err(), Busy);
        drop(all);
        let mut large = places.take(ip(2), &cut).await.unwrap();
        assert_eq!(large.more(2).await, Err(Busy), "more than there are");
        large.more(1).await.unwrap();
        assert_eq!(places.free.available_permits(), 0);
        drop(large);
        assert_eq!((places.free.available_permits(), places.held().all.len()), (2, 0));
    }
}
