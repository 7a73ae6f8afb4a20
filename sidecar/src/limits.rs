// SPDX-License-Identifier: Apache-2.0
//! Limits on what is open at a time. A permit gives its place back when it is dropped, however that comes about.

use crate::addrs::Direction;
use crate::route::ClusterId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A number of places.
#[derive(Debug)]
pub struct Limit {
    max: u32,
    used: AtomicU32,
}

impl Limit {
    /// A limit of `max` places; 0 lets nothing through.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicU32::new(0) })
    }

    /// Takes a place, or none when all are taken. Never waits: whoever comes too late is refused and sees it at once,
    /// rather than hanging in a queue.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let take = |used: u32| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Places in use.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Places in all.
    pub fn max(&self) -> u32 {
        self.max
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
/// Requests and retries are counted where the sidecar makes any; forwarding by original destination makes neither (in
/// Envoy as here).
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

/// All limits of this process.
#[derive(Debug)]
pub struct Limits {
    listeners: [Arc<Limit>; 2],
    clusters: [ClusterLimits; 4],
}

impl Limits {
    /// Limits for a process that may open so many files.
    pub fn new(thresholds: &Thresholds, open_files: u64) -> Self {
        Self {
            listeners: Direction::ALL.map(|_| Limit::new(per_listener(open_files))),
            clusters: ClusterId::ALL.map(|_| ClusterLimits {
                connections: Limit::new(thresholds.max_connections),
                pending: Limit::new(thresholds.max_pending_requests),
                requests: Limit::new(thresholds.max_requests),
                retries: Limit::new(thresholds.max_retries),
            }),
        }
    }

    /// The limit of a listener.
    pub fn listener(&self, direction: Direction) -> &Arc<Limit> {
        &self.listeners[direction as usize]
    }

    /// The circuit breaker of a cluster.
    pub fn cluster(&self, id: ClusterId) -> &ClusterLimits {
        &self.clusters[id.index()]
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
