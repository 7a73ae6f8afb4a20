// SPDX-License-Identifier: Apache-2.0
//! A [`Plan`] in force: its listeners and clusters with their counters and limits.
//!
//! These live as long as their name does: a reload that keeps a name keeps its counters, its limits' places in use and its
//! turn, and a connection keeps the ones that it began with. So a connection looks them up once, and a byte never.

use crate::cluster::limits::ClusterLimits;
use crate::cluster::metrics::{ListenerMetrics, UpstreamMetrics};
use crate::plan::{Plan, Upstream};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long an endpoint that could not be reached is tried after all others.
const ASIDE: Duration = Duration::from_secs(5);

/// Endpoints that one connection tries at most; Kuma's default for TCP.
pub const MOST_ATTEMPTS: usize = 5;

/// A cluster in this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u32);

/// A cluster's books.
#[derive(Debug)]
pub struct Cluster {
    /// Its number.
    pub id: ClusterId,
    /// Its name.
    pub name: Arc<str>,
    /// Its limits.
    pub limits: ClusterLimits,
    /// Its counters.
    pub(crate) metrics: UpstreamMetrics,
    /// Whose turn it is among the endpoints.
    turn: AtomicUsize,
}

/// A listener's books.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its counters.
    pub(crate) metrics: ListenerMetrics,
}

/// The name in statistics, where Envoy replaces `:` by `_`; whatever else would need quotes somewhere, too.
pub fn stat_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// A plan in force.
#[derive(Debug)]
pub struct Running {
    /// What it says.
    pub plan: Plan,
    /// In the plan's order.
    pub clusters: Vec<Arc<Cluster>>,
    /// In the plan's order.
    pub listeners: Vec<Arc<Listener>>,
    /// By cluster and endpoint: until when it is set aside, in milliseconds since [`Self::since`].
    aside: Vec<Box<[AtomicU64]>>,
    since: Instant,
}

/// All books that are open.
#[derive(Debug, Default)]
pub struct Books {
    clusters: Mutex<HashMap<Arc<str>, Weak<Cluster>>>,
    listeners: Mutex<HashMap<Arc<str>, Weak<Listener>>>,
    next_id: AtomicU32,
}

fn reuse<T>(
    books: &Mutex<HashMap<Arc<str>, Weak<T>>>,
    names: impl Iterator<Item = Arc<str>>,
    mut new: impl FnMut(Arc<str>) -> T,
) -> Vec<Arc<T>> {
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    let mut one = |name: Arc<str>| {
        if let Some(there) = books.get(&name).and_then(Weak::upgrade) {
            return there;
        }
        let made = Arc::new(new(Arc::clone(&name)));
        books.insert(name, Arc::downgrade(&made));
        made
    };
    let used = names.map(&mut one).collect();
    // What no configuration and no connection has any more: so the books are bounded by these.
    books.retain(|_, book| book.strong_count() != 0);
    used
}

impl Books {
    /// Puts a plan in force.
    pub fn open(&self, plan: Plan) -> Arc<Running> {
        let clusters =
            reuse(&self.clusters, plan.clusters.iter().map(|cluster| Arc::clone(&cluster.name)), |name| {
                Cluster {
                    id: ClusterId(self.next_id.fetch_add(1, Relaxed)),
                    name,
                    limits: ClusterLimits::new(&Default::default()),
                    metrics: UpstreamMetrics::default(),
                    turn: AtomicUsize::new(0),
                }
            });
        for (cluster, planned) in clusters.iter().zip(&plan.clusters) {
            cluster.limits.set(&planned.thresholds);
        }
        let names = plan.listeners.iter().map(|listener| Arc::clone(&listener.name));
        let listeners =
            reuse(&self.listeners, names, |name| Listener { name, metrics: ListenerMetrics::default() });
        let aside = plan
            .clusters
            .iter()
            .map(|cluster| match &cluster.upstream {
                Upstream::Endpoints(endpoints) => endpoints.iter().map(|_| AtomicU64::new(0)).collect(),
                Upstream::OriginalDst { .. } | Upstream::Application { .. } => Box::default(),
            })
            .collect();
        Arc::new(Running { plan, clusters, listeners, aside, since: Instant::now() })
    }
}

impl Running {
    /// The endpoints of a cluster in the order in which a connection tries them: from the next one on, and those that
    /// lately could not be reached after the others.
    pub fn turns(&self, cluster: usize) -> Turns<'_> {
        let count = self.aside[cluster].len();
        let start = self.clusters[cluster].turn.fetch_add(1, Relaxed) % count.max(1);
        Turns {
            aside: &self.aside[cluster],
            start,
            step: 0,
            now: self.millis(),
            tried: [usize::MAX; MOST_ATTEMPTS],
            tries: 0,
        }
    }

    /// An endpoint could not be reached.
    pub fn set_aside(&self, cluster: usize, endpoint: usize) {
        let until = self.millis() + u64::try_from(ASIDE.as_millis()).unwrap_or(u64::MAX);
        self.aside[cluster][endpoint].store(until, Relaxed);
    }

    /// An endpoint was reached.
    pub fn take_back(&self, cluster: usize, endpoint: usize) {
        if self.aside[cluster][endpoint].load(Relaxed) != 0 {
            self.aside[cluster][endpoint].store(0, Relaxed);
        }
    }

    fn millis(&self) -> u64 {
        // From 1, as 0 is for "never".
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// See [`Running::turns`].
#[derive(Debug)]
pub struct Turns<'a> {
    aside: &'a [AtomicU64],
    start: usize,
    /// Twice around: first those that are not set aside, then those that are.
    step: usize,
    now: u64,
    tried: [usize; MOST_ATTEMPTS],
    tries: usize,
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let count = self.aside.len();
        while self.step < 2 * count && self.tries < MOST_ATTEMPTS {
            let at = (self.start + self.step) % count;
            let second = self.step >= count;
            self.step += 1;
            let is_aside = self.aside[at].load(Relaxed) > self.now;
            // One that fails in this very turn is set aside, too.
            if is_aside == second && !self.tried[..self.tries].contains(&at) {
                self.tried[self.tries] = at;
                self.tries += 1;
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Endpoint, Member, Origin};
    use culvert_mesh::model::tags::Tags;

    fn plan(names: &[&str], endpoints: usize) -> Plan {
        let member = Arc::new(Member { dataplane: "d".into(), tags: Arc::new(Tags::default()) });
        let endpoint = |n: usize| Endpoint {
            address: ([10, 0, 0, u8::try_from(n).unwrap()], 80).into(),
            member: Arc::clone(&member),
        };
        let cluster = |name: &&str| plan::Cluster {
            name: (*name).into(),
            origin: Origin::Outbound,
            upstream: Upstream::Endpoints((0..endpoints).map(endpoint).collect()),
            thresholds: Default::default(),
            connect_timeout: None,
        };
        Plan { clusters: names.iter().map(cluster).collect(), ..Plan::default() }
    }

    #[test]
    fn a_name_that_stays_keeps_its_books_and_one_that_goes_takes_them_along() {
        let books = Books::default();
        let first = books.open(plan(&["web", "db"], 1));
        first.clusters[0].metrics.total.inc();
        let permit = first.clusters[0].limits.connections.try_acquire();
        let mut changed = plan(&["web", "cache"], 1);
        changed.clusters[0].thresholds.max_connections = 5;
        let second = books.open(changed);
        assert!(Arc::ptr_eq(&first.clusters[0], &second.clusters[0]));
        assert_eq!(second.clusters[0].metrics.total.get(), 1);
        let limit = &second.clusters[0].limits.connections;
        assert_eq!((limit.used(), limit.max()), (1, 5));
        drop((first, permit));
        let third = books.open(plan(&["db"], 1));
        assert_eq!(third.clusters[0].id, ClusterId(3), "a new book");
        drop(second);
        books.open(plan(&[], 1));
        assert_eq!(books.clusters.lock().unwrap().len(), 1, "web and cache are closed");
    }

    #[test]
    fn endpoints_take_turns() {
        let running = Books::default().open(plan(&["web"], 3));
        let firsts: Vec<_> = (0..6).map(|_| running.turns(0).next().unwrap()).collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
        assert_eq!(running.turns(0).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn an_endpoint_that_could_not_be_reached_comes_last_for_a_while() {
        let running = Books::default().open(plan(&["web"], 3));
        running.set_aside(0, 1);
        for _ in 0..3 {
            assert_eq!(running.turns(0).last(), Some(1));
        }
        running.take_back(0, 1);
        assert_eq!((0..3).filter(|_| running.turns(0).next() == Some(1)).count(), 1);
    }

    #[test]
    fn one_that_fails_in_a_turn_is_not_tried_again_in_it() {
        let running = Books::default().open(plan(&["web"], 2));
        let mut tried = Vec::new();
        for at in running.turns(0) {
            running.set_aside(0, at);
            tried.push(at);
        }
        assert_eq!(tried, [0, 1]);
    }

    #[test]
    fn a_connection_tries_a_few_of_many() {
        assert_eq!(Books::default().open(plan(&["web"], 100)).turns(0).count(), MOST_ATTEMPTS);
    }

    #[test]
    fn without_endpoints_there_is_no_turn() {
        assert_eq!(Books::default().open(plan(&["web"], 0)).turns(0).count(), 0);
    }

    #[test]
    fn names_in_statistics_are_envoys() {
        assert_eq!(stat_name("outbound:passthrough:ipv4"), "outbound_passthrough_ipv4");
        assert_eq!(stat_name("web.default.svc[version=1]"), "web_default_svc_version_1_");
    }
}
