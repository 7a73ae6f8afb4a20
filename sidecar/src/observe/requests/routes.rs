// SPDX-License-Identifier: Apache-2.0
//! Numbers of requests by route: direction, cluster, method and path without identifiers.
//!
//! Each worker counts in a table of its own. Numbers are of two periods, the one that is under way and the one before, so that
//! what was slow yesterday does not hide what is slow now.

use super::fold::fold;
use super::latencies::Latencies;
use super::noted::Noted;
use crate::net::addrs::Direction;
use std::collections::HashMap;
use std::time::Duration;

/// Routes of a worker. The least used gives its place to a new one, and counts among the others from then on.
pub(super) const MOST_ROUTES: usize = 128;
/// Ends the parts of a key.
const END: u8 = 0;

/// Numbers of requests that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) requests: u64,
    /// Requests that failed, whatever their status is.
    pub(crate) failed: u64,
    /// By the class of the status: 0 has those without an answer, and those of a status above 599.
    pub(crate) classes: [u64; 6],
    /// Without those of tunnels.
    pub(crate) latencies: Latencies,
}

impl Numbers {
    fn add(&mut self, noted: &Noted, time: Duration) {
        self.requests += 1;
        self.failed += u64::from(noted.is_failed());
        let class = usize::from(noted.status / 100);
        self.classes[if class < self.classes.len() { class } else { 0 }] += 1;
        if !noted.is_tunnel {
            self.latencies.add(time);
        }
    }

    pub(super) fn add_all(&mut self, others: &Self) {
        self.requests += others.requests;
        self.failed += others.failed;
        for (count, more) in self.classes.iter_mut().zip(others.classes) {
            *count += more;
        }
        self.latencies.add_all(&others.latencies);
    }
}

/// Numbers of this period and of the one before.
#[derive(Debug, Default)]
struct Periods {
    now: Numbers,
    before: Numbers,
    /// The table's count at the last request.
    last: u64,
}

impl Periods {
    fn turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn both(&self) -> Numbers {
        let mut both = self.before.clone();
        both.add_all(&self.now);
        both
    }
}

/// A route, as a reader of the table gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) direction: Direction,
    pub(crate) cluster: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) numbers: Numbers,
}

/// Routes of one worker.
#[derive(Debug, Default)]
pub(super) struct Routes {
    all: HashMap<Box<[u8]>, Periods>,
    /// Requests to routes that lost their places, by direction.
    others: [Periods; 2],
    /// Requests since the last look, by direction.
    fresh: [Numbers; 2],
    /// Requests so far.
    count: u64,
    /// The key that is looked for. Kept, so that a request to a known route allocates nothing.
    key: Vec<u8>,
    /// The request that the key is of: many clients ask for the same again and again, and a fold is a third of the work.
    folded: Folded,
}

/// The direction, cluster and words of a request whose key is known.
#[derive(Debug, Default)]
struct Folded {
    direction: Option<Direction>,
    cluster: String,
    words: Vec<u8>,
    ends: [usize; 2],
}

impl Folded {
    /// Returns true if it is the same, and notes it else.
    fn is(&mut self, direction: Direction, cluster: &str, noted: &Noted) -> bool {
        let (words, ends) = noted.words();
        if self.direction == Some(direction)
            && self.cluster == cluster
            && self.ends == ends
            && self.words == words
        {
            return true;
        }
        self.cluster.clear();
        self.cluster.push_str(cluster);
        self.words.clear();
        self.words.extend_from_slice(words);
        (self.direction, self.ends) = (Some(direction), ends);
        false
    }
}

/// Writes the key of a route.
fn write_key(key: &mut Vec<u8>, direction: Direction, cluster: &str, noted: &Noted) {
    key.clear();
    key.push(direction as u8);
    for part in [cluster.as_bytes(), noted.method()] {
        key.extend(part.iter().filter(|byte| **byte != END));
        key.push(END);
    }
    fold(noted.path(), key);
}

fn route(key: &[u8], numbers: Numbers) -> Option<Route> {
    let (direction, rest) = key.split_first()?;
    let direction = Direction::ALL.into_iter().find(|one| *one as u8 == *direction)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut parts = rest.splitn(3, |byte| *byte == END).map(text);
    let mut part = || parts.next().unwrap_or_default();
    Some(Route { direction, cluster: part(), method: part(), path: part(), numbers })
}

impl Routes {
    /// Counts a request that ended.
    pub(super) fn add(&mut self, direction: Direction, cluster: &str, noted: &Noted, time: Duration) {
        self.count += 1;
        self.fresh[direction as usize].add(noted, time);
        if !self.folded.is(direction, cluster, noted) {
            write_key(&mut self.key, direction, cluster, noted);
        }
        if let Some(route) = self.all.get_mut(&*self.key) {
            route.last = self.count;
            route.now.add(noted, time);
            return;
        }
        if self.all.len() >= MOST_ROUTES {
            self.let_go();
        }
        let mut route = Periods { last: self.count, ..Periods::default() };
        route.now.add(noted, time);
        self.all.insert(self.key.as_slice().into(), route);
    }

    /// Takes the place of the least used route: of two that are even, the one that was not used for longer.
    fn let_go(&mut self) {
        let used = |periods: &Periods| (periods.now.requests + periods.before.requests, periods.last);
        let least = self.all.iter().min_by_key(|(_, periods)| used(periods)).map(|(key, _)| key.clone());
        let gone = least.and_then(|key| self.all.remove_entry(&*key));
        if let Some((key, gone)) = gone
            && let Some(others) = key.first().and_then(|place| self.others.get_mut(usize::from(*place)))
        {
            others.now.add_all(&gone.now);
            others.before.add_all(&gone.before);
        }
    }

    /// Ends the period. Routes without a request in it lose their places.
    pub(super) fn turn(&mut self) {
        self.all.retain(|_, periods| {
            periods.turn();
            periods.before.requests > 0
        });
        self.others.iter_mut().for_each(Periods::turn);
    }

    /// Takes the requests since the last look.
    pub(super) fn take_fresh(&mut self) -> [Numbers; 2] {
        std::mem::take(&mut self.fresh)
    }

    /// Adds the routes to those of other workers.
    pub(super) fn read(&self, into: &mut HashMap<Box<[u8]>, Numbers>, others: &mut [Numbers; 2]) {
        for (key, periods) in &self.all {
            into.entry(key.clone()).or_default().add_all(&periods.both());
        }
        for (sum, periods) in others.iter_mut().zip(&self.others) {
            sum.add_all(&periods.both());
        }
    }
}

/// Returns routes as they are shown.
pub(super) fn shown(all: HashMap<Box<[u8]>, Numbers>) -> Vec<Route> {
    all.into_iter().filter_map(|(key, numbers)| route(&key, numbers)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(path: &str, status: u16) -> Box<Noted> {
        let mut noted = Noted::of("GET", b"shop", path);
        noted.status = status;
        noted
    }

    fn read(routes: &Routes) -> (Vec<Route>, [Numbers; 2]) {
        let (mut all, mut others) = (HashMap::new(), <[Numbers; 2]>::default());
        routes.read(&mut all, &mut others);
        let mut all = shown(all);
        all.sort_by(|a, b| (a.direction, &a.cluster, &a.path).cmp(&(b.direction, &b.cluster, &b.path)));
        (all, others)
    }

    fn add(routes: &mut Routes, path: &str, status: u16) {
        routes.add(Direction::Inbound, "localhost:80", &noted(path, status), Duration::from_millis(5));
    }

    #[test]
    fn requests_of_a_route_count_together_by_class() {
        let mut routes = Routes::default();
        for (path, status) in
            [("/a/1", 200), ("/a/2", 404), ("/a/3?x", 503), ("/a/4", 0), ("/a/5", 700), ("/b", 301)]
        {
            add(&mut routes, path, status);
        }
        routes.add(Direction::Outbound, "web", &noted("/b", 204), Duration::from_millis(1));
        let (all, others) = read(&routes);
        let lines = all.iter().map(|one| {
            let Route { direction, cluster, method, path, numbers } = one;
            format!(
                "{direction} {cluster} {method} {path} {} {:?} {}",
                numbers.requests, numbers.classes, numbers.failed
            )
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "inbound localhost:80 GET /a/* 5 [2, 0, 1, 0, 1, 1] 1",
                "inbound localhost:80 GET /b 1 [0, 0, 0, 1, 0, 0] 0",
                "outbound web GET /b 1 [0, 0, 1, 0, 0, 0] 0",
            ]
        );
        assert_eq!(others, <[Numbers; 2]>::default());
        let fresh = routes.take_fresh().map(|of| of.requests);
        assert_eq!((fresh, routes.take_fresh().map(|of| of.requests)), ([6, 1], [0, 0]));
    }

    #[test]
    fn however_many_paths_there_are_few_are_kept_and_the_busy_ones_stay() {
        let mut routes = Routes::default();
        let scan = |number: usize| {
            format!("/scan-{}", "x".repeat(number % 30 + 1))
                + &"/y".repeat(number / 30 % 7)
                + &"/z".repeat(number / 210)
        };
        for number in 0..1_000 {
            add(&mut routes, "/busy", 200);
            add(&mut routes, &scan(number), 404);
        }
        let (all, others) = read(&routes);
        assert_eq!(all.len(), MOST_ROUTES);
        let busy = all.iter().find(|one| one.path == "/busy").unwrap();
        assert_eq!(busy.numbers.requests, 1_000);
        let sum: u64 = all.iter().map(|one| one.numbers.requests).sum();
        assert_eq!(sum + others[0].requests, 2_000, "none is lost");
        assert_eq!(others[1].requests, 0);
        // Numbers are gone behind two periods, and routes without requests with them.
        routes.turn();
        assert_eq!(read(&routes).0.len(), MOST_ROUTES);
        add(&mut routes, "/busy", 200);
        routes.turn();
        let (all, others) = read(&routes);
        assert_eq!((all.len(), all[0].numbers.requests, others[0].requests), (1, 1, 0));
        routes.turn();
        assert_eq!(read(&routes).0, []);
    }

    #[test]
    fn a_tunnel_counts_and_has_no_time() {
        let mut routes = Routes::default();
        let mut tunnel = noted("/", 101);
        tunnel.is_tunnel = true;
        routes.add(Direction::Inbound, "a", &tunnel, Duration::from_secs(3_600));
        let numbers = &read(&routes).0[0].numbers;
        assert_eq!((numbers.requests, numbers.classes[1], numbers.latencies.longest()), (1, 1, None));
    }
}
