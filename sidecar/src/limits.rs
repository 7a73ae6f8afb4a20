// SPDX-License-Identifier: Apache-2.0
//! Limits on what is open at a time. A permit gives its place back when it is dropped, however that comes about.

use crate::addrs::Direction;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A number of places.
#[derive(Debug)]
pub struct Limit {
    max: AtomicU32,
    used: AtomicU32,
}

impl Limit {
    /// A limit of `max` places; 0 lets nothing through.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: AtomicU32::new(max), used: AtomicU32::new(0) })
    }

    /// Takes a place, or none when all are taken. Never waits: whoever comes too late is refused and sees it at once,
    /// rather than hanging in a queue.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max();
        let take = |used: u32| (used < max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Places in use.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Places in all.
    pub fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the number of places. Whoever has one keeps it.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }
}

/// A place taken; dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a permit gives its place back at once"]
pub struct Permit(Arc<Limit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The circuit breaker of a cluster, with the names and defaults of Kuma's.
///
/// Retries are made by the clusters of a Dataplane's outbounds, and counted there. Requests are HTTP's; nothing here makes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections to the upstream, those being made included.
    pub max_connections: u32,
    /// Connections being made.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
}

impl Default for Thresholds {
    /// The seeds' defaults, which are Envoy's.
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

/// The circuit breaker of one cluster.
#[derive(Debug)]
pub struct ClusterLimits {
    /// Connections, those being made included.
    pub connections: Arc<Limit>,
    /// Connections being made.
    pub pending: Arc<Limit>,
    /// Requests under way; see [`Thresholds`].
    pub requests: Arc<Limit>,
    /// Retries under way; see [`Thresholds`].
    pub retries: Arc<Limit>,
}

impl ClusterLimits {
    /// The limits that these thresholds say.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self {
            connections: Limit::new(thresholds.max_connections),
            pending: Limit::new(thresholds.max_pending_requests),
            requests: Limit::new(thresholds.max_requests),
            retries: Limit::new(thresholds.max_retries),
        }
    }

    /// Changes them, for a cluster that lives on.
    pub fn set(&self, thresholds: &Thresholds) {
        self.connections.set_max(thresholds.max_connections);
        self.pending.set_max(thresholds.max_pending_requests);
        self.requests.set_max(thresholds.max_requests);
        self.retries.set_max(thresholds.max_retries);
    }
}

/// The limits of both directions, whatever listener a connection comes to.
#[derive(Debug)]
pub struct Limits {
    listeners: [Arc<Limit>; 2],
}

impl Limits {
    /// Limits for a process that may open so many files.
    pub fn new(open_files: u64) -> Self {
        Self { listeners: Direction::ALL.map(|_| Limit::new(per_listener(open_files))) }
    }

    /// The limit of a direction.
    pub fn listener(&self, direction: Direction) -> &Arc<Limit> {
        &self.listeners[direction as usize]
    }
}

/// How many connections each listener may hold, given the number of files this process may open.
///
/// A proxied connection is two files. Each listener leaves the other some places: a pod that calls itself holds one of
/// each, and a crowd of peers must not take the application's way out.
pub fn per_listener(open_files: u64) -> u32 {
    /// Files for listeners, status and admin connections, epoll, logs.
    const RESERVED_FILES: u64 = 256;
    /// Places that the other direction keeps.
    const FLOOR: u64 = 256;
    let pairs = open_files.saturating_sub(RESERVED_FILES.min(open_files / 4)) / 2;
    let limit = pairs - FLOOR.min(pairs / 4);
    u32::try_from(limit).unwrap_or(u32::MAX)
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
        assert!(Limit::new(0).try_acquire().is_none());
    }

    #[test]
    fn a_permit_comes_back_from_a_panic() {
        let limit = Limit::new(1);
        let moved = Arc::clone(&limit);
        let joined = std::thread::spawn(move || {
            let _permit = moved.try_acquire();
            panic!("a connection with a defect");
        })
        .join();
        assert!(joined.is_err());
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn listeners_share_the_files_and_leave_each_other_some() {
        for (files, expected) in [(20_000, 9_616), (1_048_576, 523_904), (1024, 288), (64, 18), (0, 0)] {
            assert_eq!(per_listener(files), expected, "{files} files");
        }
    }
}
