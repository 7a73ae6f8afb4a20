// SPDX-License-Identifier: Apache-2.0
//! From a route to a connected server: permits, the endpoints' turns, retries.

use crate::cluster::registry::Running;
use crate::connection::ForwardError;
use crate::connection::life::Life;
use crate::connection::route::Route;
use crate::connection::table::{Entry, State};
use crate::net::addrs::{DialAddr, OrigDst};
use crate::net::dial::{self, DialError};
use crate::plan::Upstream;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// Something to dial.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    addr: DialAddr,
    source: Option<IpAddr>,
    /// Its place among the cluster's endpoints.
    endpoint: Option<usize>,
}

/// What a connection may dial, in its order.
fn attempts(running: &Running, cluster: usize, original: OrigDst) -> impl Iterator<Item = Attempt> {
    let once = |addr, source| Some(Attempt { addr: DialAddr::new(addr), source, endpoint: None });
    let (one, endpoints) = match &running.plan.clusters[cluster].upstream {
        Upstream::OriginalDst { source } => (once(original.get(), *source), None),
        Upstream::Application { address, source } => (once(*address, *source), None),
        Upstream::Endpoints(endpoints) => (None, Some(endpoints)),
    };
    let turns = endpoints.map(|endpoints| {
        running.turns(cluster).map(|at| Attempt {
            addr: DialAddr::new(endpoints[at].address),
            source: None,
            endpoint: Some(at),
        })
    });
    one.into_iter().chain(turns.into_iter().flatten())
}

/// Takes the cluster's permits and dials until a server answers or none is left.
pub(crate) async fn connect(
    life: &mut Life,
    running: &Running,
    route: &Route,
    original: OrigDst,
) -> Result<(TcpStream, Arc<Entry>), ForwardError> {
    let proxy = life.proxy();
    let Some(at) = route.cluster else {
        running.listeners[route.listener].metrics.no_route.inc();
        return Err(ForwardError::Denied(original));
    };
    let (cluster, planned) = (Arc::clone(&running.clusters[at]), &running.plan.clusters[at]);
    let full = |what| ForwardError::ClusterFull { cluster: Arc::clone(&cluster.name), what };
    let Some(permit) = cluster.limits.connections.try_acquire() else {
        life.count(&cluster, |upstream| &upstream.overflow);
        return Err(full("connections"));
    };
    life.hold(permit);
    let Some(pending) = cluster.limits.pending.try_acquire() else {
        life.count(&cluster, |upstream| &upstream.pending_overflow);
        return Err(full("connects under way"));
    };

    let mut attempts = attempts(running, at, original);
    let Some(mut attempt) = attempts.next() else {
        life.count(&cluster, |upstream| &upstream.no_endpoint);
        return Err(ForwardError::NoEndpoint(Arc::clone(&cluster.name)));
    };
    let idle_timeout = running.plan.listeners[route.listener].idle_timeout;
    let entry = life.enter(original, attempt.addr, Arc::clone(&cluster), idle_timeout);
    // Held while a second or later endpoint is dialled.
    let mut retry = None;
    let mut registered = None;
    let server = loop {
        let Attempt { addr, source, endpoint } = attempt;
        let started = Instant::now();
        let dialled = tokio::select! {
            // A connection that is to stop is not to be established.
            biased;
            reason = poll_fn(|cx| entry.poll_stop(cx, &mut registered)) => {
                return Err(ForwardError::Stopped(reason));
            }
            dialled = dial::dial(addr, source, planned.connect_timeout) => dialled,
        };
        let error = match dialled {
            Ok(server) => {
                life.totals().connect_seconds.observe(started.elapsed().as_secs_f64());
                if let Some(endpoint) = endpoint {
                    running.take_back(at, endpoint);
                }
                break server;
            }
            Err(error) => error,
        };
        life.count(&cluster, |upstream| &upstream.connect_failed);
        proxy.destinations.failed(cluster.id, addr);
        match error {
            DialError::TimedOut { .. } => life.count(&cluster, |upstream| &upstream.connect_timed_out),
            DialError::NoSource { .. } if proxy.no_source.ready() => tracing::error!("{error}"),
            _ => {}
        }
        if let Some(endpoint) = endpoint {
            running.set_aside(at, endpoint);
        }
        let Some(next) = attempts.next() else { return Err(error.into()) };
        if retry.is_none() {
            retry = cluster.limits.retries.try_acquire();
        }
        if retry.is_none() {
            life.count(&cluster, |upstream| &upstream.retry_overflow);
            return Err(error.into());
        }
        life.count(&cluster, |upstream| &upstream.retries);
        life.redial(&entry, next.addr);
        attempt = next;
    };
    drop((pending, retry));
    proxy.table.touch(&entry);
    entry.set_state(State::Relaying);
    Ok((server, entry))
}
