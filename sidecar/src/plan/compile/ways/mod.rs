// SPDX-License-Identifier: Apache-2.0
//! Listeners of the pod's calls, and the clusters that they lead to: for outbounds of the pod's Dataplane, and for the addresses of
//! services.

use crate::net::addrs::{Direction, is_loopback};
use crate::plan::compile::explain;
use crate::plan::compile::limits::{Limits, Numbers};
use crate::plan::compile::logs::Logs;
use crate::plan::compile::routes::{Routed, Routes};
use crate::plan::compile::services::{Destination, Services};
use crate::plan::logs::LogTargets;
use crate::plan::names::on_demand::{Called, Lines, OnDemand, listener_name};
use crate::plan::{ClusterPlan, Discovery, ListenerPlan, Origin, Plan, Serve, Share};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// Calls to a destination at an address.
#[derive(Clone, Copy)]
pub(super) struct Way<'w> {
    /// Where the calls go without a route.
    pub(super) to: &'w Destination,
    /// The address that the pod calls. One on loopback is bound, as traffic to loopback is never redirected.
    pub(super) address: SocketAddr,
    /// The document that asks for the way, and its field.
    pub(super) by: (&'w Document, &'w str),
}

/// What policies say of the calls to a destination.
struct Calls {
    routed: Routed,
    numbers: Numbers,
    log: LogTargets,
}

fn has_no_endpoint(upstream: &Discovery) -> bool {
    match upstream {
        Discovery::Endpoints(endpoints) => endpoints.is_empty(),
        Discovery::External(endpoints) => endpoints.is_empty(),
        Discovery::OriginalDst { .. } | Discovery::Application { .. } => false,
    }
}

/// Returns the key of a cluster among those that were made. A TrafficRoute's algorithm is about calls by tags.
fn made(to: &Destination, own: (&Destination, &Numbers)) -> Made {
    let led = own.1.has_algorithm_of_route() && own.0.tags().is_some();
    (to.clone(), led.then(|| own.0.clone().into()))
}

/// A destination, and beside it the one whose TrafficRoute says an algorithm for it. That is rare, and there may be thousands.
type Made = (Destination, Option<Box<Destination>>);

/// Makes listeners and clusters for calls, with all policies about them.
pub(super) struct Ways<'a> {
    ours: &'a [&'a Document],
    services: &'a Services<'a>,
    routes: &'a Routes<'a>,
    limits: &'a Limits<'a>,
    logs: &'a Logs<'a>,
    /// Places of the plan's clusters by their names.
    clusters: HashMap<Arc<str>, usize>,
    /// What was made already: a service may be called at several addresses.
    made: HashMap<Made, Arc<str>>,
    calls: HashMap<Destination, Rc<Calls>>,
    /// What is made out when it is called; `None` = everything is made out at once, for what looks at all listeners and clusters.
    on_demand: Option<Lines>,
    /// Logs of calls that no document names.
    log: LogTargets,
}

impl<'a> Ways<'a> {
    /// Makes ways into a plan. As long as they are used, other code adds no clusters to it. With `on_trial` another plan is
    /// compared with it.
    pub(super) fn new(
        plan: &Plan,
        (ours, services, on_trial): (&'a [&'a Document], &'a Services<'a>, bool),
        routes: &'a Routes<'a>,
        (limits, logs): (&'a Limits<'a>, &'a Logs<'a>),
    ) -> Self {
        let patches = |one: &&Document| [Kind::MeshProxyPatch, Kind::ProxyTemplate].contains(&one.kind());
        let looks_at_all = on_trial || plan.decisions.are_kept() || ours.iter().any(patches);
        let clusters = plan.clusters.iter().enumerate();
        let clusters = clusters.map(|(at, cluster)| (Arc::clone(&cluster.name), at)).collect();
        let (made, calls) = (HashMap::new(), HashMap::new());
        let on_demand = (!looks_at_all).then(Lines::default);
        Self {
            ours,
            services,
            routes,
            limits,
            logs,
            clusters,
            made,
            calls,
            on_demand,
            log: logs.of_calls(None),
        }
    }

    /// Adds the listener of calls to a destination, with its clusters and all policies about them, and returns its name. No two
    /// ways have one address.
    pub(super) fn add(&mut self, plan: &mut Plan, way: Way<'_>) -> Arc<str> {
        let calls = self.calls(way.to);
        let mut split: Vec<Share> = Vec::new();
        for (weight, to) in &calls.routed.shares {
            let cluster = self.cluster(plan, to, (way.to, &calls.numbers));
            match split.iter_mut().find(|share| share.cluster == cluster) {
                Some(share) => share.weight = share.weight.saturating_add(*weight),
                None => split.push(Share { cluster, weight: *weight }),
            }
        }
        let serve = self.serve(&calls);
        let cluster = split.first().map(|share| Arc::clone(&share.cluster));
        if split.len() == 1 {
            split.clear();
        }
        let name = listener_name(way.address);
        let listener = ListenerPlan {
            name: Arc::clone(&name),
            direction: Direction::Outbound,
            origin: Origin::Outbound,
            address: way.address,
            binds: is_loopback(way.address.ip()),
            serve,
            http: calls.numbers.http.clone(),
            cluster,
            split,
            idle_timeout: calls.numbers.idle_timeout,
            service: Some(Arc::clone(&way.to.service)),
            rate: None,
        };
        plan.listeners.push(Arc::new(listener));
        plan.logs.outbounds.insert(way.address, calls.log.clone());
        self.explain(plan, way, &calls);
        name
    }

    /// Adds a way on demand if it can be, else its listener, whose name it returns. No other way has its destination: what
    /// policies say of its calls is not kept, as there may be tens of thousands.
    pub(super) fn add_only(&mut self, plan: &mut Plan, way: Way<'_>) -> Option<Arc<str>> {
        let was_there = self.calls.contains_key(way.to);
        if !was_there && self.add_on_demand(plan, way) {
            return None;
        }
        let name = self.add(plan, way);
        if !was_there {
            self.calls.remove(way.to);
        }
        Some(name)
    }

    /// Adds a way as lines: one whose calls all go to its own destination, and to a cluster that no other way made out.
    fn add_on_demand(&mut self, plan: &mut Plan, way: Way<'_>) -> bool {
        let Some(lines) = &mut self.on_demand else { return false };
        let routed = self.routes.of(way.to);
        let own = matches!(&routed.shares[..], [(_, to)] if to == way.to);
        if !own || self.clusters.contains_key(&way.to.cluster) {
            return false;
        }
        let (numbers, log) = self
            .services
            .with_called(way.to, |called| (self.limits.outbound(called), self.logs.of_calls(Some(called))));
        let upstream = self.services.upstream(way.to);
        let cluster = numbers.cluster(Arc::clone(&way.to.cluster), Origin::Outbound, upstream);
        let service = Arc::clone(&way.to.service);
        let serve = self.services.serve(way.to);
        let http = numbers.http.clone();
        let called = Called { cluster, service, idle_timeout: numbers.idle_timeout, serve, http };
        let added = lines.add(way.address, called);
        if added && log != self.log {
            plan.logs.outbounds.insert(way.address, log);
        }
        added
    }

    /// Makes room for so many listeners and clusters on demand.
    pub(super) fn expect(&mut self, listeners: usize, clusters: usize) {
        if let Some(lines) = &mut self.on_demand {
            lines.expect(listeners, clusters);
        }
    }

    /// Lets addresses lead to the listeners on one of them, as far as these are on demand.
    pub(super) fn lead(&mut self, addresses: &[IpAddr], to: IpAddr) {
        if let Some(lines) = &mut self.on_demand {
            lines.lead(addresses, to);
        }
    }

    /// Returns what is made out when it is called, once all ways are added.
    pub(super) fn on_demand(&mut self, plan: &Plan) -> OnDemand {
        self.on_demand.take().map(|lines| lines.finish(&plan.clusters)).unwrap_or_default()
    }

    /// Notes the services without an endpoint that the calls of a way go to.
    pub(super) fn warn(&self, plan: &mut Plan, way: Way<'_>) {
        let Some(calls) = self.calls.get(way.to) else { return };
        for (_, to) in &calls.routed.shares {
            let at =
                self.made.get(&made(to, (way.to, &calls.numbers))).and_then(|name| self.clusters.get(name));
            if at.is_some_and(|at| has_no_endpoint(&plan.clusters[*at].upstream)) {
                let why = self.services.why_empty(to);
                plan.warnings.push(format!("outbound {}: {why}", way.address));
            }
        }
    }

    /// Returns what policies say of the calls to a destination.
    fn calls(&mut self, to: &Destination) -> Rc<Calls> {
        if let Some(there) = self.calls.get(to) {
            return Rc::clone(there);
        }
        let log = self.services.with_called(to, |called| self.logs.of_calls(Some(called)));
        let calls = Rc::new(Calls { routed: self.routes.of(to), numbers: self.numbers(to), log });
        self.calls.insert(to.clone(), Rc::clone(&calls));
        calls
    }

    /// Returns the way to serve calls, by what all that they are split among speaks.
    fn serve(&self, calls: &Calls) -> Serve {
        Serve::common(calls.routed.shares.iter().map(|(_, to)| self.services.serve(to)))
    }

    /// Returns the name of a destination's cluster, which is added where it is not there. `own` is the destination of the calls
    /// without a route.
    fn cluster(&mut self, plan: &mut Plan, to: &Destination, own: (&Destination, &Numbers)) -> Arc<str> {
        let key = made(to, own);
        if let Some(there) = self.made.get(&key) {
            return Arc::clone(there);
        }
        let numbers = match key.1 {
            Some(_) => self.numbers(to).led_to_by(own.1),
            None => self.numbers(to),
        };
        let upstream = self.services.upstream(to);
        let cluster = numbers.cluster(Arc::clone(&to.cluster), Origin::Outbound, upstream);
        let name = self.named_cluster(plan, cluster);
        self.made.insert(key, Arc::clone(&name));
        name
    }

    /// Adds a cluster, and returns the name of an existing one if it is equal; another cluster gets a number behind its name.
    pub(super) fn named_cluster(&mut self, plan: &mut Plan, mut cluster: ClusterPlan) -> Arc<str> {
        let wanted = Arc::clone(&cluster.name);
        let mut number = 1;
        loop {
            if let Some(there) = self.clusters.get(&cluster.name).map(|at| &plan.clusters[*at]) {
                if **there == cluster {
                    return Arc::clone(&there.name);
                }
            } else {
                let on_demand = self.on_demand.as_ref().and_then(|lines| lines.cluster(&cluster.name));
                if on_demand.is_none_or(|there| there == cluster) {
                    break;
                }
            }
            number += 1;
            cluster.name = format!("{wanted}#{number}").into();
        }
        let name = Arc::clone(&cluster.name);
        self.clusters.insert(Arc::clone(&name), plan.clusters.len());
        plan.clusters.push(Arc::new(cluster));
        name
    }

    fn numbers(&self, to: &Destination) -> Numbers {
        self.services.with_called(to, |called| self.limits.outbound(called))
    }

    /// Notes the documents behind the plan's last listener and its clusters.
    fn explain(&self, plan: &mut Plan, way: Way<'_>, Calls { routed, numbers, log: _ }: &Calls) {
        if !plan.decisions.are_kept() {
            return;
        }
        self.services.with_called(way.to, |called| self.logs.explain_calls(plan, self.ours, called));
        explain::explain_outbound(plan, (way.to, way.by), routed, &self.routes.lost(way.to));
        self.services.with_called(way.to, |called| self.limits.explain_outbound(plan, called));
        for (_, to) in &routed.shares {
            let Some(cluster) = self.made.get(&made(to, (way.to, numbers))) else { continue };
            self.services.with_called(to, |called| self.limits.explain_cluster(plan, called, cluster));
        }
    }
}

#[cfg(test)]
mod tests;
