// SPDX-License-Identifier: Apache-2.0
//! A [`Plan`] in force: its listeners, clusters and endpoints with their counters, limits and ejections.
//!
//! These live as long as their name does (an endpoint's address, within its cluster): a reload that keeps the name keeps
//! counters, permits in use, round robin and ejections, and an open connection keeps the ones that it began with. So a
//! connection looks them up once, and a byte never.

mod callers;
mod on_demand;
mod stat_names;
mod states;
mod told;
mod trial;
mod ways;

pub(crate) use stat_names::{stat_name, stat_prefix};
pub(crate) use trial::Trial;

use crate::cluster::balance::{self, Balancer, Checks, Order, Picks, Request};
use crate::cluster::bucket::Bucket;
use crate::cluster::endpoint::{Behind, Ejection, Endpoint, InUse, Standing, Turns};
use crate::cluster::health::{ClusterHealth, EndpointHealth};
use crate::cluster::limits::LazyLimits;
use crate::cluster::metrics::{ListenerMetrics, UpstreamMetrics};
use crate::cluster::outsider::{Opened, OutsideConfigs, OutsiderMetrics};
use crate::cluster::registry::callers::Callers;
use crate::cluster::registry::on_demand::Called;
use crate::cluster::registry::stat_names::stat_names;
use crate::cluster::registry::states::reuse;
use crate::cluster::registry::told::{OfCalls, Told};
use crate::cluster::remembered::Remembered;
use crate::cluster::split::Split;
use crate::metrics::Lazy;
use crate::net::addrs::{Direction, Family};
use crate::plan::health::CheckPlan;
use crate::plan::listener::rate::RatePlan;
use crate::plan::outside::Exit;
use crate::plan::tls::permissions::Who;
use crate::plan::{self, Discovery, FailedAnswers, Origin, Plan};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// The number of a cluster in this process; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClusterId(pub(crate) u32);

impl ClusterId {
    /// That of clusters which nothing came for yet.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// The part of a cluster that outlives a reload.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) id: ClusterId,
    pub(crate) name: Arc<str>,
    pub(crate) limits: LazyLimits,
    pub(crate) metrics: Lazy<UpstreamMetrics>,
    pub(crate) health: ClusterHealth,
    /// TLS with servers outside of the mesh; made by the first of these.
    pub(crate) outsiders: OnceLock<Arc<OutsiderMetrics>>,
    /// Counts connections, to choose the endpoint that is first in turn.
    turn: AtomicUsize,
    /// The zero of the clock that ejections are in.
    since: Instant,
    ejections: Mutex<HashMap<SocketAddr, Weak<Ejection>>>,
    /// Forgotten whenever an endpoint is ejected or returns.
    panics: Remembered,
}

/// A cluster of the plan in force.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster as options and documents say it.
    pub plan: Arc<plan::ClusterPlan>,
    pub(crate) state: Arc<ClusterState>,
    /// Its name in statistics, which no other cluster of the plan has.
    pub(crate) stat_name: Arc<str>,
    /// Empty where the plan names no endpoints.
    endpoints: Box<[Arc<Endpoint>]>,
    /// True while too few endpoints are in service, so that ejections do not count: a connection must not look at thousands.
    /// Not kept over a reload, which may change the endpoints and the share.
    panics: Remembered,
    /// `None` where endpoints only take turns.
    balancer: Option<Box<Balancer>>,
    /// Endpoints that fail their active checks.
    unhealthy: AtomicUsize,
}

/// A listener of the plan in force.
#[derive(Debug)]
pub struct Listener {
    /// The listener as options and documents say it.
    pub plan: Arc<plan::ListenerPlan>,
    /// The same after a reload that keeps the name.
    pub(crate) metrics: Arc<Lazy<ListenerMetrics>>,
    /// `None` = every connection is denied. Of a split the first one.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The clusters that connections are split among, `None` for a share that a patch took out; `None` = all go to `cluster`.
    split: Option<Split<Option<Arc<Cluster>>>>,
    /// The rate of its connections; the same after a reload that keeps name and rate.
    pub(crate) bucket: Option<Arc<Bucket>>,
    /// The rates of its requests, in the order of the plan's.
    pub(crate) requests: Box<[Arc<Bucket>]>,
    /// What policies say of its calls beside the plan, where the controller told it.
    of_calls: Option<Box<OfCalls>>,
}

/// A plan in force. Immutable but for what its listeners, clusters and endpoints count.
#[derive(Debug)]
pub struct Running {
    /// The plan as options and documents say it.
    pub plan: Plan,
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    /// The cluster of connections to members by address, where passthrough is off.
    pub(crate) direct_access: Option<Arc<Cluster>>,
    /// The clusters of matches of MeshPassthrough, by name. Empty where passthrough is on.
    exits: HashMap<Arc<str>, Arc<Cluster>>,
    by_destination: HashMap<(Direction, SocketAddr), Arc<Listener>>,
    /// By direction and family.
    passthrough: [[Arc<Listener>; 2]; 2],
    /// What connections count of policies on trial.
    pub(crate) trial: Option<Box<trial::Trial>>,
    /// The shortest of the plan's listeners: a worker asks for it many times a second.
    shortest_idle_timeout: Option<Duration>,
    /// What connections came for, of that which is made out on demand.
    called: Called,
    callers: Callers,
    /// Destinations that the controller told.
    told: Told,
}

/// The name of a listener, one of its rates, and the callers whose requests it is about; `None` = it is about connections.
type BucketKey = (Arc<str>, RatePlan, Option<Vec<Who>>);

/// The states by name that a plan or a connection uses.
#[derive(Debug, Default)]
pub struct Registry(Arc<States>);

#[derive(Debug, Default)]
struct States {
    clusters: Mutex<HashMap<Arc<str>, Weak<ClusterState>>>,
    listeners: Mutex<HashMap<Arc<str>, Weak<Lazy<ListenerMetrics>>>>,
    buckets: Mutex<HashMap<BucketKey, Weak<Bucket>>>,
    outside: OutsideConfigs,
    next_id: AtomicU32,
    /// Addresses of the listeners that were made out on demand.
    called: Mutex<HashSet<SocketAddr>>,
}

// === impl Registry ===

impl Registry {
    /// Gives a plan its counters, limits and ejections: the ones in use where a name stays, else new ones.
    pub fn open(&self, plan: Plan) -> Arc<Running> {
        let states = &self.0;
        let names = plan.clusters.iter().map(|cluster| Arc::clone(&cluster.name));
        let of_clusters =
            reuse(&states.clusters, names, |name| ClusterState::new(states.next_id(), Arc::clone(name)));
        let outside = states.outside.open(plan.clusters.iter());
        let (stat_names, numbered) = stat_names(&plan);
        let clusters: Vec<_> = plan
            .clusters
            .iter()
            .zip(of_clusters)
            .zip(stat_names)
            .map(|((plan, state), stat_name)| Arc::new(Cluster::new(plan, state, stat_name, &outside)))
            .collect();
        let by_name: HashMap<_, _> = clusters.iter().map(|cluster| (&*cluster.plan.name, cluster)).collect();
        let cluster = |name: &Option<Arc<str>>| {
            name.as_deref().and_then(|name| by_name.get(name)).map(|cluster| Arc::clone(cluster))
        };
        let names = plan.listeners.iter().map(|listener| Arc::clone(&listener.name));
        let metrics = reuse(&states.listeners, names, |_| Lazy::default());
        let rated = |plan: &plan::ListenerPlan| -> Vec<BucketKey> {
            let of_requests = plan.request_rates().iter();
            let of_requests = of_requests.map(|one| (one.rate.rate, Some(one.from.who.clone())));
            let rates = plan.rate.map(|rate| (rate, None)).into_iter().chain(of_requests);
            rates.map(|(rate, of)| (Arc::clone(&plan.name), rate, of)).collect()
        };
        let mut buckets =
            reuse(&states.buckets, plan.listeners.iter().flat_map(|one| rated(one)), |(_, rate, _)| {
                Bucket::new(*rate)
            })
            .into_iter();
        let listener = |(plan, metrics): (&Arc<plan::ListenerPlan>, _)| {
            let share = |share: &plan::Share| {
                (by_name.get(&*share.cluster).map(|cluster| Arc::clone(cluster)), share.weight)
            };
            let split = Split::new(plan.split.iter().map(share));
            let bucket = plan.rate.and_then(|_| buckets.next());
            let requests = buckets.by_ref().take(plan.request_rates().len()).collect();
            let (plan, cluster) = (Arc::clone(plan), cluster(&plan.cluster));
            Arc::new(Listener { plan, metrics, cluster, split, bucket, requests, of_calls: None })
        };
        let listeners: Vec<_> = plan.listeners.iter().zip(metrics).map(listener).collect();
        let named = listeners.iter().filter(|listener| listener.plan.origin != Origin::Transparent);
        let mut by_destination: HashMap<_, _> = named
            .map(|listener| ((listener.plan.direction, listener.plan.address), Arc::clone(listener)))
            .collect();
        ways::add(&mut by_destination, &listeners, &plan.names.ways);
        let direct_access = cluster(&plan.direct_access);
        let exits = clusters.iter().filter(|cluster| cluster.plan.origin == Origin::MeshPassthrough);
        let exits = exits.map(|cluster| (Arc::clone(&cluster.plan.name), Arc::clone(cluster))).collect();
        let passthrough = Direction::ALL.map(|d| Family::ALL.map(|f| passthrough(&listeners, d, f)));
        let idle_timeouts = plan.listeners.iter().filter_map(|listener| listener.shortest_time());
        let running = Arc::new(Running {
            trial: trial::Trial::of(&plan),
            shortest_idle_timeout: idle_timeouts.chain(plan.names.on_demand.shortest_idle_timeout()).min(),
            called: Called::new(states, numbered),
            callers: Callers::default(),
            told: Told::default(),
            plan,
            listeners,
            clusters,
            direct_access,
            exits,
            by_destination,
            passthrough,
        });
        running.make_out_again();
        running
    }
}

// === impl States ===

impl States {
    fn next_id(&self) -> ClusterId {
        ClusterId(self.next_id.fetch_add(1, Relaxed))
    }
}

fn passthrough(listeners: &[Arc<Listener>], direction: Direction, family: Family) -> Arc<Listener> {
    let takes = |plan: &plan::ListenerPlan| {
        plan.origin == Origin::Transparent
            && (plan.direction, Family::of(plan.address.ip())) == (direction, family)
    };
    let found = listeners.iter().find(|listener| takes(&listener.plan));
    Arc::clone(found.expect("every plan has one of each direction and family"))
}

// === impl ClusterState ===

impl ClusterState {
    fn new(id: ClusterId, name: Arc<str>) -> Self {
        Self {
            id,
            name,
            limits: LazyLimits::default(),
            metrics: Lazy::default(),
            health: ClusterHealth::default(),
            outsiders: OnceLock::new(),
            turn: AtomicUsize::new(0),
            since: Instant::now(),
            ejections: Mutex::default(),
            panics: Remembered::default(),
        }
    }

    /// Returns the clock that ejections are in. It begins at 1, as 0 is no ejection.
    fn millis(&self) -> u64 {
        millis(self.since.elapsed()).saturating_add(1)
    }
}

/// In 48 bits, some 8,900 years, so that an ejection has room for its failures beside it.
fn millis(duration: Duration) -> u64 {
    const MOST: u64 = (1 << 48) - 1;
    u64::try_from(duration.as_millis()).unwrap_or(MOST).min(MOST)
}

// === impl Listener ===

impl Listener {
    /// Returns the cluster of the next connection; of a split it is drawn. `None` = the connection is denied.
    pub(crate) fn next_cluster(&self) -> Option<&Arc<Cluster>> {
        match &self.split {
            Some(split) => split.draw().as_ref(),
            None => self.cluster.as_ref(),
        }
    }

    /// Returns all clusters that connections go to, each once.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let whole = self.cluster.iter().filter(|_| self.split.is_none());
        whole.chain(self.split.iter().flat_map(Split::clusters).flatten())
    }
}

// === impl Cluster ===

impl Cluster {
    fn new(
        plan: &Arc<plan::ClusterPlan>,
        state: Arc<ClusterState>,
        stat_name: Arc<str>,
        outside: &Opened,
    ) -> Self {
        state.limits.set(&plan.thresholds);
        let planned = Behind::all(&plan.upstream, &state.outsiders, outside);
        let addresses = planned.iter().map(|(address, _)| *address);
        let ejections = reuse(&state.ejections, addresses, |_| Ejection::default());
        let number = planned.len();
        let endpoint = |((address, behind), ejection)| Arc::new(Endpoint { address, behind, ejection });
        let endpoints: Box<[Arc<Endpoint>]> = planned.into_iter().zip(ejections).map(endpoint).collect();
        state.panics.forget();
        let balancer = Balancer::new(&plan.balance, number, balance::seed()).map(Box::new);
        let this = Self {
            plan: Arc::clone(plan),
            state,
            stat_name,
            endpoints,
            panics: Remembered::default(),
            balancer,
            unhealthy: AtomicUsize::default(),
        };
        if this.check().is_none() {
            // A later check must not begin with what an earlier one found.
            this.endpoints.iter().for_each(|endpoint| _ = endpoint.ejection.set_unhealthy(false));
            this.state.health.application_down.store(false, Relaxed);
        }
        this.count_unhealthy();
        this
    }

    fn count_unhealthy(&self) {
        let unhealthy = self.endpoints.iter().filter(|endpoint| endpoint.ejection.is_unhealthy()).count();
        self.unhealthy.store(unhealthy, Relaxed);
    }

    /// Returns the active check of its endpoints, or of its application.
    pub(crate) fn check(&self) -> Option<&Arc<CheckPlan>> {
        self.plan.health.as_ref()?.check.as_ref()
    }

    /// Returns the endpoints of the plan.
    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Returns the number of endpoints that do not fail their active checks.
    pub(crate) fn healthy(&self) -> usize {
        match &self.plan.upstream {
            Discovery::Application { .. } => usize::from(!self.state.health.application_is_down()),
            _ => self.endpoints.len().saturating_sub(self.unhealthy.load(Relaxed)),
        }
    }

    /// Notes the outcome of active checks: of an endpoint, or with `None` of the application.
    pub(crate) fn set_unhealthy(&self, endpoint: Option<&Endpoint>, unhealthy: bool) {
        let Some(endpoint) = endpoint else {
            self.state.health.application_down.store(unhealthy, Relaxed);
            return;
        };
        if endpoint.ejection.set_unhealthy(unhealthy) {
            // Counted anew, and not up or down: that is rare, and a count that drifts would close a cluster for good.
            self.count_unhealthy();
            // As in Envoy, a check that lets it back ends its ejection too.
            if !unhealthy {
                endpoint.ejection.end();
            }
            self.state.panics.forget();
        }
    }

    /// Returns the endpoints in the order in which the next connection tries them, which comes from this address.
    pub(crate) fn order(&self, client: IpAddr) -> Order<'_> {
        let Some(balancer) = &self.balancer else { return Order::Turns(self.turns()) };
        let request = Request {
            endpoints: &self.endpoints,
            client,
            turn: self.state.turn.fetch_add(1, Relaxed),
            most: self.plan.most_attempts,
            now: self.state.millis(),
            first_pause: self.first_pause(),
            outlier: self.plan.outlier,
            checks: Checks {
                healthy: self.check().is_some().then(|| self.healthy()),
                panic: self.panic_threshold(),
                fails_on_panic: self.fails_on_panic(),
            },
            changes: &self.state.panics,
        };
        Order::Picks(Picks::new(balancer, request))
    }

    /// Counts a connection to an endpoint until the result is dropped, where the algorithm asks for that.
    pub(crate) fn in_use(&self, endpoint: &Endpoint) -> Option<InUse> {
        self.balancer.as_ref().filter(|balancer| balancer.counts_uses()).map(|_| InUse::of(endpoint))
    }

    /// Returns the endpoints in turn, as the next connection tries them where no policy says more.
    pub(crate) fn turns(&self) -> Turns<'_> {
        let turn = self.state.turn.fetch_add(1, Relaxed);
        let now = self.state.millis();
        let panics = self.panics();
        let checked = self.check().is_some() && !panics;
        if panics && self.fails_on_panic() {
            // By a trial alone an ejected endpoint returns.
            let turns = Turns::new(&self.endpoints, turn, 1, now, self.first_pause());
            return turns.without_unhealthy().only_trials();
        }
        let all = self.plan.most_attempts;
        let most = if checked { all.min(self.healthy()) } else { all };
        let turns = Turns::new(&self.endpoints, turn, most, now, self.first_pause());
        let turns = if checked { turns.without_unhealthy() } else { turns };
        // Where the plan ejects none, and while too few are in service.
        if self.plan.outlier.is_some() && !panics { turns } else { turns.without_ejections() }
    }

    /// Returns the share of endpoints in service below which neither ejections nor checks count, in thousandths of a percent.
    fn panic_threshold(&self) -> u32 {
        let ejections = || self.plan.outlier.map_or(0, |outlier| outlier.panic_threshold);
        self.plan.health.as_ref().map_or_else(ejections, |health| health.panic_threshold)
    }

    fn fails_on_panic(&self) -> bool {
        self.plan.health.as_ref().is_some_and(|health| health.fail_on_panic)
    }

    /// Returns true while so few endpoints are in service that neither ejections nor checks count.
    fn panics(&self) -> bool {
        let ejections = self.plan.outlier.map_or(0, |outlier| outlier.panic_threshold);
        let threshold = self.panic_threshold();
        let checked = self.check().is_some();
        // The ejection without a policy only orders endpoints: none is out of service by it.
        let is_out = |ejection: &Ejection| {
            checked && ejection.is_unhealthy() || ejections != 0 && ejection.is_ejected()
        };
        let panics = || {
            let in_service = self.endpoints.iter().filter(|endpoint| !is_out(&endpoint.ejection)).count();
            in_service * 100_000 < threshold as usize * self.endpoints.len()
        };
        threshold != 0 && self.panics.get_at(self.state.panics.age(), panics)
    }

    /// Counts a failed connect, and lets an endpoint that is ejected by that come after all others for a while. Returns true
    /// if it was in service until now.
    pub(crate) fn failed(&self, endpoint: &Endpoint, standing: Standing) -> bool {
        let Some(outlier) = self.plan.outlier else { return false };
        let ejection = &endpoint.ejection;
        let in_service = !ejection.is_ejected();
        if in_service && !(ejection.strikes_out(outlier.consecutive) && self.may_eject(outlier.most_ejected))
        {
            return false;
        }
        let ejected = ejection.failed(self.state.millis(), self.first_pause(), standing);
        // A trial that failed changes the time of the next one.
        if ejected || standing == Standing::Trial {
            self.state.panics.forget();
        }
        ejected
    }

    /// Returns true if failed answers eject its endpoints.
    pub(crate) fn judges_answers(&self) -> bool {
        self.plan.outlier.is_some_and(|outlier| outlier.answers != FailedAnswers::default())
    }

    /// Counts an answer, and ejects its endpoint if that is one too many that failed. Returns true if it was in service until
    /// now.
    pub(crate) fn answered(&self, endpoint: &Endpoint, status: u16) -> bool {
        let Some(outlier) = self.plan.outlier else { return false };
        let ejection = &endpoint.ejection;
        // Connections that were open before go on, and prove nothing new.
        if ejection.is_ejected() || !ejection.answered(status, outlier.answers) {
            return false;
        }
        let ejected = self.may_eject(outlier.most_ejected)
            && ejection.failed(self.state.millis(), self.first_pause(), Standing::InService);
        if ejected {
            ejection.was_by_answers();
            self.state.panics.forget();
        }
        ejected
    }

    /// Returns true if one more endpoint may be ejected: the first in any case, as in Envoy.
    fn may_eject(&self, percent: u32) -> bool {
        if percent >= 100 {
            return true;
        }
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.ejection.is_ejected()).count();
        ejected == 0 || (ejected + 1) * 100 <= percent as usize * self.endpoints.len()
    }

    /// Puts an endpoint that was connected to in service. One that failed answers ejected takes connections as before: it
    /// comes back by a trial alone.
    pub(crate) fn succeeded(&self, endpoint: &Endpoint, standing: Standing) {
        let ejection = &endpoint.ejection;
        if ejection.is_ejected_by_answers() && standing != Standing::Trial {
            return;
        }
        if ejection.end() {
            self.state.panics.forget();
        }
    }

    /// Lets an endpoint whose answer is overdue come after all others for this time.
    pub(crate) fn suspect(&self, endpoint: &Endpoint, time: Duration) {
        endpoint.ejection.suspect(self.state.millis(), millis(time));
    }

    /// Returns the standing of all endpoints, or of the application where it is probed.
    pub(crate) fn health(&self) -> impl Iterator<Item = EndpointHealth> {
        let now = self.state.millis();
        let checked = self.check().is_some();
        let application = match &self.plan.upstream {
            Discovery::Application { address, .. } if checked => {
                let unhealthy = self.state.health.application_is_down();
                Some(EndpointHealth { address: *address, ejected: false, unhealthy, checked })
            }
            _ => None,
        };
        let endpoint = move |endpoint: &Arc<Endpoint>| EndpointHealth {
            address: endpoint.address,
            ejected: endpoint.ejection.is_out(now),
            unhealthy: checked && endpoint.ejection.is_unhealthy(),
            checked,
        };
        self.endpoints.iter().map(endpoint).chain(application)
    }

    fn first_pause(&self) -> u64 {
        millis(self.plan.outlier.unwrap_or_default().ejection_time)
    }
}

// === impl Running ===

impl Running {
    /// The listener of connections that were redirected on their way to this address, if a document names it.
    pub(crate) fn listener_for(
        &self,
        direction: Direction,
        destination: SocketAddr,
    ) -> Option<Arc<Listener>> {
        let there = self.by_destination.get(&(direction, destination)).map(Arc::clone);
        let called = || self.on_demand(destination).or_else(|| self.told.listener(destination));
        there.or_else(|| (direction == Direction::Outbound).then(called)?)
    }

    /// The listener of redirected connections that have no other.
    pub(crate) fn passthrough(&self, direction: Direction, family: Family) -> &Arc<Listener> {
        &self.passthrough[direction as usize][family as usize]
    }

    /// The cluster of a match of MeshPassthrough.
    pub(crate) fn exit(&self, exit: &Exit) -> Option<&Arc<Cluster>> {
        self.exits.get(&exit.cluster)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::plan_without_documents;
