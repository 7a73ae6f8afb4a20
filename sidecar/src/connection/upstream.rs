// SPDX-License-Identifier: Apache-2.0
//! The use of a cluster by one connection: its permit, its counters, its destination.

use crate::cluster::connect::{Attempts, Breaker, ConnectError, Event};
use crate::cluster::destinations::{DestinationUse, Destinations};
use crate::cluster::endpoint::{Endpoint, InUse};
use crate::cluster::metrics::UpstreamMetrics;
use crate::cluster::registry::{Cluster, ClusterState};
use crate::connection::accepted::ConnectionInfo;
use crate::connection::metrics::Totals;
use crate::connection::proxy::Proxy;
use crate::metrics::RareCounter;
use crate::net::addrs::OrigDst;
use crate::net::limit::Permit;
use crate::observe::close_reason::CloseReason;
use crate::plan::Member;
use crate::relay::Moved;
use std::sync::Arc;

/// One connection to a server, from its first dial to its close. Dropped, it gives everything back.
///
/// A client's connection has one, also where its messages are read. All fields are written by the
/// connection's own task; the counters behind them are read by the admin pages.
#[derive(Debug)]
pub(crate) struct UpstreamUse {
    /// Counted in. Outlives the plan that the connection was routed by.
    cluster: Arc<ClusterState>,
    /// Counted in too: the series of the connection's direction and family.
    totals: Arc<Totals>,
    /// The place among the cluster's connections. Given back first, before anything shows that the use is over.
    permit: Option<Permit>,
    /// The address that was dialled last; `None` where so many are in use that it is not shown.
    destination: Option<DestinationUse>,
    /// The connection among those of its endpoint, where they are counted.
    in_use: Option<InUse>,
}

/// Answers of a server's endpoint, of which too many that fail in a row eject it.
#[derive(Debug)]
pub(crate) struct Judge {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    totals: Arc<Totals>,
}

// === impl Judge ===

impl Judge {
    /// Counts an answer, or a failure that takes the place of one.
    pub(crate) fn answered(&self, status: u16) {
        let Self { cluster, endpoint, totals } = self;
        if cluster.answered(endpoint, status) {
            count(&cluster.state, totals, |upstream| &upstream.ejections);
        }
    }
}

/// Counts for the cluster, and in the totals of the direction and family.
fn count(cluster: &ClusterState, totals: &Totals, counter: impl Fn(&UpstreamMetrics) -> &RareCounter) {
    counter(&cluster.metrics).inc();
    counter(&totals.upstream).inc();
}

impl UpstreamUse {
    /// Takes a place among the cluster's connections, chooses the address that is dialled first, and counts that.
    pub(crate) fn begin<'a>(
        proxy: &Proxy,
        info: &ConnectionInfo,
        cluster: &'a Cluster,
        original: OrigDst,
        member: Option<&'a Member>,
    ) -> Result<(Self, Attempts<'a>), ConnectError> {
        let totals = proxy.metrics.totals(info.direction, info.client.family());
        let state = &cluster.state;
        let Some(permit) = state.limits.connections.try_acquire_for(info.claim) else {
            count(state, totals, |upstream| &upstream.overflow);
            let (cluster, what) = (Arc::clone(&state.name), Breaker::Connections);
            return Err(ConnectError::Full { cluster, what, claim: info.claim });
        };
        let attempts =
            Attempts::begin(cluster, original, member, (info.claim, info.client)).inspect_err(|error| {
                match error {
                    ConnectError::NoEndpoint(_) => count(state, totals, |upstream| &upstream.no_endpoint),
                    _ => count(state, totals, |upstream| &upstream.pending_overflow),
                }
            })?;
        for metrics in [&*state.metrics, &totals.upstream] {
            metrics.total.inc();
            metrics.active.inc();
        }
        let this = Self {
            destination: proxy.destinations.dialled(state.id, attempts.first()),
            cluster: Arc::clone(state),
            totals: Arc::clone(totals),
            permit: Some(permit),
            in_use: None,
        };
        Ok((this, attempts))
    }

    pub(crate) fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }

    /// Counts a step of the connect.
    pub(crate) fn note(&mut self, event: &Event<'_>, destinations: &Destinations) {
        match event {
            Event::Failed(error) => {
                self.count(|upstream| &upstream.connect_failed);
                if let Some(destination) = &self.destination {
                    destination.failed();
                }
                if error.is_timeout() {
                    self.count(|upstream| &upstream.connect_timed_out);
                }
            }
            Event::Retrying(addr) => {
                self.count(|upstream| &upstream.retries);
                self.cluster.metrics.total.inc();
                self.totals.upstream.total.inc();
                // The old one is closed first, so that its place may be taken.
                self.destination = None;
                self.destination = destinations.dialled(self.cluster.id, *addr);
            }
            Event::Ejected => self.count(|upstream| &upstream.ejections),
            Event::RetryRefused => self.count(|upstream| &upstream.retry_overflow),
            Event::Connected(took) => self.totals.connect_seconds.observe(took.as_secs_f64()),
        }
    }

    /// Returns the judge of the answers of an endpoint of its cluster.
    pub(crate) fn judge(&self, cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) -> Judge {
        Judge { cluster, endpoint, totals: Arc::clone(&self.totals) }
    }

    /// Keeps the connection among those of its endpoint until the use ends.
    pub(crate) fn keeps(&mut self, in_use: Option<InUse>) {
        self.in_use = in_use;
    }

    pub(crate) fn moved(&self, Moved { to_server, to_client }: Moved) {
        for metrics in [&*self.cluster.metrics, &self.totals.upstream] {
            if to_server != 0 {
                metrics.to_server.inc_by(to_server);
            }
            if to_client != 0 {
                metrics.to_client.inc_by(to_client);
            }
        }
    }

    /// Counts the end by its reason; the drop that follows does the rest.
    pub(crate) fn ends(&self, reason: CloseReason) {
        if reason == CloseReason::IdleTimeout {
            self.count(|upstream| &upstream.idle_timeout);
        }
    }

    fn count(&self, counter: impl Fn(&UpstreamMetrics) -> &RareCounter) {
        count(&self.cluster, &self.totals, counter);
    }
}

impl Drop for UpstreamUse {
    fn drop(&mut self) {
        self.permit = None;
        self.cluster.metrics.active.dec();
        self.totals.upstream.active.dec();
    }
}
