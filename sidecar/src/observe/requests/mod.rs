// SPDX-License-Identifier: Apache-2.0
//! Requests of HTTP as operators see them: numbers by route, percentiles, and the latest that failed in words.
//!
//! ```text
//! head ─▶ Noted (goes with the request) ─▶ end ─┬─▶ routes of the worker ─┬─▶ pages: all workers together
//!                                               └─▶ the latest failed ────┘
//! ```
//! A worker counts by itself, so no request waits for another worker; a request that failed takes a lock of all.

mod failed;
mod fold;
mod latencies;
mod noted;
mod routes;

pub(crate) use failed::FailedRequest;
pub(crate) use noted::Noted;
pub(crate) use routes::{Numbers, Route};

use crate::net::addrs::Direction;
use failed::Failed;
use routes::{Routes, shown};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Seconds of a period. Numbers are of this one and the one before: of the last 2.5 to 5 minutes.
const PERIOD: u32 = 150;

/// Number of threads that counted so far.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Number of this thread among them.
    static THREAD: usize = THREADS.fetch_add(1, Relaxed);
}

/// The table of one worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Table(Mutex<Routes>);

/// The places that a request comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) direction: Direction,
    pub(crate) cluster: &'a str,
    /// Inbound the caller, outbound the service that is called.
    pub(crate) peer: &'a str,
}

/// Requests of a direction within a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Flow {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// In milliseconds; none without a request.
    pub(crate) p99: Option<f64>,
}

/// Requests within a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Second {
    pub(crate) inbound: Flow,
    pub(crate) outbound: Flow,
}

/// Times at which the periods began.
#[derive(Debug)]
struct Clock {
    /// Seconds of this period so far.
    seconds: u32,
    now: Instant,
    before: Instant,
}

/// The requests of a process.
#[derive(Debug)]
pub(crate) struct RequestBook {
    tables: Box<[Table]>,
    failed: Failed,
    clock: Mutex<Clock>,
}

/// What the book says.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Time that the numbers are of.
    pub(crate) window: Duration,
    pub(crate) routes: Vec<Route>,
    /// Requests of routes that lost their places to others, by direction.
    pub(crate) others: [Numbers; 2],
    /// All requests, by direction.
    pub(crate) all: [Numbers; 2],
    /// The latest first.
    pub(crate) failed: Vec<FailedRequest>,
}

// === impl RequestBook ===

impl RequestBook {
    /// Begins with a table for each worker.
    pub(crate) fn new(workers: usize) -> Self {
        let now = Instant::now();
        Self {
            tables: (0..workers.max(1)).map(|_| Table::default()).collect(),
            failed: Failed::default(),
            clock: Mutex::new(Clock { seconds: 0, now, before: now }),
        }
    }

    /// Counts a request that ended.
    pub(crate) fn ended(&self, origin: &Origin<'_>, noted: Box<Noted>, took: Duration) {
        if noted.is_failed() {
            self.failed.note(origin, &noted, noted.why().unwrap_or_default(), took);
        }
        let table = THREAD.with(|thread| &self.tables[thread % self.tables.len()]);
        table.lock().add(origin.direction, origin.cluster, &noted, took);
        noted.reuse();
    }

    /// Notes bytes that were no request, and were answered.
    pub(crate) fn refused(&self, origin: &Origin<'_>, noted: Box<Noted>) {
        self.failed.note(origin, &noted, noted.why().unwrap_or_default(), Duration::ZERO);
        noted.reuse();
    }

    /// Takes the requests of the last second. The main thread does so once a second.
    pub(crate) fn take_second(&self) -> Second {
        let mut fresh = <[Numbers; 2]>::default();
        let ends = self.clock().ticks();
        for table in &self.tables {
            let mut routes = table.lock();
            for (sum, more) in fresh.iter_mut().zip(routes.take_fresh()) {
                sum.add_all(&more);
            }
            if ends {
                routes.turn();
            }
        }
        let [inbound, outbound] = fresh.map(|of| Flow {
            requests: of.requests,
            failed: of.failed,
            p99: of.latencies.percentile(0.99),
        });
        Second { inbound, outbound }
    }

    /// Reads the tables of all workers.
    pub(crate) fn read(&self) -> Reading {
        let (mut all, mut others) = (HashMap::new(), <[Numbers; 2]>::default());
        for table in &self.tables {
            table.lock().read(&mut all, &mut others);
        }
        let routes = shown(all);
        let mut sums = others.clone();
        for route in &routes {
            sums[route.direction as usize].add_all(&route.numbers);
        }
        let window = self.clock().before.elapsed();
        Reading { window, routes, others, all: sums, failed: self.failed.latest() }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    /// Returns true if the period ends with this second.
    fn ticks(&mut self) -> bool {
        self.seconds += 1;
        if self.seconds < PERIOD {
            return false;
        }
        (self.seconds, self.before, self.now) = (0, self.now, Instant::now());
        true
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const ORIGIN: Origin<'static> = Origin { direction: Direction::Outbound, cluster: "web", peer: "web" };

    fn ask(book: &RequestBook, path: &str, status: u16, millis: u64) {
        let mut noted = Noted::of("GET", b"web", path);
        noted.status = status;
        if status >= 500 {
            noted.fails(format!("the server answered {status}"));
        }
        book.ended(&ORIGIN, noted, Duration::from_millis(millis));
    }

    #[test]
    fn workers_count_apart_and_are_read_together() {
        let book = Arc::new(RequestBook::new(2));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let book = Arc::clone(&book);
                std::thread::spawn(move || (0..50).for_each(|millis| ask(&book, "/a", 200, millis)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        ask(&book, "/a", 503, 100);
        let Reading { routes, all, failed, .. } = book.read();
        assert_eq!((routes.len(), routes[0].numbers.requests, routes[0].numbers.failed), (1, 201, 1));
        assert_eq!((all[0].requests, all[1].requests), (0, 201));
        assert_eq!((failed.len(), &*failed[0].why, &*failed[0].peer), (1, "the server answered 503", "web"));
        let Second { inbound, outbound } = book.take_second();
        assert_eq!((inbound, outbound.requests, outbound.failed), (Flow::default(), 201, 1));
        assert!(outbound.p99.is_some_and(|p99| (45.0..=100.0).contains(&p99)), "{outbound:?}");
        assert_eq!(book.take_second(), Second::default());
    }

    #[test]
    fn numbers_are_of_two_periods() {
        let book = RequestBook::new(1);
        let seconds = |number: u32| (0..number).for_each(|_| _ = book.take_second());
        ask(&book, "/a", 200, 1);
        seconds(PERIOD);
        ask(&book, "/a", 200, 1);
        seconds(PERIOD - 1);
        assert_eq!(book.read().all[1].requests, 2);
        seconds(1);
        assert_eq!(book.read().all[1].requests, 1);
        seconds(PERIOD);
        assert_eq!(book.read().routes, []);
    }

    #[test]
    fn what_was_no_request_is_told_and_counts_for_no_route() {
        let book = RequestBook::new(1);
        let mut noted = Noted::of("", b"", "");
        noted.status = 400;
        noted.fails("bare_lf: an LF without CR");
        book.refused(&ORIGIN, noted);
        let Reading { routes, failed, .. } = book.read();
        assert_eq!((routes.len(), failed[0].status, &*failed[0].why), (0, 400, "bare_lf: an LF without CR"));
    }
}
