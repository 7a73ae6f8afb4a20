// SPDX-License-Identifier: Apache-2.0
//! What every connection shares.

use crate::cluster::destinations::Destinations;
use crate::cluster::limits::Limits;
use crate::cluster::registry::{Books, Running};
use crate::connection::metrics::Metrics;
use crate::connection::table::Table;
use crate::net::own_addresses::OwnAddresses;
use crate::net::throttle::Throttle;
use crate::observe::access_log::AccessLogger;
use crate::observe::capture::Capture;
use crate::observe::documents::Documents;
use crate::observe::failures::RecentFailures;
use crate::observe::history::History;
use crate::observe::traffic_log::TrafficLogger;
use crate::options::config::Config;
use crate::options::config::SidecarPorts;
use crate::relay::pipes::Pipes;
use crate::tls::Tls;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Shared by all connections and by the admin pages.
#[derive(Debug)]
pub struct Proxy {
    /// What the sidecar was told.
    pub config: Config,
    /// What documents say; exchanged by a reload.
    pub running: ArcSwap<Running>,
    /// The counters and limits of listeners and clusters.
    pub books: Books,
    /// What became of the documents.
    pub(crate) documents: Documents,
    /// Who this workload is, and what handshakes use.
    pub tls: Tls,
    /// Where documents want connections logged.
    pub(crate) traffic_log: TrafficLogger,
    /// Its own ports.
    pub ports: SidecarPorts,
    /// The pod's addresses.
    pub own: OwnAddresses,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Limits.
    pub limits: Limits,
    /// Open connections.
    pub table: Table,
    /// What bulk streams are spliced through.
    pub pipes: Arc<Pipes>,
    /// Where connections were dialled to.
    pub destinations: Destinations,
    /// The last minutes.
    pub(crate) history: History,
    /// What went wrong lately.
    pub(crate) mishaps: RecentFailures,
    /// The proof that connections are redirected.
    pub(crate) capture: Capture,
    /// Where closing records go.
    pub(crate) access_log: AccessLogger,
    /// Keeps the error about a missing source address from filling the log.
    pub(crate) no_source: Throttle,
}

#[cfg(test)]
impl Proxy {
    /// One that nothing runs in.
    pub(crate) fn for_tests(config: Config) -> Self {
        let plan = crate::plan::compile::compile(&config, &culvert_mesh::document::Found::default())
            .expect("no document, no error");
        Self::with_plan(config, plan)
    }

    /// One with documents that nothing runs in.
    pub(crate) fn with_plan(config: Config, plan: crate::plan::Plan) -> Self {
        let metrics = Metrics::default();
        let books = Books::default();
        Self {
            ports: config.sidecar_ports(),
            own: OwnAddresses::from_kernel().expect("netlink answers"),
            documents: Documents::new(0, metrics.documents.clone()),
            traffic_log: TrafficLogger::new(metrics.traffic_log.clone()),
            capture: Capture::new(metrics.capture.clone()),
            access_log: AccessLogger::start(
                &crate::options::config::AccessLog::Off,
                metrics.access_log.clone(),
            )
            .expect("nothing to open"),
            pipes: Pipes::new(crate::relay::pipes::MOST, metrics.pipes.clone()),
            tls: Tls::new(config.identity.clone(), &metrics.tls),
            metrics,
            limits: Limits::new(20_000),
            running: ArcSwap::new(books.open(plan)),
            books,
            table: Table::default(),
            destinations: Destinations::default(),
            history: History::default(),
            mishaps: RecentFailures::default(),
            no_source: Throttle::new(std::time::Duration::ZERO),
            config,
        }
    }
}
