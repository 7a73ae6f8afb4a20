// SPDX-License-Identifier: Apache-2.0
//! Where the passthrough clusters have been dialling: what Envoy calls the hosts of an ORIGINAL_DST cluster.
//!
//! An application may dial any number of addresses, so the list is bounded: those that were quiet longest are forgotten.

use crate::cluster::registry::ClusterId;
use crate::net::addrs::DialAddr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// How many are remembered; some 150 KB when all are.
const KEPT: usize = 1024;

/// One host of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// Connections dialled.
    pub total: u64,
    /// Connections open or being made.
    pub active: u32,
    /// Connects that failed.
    pub connect_fail: u64,
    /// When the last one was dialled or closed.
    pub last_seen: Instant,
}

/// All hosts that are remembered.
#[derive(Debug, Default)]
pub struct Destinations(Mutex<Hosts>);

type Hosts = HashMap<(ClusterId, DialAddr), Destination>;

impl Destinations {
    /// A connection is dialled.
    pub fn dialled(&self, cluster: ClusterId, addr: DialAddr) {
        let last_seen = Instant::now();
        let mut hosts = self.hosts();
        if hosts.len() >= KEPT && !hosts.contains_key(&(cluster, addr)) {
            forget_quiet_ones(&mut hosts);
            if hosts.len() >= KEPT {
                // Every one of them has a connection open; those are worth more than a new one.
                return;
            }
        }
        let new = Destination { total: 0, active: 0, connect_fail: 0, last_seen };
        let host = hosts.entry((cluster, addr)).or_insert(new);
        host.total += 1;
        host.active += 1;
        host.last_seen = last_seen;
    }

    /// Its connect failed; it is closed too.
    pub fn failed(&self, cluster: ClusterId, addr: DialAddr) {
        if let Some(host) = self.hosts().get_mut(&(cluster, addr)) {
            host.connect_fail += 1;
        }
    }

    /// A connection is closed.
    pub fn closed(&self, cluster: ClusterId, addr: DialAddr) {
        if let Some(host) = self.hosts().get_mut(&(cluster, addr)) {
            host.active = host.active.saturating_sub(1);
            host.last_seen = Instant::now();
        }
    }

    /// All of a cluster, the latest first.
    pub fn of(&self, cluster: ClusterId) -> Vec<(DialAddr, Destination)> {
        let hosts = self.hosts();
        let of_cluster = hosts.iter().filter(|((id, _), _)| *id == cluster);
        let mut all: Vec<_> = of_cluster.map(|((_, addr), host)| (*addr, *host)).collect();
        drop(hosts);
        all.sort_by_key(|(_, host)| std::cmp::Reverse(host.last_seen));
        all
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Destination {
    /// When it was last seen, by the wall clock.
    pub fn last_seen_at(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.last_seen.elapsed()).unwrap_or(now)
    }
}

/// A quarter at a time, so that the search costs little per connection even where each dials another address.
fn forget_quiet_ones(hosts: &mut Hosts) {
    let mut quiet: Vec<_> =
        hosts.iter().filter(|(_, host)| host.active == 0).map(|(key, host)| (host.last_seen, *key)).collect();
    quiet.sort_unstable_by_key(|(last_seen, _)| *last_seen);
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
        destinations.dialled(CLUSTER, addr(1));
        destinations.dialled(CLUSTER, addr(1));
        destinations.failed(CLUSTER, addr(1));
        destinations.closed(CLUSTER, addr(1));
        let of = destinations.of(CLUSTER);
        assert_eq!(of.len(), 1);
        assert_eq!((of[0].1.total, of[0].1.active, of[0].1.connect_fail), (2, 1, 1));
        assert!(destinations.of(ClusterId(0)).is_empty());
    }

    #[test]
    fn the_quiet_ones_are_forgotten_and_the_open_ones_are_not() {
        let destinations = Destinations::default();
        for n in 0..4000 {
            destinations.dialled(CLUSTER, addr(n));
            if n >= 10 {
                destinations.closed(CLUSTER, addr(n));
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
        for n in 0..1100 {
            destinations.dialled(CLUSTER, addr(n));
        }
        assert_eq!(destinations.of(CLUSTER).len(), KEPT);
        destinations.closed(CLUSTER, addr(1099));
    }
}
