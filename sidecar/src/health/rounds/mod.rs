// SPDX-License-Identifier: Apache-2.0
//! The targets of checks, and the time at which each is due. Pure but for the flags and counters of clusters.

use crate::cluster::endpoint::Endpoint;
use crate::cluster::health::CheckTotals;
use crate::cluster::registry::{Cluster, Running};
use crate::health::dice::Dice;
use crate::health::job::{CheckError, Done, Job, Kept, Key};
use crate::health::tally::Tally;
use crate::net::addrs::DialAddr;
use crate::net::limit::Limit;
use crate::plan::Discovery;
use crate::plan::health::CheckPlan;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Targets at most, some 2 MiB. Further endpoints are not checked, and stay in service.
const MOST_TARGETS: usize = 8192;

/// Connections that are kept from one check to the next, each a file; the checks of others make a new one each time.
const MOST_KEPT: u32 = 256;

/// All targets of the plan in force.
#[derive(Debug)]
pub(super) struct Rounds {
    targets: HashMap<Key, Target>,
    /// The times at which targets are due. An entry that its target does not confirm is passed over.
    due: BinaryHeap<Reverse<(Instant, Key)>>,
    /// Counts checks, so that the result of one whose target is gone is not another's.
    checks: u64,
    /// Counts plans, to find the targets that a plan does not have any more.
    plans: u64,
    /// Targets at most.
    most: usize,
    /// Endpoints without a check, as there are too many.
    left_out: usize,
    /// Places of connections that are kept.
    places: Arc<Limit>,
    dice: Dice,
}

#[derive(Debug)]
struct Target {
    /// That of the plan in force.
    cluster: Arc<Cluster>,
    /// `None` for the application behind an inbound.
    endpoint: Option<Arc<Endpoint>>,
    check: Arc<CheckPlan>,
    tally: Tally,
    state: State,
    /// The connection of the last check, for the next.
    kept: Option<Kept>,
    /// The last plan that has it.
    plan: u64,
}

#[derive(Debug)]
enum State {
    Waiting(Instant),
    UnderWay {
        number: u64,
        /// `None` until it is known.
        handle: Option<AbortHandle>,
    },
}

impl Drop for Target {
    fn drop(&mut self) {
        if let State::UnderWay { handle: Some(handle), .. } = &self.state {
            handle.abort();
        }
    }
}

/// A target that a plan wants.
#[derive(Clone, Copy)]
struct Wanted<'r> {
    cluster: &'r Arc<Cluster>,
    endpoint: Option<&'r Arc<Endpoint>>,
    address: SocketAddr,
    check: &'r Arc<CheckPlan>,
}

/// Returns the targets among clusters.
fn wanted(clusters: &[Arc<Cluster>]) -> impl Iterator<Item = Wanted<'_>> {
    clusters.iter().filter_map(|cluster| Some((cluster, cluster.check()?))).flat_map(|(cluster, check)| {
        let endpoints = cluster.endpoints().iter().map(move |endpoint| Wanted {
            cluster,
            endpoint: Some(endpoint),
            address: endpoint.address,
            check,
        });
        let application = match &cluster.plan.upstream {
            Discovery::Application { address, .. } => {
                Some(Wanted { cluster, endpoint: None, address: *address, check })
            }
            // Of an original destination the servers are those of its connections.
            Discovery::Endpoints(_) | Discovery::External(_) | Discovery::OriginalDst { .. } => None,
        };
        endpoints.chain(application)
    })
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self {
            targets: HashMap::new(),
            due: BinaryHeap::new(),
            checks: 0,
            plans: 0,
            most: MOST_TARGETS,
            left_out: 0,
            places: Limit::new(MOST_KEPT),
            dice: Dice::default(),
        }
    }

    /// Takes the targets of a plan. One that an earlier plan had with the same check goes on as it was.
    pub(super) fn follow(&mut self, running: &Running, now: Instant) {
        self.plans += 1;
        let plan = self.plans;
        let clusters = running.checked_clusters();
        let new: Vec<_> = wanted(&clusters).filter(|wanted| !self.keep(*wanted)).collect();
        // Before the new ones, as they take the places.
        self.targets.retain(|_, target| target.plan == plan);
        let before = std::mem::replace(&mut self.left_out, 0);
        for wanted in new {
            self.begin(wanted, now);
        }
        // Plans that change often must not leave entries behind for the length of an interval.
        if self.due.len() > 2 * self.targets.len() {
            let Self { due, targets, .. } = self;
            due.retain(|Reverse((due, key))| targets.get(key).is_some_and(|target| target.is_due_at(*due)));
        }
        if self.left_out != 0 && self.left_out != before {
            tracing::warn!(
                "{} endpoints have no active checks, as {} others have: they stay in service; let MeshHealthCheck be \
                 about fewer services",
                self.left_out,
                self.most
            );
        }
    }

    /// Lets a target go on, and returns true if it is there with the same check.
    fn keep(&mut self, Wanted { cluster, endpoint, address, check }: Wanted<'_>) -> bool {
        let plan = self.plans;
        match self.targets.get_mut(&(cluster.state.id, address)) {
            Some(target) if target.check == *check => {
                (target.cluster, target.endpoint) = (Arc::clone(cluster), endpoint.cloned());
                target.plan = plan;
                true
            }
            _ => false,
        }
    }

    fn begin(&mut self, Wanted { cluster, endpoint, address, check }: Wanted<'_>, now: Instant) {
        if self.targets.len() >= self.most {
            self.left_out += 1;
            // One that an earlier plan had checked would stay out of service for good, as nothing looks at it again.
            cluster.set_unhealthy(endpoint.map(Arc::as_ref), false);
            return;
        }
        let key = (cluster.state.id, address);
        let due = now + self.dice.below(check.initial_jitter);
        let target = Target {
            cluster: Arc::clone(cluster),
            endpoint: endpoint.cloned(),
            check: Arc::clone(check),
            // What an earlier check found stays until the first of this one.
            tally: Tally::of(endpoint.is_some_and(|endpoint| endpoint.ejection.is_unhealthy())),
            state: State::Waiting(due),
            kept: None,
            plan: self.plans,
        };
        self.due.push(Reverse((due, key)));
        self.targets.insert(key, target);
    }

    /// Returns the time at which the next check is due.
    pub(super) fn due(&mut self) -> Option<Instant> {
        while let Some(&Reverse((due, key))) = self.due.peek() {
            if self.targets.get(&key).is_some_and(|target| target.is_due_at(due)) {
                return Some(due);
            }
            self.due.pop();
        }
        None
    }

    /// Takes a check that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
        if self.due()? > now {
            return None;
        }
        let Reverse((_, key)) = self.due.pop()?;
        let target = self.targets.get_mut(&key)?;
        self.checks += 1;
        let number = self.checks;
        target.state = State::UnderWay { number, handle: None };
        target.cluster.state.health.metrics().attempts.inc();
        let source = match &target.cluster.plan.upstream {
            Discovery::Application { source, .. } => *source,
            _ => None,
        };
        Some(Job {
            key,
            number,
            to: DialAddr::new(key.1),
            source,
            behind: target.endpoint.as_ref().map(|endpoint| endpoint.behind.clone()),
            check: Arc::clone(&target.check),
            kept: target.kept.take(),
        })
    }

    /// Notes the task of a check, which ends with its target.
    pub(super) fn began(&mut self, key: Key, number: u64, task: AbortHandle) {
        match self.targets.get_mut(&key).map(|target| &mut target.state) {
            Some(State::UnderWay { number: of, handle }) if *of == number => *handle = Some(task),
            _ => task.abort(),
        }
    }

    /// Counts the outcome of a check.
    pub(super) fn done(&mut self, done: Done, now: Instant, totals: &CheckTotals) {
        let Done { key, number, outcome } = done;
        let Some(target) = self.targets.get_mut(&key) else { return };
        if !matches!(target.state, State::UnderWay { number: of, .. } if of == number) {
            return;
        }
        match outcome {
            Ok(connection) => {
                let kept = connection.zip(self.places.try_acquire());
                target.kept = kept.map(|(connection, place)| Kept { connection, _place: place });
                totals.passed.inc();
                target.cluster.state.health.metrics().successes.inc();
                target.decide(true, None);
            }
            Err(error) if error.is_ours() => {
                totals.not_made.inc();
                tracing::debug!(cluster = &*target.cluster.plan.name, endpoint = %key.1, "not checked: {error}");
            }
            Err(error) => {
                totals.failed.inc();
                let metrics = target.cluster.state.health.metrics();
                metrics.failures.inc();
                metrics.network_failures.inc();
                target.decide(false, Some(&error));
            }
        }
        let wait = self.wait(key);
        self.wait_until(key, now + wait);
    }

    /// Lets the checks begin again whose tasks ended without a result.
    pub(super) fn lost(&mut self, now: Instant) {
        let is_lost = |target: &Target| matches!(&target.state, State::UnderWay { handle: Some(handle), .. } if handle.is_finished());
        let lost: Vec<_> =
            self.targets.iter().filter(|(_, target)| is_lost(target)).map(|(key, _)| *key).collect();
        for key in lost {
            let wait = self.wait(key);
            self.wait_until(key, now + wait);
        }
    }

    fn wait_until(&mut self, key: Key, due: Instant) {
        if let Some(target) = self.targets.get_mut(&key) {
            target.state = State::Waiting(due);
            self.due.push(Reverse((due, key)));
        }
    }

    /// Returns the time until the next check of a target, by the outcome of the last.
    fn wait(&mut self, key: Key) -> Duration {
        let Self { targets, dice, .. } = self;
        let Some(Target { check, cluster, tally, .. }) = targets.get(&key) else { return Duration::ZERO };
        let interval = if cluster.state.metrics.view(|metrics| metrics.total.get()) == 0 {
            check.no_traffic_interval
        } else if tally.last_failed() {
            check.unhealthy_interval
        } else {
            check.interval
        };
        let share = interval * check.interval_jitter_percent / 100;
        interval + dice.below(share) + dice.below(check.interval_jitter)
    }
}

impl Target {
    fn is_due_at(&self, due: Instant) -> bool {
        matches!(self.state, State::Waiting(at) if at == due)
    }

    /// Counts a check that passed or failed, and sets the flag where that changes the state.
    fn decide(&mut self, passed: bool, error: Option<&CheckError>) {
        let Self { cluster, endpoint, check, tally, .. } = self;
        let changed = tally.count(passed, check);
        // The flag may be that of an earlier check.
        cluster.set_unhealthy(endpoint.as_deref(), tally.is_unhealthy());
        let name = &*cluster.plan.name;
        let address = endpoint.as_ref().map(|endpoint| endpoint.address);
        let endpoint = address.map(tracing::field::display);
        match error {
            None if changed => tracing::info!(cluster = name, endpoint, "passes its active checks again"),
            None => {}
            Some(error) if changed => {
                tracing::info!(cluster = name, endpoint, "fails its active checks: {error}");
            }
            Some(error) if check.log_failures => {
                tracing::info!(cluster = name, endpoint, "an active check failed: {error}");
            }
            Some(error) => tracing::debug!(cluster = name, endpoint, "an active check failed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
