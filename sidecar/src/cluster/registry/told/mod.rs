// SPDX-License-Identifier: Apache-2.0
//! Destinations that the controller told, beside the plan in force: an answer changes its own destination, and nothing else.

use super::states::reuse_one;
use super::{Cluster, ClusterState, Listener, Running, stat_names};
use crate::cluster::split::Split;
use crate::metrics::Lazy;
use crate::net::addrs::Direction;
use crate::observe::traffic_log::Target;
use crate::plan::decisions::trial::OnTrial;
use crate::plan::load::destination::{Asked, CallPlan, DestinationPlan};
use crate::plan::logs::LogTargets;
use crate::plan::names::ledger::Ledger;
use crate::plan::names::{MeshName, MeshNames};
use crate::plan::{ClusterPlan, Member, Origin, Plan, Share};
use std::collections::btree_map::{self, BTreeMap};
use std::collections::hash_map::{Entry, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

/// Clusters that were made and are gone, which are kept track of beside those that are there.
const FEW: usize = 64;

/// All destinations that were told. Written by a reload, on the main thread; read by each connection that no document of the
/// plan names.
#[derive(Debug, Default)]
pub(super) struct Told {
    destinations: RwLock<ToldDestinations>,
    /// Their clusters, so that equal ones are one. Used by a reload only.
    clusters: Mutex<ToldClusters>,
}

#[derive(Debug, Default)]
struct ToldClusters {
    by_name: HashMap<Arc<str>, Weak<Cluster>>,
    /// Those whose names in statistics are others.
    by_stat_name: HashMap<Arc<str>, Weak<Cluster>>,
}

#[derive(Debug, Default)]
struct ToldDestinations {
    all: HashMap<Asked, Arc<ToldDestination>>,
    /// Listeners on the addresses of names. Two names may have one address, and the same service then.
    named: HashMap<SocketAddr, Vec<NamedListener>>,
    /// Number of destinations with a workload at an address.
    workloads: HashMap<IpAddr, usize>,
    /// Number of destinations whose calls have logs of their own.
    logs: usize,
    /// Number of calls with an idle timeout: a worker asks for the shortest many times a second.
    idle_timeouts: BTreeMap<Duration, usize>,
    /// The names of the plan and those that were told; `None` where none was.
    names: Option<Arc<MeshNames>>,
}

/// A listener on an address of a name.
#[derive(Debug)]
struct NamedListener {
    host: Arc<str>,
    listener: Arc<Listener>,
}

/// A destination in force.
#[derive(Debug)]
pub(crate) struct ToldDestination {
    calls: Vec<(SocketAddr, Arc<Listener>)>,
    member: Option<ToldMember>,
    workloads: Box<[IpAddr]>,
    name: Option<(MeshName, Option<Arc<str>>)>,
    documents: usize,
}

/// A member at an address.
#[derive(Debug)]
struct ToldMember {
    member: Arc<Member>,
    log: Option<LogTargets>,
}

/// What policies say of the calls of a listener beside the plan.
#[derive(Debug)]
pub(crate) struct OfCalls {
    log: Option<LogTargets>,
    on_trial: Option<Arc<OnTrial>>,
}

// === impl Told ===

impl Told {
    fn read(&self) -> RwLockReadGuard<'_, ToldDestinations> {
        self.destinations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ToldDestinations> {
        self.destinations.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the listener of calls to an address. What was told of the address itself goes before what names say.
    pub(super) fn listener(&self, to: SocketAddr) -> Option<Arc<Listener>> {
        let told = self.read();
        let own = told.all.get(&Asked::At(to)).and_then(|one| one.calls.first());
        let own = own.map(|(_, listener)| Arc::clone(listener));
        own.or_else(|| told.named.get(&to)?.last().map(|one| Arc::clone(&one.listener)))
    }

    /// Returns what stood there: what it alone holds goes after the lock.
    fn put(&self, asked: Asked, new: Option<Arc<ToldDestination>>) -> Option<Arc<ToldDestination>> {
        let mut told = self.write();
        let old = match &new {
            Some(new) => told.all.insert(asked.clone(), Arc::clone(new)),
            None => told.all.remove(&asked),
        };
        let is_name = matches!(asked, Asked::Name(_));
        if let Some(old) = &old {
            told.forget(old, is_name);
        }
        if let Some(new) = &new {
            told.note(new, is_name);
        }
        old
    }

    /// Returns the listeners of all destinations, each once.
    pub(super) fn listeners(&self) -> Vec<Arc<Listener>> {
        let told = self.read();
        let all = told.all.values().flat_map(|one| one.calls.iter().map(|(_, listener)| listener));
        let all: BTreeMap<_, _> = all.map(|one| (&one.plan.name, one)).collect();
        all.into_values().map(Arc::clone).collect()
    }

    /// Returns the clusters of these that are not among `others`, each once.
    fn clusters_but(&self, others: &[Arc<Cluster>]) -> Vec<Arc<Cluster>> {
        let listeners = self.listeners();
        let all = listeners.iter().flat_map(|one| one.clusters());
        let mut all: BTreeMap<_, _> = all.map(|one| (&*one.plan.name, one)).collect();
        others.iter().for_each(|one| _ = all.remove(&*one.plan.name));
        all.into_values().map(Arc::clone).collect()
    }

    fn shortest_idle_timeout(&self) -> Option<Duration> {
        self.read().idle_timeouts.keys().next().copied()
    }

    /// Returns the cluster of a plan: one that is there if it is equal, else the one that `new` makes with its name in
    /// statistics.
    fn cluster(
        &self,
        plan: &ClusterPlan,
        is_taken: impl Fn(&str) -> bool,
        new: impl FnOnce(Arc<str>) -> Cluster,
    ) -> Arc<Cluster> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let there = clusters.by_name.get(&plan.name).and_then(Weak::upgrade);
        if let Some(there) = there.filter(|there| *there.plan == *plan) {
            return there;
        }
        let plain = stat_names::stat_name(&plan.name);
        let other = |name: &str| {
            let all = [clusters.by_stat_name.get(name), clusters.by_name.get(name)];
            let mut there = all.into_iter().flatten().filter_map(Weak::upgrade);
            is_taken(name) || there.any(|there| *there.stat_name == *name && there.plan.name != plan.name)
        };
        let stat_name = stat_names::free(&plain, other);
        let is_own = stat_name == plan.name;
        let made = Arc::new(new(if is_own { Arc::clone(&plan.name) } else { Arc::clone(&stat_name) }));
        clusters.by_name.insert(Arc::clone(&plan.name), Arc::downgrade(&made));
        if !is_own {
            clusters.by_stat_name.insert(stat_name, Arc::downgrade(&made));
        }
        // Those that are gone take no more room than those that are there.
        if clusters.by_name.len() > 2 * self.read().all.len() + FEW {
            clusters.by_name.retain(|_, cluster| cluster.strong_count() != 0);
            clusters.by_stat_name.retain(|_, cluster| cluster.strong_count() != 0);
        }
        made
    }
}

impl ToldDestinations {
    fn note(&mut self, new: &ToldDestination, is_name: bool) {
        new.workloads.iter().for_each(|ip| *self.workloads.entry(*ip).or_default() += 1);
        self.logs += usize::from(new.logs().next().is_some());
        for timeout in new.idle_timeouts() {
            *self.idle_timeouts.entry(timeout).or_default() += 1;
        }
        let host = new.name.as_ref().filter(|_| is_name).map(|(name, _)| &name.host);
        for (host, (at, listener)) in
            host.iter().flat_map(|host| new.calls.iter().map(move |call| (host, call)))
        {
            let (host, listener) = (Arc::clone(host), Arc::clone(listener));
            self.named.entry(*at).or_default().push(NamedListener { host, listener });
        }
    }

    fn forget(&mut self, old: &ToldDestination, is_name: bool) {
        for ip in &old.workloads {
            if let Entry::Occupied(mut number) = self.workloads.entry(*ip) {
                *number.get_mut() -= 1;
                if *number.get() == 0 {
                    number.remove();
                }
            }
        }
        self.logs -= usize::from(old.logs().next().is_some());
        for timeout in old.idle_timeouts() {
            if let btree_map::Entry::Occupied(mut number) = self.idle_timeouts.entry(timeout) {
                *number.get_mut() -= 1;
                if *number.get() == 0 {
                    number.remove();
                }
            }
        }
        for (at, listener) in old.calls.iter().filter(|_| is_name) {
            if let Some(all) = self.named.get_mut(at) {
                all.retain(|one| !Arc::ptr_eq(&one.listener, listener));
                if all.is_empty() {
                    self.named.remove(at);
                }
            }
        }
    }
}

impl ToldDestination {
    fn has_checks(&self) -> bool {
        let mut clusters = self.calls.iter().flat_map(|(_, listener)| listener.clusters());
        clusters.any(|cluster| cluster.check().is_some())
    }

    /// Returns the logs of its own, each of which may say that there are no lines.
    fn logs(&self) -> impl Iterator<Item = &LogTargets> {
        let of_calls = self.calls.iter().filter_map(|(_, listener)| listener.of_calls.as_ref());
        let calls = of_calls.filter_map(|of_calls| of_calls.log.as_ref());
        calls.chain(self.member.iter().filter_map(|member| member.log.as_ref()))
    }

    fn idle_timeouts(&self) -> impl Iterator<Item = Duration> {
        self.calls.iter().filter_map(|(_, listener)| listener.plan.idle_timeout)
    }
}

// === impl OfCalls ===

impl OfCalls {
    fn new(log: Option<LogTargets>, on_trial: Option<Arc<OnTrial>>) -> Option<Box<Self>> {
        (log.is_some() || on_trial.is_some()).then(|| Box::new(Self { log, on_trial }))
    }
}

// === impl Running ===

impl Running {
    /// Puts a destination in force, in the place of what was told of it before. Returns true if clusters have checks, now or before.
    pub(crate) fn tell(&self, asked: Asked, plan: DestinationPlan, documents: usize) -> bool {
        let DestinationPlan { calls, member, workloads, name, on_trial } = plan;
        let calls: Vec<_> = calls.into_iter().map(|call| self.open_call(call, on_trial.as_ref())).collect();
        let member = member.map(|(member, log)| ToldMember { member, log });
        let told = ToldDestination { calls, member, workloads, name, documents };
        let has_checks = told.has_checks();
        self.put(asked, Some(Arc::new(told))) || has_checks
    }

    /// Lets a destination stay as it was in an earlier plan.
    pub(crate) fn tell_again(&self, asked: &Asked, before: &Self) {
        let there = before.told.read().all.get(asked).map(Arc::clone);
        self.put(asked.clone(), there);
    }

    /// Forgets a destination. Returns true if its clusters had checks.
    pub(crate) fn untell(&self, asked: &Asked) -> bool {
        self.put(asked.clone(), None)
    }

    /// Returns true if what stood there had checks.
    fn put(&self, asked: Asked, told: Option<Arc<ToldDestination>>) -> bool {
        let is_name = matches!(asked, Asked::Name(_));
        let before = self.told.put(asked, told);
        if is_name {
            self.put_names_together();
        }
        before.is_some_and(|before| before.has_checks())
    }

    fn open_call(&self, call: CallPlan, on_trial: Option<&Arc<OnTrial>>) -> (SocketAddr, Arc<Listener>) {
        let CallPlan { at, listener: plan, clusters, log } = call;
        let states = &self.called.states;
        let clusters: HashMap<Arc<str>, Arc<Cluster>> =
            clusters.iter().map(|plan| (Arc::clone(&plan.name), self.open_cluster(plan))).collect();
        let of = |name: &Arc<str>| clusters.get(name).map(Arc::clone);
        let split = Split::new(plan.split.iter().map(|share: &Share| (of(&share.cluster), share.weight)));
        let metrics = reuse_one(&states.listeners, Arc::clone(&plan.name), |_| Lazy::default());
        let cluster = plan.cluster.as_ref().and_then(of);
        let of_calls = OfCalls::new(log, on_trial.map(Arc::clone));
        let requests = Box::default();
        (at, Arc::new(Listener { plan, metrics, cluster, split, bucket: None, requests, of_calls }))
    }

    /// Returns the cluster of a plan: one that is there if it is equal.
    fn open_cluster(&self, plan: &Arc<ClusterPlan>) -> Arc<Cluster> {
        let mut own = self.clusters.iter();
        if let Some(there) = own.find(|there| there.plan.name == plan.name && there.plan == *plan) {
            return Arc::clone(there);
        }
        let states = &self.called.states;
        let lines = &self.plan.names.on_demand;
        let is_taken = |stat_name: &str| {
            let same = |name: &str| {
                name.len() == stat_name.len()
                    && *name != *plan.name
                    && stat_names::stat_name(name) == stat_name
            };
            self.clusters.iter().any(|one| *one.stat_name == *stat_name && one.plan.name != plan.name)
                || lines.new_clusters().any(|at| same(lines.cluster_name(at)))
        };
        self.told.cluster(plan, is_taken, |stat_name| {
            let new = |name: &Arc<str>| ClusterState::new(states.next_id(), Arc::clone(name));
            let state = reuse_one(&states.clusters, Arc::clone(&plan.name), new);
            Cluster::new(plan, state, stat_name, &states.outside.open(std::iter::once(plan)))
        })
    }

    /// Returns the clusters that a connection may have come to by what was told.
    pub(super) fn told_clusters(&self) -> Vec<Arc<Cluster>> {
        self.told.clusters_but(&self.clusters)
    }

    /// Returns the clusters with active checks.
    pub(crate) fn checked_clusters(&self) -> Vec<Arc<Cluster>> {
        let told = self.told_clusters();
        let all = self.clusters.iter().chain(&told).filter(|cluster| cluster.check().is_some());
        all.map(Arc::clone).collect()
    }

    /// Returns the member at an address.
    pub(crate) fn member_at(&self, address: &SocketAddr) -> Option<Arc<Member>> {
        let planned = self.plan.members.get(address).map(Arc::clone);
        planned.or_else(|| {
            let told = self.told.read();
            told.all.get(&Asked::At(*address))?.member.as_ref().map(|of| Arc::clone(&of.member))
        })
    }

    /// Returns the name by which a destination was told, where only that name leads there.
    pub(crate) fn told_name_of(&self, to: SocketAddr) -> Option<Arc<str>> {
        self.told.read().named.get(&to)?.last().map(|one| Arc::clone(&one.host))
    }

    /// Returns true for the address of a workload that a document names.
    pub(crate) fn is_workload(&self, ip: &IpAddr) -> bool {
        self.plan.workloads.contains(ip) || self.told.read().workloads.contains_key(ip)
    }

    /// Returns the logs of a connection to a service, `None` where there are none. `to` is its original destination.
    pub(crate) fn logs_of(
        &self,
        (listener, to): (&Listener, SocketAddr),
        service: Option<&str>,
    ) -> Option<LogTargets> {
        if let Some(log) = listener.of_calls.as_ref().and_then(|of| of.log.as_ref()) {
            return Some(log.clone()).filter(|log| !log.is_empty());
        }
        let of_member = || {
            let outbound = (listener.plan.direction, listener.plan.origin);
            let told = self.told.read();
            let destination = told.all.get(&Asked::At(to))?;
            let is_passed = outbound == (Direction::Outbound, Origin::Transparent);
            destination.member.as_ref().filter(|_| is_passed)?.log.clone()
        };
        of_member().or_else(|| self.plan.logs.of(&listener.plan, service).cloned())
    }

    /// Returns true if calls to a destination that was told have logs of their own.
    pub(crate) fn has_told_logs(&self) -> bool {
        self.told.read().logs != 0
    }

    /// Returns every target of traffic logs, each once.
    pub(crate) fn log_targets(&self) -> Vec<Target> {
        let told = self.told.read();
        let mut all = self.plan.logs.targets();
        all.extend(told.all.values().flat_map(|one| one.logs()).flat_map(LogTargets::targets));
        all.sort();
        all.dedup();
        all
    }

    /// Returns the shortest time without a byte on a connection, of all listeners.
    pub(crate) fn shortest_idle_timeout(&self) -> Option<Duration> {
        self.shortest_idle_timeout.into_iter().chain(self.told.shortest_idle_timeout()).min()
    }

    /// Returns the number of listeners, with those that nothing came for.
    pub(crate) fn listener_count(&self) -> usize {
        self.plan.listener_count() + self.told.listeners().len()
    }

    /// Returns the number of clusters, with those that nothing came for.
    pub(crate) fn cluster_count(&self) -> usize {
        self.plan.cluster_count() + self.told_clusters().len()
    }

    /// Returns the number of documents in force.
    pub(crate) fn documents(&self) -> usize {
        self.plan.documents + self.told.read().all.values().map(|one| one.documents).sum::<usize>()
    }

    /// Returns the names of the mesh, those that were told too.
    pub(crate) fn names(&self) -> Arc<MeshNames> {
        let told = self.told.read();
        Arc::clone(told.names.as_ref().unwrap_or(&self.plan.names))
    }

    /// Puts the names of the plan and those that were told together. Of two the plan's stays.
    fn put_names_together(&self) {
        let told = self.told.read();
        let names = told.all.values().filter_map(|one| one.name.as_ref()).map(|(name, _)| name);
        let mut names: BTreeMap<&str, &MeshName> = names.map(|name| (&*name.host, name)).collect();
        let is_empty = names.is_empty();
        names.extend(self.plan.names.names.iter().map(|name| (&*name.host, name)));
        let names = names.into_values().cloned().collect();
        let together = (!is_empty).then(|| {
            Arc::new(MeshNames { names, ledger: Ledger::default(), ..MeshNames::clone(&self.plan.names) })
        });
        drop(told);
        self.told.write().names = together;
    }

    /// Returns the keys of addresses that were told.
    pub(crate) fn told_keys(&self) -> Vec<(Arc<str>, Arc<[IpAddr]>)> {
        let told = self.told.read();
        let names = told.all.values().filter_map(|one| one.name.as_ref());
        names
            .filter_map(|(name, key)| Some((Arc::clone(key.as_ref()?), Arc::clone(&name.addresses))))
            .collect()
    }

    /// Makes a plan with everything that was told, for pages.
    pub(crate) fn whole_plan(&self) -> Plan {
        let mut plan = self.plan.clone();
        plan.listeners.extend(self.told.listeners().iter().map(|one| Arc::clone(&one.plan)));
        plan.clusters.extend(self.told_clusters().iter().map(|one| Arc::clone(&one.plan)));
        // Before the lock, which a thread may not take twice: a writer that waits lets no other reader in.
        let mut names = MeshNames::clone(&self.names());
        let told = self.told.read();
        let way = |(at, all): (&SocketAddr, &Vec<NamedListener>)| {
            Some((*at, Arc::clone(&all.last()?.listener.plan.name)))
        };
        let ways = told.named.iter().filter_map(way);
        names.ways.extend(ways);
        plan.names = Arc::new(names);
        plan
    }
}

impl Listener {
    /// Returns true if a policy on trial would lead its connections elsewhere.
    pub(crate) fn leads_elsewhere_on_trial(&self) -> bool {
        self.on_trial().is_some_and(|on_trial| on_trial.elsewhere.contains(&self.plan.name))
    }

    /// Returns true if a cluster of its calls has more connections than it would have at most.
    pub(crate) fn is_over_limit_on_trial(&self, cluster: &Cluster) -> bool {
        let most = self.on_trial().and_then(|on_trial| on_trial.most_connections.get(&cluster.plan.name));
        most.is_some_and(|most| cluster.state.limits.connections.used() > *most)
    }

    fn on_trial(&self) -> Option<&OnTrial> {
        self.of_calls.as_ref()?.on_trial.as_deref()
    }
}

#[cfg(test)]
mod tests;
