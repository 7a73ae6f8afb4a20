// SPDX-License-Identifier: Apache-2.0
//! Requests of HTTP as JSON, for `/requests` and the page.

use super::app::App;
use crate::net::addrs::Direction;
use crate::net::clock::rfc3339;
use crate::observe::requests::{FailedRequest, Numbers, Reading, Route};
use crate::plan::Serve;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Most routes on the page; `/requests` has them all.
pub(super) const MOST_ROUTES: usize = 100;

/// Names of classes, in the order of [`Numbers::classes`].
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The requests of the process.
#[derive(Serialize)]
pub(super) struct RequestsView {
    /// Seconds that the numbers are of.
    window: f64,
    /// All requests.
    directions: Vec<DirectionView>,
    routes_total: usize,
    /// Those that fail come first, then the slowest.
    routes: Vec<RouteView>,
    /// Requests of routes that lost their places to others.
    others: Vec<DirectionView>,
    /// The latest first.
    failures: Vec<FailureView>,
}

/// Numbers of requests that ended within the window.
#[derive(Serialize)]
struct NumbersView {
    requests: u64,
    per_second: f64,
    failed: u64,
    /// By the class of the status; `none` has those without an answer.
    statuses: BTreeMap<&'static str, u64>,
    /// In milliseconds; none where no request had a time.
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    longest: Option<f64>,
}

#[derive(Serialize)]
struct DirectionView {
    direction: &'static str,
    #[serde(flatten)]
    numbers: NumbersView,
}

#[derive(Serialize)]
struct RouteView {
    direction: &'static str,
    cluster: String,
    method: String,
    /// With `*` in place of identifiers.
    path: String,
    #[serde(flatten)]
    numbers: NumbersView,
}

#[derive(Serialize)]
struct FailureView {
    direction: &'static str,
    cluster: String,
    /// Inbound the caller, outbound the service that was called; or an address.
    peer: String,
    method: String,
    authority: String,
    path: String,
    /// None without an answer.
    status: Option<u16>,
    why: String,
    /// In milliseconds.
    took: f64,
    time: String,
    /// In seconds before now.
    last: f64,
    count: u64,
}

impl RequestsView {
    /// Returns the requests, with so many routes at most.
    pub(super) fn of(app: &App, most: usize) -> Self {
        Self::new(app.proxy.requests.read(), most)
    }

    /// Returns the requests where there are any, or could be.
    pub(super) fn of_http(app: &App) -> Option<Self> {
        let view = Self::of(app, MOST_ROUTES);
        let has_port = || app.proxy.running.load().plan.listeners.iter().any(|one| one.serve == Serve::Http);
        (!view.routes.is_empty() || !view.failures.is_empty() || has_port()).then_some(view)
    }

    fn new(Reading { window, mut routes, others, all, failed }: Reading, most: usize) -> Self {
        let window = window.as_secs_f64();
        routes.sort_by_cached_key(|route| {
            let slow = route.numbers.latencies.percentile(0.99).unwrap_or_default();
            // In microseconds, as numbers have an order and fractions none.
            (Reverse((route.numbers.failed, (slow * 1e3) as u64)), route.path.clone())
        });
        let of = |numbers: [Numbers; 2]| {
            let each = Direction::ALL.into_iter().zip(numbers).filter(|(_, numbers)| numbers.requests > 0);
            each.map(|(direction, numbers)| DirectionView {
                direction: direction.name(),
                numbers: NumbersView::of(&numbers, window),
            })
            .collect()
        };
        Self {
            window,
            directions: of(all),
            routes_total: routes.len(),
            routes: routes.into_iter().take(most).map(|route| RouteView::of(route, window)).collect(),
            others: of(others),
            failures: failed.into_iter().map(FailureView::of).collect(),
        }
    }
}

impl NumbersView {
    fn of(numbers: &Numbers, window: f64) -> Self {
        let Numbers { requests, failed, classes, latencies } = numbers;
        let statuses = CLASSES.into_iter().zip(*classes).filter(|(_, count)| *count > 0);
        Self {
            requests: *requests,
            // Of a process that has just begun there is less than a second.
            per_second: *requests as f64 / window.max(1.0),
            failed: *failed,
            statuses: statuses.collect(),
            p50: latencies.percentile(0.5),
            p90: latencies.percentile(0.9),
            p99: latencies.percentile(0.99),
            longest: latencies.longest(),
        }
    }
}

impl RouteView {
    fn of(Route { direction, cluster, method, path, numbers }: Route, window: f64) -> Self {
        let numbers = NumbersView::of(&numbers, window);
        Self { direction: direction.name(), cluster, method, path, numbers }
    }
}

impl FailureView {
    fn of(one: FailedRequest) -> Self {
        Self {
            direction: one.direction.name(),
            cluster: one.cluster,
            peer: one.peer,
            method: one.method,
            authority: one.authority,
            path: one.path,
            status: (one.status != 0).then_some(one.status),
            why: one.why,
            took: one.took.as_secs_f64() * 1e3,
            time: rfc3339(one.at),
            last: one.last.elapsed().as_secs_f64(),
            count: one.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::requests::{Noted, Origin, RequestBook};
    use std::time::Duration;

    fn ask(book: &RequestBook, (cluster, path): (&str, &str), status: u16, millis: u64) {
        let mut noted = Noted::of("GET", b"shop", path);
        noted.status = status;
        let origin = Origin { direction: Direction::Outbound, cluster, peer: "shop" };
        book.ended(&origin, noted, Duration::from_millis(millis));
    }

    #[test]
    fn routes_that_fail_come_first_and_then_the_slowest() {
        let book = RequestBook::new(1);
        for (path, status, millis) in [
            ("/fast", 200, 1),
            ("/slow", 200, 900),
            ("/bad", 200, 1),
            ("/bad", 503, 1),
            ("/slower", 200, 2_000),
        ] {
            ask(&book, ("shop", path), status, millis);
        }
        let view = serde_json::to_value(RequestsView::new(book.read(), 3)).unwrap();
        let paths: Vec<_> = view["routes"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
        assert_eq!(paths, ["/bad", "/slower", "/slow"]);
        assert_eq!(
            (&view["routes_total"], &view["routes"][0]["statuses"]),
            (&4.into(), &serde_json::json!({"2xx": 1, "5xx": 1}))
        );
        let all = &view["directions"][0];
        assert_eq!(
            (&all["direction"], &all["requests"], &all["failed"]),
            (&"outbound".into(), &5.into(), &1.into())
        );
        assert_eq!((&all["p50"], &all["longest"]), (&all["p50"], &2_000.0.into()));
        assert!(all["p50"].as_f64().is_some_and(|p50| p50 <= 1.1), "{all}");
        assert_eq!(view["failures"][0]["status"], 503);
        assert_eq!(view["directions"].as_array().unwrap().len(), 1, "nothing came in");
    }
}
