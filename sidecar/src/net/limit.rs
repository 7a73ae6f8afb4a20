// SPDX-License-Identifier: Apache-2.0
//! Limits on the number of open things. A permit gives its place back when it is dropped, also by a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A number of places that permits take.
#[derive(Debug)]
pub(crate) struct Limit {
    max: AtomicU32,
    used: AtomicU32,
}

impl Limit {
    /// Makes a limit of `max` places; with 0 there is never a permit.
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: AtomicU32::new(max), used: AtomicU32::new(0) })
    }

    /// Takes a place if one is free. Never waits: above the limit a client is refused at once, and does not hang in a
    /// queue.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max();
        let take = |used: u32| (used < max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Returns the number of places in use.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the number of all places.
    pub(crate) fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the number of places. Permits that exist stay valid.
    pub(crate) fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }
}

/// A place that is in use until this is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit gives its place back at once"]
pub(crate) struct Permit(Arc<Limit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
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
}
