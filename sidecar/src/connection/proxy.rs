// SPDX-License-Identifier: Apache-2.0
//! The state that connections share.

use crate::cluster::destinations::Destinations;
use crate::cluster::limits::Limits;
use crate::cluster::registry::{Registry, Running};
use crate::connection::guard::{Guard, Refusal};
use crate::connection::metrics::Metrics;
use crate::connection::table::Table;
use crate::control::Control;
use crate::dns::Dns;
use crate::net::addrs::Direction;
use crate::net::own_addresses::OwnAddresses;
use crate::net::own_sockets::OwnSockets;
use crate::net::resolve::Names;
use crate::net::throttle::Throttle;
use crate::observe::access_log::AccessLogger;
use crate::observe::capture::Capture;
use crate::observe::documents::Documents;
use crate::observe::failures::RecentFailures;
use crate::observe::history::History;
use crate::observe::requests::RequestBook;
use crate::observe::traffic_log::TrafficLogger;
use crate::options::config::{Config, SidecarPorts};
use crate::relay::pipes::Pipes;
use crate::tls::Tls;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::Notify;

/// The state that all connections share, and that the admin pages show. Made once, at the start; never replaced.
///
/// "Workers" are the threads that run connections. The main thread runs everything else: admin, probes, reload, sweep.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The options. Read on every thread; nothing writes it.
    pub(crate) config: Config,
    /// The plan in force. Exchanged as a whole by a reload, on the main thread; each connection loads it once, when it is
    /// admitted, and keeps what it took from it.
    pub(crate) running: ArcSwap<Running>,
    /// Told by a reload, on the main thread, once another plan is in force. The active checks wait for it there.
    pub(crate) plan_changed: Notify,
    /// The states of listeners and clusters that outlive a reload. Used by a reload only: connections get at their states
    /// through the plan in force.
    pub(crate) registry: Registry,
    /// The outcome of reading the documents. Written by a reload, read by the admin pages.
    pub(crate) documents: Documents,
    /// The documents that the controller tells; `None` without one. Workers ask about destinations; the stream and a reload, on
    /// the main thread, answer.
    pub(crate) control: Option<Arc<Control>>,
    /// The names in Dataplanes. A thread of its own looks them up; a reload asks for their answers.
    pub(crate) names: Names,
    /// The identity of this workload and the configuration of handshakes. Written on the main thread when a file of the
    /// identity or a document changes; each handshake loads it, on its worker.
    pub(crate) tls: Tls,
    /// The DNS server, with the names of the plan in force. Workers answer queries; the main thread reads resolv.conf.
    pub(crate) dns: Arc<Dns>,
    /// The targets of traffic logs. Exchanged by a reload; workers send lines when connections end.
    pub(crate) traffic_log: TrafficLogger,
    /// The sidecar's own ports, from the options. The guards read them for each connection.
    pub(crate) ports: SidecarPorts,
    /// The pod's addresses. The guards read them, and ask the kernel again when they may be out of date.
    pub(crate) own: OwnAddresses,
    /// The sockets to servers outside. Workers note each that they dial; the guards look accepted connections up.
    pub(crate) own_sockets: Arc<OwnSockets>,
    /// The counters of `/metrics`. Workers add to them, admin pages and the history read them.
    pub(crate) metrics: Metrics,
    /// The limits on connections by direction. Each connection takes a permit on its worker and gives it back there.
    pub(crate) limits: Limits,
    /// The open connections. Workers enter and leave; the main thread sweeps them, shows them and stops them.
    pub(crate) table: Table,
    /// The pipes for bulk streams. Workers take them and give them back.
    pub(crate) pipes: Arc<Pipes>,
    /// The addresses that each cluster dialled. Workers write, admin pages read.
    pub(crate) destinations: Destinations,
    /// The last minutes as samples. The main thread writes one each second, the admin page reads them.
    pub(crate) history: History,
    /// The latest failures. Workers write when a connection ends badly, the admin page reads.
    pub(crate) mishaps: RecentFailures,
    /// The requests of HTTP by route, and the latest that failed. Workers write when a request ends; the main thread turns the
    /// periods, and the admin pages read.
    pub(crate) requests: Arc<RequestBook>,
    /// The proof that connections are redirected. The prober on the main thread dials, and the worker that accepts its
    /// connection recognises it.
    pub(crate) capture: Capture,
    /// The access log. Workers hand over closing records; a thread of its own writes them.
    pub(crate) access_log: AccessLogger,
    /// Keeps the error about a missing source address from filling the log. Workers ask it before they log.
    pub(crate) no_source: Throttle,
    /// The same for the warning about connections of the sidecar's own that came back.
    pub(crate) came_back: Throttle,
}

impl Proxy {
    /// Counts a refusal of a guard, and warns of one that says that the pod's rules or sysctls are not whole.
    pub(crate) fn refused(&self, direction: Direction, refusal: &Refusal) {
        self.metrics.direction(direction).loop_rejected(refusal.guard()).inc();
        if refusal.guard() == Guard::OwnConnection && self.came_back.ready() {
            tracing::warn!(%direction, "{refusal}");
        }
    }
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
        let registry = Registry::default();
        Self {
            ports: config.sidecar_ports(),
            own: OwnAddresses::from_kernel().expect("netlink answers"),
            own_sockets: Arc::default(),
            documents: Documents::new(0, metrics.documents.clone()),
            control: Control::new(&config, metrics.control.clone()).map(Arc::new),
            names: Names::new(metrics.names.clone()),
            traffic_log: TrafficLogger::new(metrics.traffic_log.clone()),
            capture: Capture::new(metrics.capture.clone()),
            access_log: AccessLogger::off(),
            pipes: Pipes::new(crate::relay::pipes::MOST, metrics.pipes.clone()),
            tls: Tls::new(config.identity.clone(), &metrics.tls),
            dns: Arc::new(Dns::new(
                0,
                config.resolv_conf.clone(),
                20_000,
                (metrics.dns.clone(), crate::dns::log::QueryLogger::off()),
                None,
            )),
            metrics,
            limits: Limits::new(20_000),
            running: ArcSwap::new(registry.open(plan)),
            plan_changed: Notify::new(),
            registry,
            table: Table::default(),
            destinations: Destinations::default(),
            history: History::default(),
            mishaps: RecentFailures::default(),
            requests: Arc::new(RequestBook::new(config.workers)),
            no_source: Throttle::new(std::time::Duration::ZERO),
            came_back: Throttle::new(std::time::Duration::ZERO),
            config,
        }
    }
}
