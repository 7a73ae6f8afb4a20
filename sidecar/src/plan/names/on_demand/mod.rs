// SPDX-License-Identifier: Apache-2.0
//! Listeners and clusters of the addresses of names, kept as lines until a connection comes for one.
//!
//! A mesh of 10,000 services has as many clusters and twice as many listeners, of which a pod calls a few. What many of them
//! have in common is kept once. Lines are found by bisection: 15 comparisons among 20,000 listeners.

use crate::net::addrs::Direction;
use crate::plan::balance::Balance;
use crate::plan::listener::http::HttpPlan;
use crate::plan::{ClusterPlan, Discovery, EndpointPlan, ListenerPlan, Origin, Serve};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Sorts that a new cluster is compared with: a policy for each of thousands of services makes as many sorts.
const COMPARED: usize = 64;

/// Listeners and clusters as lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDemand {
    sorts: Vec<Sort>,
    clusters: Vec<ClusterLine>,
    /// Those of all clusters, in their order.
    endpoints: Vec<EndpointPlan>,
    /// Places of the clusters that are among those of the plan too, for the sake of other listeners.
    made_out: Vec<u32>,
    /// In the order of their own addresses, no two of which are alike.
    listeners: Vec<ListenerLine>,
    /// Each other address that leads to listeners, with the place of the first of them, in the order of addresses.
    ways: Vec<(IpAddr, u32)>,
}

/// What policies say of a service, the same for many.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sort {
    /// Without name and endpoints.
    cluster: ClusterPlan,
    idle_timeout: Option<Duration>,
    serve: Serve,
    http: Option<Arc<HttpPlan>>,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClusterLine {
    name: Arc<str>,
    /// Name of the server in logs.
    service: Arc<str>,
    /// Place of its first endpoint, and their number.
    endpoints: (u32, u32),
    sort: u32,
}

/// A listener. Its connections all go to one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListenerLine {
    ip: IpAddr,
    port: u16,
    cluster: u32,
}

/// A service to be called on demand.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) cluster: ClusterPlan,
    /// Name of the server in logs.
    pub(crate) service: Arc<str>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) serve: Serve,
    pub(crate) http: Option<Arc<HttpPlan>>,
}

/// Makes lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    all: OnDemand,
    /// Places of clusters by their names.
    clusters: HashMap<Arc<str>, u32>,
    /// Addresses that lead to the listeners on others.
    ways: Vec<(IpAddr, IpAddr)>,
}

// === impl OnDemand ===

impl OnDemand {
    /// Returns the number of listeners.
    pub fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// Returns the places of the clusters that are not among those of the plan.
    pub(crate) fn new_clusters(&self) -> impl Iterator<Item = usize> {
        (0..self.clusters.len()).filter(|at| !self.is_made_out(*at))
    }

    /// Returns true if the plan has the cluster at a place too.
    pub(crate) fn is_made_out(&self, at: usize) -> bool {
        self.made_out.binary_search(&place(at)).is_ok()
    }

    /// Finds the place of the listener of connections to an address.
    pub(crate) fn find(&self, to: SocketAddr) -> Option<usize> {
        let (ip, port) = (to.ip(), to.port());
        self.own(ip, port).or_else(|| {
            let from = self.ways.partition_point(|(one, _)| *one < ip);
            let of_ip = self.ways[from..].iter().take_while(|(one, _)| *one == ip);
            of_ip.map(|(_, first)| self.listeners[*first as usize].ip).find_map(|own| self.own(own, port))
        })
    }

    /// Finds the place of the listener that has an address itself.
    fn own(&self, ip: IpAddr, port: u16) -> Option<usize> {
        self.listeners.binary_search_by_key(&(ip, port), |one| (one.ip, one.port)).ok()
    }

    /// Makes out the listener at a place.
    pub(crate) fn listener(&self, at: usize) -> ListenerPlan {
        let line = &self.listeners[at];
        let cluster = &self.clusters[line.cluster as usize];
        let address = SocketAddr::new(line.ip, line.port);
        ListenerPlan {
            name: listener_name(address),
            direction: Direction::Outbound,
            origin: Origin::Outbound,
            address,
            binds: false,
            serve: self.sorts[cluster.sort as usize].serve,
            http: self.sorts[cluster.sort as usize].http.clone(),
            cluster: Some(Arc::clone(&cluster.name)),
            split: Vec::new(),
            idle_timeout: self.sorts[cluster.sort as usize].idle_timeout,
            service: Some(Arc::clone(&cluster.service)),
            rate: None,
        }
    }

    /// Makes out the cluster at a place.
    pub(crate) fn cluster(&self, at: usize) -> ClusterPlan {
        let line = &self.clusters[at];
        ClusterPlan {
            name: Arc::clone(&line.name),
            upstream: Discovery::Endpoints(self.endpoints(at).to_vec()),
            ..self.sorts[line.sort as usize].cluster.clone()
        }
    }

    /// Returns the place of the cluster of the listener at a place.
    pub(crate) fn cluster_of(&self, listener: usize) -> usize {
        self.listeners[listener].cluster as usize
    }

    /// Returns the name of the cluster at a place.
    pub(crate) fn cluster_name(&self, at: usize) -> &Arc<str> {
        &self.clusters[at].name
    }

    /// Returns the endpoints of the cluster at a place.
    pub(crate) fn endpoints(&self, at: usize) -> &[EndpointPlan] {
        let (first, number) = self.clusters[at].endpoints;
        &self.endpoints[first as usize..][..number as usize]
    }

    /// Returns the shortest time without a byte on a connection, of all listeners.
    pub(crate) fn shortest_idle_timeout(&self) -> Option<Duration> {
        let times = |sort: &Sort| {
            let of_requests = sort.http.as_ref().and_then(|plan| plan.times.shortest());
            sort.idle_timeout.into_iter().chain(of_requests).min()
        };
        self.sorts.iter().filter_map(times).min()
    }
}

#[cfg(test)]
impl crate::plan::Plan {
    /// Makes out everything, as if there were no lines.
    pub(crate) fn made_out(mut self) -> Self {
        let mut names = crate::plan::names::MeshNames::clone(&self.names);
        let lines = std::mem::take(&mut names.on_demand);
        self.clusters.extend(lines.new_clusters().map(|at| Arc::new(lines.cluster(at))));
        self.listeners.extend((0..lines.listeners()).map(|at| Arc::new(lines.listener(at))));
        for (ip, first) in &lines.ways {
            let all = &lines.listeners[*first as usize..];
            for one in all.iter().take_while(|one| one.ip == all[0].ip) {
                let to = SocketAddr::new(*ip, one.port);
                let name = lines.listener(lines.find(to).unwrap()).name;
                names.ways.extend((lines.own(*ip, one.port).is_none()).then_some((to, name)));
            }
        }
        self.names = names.into();
        self
    }
}

/// Returns the name of the listener of an outbound.
pub(crate) fn listener_name(address: SocketAddr) -> Arc<str> {
    format!("outbound:{address}").into()
}

// === impl Lines ===

impl Lines {
    /// Makes room for so many listeners and clusters, with an endpoint and two addresses each.
    pub(crate) fn expect(&mut self, listeners: usize, clusters: usize) {
        let Self { all, clusters: by_name, ways } = self;
        all.listeners.reserve_exact(listeners);
        all.clusters.reserve_exact(clusters);
        all.endpoints.reserve(clusters);
        by_name.reserve(clusters);
        ways.reserve(clusters);
    }

    /// Adds a listener and its cluster, which is shared by all listeners of an equal one. Returns false for what a line
    /// cannot say, and where another cluster has the name.
    pub(crate) fn add(&mut self, address: SocketAddr, called: Called) -> bool {
        let Called { cluster, service, idle_timeout, serve, http } = called;
        // Checks go on without a call, and groups of endpoints are no common thing.
        let is_plain = cluster.health.as_ref().is_none_or(|health| health.check.is_none())
            && cluster.balance == Balance::default()
            && cluster.origin == Origin::Outbound;
        let Discovery::Endpoints(endpoints) = cluster.upstream else { return false };
        if !is_plain {
            return false;
        }
        let (name, upstream) = (cluster.name, Discovery::Endpoints(Vec::new()));
        let cluster = ClusterPlan { name: Arc::default(), upstream, ..cluster };
        let sort = Sort { cluster, idle_timeout, serve, http };
        let at = match self.clusters.get(&name) {
            Some(&at) => {
                let there = &self.all.clusters[at as usize];
                let is_same = *self.all.endpoints(at as usize) == *endpoints
                    && there.service == service
                    && self.all.sorts[there.sort as usize] == sort;
                if !is_same {
                    return false;
                }
                at
            }
            None => {
                let (sort, at) = (self.sort(sort), place(self.all.clusters.len()));
                self.clusters.insert(Arc::clone(&name), at);
                let own = (place(self.all.endpoints.len()), place(endpoints.len()));
                self.all.endpoints.extend(endpoints);
                self.all.clusters.push(ClusterLine { name, service, endpoints: own, sort });
                at
            }
        };
        self.all.listeners.push(ListenerLine { ip: address.ip(), port: address.port(), cluster: at });
        true
    }

    /// Lets addresses lead to the listeners on one of them.
    pub(crate) fn lead(&mut self, addresses: &[IpAddr], to: IpAddr) {
        self.ways.extend(addresses.iter().filter(|address| **address != to).map(|address| (*address, to)));
    }

    /// Returns the cluster of a name as it is made out.
    pub(crate) fn cluster(&self, name: &str) -> Option<ClusterPlan> {
        self.clusters.get(name).map(|at| self.all.cluster(*at as usize))
    }

    /// Returns the lines, in their order, beside the clusters of the plan.
    pub(crate) fn finish(self, made_out: &[Arc<ClusterPlan>]) -> OnDemand {
        let Self { mut all, clusters, mut ways } = self;
        all.made_out = made_out.iter().filter_map(|one| clusters.get(&one.name)).copied().collect();
        all.made_out.sort_unstable();
        all.listeners.sort_unstable_by_key(|one| (one.ip, one.port));
        ways.sort_unstable();
        ways.dedup();
        let first = |own: IpAddr| all.listeners.partition_point(|one| one.ip < own);
        let leads = |at: usize, own| all.listeners.get(at).is_some_and(|one| one.ip == own);
        let ways = ways.into_iter().map(|(address, own)| (address, own, first(own)));
        let ways = ways.filter(|(_, own, at)| leads(*at, *own));
        all.ways = ways.map(|(address, _, at)| (address, place(at))).collect();
        all.sorts.shrink_to_fit();
        all.clusters.shrink_to_fit();
        all.endpoints.shrink_to_fit();
        all.listeners.shrink_to_fit();
        all.ways.shrink_to_fit();
        all
    }

    fn sort(&mut self, sort: Sort) -> u32 {
        let sorts = &mut self.all.sorts;
        let compared = sorts.len().saturating_sub(COMPARED);
        let there = sorts[compared..].iter().rposition(|one| *one == sort).map(|at| compared + at);
        let at = there.unwrap_or_else(|| {
            sorts.push(sort);
            sorts.len() - 1
        });
        place(at)
    }
}

/// A place in 4 bytes: documents are bounded far below that.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
