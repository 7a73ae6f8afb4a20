// SPDX-License-Identifier: Apache-2.0
//! The addresses that clusters dialled lately: Envoy calls them the hosts of a cluster.
//!
//! An application may dial any number of addresses, so the list is bounded: those that had no connection for longest are forgotten.

use crate::cluster::registry::ClusterId;
use crate::net::addrs::DialAddr;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Addresses that are remembered; some 150 KB when all are.
const KEPT: usize = 1024;

/// An address that a cluster dialled, as the pages show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    /// Connections dialled.
    pub(crate) total: u64,
    /// Connections open or being made.
    pub(crate) active: u32,
    pub(crate) connect_fail: u64,
    /// The time at which one was dialled or closed last.
    pub(crate) last_seen: Instant,
}

/// All addresses that are remembered.
#[derive(Debug)]
pub(crate) struct Destinations {
    since: Instant,
    hosts: Mutex<Hosts>,
}

type Hosts = HashMap<(ClusterId, DialAddr), Arc<Host>>;

/// The counters of one address. Connections that dial it count here without looking it up again.
#[derive(Debug)]
struct Host {
    total: AtomicU64,
    active: AtomicU32,
    connect_fail: AtomicU64,
    since: Instant,
    /// Nanoseconds after `since`.
    last_seen: AtomicU64,
}

/// A connection to an address, counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct DestinationUse(Arc<Host>);

impl Default for Destinations {
    fn default() -> Self {
        Self { since: Instant::now(), hosts: Mutex::default() }
    }
}

impl Destinations {
    /// Counts a connection that is dialled. `None` if as many addresses as are remembered have connections open: those are
    /// worth more than a new one.
    pub(crate) fn dialled(&self, cluster: ClusterId, addr: DialAddr) -> Option<DestinationUse> {
        let mut hosts = self.hosts();
        if hosts.len() >= KEPT && !hosts.contains_key(&(cluster, addr)) {
            forget_quiet_ones(&mut hosts);
            if hosts.len() >= KEPT {
                return None;
            }
        }
        let host = hosts.entry((cluster, addr)).or_insert_with(|| Arc::new(Host::new(self.since)));
        host.total.fetch_add(1, Relaxed);
        // Within the lock: a host that has a connection is not forgotten.
        host.active.fetch_add(1, Relaxed);
        host.seen();
        Some(DestinationUse(Arc::clone(host)))
    }

    /// Returns all of a cluster, the latest first.
    pub(crate) fn of(&self, cluster: ClusterId) -> Vec<(DialAddr, Destination)> {
        let hosts = self.hosts();
        let of_cluster = hosts.iter().filter(|((id, _), _)| *id == cluster);
        let mut all: Vec<_> = of_cluster.map(|((_, addr), host)| (*addr, host.get())).collect();
        drop(hosts);
        all.sort_by_key(|(_, host)| std::cmp::Reverse(host.last_seen));
        all
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn new(since: Instant) -> Self {
        Self {
            total: AtomicU64::new(0),
            active: AtomicU32::new(0),
            connect_fail: AtomicU64::new(0),
            since,
            last_seen: AtomicU64::new(0),
        }
    }

    fn seen(&self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_seen.store(nanos, Relaxed);
    }

    fn get(&self) -> Destination {
        Destination {
            total: self.total.load(Relaxed),
            active: self.active.load(Relaxed),
            connect_fail: self.connect_fail.load(Relaxed),
            last_seen: self.since + Duration::from_nanos(self.last_seen.load(Relaxed)),
        }
    }
}

impl DestinationUse {
    /// Counts that the connect failed.
    pub(crate) fn failed(&self) {
        self.0.connect_fail.fetch_add(1, Relaxed);
    }
}

impl Drop for DestinationUse {
    fn drop(&mut self) {
        self.0.seen();
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Destination {
    /// Returns the time at which it was last seen, by the wall clock.
    pub(crate) fn last_seen_at(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.last_seen.elapsed()).unwrap_or(now)
    }
}

/// A quarter at a time, so that the search costs little per connection even where each dials another address.
fn forget_quiet_ones(hosts: &mut Hosts) {
    let mut quiet: Vec<_> =
        hosts.iter().map(|(key, host)| (host.get(), *key)).filter(|(host, _)| host.active == 0).collect();
    quiet.sort_unstable_by_key(|(host, _)| host.last_seen);
    for (_, key) in quiet.iter().take(KEPT / 4) {
        hosts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(2);

    fn addr(n: u16) -> DialAddr {
        DialAddr::new(([192, 0, 2, 1], n).into())
    }

    #[test]
    fn a_host_counts_its_connections() {
        let destinations = Destinations::default();
        let _open = destinations.dialled(CLUSTER, addr(1));
        destinations.dialled(CLUSTER, addr(1)).unwrap().failed();
        let of = destinations.of(CLUSTER);
        assert_eq!(of.len(), 1);
        assert_eq!((of[0].1.total, of[0].1.active, of[0].1.connect_fail), (2, 1, 1));
        assert!(destinations.of(ClusterId(0)).is_empty());
    }

    #[test]
    fn the_quiet_ones_are_forgotten_and_the_open_ones_are_not() {
        let destinations = Destinations::default();
        let mut open = Vec::new();
        for n in 0..4000 {
            let dialled = destinations.dialled(CLUSTER, addr(n));
            if n < 10 {
                open.push(dialled);
            }
        }
        let of = destinations.of(CLUSTER);
        assert!(of.len() <= KEPT, "{}", of.len());
        assert_eq!(of[0].0, addr(3999));
        for n in 0..10 {
            assert!(of.iter().any(|(at, _)| *at == addr(n)), "{n}");
        }
    }

    #[test]
    fn when_all_are_open_a_new_one_is_not_remembered_and_nothing_breaks() {
        let destinations = Destinations::default();
        let open: Vec<_> = (0..1100).map(|n| destinations.dialled(CLUSTER, addr(n))).collect();
        assert_eq!(destinations.of(CLUSTER).len(), KEPT);
        assert_eq!(open.iter().flatten().count(), KEPT);
    }
}
