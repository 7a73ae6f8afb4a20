// SPDX-License-Identifier: Apache-2.0
//! Limits on what is open at a time. A permit gives its place back when it is dropped, however that comes about.

use crate::net::addrs::Direction;
use crate::net::limit::{Limit, Permit};
use crate::options::config::Thresholds;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The circuit breaker of one cluster.
#[derive(Debug)]
pub(crate) struct ClusterLimits {
    /// Connections, those being made included.
    pub(crate) connections: Limit,
    /// Connects in flight.
    pub(crate) pending: Limit,
    /// Requests under way; see [`Thresholds`].
    pub(crate) requests: RareLimit,
    /// Retries under way; see [`Thresholds`].
    pub(crate) retries: RareLimit,
}

/// A limit that most clusters never ask for a place: it is made by the first that does.
#[derive(Debug)]
pub(crate) struct RareLimit {
    made: OnceLock<Limit>,
    max: AtomicU32,
}

impl RareLimit {
    fn new(max: u32) -> Self {
        Self { made: OnceLock::new(), max: AtomicU32::new(max) }
    }

    /// Takes a place if one is free.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let limit = self.made.get_or_init(|| Limit::of(self.max()));
        // A reload may have changed it while it was made.
        limit.set_max(self.max());
        limit.try_acquire()
    }

    /// Returns the number of places in use.
    pub(crate) fn used(&self) -> u32 {
        self.made.get().map_or(0, Limit::used)
    }

    /// Returns the number of all places.
    pub(crate) fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }
}

impl ClusterLimits {
    pub(crate) fn new(thresholds: &Thresholds) -> Self {
        Self {
            connections: Limit::of(thresholds.max_connections),
            pending: Limit::of(thresholds.max_pending_requests),
            requests: RareLimit::new(thresholds.max_requests),
            retries: RareLimit::new(thresholds.max_retries),
        }
    }

    fn set(&self, thresholds: &Thresholds) {
        self.connections.set_max(thresholds.max_connections);
        self.pending.set_max(thresholds.max_pending_requests);
        self.requests.set_max(thresholds.max_requests);
        self.retries.set_max(thresholds.max_retries);
    }
}

/// The circuit breaker of a cluster that may never be called: of thousands few are, and one is some 300 bytes. Made when a
/// connection asks for a place.
#[derive(Debug, Default)]
pub(crate) struct LazyLimits {
    made: OnceLock<Box<ClusterLimits>>,
    /// The limits of the plan in force.
    thresholds: Mutex<Thresholds>,
}

impl LazyLimits {
    /// Reads the limits without making them.
    pub(crate) fn view<T>(&self, read: impl FnOnce(&ClusterLimits) -> T) -> T {
        match self.made.get() {
            Some(limits) => read(limits),
            None => {
                let limits = ClusterLimits::new(&self.thresholds());
                read(&limits)
            }
        }
    }

    /// Changes the limits of a cluster that outlives a reload. Permits in use stay in use.
    pub(crate) fn set(&self, thresholds: &Thresholds) {
        let mut there = self.thresholds();
        *there = *thresholds;
        if let Some(limits) = self.made.get() {
            limits.set(thresholds);
        }
    }

    /// A panic leaves them whole: each change is one assignment.
    fn thresholds(&self) -> MutexGuard<'_, Thresholds> {
        self.thresholds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For taking places. [`LazyLimits::view`] is for reading.
impl Deref for LazyLimits {
    type Target = ClusterLimits;

    fn deref(&self) -> &ClusterLimits {
        if let Some(limits) = self.made.get() {
            return limits;
        }
        // Held until they are made: a reload meanwhile waits, and changes them then.
        let thresholds = self.thresholds();
        self.made.get_or_init(|| Box::new(ClusterLimits::new(&thresholds)))
    }
}

/// The limits on connections by direction; all listeners of a direction share one.
#[derive(Debug)]
pub(crate) struct Limits {
    listeners: [Arc<Limit>; 2],
}

impl Limits {
    /// Derives the limits from the number of files that the process may open.
    pub(crate) fn new(open_files: u64) -> Self {
        Self { listeners: Direction::ALL.map(|_| Limit::new(per_listener(open_files))) }
    }

    pub(crate) fn listener(&self, direction: Direction) -> &Arc<Limit> {
        &self.listeners[direction as usize]
    }
}

/// Returns the number of connections that each direction may hold, given the number of files that the process may open.
///
/// A proxied connection is two files. Each direction leaves the other some places: a pod that calls itself holds one of
/// each, and a crowd of peers must not take the places of the application's own connections.
pub(crate) fn per_listener(open_files: u64) -> u32 {
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
    fn limits_that_none_took_are_those_of_the_plan_and_are_not_made() {
        let limits = LazyLimits::default();
        let max = || limits.view(|limits| (limits.connections.used(), limits.connections.max()));
        assert_eq!(max(), (0, 1024));
        limits.set(&Thresholds { max_connections: 2, ..Thresholds::default() });
        assert_eq!(max(), (0, 2));
        assert!(limits.made.get().is_none());
        let held = [limits.connections.try_acquire().unwrap(), limits.connections.try_acquire().unwrap()];
        assert!(limits.connections.try_acquire().is_none());
        limits.set(&Thresholds { max_connections: 3, ..Thresholds::default() });
        assert_eq!(max(), (2, 3));
        // One that is rarely asked for follows the plan before it is made and after.
        limits.set(&Thresholds { max_retries: 1, max_connections: 3, ..Thresholds::default() });
        let held_retry = limits.retries.try_acquire().unwrap();
        assert!(limits.retries.try_acquire().is_none());
        limits.set(&Thresholds { max_retries: 2, max_connections: 3, ..Thresholds::default() });
        assert_eq!((limits.retries.used(), limits.retries.max(), limits.requests.used()), (1, 2, 0));
        assert!(limits.retries.try_acquire().is_some());
        drop(held_retry);
        drop(held);
        assert_eq!(max(), (0, 3));
    }

    #[test]
    fn listeners_share_the_files_and_leave_each_other_some() {
        for (files, expected) in [(20_000, 9_616), (1_048_576, 523_904), (1024, 288), (64, 18), (0, 0)] {
            assert_eq!(per_listener(files), expected, "{files} files");
        }
    }
}
