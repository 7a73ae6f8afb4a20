// SPDX-License-Identifier: Apache-2.0
//! Places of handshakes, from the wait for a ClientHello to the end. When all are taken, the peer that has most gives one
//! up.
//!
//! | newcomer | gives way |
//! |---|---|
//! | a known peer | the oldest of the stranger that has most; without strangers as below |
//! | a peer that has fewer than another of its kind | the oldest of the one that has most |
//! | a peer that has as many as any of its kind | the oldest that has been waiting for its peer for [`PATIENCE`], or none |
//!
//! An honest peer answers within a round trip, so its handshake is over long before it is the oldest, also where it shares
//! an address with a flood. To refuse the newest instead, as a semaphore does, would let the flood keep all places. A burst of
//! honest peers, whose handshakes wait for this sidecar's CPU, gives none up: work that was begun is ended.

mod acquaintances;
mod schedule;

pub(crate) use acquaintances::Acquaintances;

use self::schedule::{Lane, scheduled};
use super::error::TlsError;
use culvert_serve::network_of;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time for which a handshake may wait for its peer before it gives way to another of the same peer: some round trips of any
/// network, and a retransmission.
const PATIENCE: Duration = Duration::from_secs(1);

/// The other end of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: IpAddr,
    /// True if a document names the address, or if a member came from there.
    pub(crate) known: bool,
}

/// The places of one direction.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    began: Instant,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: usize,
    /// By the order in which they were taken.
    of: HashMap<Group, BTreeMap<u64, Seated>>,
}

/// Peers that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    known: bool,
    network: IpAddr,
}

#[derive(Debug)]
struct Seated {
    address: IpAddr,
    seat: Arc<Seat>,
}

/// The part of a place that the table and the handshake share.
#[derive(Debug)]
struct Seat {
    /// Milliseconds since the places began, when the wait for the peer began; 0 = it waits for this sidecar.
    waits_since: AtomicU64,
    gives_way: Notify,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    places: &'a Places,
    group: Group,
    number: u64,
    lane: Lane,
    seat: Arc<Seat>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, began: Instant::now(), seats: Mutex::default() }
    }

    /// Takes a place, from another peer if need be.
    ///
    /// # Errors
    /// If none is free, and none must give way.
    pub(crate) fn take(&self, peer: Candidate) -> Result<Place<'_>, TlsError> {
        let group = Group { known: peer.known, network: network_of(peer.address) };
        let now = self.now();
        let seat = Arc::new(Seat { waits_since: AtomicU64::new(now), gives_way: Notify::new() });
        let mut seats = self.seats();
        if seats.taken >= self.most {
            let patience = now.saturating_sub(millis(PATIENCE));
            let (of, number) =
                seats.gives_way(group, peer.address, patience).ok_or(TlsError::TooMany(self.most))?;
            if let Some(seated) = seats.remove(of, number) {
                seated.seat.gives_way.notify_one();
            }
        }
        let number = seats.next;
        seats.next += 1;
        seats.taken += 1;
        let seated = Seated { address: peer.address, seat: Arc::clone(&seat) };
        seats.of.entry(group).or_default().insert(number, seated);
        let lane = if peer.known { Lane::Known } else { Lane::of_stranger(group.network) };
        Ok(Place { places: self, group, number, lane, seat })
    }

    /// Returns the number of places in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.seats().taken
    }

    /// Returns the milliseconds since the places began, and one more: 0 has a meaning of its own.
    fn now(&self) -> u64 {
        millis(self.began.elapsed()) + 1
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Seats {
    fn remove(&mut self, group: Group, number: u64) -> Option<Seated> {
        let of = self.of.get_mut(&group)?;
        let seated = of.remove(&number)?;
        if of.is_empty() {
            self.of.remove(&group);
        }
        self.taken -= 1;
        Some(seated)
    }

    /// Finds the place that gives way to a newcomer; see the table of this module. `patience` is the time since which a
    /// handshake must have waited to give way to one of a peer that has as many.
    fn gives_way(&self, group: Group, address: IpAddr, patience: u64) -> Option<(Group, u64)> {
        let most = |known| {
            let sizes = self.of.iter().filter(|(of, _)| of.known == known).map(|(_, seats)| seats.len());
            sizes.max().unwrap_or_default()
        };
        let strangers = most(false);
        let gives_way_to_known = group.known && strangers > 0;
        // Of two strangers the one with most gives way, and of two known peers; a known peer never gives way to a stranger.
        let known = group.known && !gives_way_to_known;
        let most = if known { most(true) } else { strangers };
        let own = if known == group.known { self.of.get(&group).map_or(0, BTreeMap::len) } else { 0 };
        if gives_way_to_known || most > own + 1 {
            let (of, seats) =
                self.heaviest(known, most).min_by_key(|(_, seats)| seats.keys().next().copied())?;
            let addresses = addresses(seats);
            let (address, _) =
                addresses.into_iter().max_by_key(|(_, (count, oldest))| (*count, Reverse(*oldest)))?;
            return Some((of, oldest_of(seats, address)?));
        }
        if let Some(seats) = self.of.get(&group).filter(|seats| seats.len() == most) {
            let addresses = addresses(seats);
            let own = addresses.get(&address).map_or(0, |(count, _)| *count);
            let (heaviest, (count, _)) =
                addresses.into_iter().max_by_key(|(_, (count, oldest))| (*count, Reverse(*oldest)))?;
            if count > own + 1 {
                return Some((group, oldest_of(seats, heaviest)?));
            }
        }
        let waits = self.heaviest(known, most).filter_map(|(of, seats)| {
            let (number, _) = seats.iter().find(|(_, seated)| seated.seat.waits_before(patience))?;
            Some((of, *number))
        });
        waits.min_by_key(|(_, number)| *number)
    }

    fn heaviest(&self, known: bool, most: usize) -> impl Iterator<Item = (Group, &BTreeMap<u64, Seated>)> {
        self.of
            .iter()
            .filter(move |(of, seats)| of.known == known && seats.len() == most)
            .map(|(of, seats)| (*of, seats))
    }
}

/// Counts the places of each address, with the number of its oldest.
fn addresses(seats: &BTreeMap<u64, Seated>) -> HashMap<IpAddr, (usize, u64)> {
    let mut addresses = HashMap::new();
    for (number, seated) in seats {
        addresses.entry(seated.address).or_insert((0, *number)).0 += 1;
    }
    addresses
}

/// Returns the oldest place of an address, one that waits for its peer before one that waits for the CPU.
fn oldest_of(seats: &BTreeMap<u64, Seated>, address: IpAddr) -> Option<u64> {
    let of = || seats.iter().filter(|(_, seated)| seated.address == address);
    let waits = of().find(|(_, seated)| seated.seat.waits_before(u64::MAX));
    waits.or_else(|| of().next()).map(|(number, _)| *number)
}

impl Seat {
    fn waits_before(&self, time: u64) -> bool {
        (1..=time).contains(&self.waits_since.load(Relaxed))
    }
}

impl Place<'_> {
    /// Does the work of a handshake, unless the place has to be given up.
    ///
    /// # Errors
    /// Those of the work, and [`TlsError::GaveWay`].
    pub(crate) async fn held<T>(
        &self,
        work: impl Future<Output = Result<T, TlsError>>,
    ) -> Result<T, TlsError> {
        tokio::select! {
            biased;
            () = self.seat.gives_way.notified() => Err(TlsError::GaveWay(self.places.most)),
            done = work => done,
        }
    }

    /// Does a piece of the arithmetic in turn. Outside of it the handshake waits for its peer.
    pub(crate) async fn in_turn<R>(&self, piece: impl FnOnce() -> R) -> R {
        self.seat.waits_since.store(0, Relaxed);
        let done = scheduled(self.lane, piece).await;
        self.seat.waits_since.store(self.places.now(), Relaxed);
        done
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.seats().remove(self.group, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, known: bool) -> Candidate {
        Candidate { address: address.parse().unwrap(), known }
    }

    fn take<'a>(places: &'a Places, address: &str, known: bool) -> Option<Place<'a>> {
        places.take(peer(address, known)).ok()
    }

    /// True if the place was taken by another.
    fn is_lost(place: &Place<'_>) -> bool {
        let seats = place.places.seats();
        seats.of.get(&place.group).is_none_or(|seats| !seats.contains_key(&place.number))
    }

    fn lost(places: &[Place<'_>]) -> Vec<usize> {
        (0..places.len()).filter(|at| is_lost(&places[*at])).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_stranger_that_has_most_gives_way_to_all_others() {
        let places = Places::new(8);
        let flood: Vec<_> = (0..8).map(|_| take(&places, "10.0.0.66", false).unwrap()).collect();
        let known = take(&places, "10.0.0.1", true);
        let other = take(&places, "10.0.0.2", false);
        assert!(known.is_some() && other.is_some());
        assert_eq!(lost(&flood), [0, 1], "the oldest");
        assert!(take(&places, "10.0.0.66", false).is_none(), "none of it has waited for long");
        tokio::time::advance(PATIENCE).await;
        let newest = take(&places, "10.0.0.66", false);
        assert!(newest.is_some(), "an honest peer behind the same address");
        assert_eq!(lost(&flood), [0, 1, 2]);
        assert_eq!(places.used(), 8);
        drop((flood, known, other, newest));
        assert_eq!(places.used(), 0);
        assert!(places.seats().of.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn known_peers_give_way_to_each_other_and_never_to_strangers() {
        let places = Places::new(4);
        let busy: Vec<_> = (0..4).map(|_| take(&places, "10.0.0.1", true).unwrap()).collect();
        tokio::time::advance(2 * PATIENCE).await;
        assert!(take(&places, "10.0.0.66", false).is_none());
        assert_eq!(lost(&busy), [0; 0]);
        let other = take(&places, "10.0.0.2", true);
        assert!(other.is_some());
        assert_eq!(lost(&busy), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_strangers_with_one_place_each_give_way_to_known_peers() {
        let places = Places::new(4);
        let crowd: Vec<_> = (1..=4).map(|n| take(&places, &format!("10.0.1.{n}"), false).unwrap()).collect();
        assert!(take(&places, "10.0.2.1", false).is_none(), "each has as few as the newcomer");
        let known: Vec<_> = (0..4).map(|_| take(&places, "10.0.0.1", true).unwrap()).collect();
        assert_eq!(lost(&crowd), [0, 1, 2, 3]);
        assert_eq!(lost(&known), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_addresses_of_a_64_are_one_stranger_whose_quiet_neighbours_stay() {
        let places = Places::new(8);
        let neighbour = take(&places, "fd00::2", false).unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| take(&places, "fd00::66", false).unwrap()).collect();
        flood.extend((0..2).map(|n| take(&places, &format!("fd00::77:{n}"), false).unwrap()));
        let other: Vec<_> = (0..2).map(|_| take(&places, "10.0.0.2", false).unwrap()).collect();
        assert_eq!(lost(&flood), [0]);
        let another = take(&places, "fd00::3", false);
        assert!(another.is_some(), "the network has most, but this address has none");
        assert_eq!(lost(&flood), [0, 1]);
        assert!(!is_lost(&neighbour) && lost(&other).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_that_waits_for_the_cpu_gives_none_up() {
        let places = Places::new(4);
        let burst: Vec<_> = (0..4).map(|_| take(&places, "10.0.0.1", false).unwrap()).collect();
        for place in &burst {
            place.seat.waits_since.store(0, Relaxed);
        }
        tokio::time::advance(2 * PATIENCE).await;
        assert!(take(&places, "10.0.0.1", false).is_none());
        burst[2].seat.waits_since.store(places.now(), Relaxed);
        assert!(take(&places, "10.0.0.2", false).is_some(), "another peer");
        assert_eq!(lost(&burst), [2], "the one that waits for its peer");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_way_ends() {
        let places = Places::new(1);
        let place = take(&places, "10.0.0.66", false).unwrap();
        let known = take(&places, "10.0.0.1", true).unwrap();
        let ended = place.held(std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(ended, Err(TlsError::GaveWay(1))));
        drop(place);
        assert_eq!(places.used(), 1);
        assert!(known.held(async { Ok(()) }).await.is_ok());
    }
}
