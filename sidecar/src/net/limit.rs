// SPDX-License-Identifier: Apache-2.0
//! Limits on the number of open things. A permit gives its place back when it is dropped, also by a panic.
//!
//! Where the mesh has members, a [`Claim`] says who asks. A member may take every place. Strangers leave an eighth of the
//! places to members, and each stranger leaves an eighth of the rest to other strangers, so that no peer can lock out
//! another one by holding places. Nothing that is open is closed for a newcomer.

use culvert_serve::network_of;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The part of all places that strangers leave to members: 128 of a circuit breaker's 1,024. Envoy has no such part.
const KEPT_FOR_MEMBERS: u32 = 8;

/// Places that a stranger may hold for each that it leaves free, so at most seven eighths of what strangers may have, 784 of
/// 1,024. The rule of switches for shared buffers (dynamic thresholds): it needs no list of who waits.
const HELD_PER_FREE: u32 = 7;

/// The standing of a connection that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// May take every place: a member, a connection of this pod's, any connection where there are no members.
    Full,
    /// May take what strangers leave each other.
    Stranger(Stranger),
}

impl Claim {
    /// Completes "as many as the limit allows".
    pub(crate) fn limited(self) -> &'static str {
        match self {
            Self::Full => "",
            Self::Stranger(_) => " to a client that is not known as a member of the mesh",
        }
    }
}

/// A peer that is not known as a member: a hash of its network, and in it one of its address. Two peers with the same hash
/// would share their places; the hash's key is drawn at the start, so no peer can look for such a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stranger(NonZeroU64);

impl Stranger {
    pub(crate) fn new(address: IpAddr) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        // An IPv4 address is a network of its own, and its two halves are equal: it is counted once.
        let half = |of: IpAddr| KEY.hash_one(of) & u64::from(u32::MAX);
        let hash = half(network_of(address)) << 32 | half(address.to_canonical());
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    fn network(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// Returns the address where it is one of many in its network.
    fn address(self) -> Option<u32> {
        let address = self.0.get() as u32;
        (address != self.network()).then_some(address)
    }
}

/// A number of places that permits take.
#[derive(Debug)]
pub(crate) struct Limit {
    counts: Arc<Counts>,
    /// Shared by all permits but strangers', so that a permit is one pointer: a connection has two for its whole life.
    full: Arc<Claimed>,
}

#[derive(Debug)]
struct Counts {
    max: AtomicU32,
    used: AtomicU32,
    /// Made by the first stranger that asks: at most clusters none does.
    strangers: Mutex<Option<Box<Strangers>>>,
}

/// The claim by which a place was taken.
#[derive(Debug)]
struct Claimed {
    counts: Arc<Counts>,
    stranger: Option<Stranger>,
}

/// The places of strangers, by network and by address: no more entries than places.
#[derive(Debug, Default)]
struct Strangers {
    networks: HashMap<u32, u32>,
    addresses: HashMap<u32, u32>,
}

impl Limit {
    /// Makes a limit of `max` places; with 0 there is never a permit.
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self::of(max))
    }

    /// Makes one that its owner does not share.
    pub(crate) fn of(max: u32) -> Self {
        let counts =
            Counts { max: AtomicU32::new(max), used: AtomicU32::new(0), strangers: Mutex::default() };
        let counts = Arc::new(counts);
        let full = Arc::new(Claimed { counts: Arc::clone(&counts), stranger: None });
        Self { counts, full }
    }

    /// Takes a place if one is free. Never waits: above the limit a client is refused at once, and does not hang in a
    /// queue.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        self.counts.take_below(self.max())?;
        Some(Permit(Arc::clone(&self.full)))
    }

    /// Takes a place if one is free for this claim.
    pub(crate) fn try_acquire_for(&self, claim: Claim) -> Option<Permit> {
        let Claim::Stranger(stranger) = claim else { return self.try_acquire() };
        let mut strangers = self.counts.strangers();
        let strangers = strangers.get_or_insert_default();
        let most = self.max() - self.max() / KEPT_FOR_MEMBERS;
        let free = most.saturating_sub(self.used());
        if !strangers.leaves_enough(stranger, free) {
            return None;
        }
        // Members, who do not wait for this lock, may have taken the place meanwhile.
        self.counts.take_below(most)?;
        strangers.add(stranger);
        Some(Permit(Arc::new(Claimed { counts: Arc::clone(&self.counts), stranger: Some(stranger) })))
    }

    /// Returns the number of places in use.
    pub(crate) fn used(&self) -> u32 {
        self.counts.used.load(Ordering::Relaxed)
    }

    /// Returns the number of all places.
    pub(crate) fn max(&self) -> u32 {
        self.counts.max.load(Ordering::Relaxed)
    }

    /// Changes the number of places. Permits that exist stay valid.
    pub(crate) fn set_max(&self, max: u32) {
        self.counts.max.store(max, Ordering::Relaxed);
    }
}

impl Counts {
    fn take_below(&self, most: u32) -> Option<()> {
        let take = |used: u32| (used < most).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok().map(|_| ())
    }

    /// A panic leaves the counts whole: each change is one assignment.
    fn strangers(&self) -> MutexGuard<'_, Option<Box<Strangers>>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Strangers {
    /// Returns true if the stranger, which takes one more of the free places, leaves enough of them to others: its network to
    /// other networks, and its address to others of its network.
    fn leaves_enough(&self, stranger: Stranger, free: u32) -> bool {
        let count = |of: &HashMap<u32, u32>, key| of.get(&key).copied().unwrap_or_default();
        let may_hold = free.saturating_mul(HELD_PER_FREE);
        let held = count(&self.networks, stranger.network());
        if held >= may_hold {
            return false;
        }
        let Some(address) = stranger.address() else { return true };
        // Each place that the network takes is also one that is no longer free.
        let left = (may_hold - held).div_ceil(HELD_PER_FREE + 1);
        count(&self.addresses, address) < left.saturating_mul(HELD_PER_FREE)
    }

    fn add(&mut self, stranger: Stranger) {
        *self.networks.entry(stranger.network()).or_default() += 1;
        if let Some(address) = stranger.address() {
            *self.addresses.entry(address).or_default() += 1;
        }
    }

    fn remove(&mut self, stranger: Stranger) {
        let less = |of: &mut HashMap<u32, u32>, key| {
            if let Some(count) = of.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    of.remove(&key);
                }
            }
        };
        less(&mut self.networks, stranger.network());
        if let Some(address) = stranger.address() {
            less(&mut self.addresses, address);
        }
    }
}

/// A place that is in use until this is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit gives its place back at once"]
pub(crate) struct Permit(Arc<Claimed>);

impl Drop for Permit {
    fn drop(&mut self) {
        let Claimed { counts, stranger } = &*self.0;
        if let Some(stranger) = stranger {
            counts.strangers().get_or_insert_default().remove(*stranger);
        }
        counts.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_gives_its_place_back() {
        let limit = Limit::new(2);
        let first = limit.try_acquire().unwrap();
        let second = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        assert_eq!(limit.used(), 2);
        drop(first);
        let third = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        drop((second, third));
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn fewer_places_take_nothing_away_and_more_are_used_at_once() {
        let limit = Limit::new(2);
        let held = [limit.try_acquire().unwrap(), limit.try_acquire().unwrap()];
        limit.set_max(1);
        assert!(limit.try_acquire().is_none());
        drop(held);
        assert!(limit.try_acquire().is_some());
        limit.set_max(3);
        let held: Vec<_> = std::iter::from_fn(|| limit.try_acquire()).collect();
        assert_eq!(held.len(), 3);
    }

    #[test]
    fn zero_places_let_nothing_through() {
        let limit = Limit::new(0);
        assert!(limit.try_acquire().is_none() && limit.try_acquire_for(stranger("10.0.0.1")).is_none());
    }

    #[test]
    fn a_permit_comes_back_from_a_panic() {
        let limit = Limit::new(1);
        for claim in [Claim::Full, stranger("fd00::1")] {
            let moved = Arc::clone(&limit);
            let joined = std::thread::spawn(move || {
                let _permit = moved.try_acquire_for(claim).expect("a place");
                panic!("a connection with a defect");
            })
            .join();
            assert!(joined.is_err());
            assert_eq!(limit.used(), 0);
        }
    }

    fn stranger(address: &str) -> Claim {
        Claim::Stranger(Stranger::new(address.parse().unwrap()))
    }

    /// Takes as many places as there are for this claim.
    fn fill(limit: &Arc<Limit>, claim: Claim) -> Vec<Permit> {
        std::iter::from_fn(|| limit.try_acquire_for(claim)).collect()
    }

    #[test]
    fn a_stranger_leaves_places_to_members_and_to_other_strangers() {
        let limit = Limit::new(1024);
        let one = fill(&limit, stranger("10.0.0.1"));
        assert_eq!(one.len(), 784);
        let others: Vec<_> =
            (2..=8).flat_map(|last| fill(&limit, stranger(&format!("10.0.0.{last}")))).collect();
        let used = limit.used();
        assert!((880..=896).contains(&used), "{used}");
        let members = fill(&limit, Claim::Full);
        assert_eq!(members.len() as u32, 1024 - used);
        drop((one, others, members));
        assert_eq!(limit.used(), 0);
        let strangers = limit.counts.strangers();
        let strangers = strangers.as_ref().unwrap();
        assert!(strangers.networks.is_empty() && strangers.addresses.is_empty());
    }

    #[test]
    fn thousands_of_strangers_leave_an_eighth_to_members() {
        let limit = Limit::new(1024);
        let crowd: Vec<_> = (0..5000u32)
            .filter_map(|n| {
                let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
                limit.try_acquire_for(Claim::Stranger(Stranger::new(address)))
            })
            .collect();
        assert_eq!(crowd.len(), 896);
        assert_eq!(fill(&limit, Claim::Full).len(), 128);
    }

    #[test]
    fn the_addresses_of_a_64_share_and_leave_each_other_some() {
        let limit = Limit::new(1024);
        let of = |host: u32| stranger(&format!("fd00::{host:x}"));
        let greedy = fill(&limit, of(1));
        assert!((600..784).contains(&greedy.len()), "{}", greedy.len());
        let neighbour = limit.try_acquire_for(of(2));
        assert!(neighbour.is_some(), "another pod of the same node");
        let all: Vec<_> = (3..2000).filter_map(|host| limit.try_acquire_for(of(host))).collect();
        assert!(limit.used() <= 784, "{}: as much as one IPv4 address", limit.used());
        assert!(limit.try_acquire_for(stranger("fd00:0:0:1::1")).is_some(), "another network");
        drop((greedy, neighbour, all));
    }

    #[test]
    fn members_take_every_place_and_few_places_are_all_for_anyone() {
        let limit = Limit::new(1024);
        assert_eq!(fill(&limit, Claim::Full).len(), 1024);
        for few in 1..8 {
            assert_eq!(fill(&Limit::new(few), stranger("10.0.0.1")).len(), few as usize);
        }
    }
}
