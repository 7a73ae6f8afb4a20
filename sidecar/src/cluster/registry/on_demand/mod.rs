// SPDX-License-Identifier: Apache-2.0
//! Listeners and clusters of names, made out of their lines when the first connection comes for them.

use super::states::reuse_one;
use super::{Cluster, ClusterId, ClusterState, Listener, Running, States, stat_names};
use crate::cluster::outsider::Opened;
use crate::metrics::Lazy;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// What connections came for, by the places of the lines.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) states: Arc<States>,
    made_out: RwLock<MadeOut>,
    /// Names in statistics that differ from the usual ones, by the places of clusters.
    stat_names: HashMap<usize, Arc<str>>,
}

#[derive(Debug, Default)]
struct MadeOut {
    listeners: HashMap<usize, Arc<Listener>>,
    clusters: HashMap<usize, Arc<Cluster>>,
}

impl Called {
    pub(super) fn new(states: &Arc<States>, stat_names: HashMap<usize, Arc<str>>) -> Self {
        Self { states: Arc::clone(states), made_out: RwLock::default(), stat_names }
    }
}

impl Running {
    /// Returns the listener of calls to an address, which is made out if it is not yet.
    pub(super) fn on_demand(&self, to: SocketAddr) -> Option<Arc<Listener>> {
        let at = self.plan.names.on_demand.find(to)?;
        let there = self.called.made_out.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = there.listeners.get(&at) {
            return Some(Arc::clone(listener));
        }
        drop(there);
        Some(self.make_out(at))
    }

    /// Makes out what connections came for under an earlier plan, so that its counters stay.
    pub(super) fn make_out_again(&self) {
        let lines = &self.plan.names.on_demand;
        let mut called = self.called.states.called.lock().unwrap_or_else(PoisonError::into_inner);
        called.retain(|address| lines.find(*address).is_some());
        let places: Vec<_> = called.iter().filter_map(|address| lines.find(*address)).collect();
        drop(called);
        for at in places {
            self.make_out(at);
        }
    }

    fn make_out(&self, at: usize) -> Arc<Listener> {
        let lines = &self.plan.names.on_demand;
        let mut made_out = self.called.made_out.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = made_out.listeners.get(&at) {
            return Arc::clone(there);
        }
        let (plan, of) = (lines.listener(at), lines.cluster_of(at));
        let states = &self.called.states;
        let metrics = reuse_one(&states.listeners, Arc::clone(&plan.name), |_| Lazy::default());
        let cluster = match self.planned(of) {
            Some(there) => Arc::clone(there),
            None => Arc::clone(made_out.clusters.entry(of).or_insert_with(|| {
                let new = |name: &Arc<str>| ClusterState::new(states.next_id(), Arc::clone(name));
                let state = reuse_one(&states.clusters, Arc::clone(lines.cluster_name(of)), new);
                self.cluster(of, state)
            })),
        };
        let address = plan.address;
        let listener = Arc::new(Listener {
            plan: Arc::new(plan),
            metrics,
            cluster: Some(cluster),
            split: None,
            bucket: None,
            requests: Box::default(),
            of_calls: None,
        });
        made_out.listeners.insert(at, Arc::clone(&listener));
        drop(made_out);
        states.called.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        listener
    }

    /// Returns the cluster at a place where it is among those of the plan.
    fn planned(&self, at: usize) -> Option<&Arc<Cluster>> {
        let lines = &self.plan.names.on_demand;
        let is = |cluster: &&Arc<Cluster>| cluster.plan.name == *lines.cluster_name(at);
        lines.is_made_out(at).then(|| self.clusters.iter().find(is))?
    }

    fn cluster(&self, at: usize, state: Arc<ClusterState>) -> Arc<Cluster> {
        let plan = self.plan.names.on_demand.cluster(at);
        let own = || stat_names::stat_name(&plan.name).into();
        let stat_name = self.called.stat_names.get(&at).map_or_else(own, Arc::clone);
        // Its endpoints are members.
        Arc::new(Cluster::new(&Arc::new(plan), state, stat_name, &Opened::new()))
    }

    /// Returns the listeners that a connection may have come to.
    pub(crate) fn used_listeners(&self) -> Vec<Arc<Listener>> {
        let made_out = self.called.made_out.read().unwrap_or_else(PoisonError::into_inner);
        let there = self.listeners.iter().chain(made_out.listeners.values()).map(Arc::clone);
        there.chain(self.told.listeners()).collect()
    }

    /// Returns the clusters that a connection may have come to.
    pub(crate) fn used_clusters(&self) -> Vec<Arc<Cluster>> {
        let made_out = self.called.made_out.read().unwrap_or_else(PoisonError::into_inner);
        let there = self.clusters.iter().chain(made_out.clusters.values()).map(Arc::clone);
        there.chain(self.told_clusters()).collect()
    }

    /// Returns all listeners; those that nothing came for are made for this alone.
    pub(crate) fn all_listeners(&self) -> Vec<Arc<Listener>> {
        let lines = &self.plan.names.on_demand;
        let made_out = self.called.made_out.read().unwrap_or_else(PoisonError::into_inner);
        let on_demand = (0..lines.listeners()).map(|at| match made_out.listeners.get(&at) {
            Some(there) => Arc::clone(there),
            None => self.unused_listener(at),
        });
        self.listeners.iter().map(Arc::clone).chain(on_demand).chain(self.told.listeners()).collect()
    }

    /// Returns all clusters; those that nothing came for are made for this alone.
    pub(crate) fn all_clusters(&self) -> Vec<Arc<Cluster>> {
        let made_out = self.called.made_out.read().unwrap_or_else(PoisonError::into_inner);
        let on_demand = self.plan.names.on_demand.new_clusters().map(|at| match made_out.clusters.get(&at) {
            Some(there) => Arc::clone(there),
            None => self.unused_cluster(at),
        });
        self.clusters.iter().map(Arc::clone).chain(on_demand).chain(self.told_clusters()).collect()
    }

    fn unused_listener(&self, at: usize) -> Arc<Listener> {
        let lines = &self.plan.names.on_demand;
        let cluster = Some(self.unused_cluster(lines.cluster_of(at)));
        let (plan, metrics) = (Arc::new(lines.listener(at)), Arc::new(Lazy::default()));
        Arc::new(Listener {
            plan,
            metrics,
            cluster,
            split: None,
            bucket: None,
            requests: Box::default(),
            of_calls: None,
        })
    }

    fn unused_cluster(&self, at: usize) -> Arc<Cluster> {
        let name = Arc::clone(self.plan.names.on_demand.cluster_name(at));
        self.cluster(at, Arc::new(ClusterState::new(ClusterId::NONE, name)))
    }
}

#[cfg(test)]
mod tests;
