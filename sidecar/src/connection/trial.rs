// SPDX-License-Identifier: Apache-2.0
//! Connections that policies on trial (`kuma.io/effect: shadow`) would treat otherwise are counted here, and treated as the
//! policies in force say. Without such a policy each call is one look at an absent value.

use crate::cluster::registry::{Cluster, Listener, Running};
use crate::connection::proxy::Proxy;
use crate::connection::route::Route;
use crate::net::addrs::{Direction, OrigDst};
use crate::plan::Origin;

/// Counts the way of a connection, where another one would be taken.
pub(super) fn way(proxy: &Proxy, running: &Running, route: &Route, original: OrigDst) {
    let (listener, metrics) = (&route.listener.plan, &proxy.metrics.trial);
    let trial = running.trial.as_ref();
    let leads_elsewhere = route.listener.leads_elsewhere_on_trial()
        || trial.is_some_and(|trial| trial.leads_elsewhere(&listener.name));
    if leads_elsewhere {
        metrics.elsewhere.inc();
        tracing::debug!(listener = %listener.name, "a MeshTCPRoute on trial would lead it elsewhere");
    }
    if (listener.direction, listener.origin) != (Direction::Outbound, Origin::Transparent) {
        return;
    }
    let Some(trial) = trial else { return };
    let to = original.get();
    // A denied call may still be let out by the name that it asks for: it counts as neither.
    let by_name = route.cluster.is_none() && running.plan.outside.asks(to.port()).any();
    let would_be = trial.lets_out(to, running.member_at(&to).is_some()).filter(|_| !by_name);
    match (route.cluster.is_some(), would_be) {
        (true, Some(false)) => {
            metrics.denied.inc();
            tracing::debug!(%to, "a MeshPassthrough on trial would deny it");
        }
        (false, Some(true)) => _ = metrics.let_out.inc(),
        _ => {}
    }
}

/// Counts a connection that is within the rate in force, and above that on trial.
pub(super) fn rate(proxy: &Proxy, running: &Running, route: &Route) {
    let listener = &route.listener.plan.name;
    if running.trial.as_ref().is_some_and(|trial| trial.is_over_rate(listener)) {
        proxy.metrics.trial.rate_limited.inc();
        tracing::debug!(%listener, "a MeshRateLimit on trial would refuse it");
    }
}

/// Counts a connection that has its place in a cluster, and would have none.
pub(super) fn place(proxy: &Proxy, running: &Running, (listener, cluster): (&Listener, &Cluster)) {
    let planned = running.trial.as_ref().is_some_and(|trial| trial.is_over_limit(cluster));
    if planned || listener.is_over_limit_on_trial(cluster) {
        proxy.metrics.trial.overflow.inc();
        tracing::debug!(cluster = %cluster.plan.name, "a MeshCircuitBreaker on trial would refuse it");
    }
}
