// SPDX-License-Identifier: Apache-2.0
//! The parts that a start puts together, and the reasons why it fails.

use crate::cluster::destinations::Destinations;
use crate::cluster::limits::Limits;
use crate::cluster::registry::Registry;
use crate::connection::metrics::Metrics;
use crate::connection::proxy::Proxy;
use crate::connection::table::Table;
use crate::control::Control;
use crate::dns::metrics::DnsMetrics;
use crate::dns::{Dns, NameSource};
use crate::net::bind::ListenError;
use crate::net::own_addresses::OwnAddresses;
use crate::net::resolve::Names;
use crate::net::throttle::Throttle;
use crate::observe::access_log::RecordLogError;
use crate::observe::access_log::writer::RecordLogger;
use crate::observe::capture::Capture;
use crate::observe::documents::Documents;
use crate::observe::failures::RecentFailures;
use crate::observe::history::History;
use crate::observe::requests::RequestBook;
use crate::observe::traffic_log::TrafficLogger;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::load::PlanError;
use crate::relay::pipes::{self, Pipes};
use crate::tls::Tls;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// Time between two log lines about the missing source address of the inbound hop.
const NO_SOURCE_LOG_EVERY: Duration = Duration::from_secs(60);

/// A reason why the sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log or the DNS log cannot be opened.
    #[error(transparent)]
    RecordLog(#[from] RecordLogError),
    /// TLS settings of documents do not fit each other.
    #[error("MeshTLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The pod's addresses cannot be read.
    #[error("cannot read this pod's addresses (netlink): {0}")]
    Addresses(#[source] io::Error),
    /// An error in a mesh document.
    #[error(transparent)]
    Resources(Box<PlanError>),
    /// A thread, a signal handler or an epoll cannot be had.
    #[error("cannot start {what}: {source}; is a limit on threads or files too low?")]
    System {
        /// The part that could not be started.
        what: &'static str,
        /// Reason that the kernel gave.
        source: io::Error,
    },
}

impl From<PlanError> for StartError {
    fn from(error: PlanError) -> Self {
        Self::Resources(Box::new(error))
    }
}

/// A single reason, where a step can only have one.
impl From<StartError> for Vec<StartError> {
    fn from(error: StartError) -> Self {
        vec![error]
    }
}

/// All reasons of a step that collects them.
pub(super) fn all<E: Into<StartError>>(errors: Vec<E>) -> Vec<StartError> {
    errors.into_iter().map(Into::into).collect()
}

/// A part of the system that could not be had.
pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// The event loop of the main thread: admin, documents and signals.
pub(super) fn main_loop() -> Result<Runtime, StartError> {
    let mut builder = Builder::new_current_thread();
    // One for documents, one for the name of the controller: a name server that is down must not delay documents.
    builder.max_blocking_threads(2).enable_all().build().map_err(system("the main loop"))
}

/// Lets this process open as many files as the hard limit allows, and returns that number. A proxied connection is two.
pub(super) fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// The DNS server, with its log.
fn dns(
    config: &Config,
    open_files: u64,
    metrics: &DnsMetrics,
    control: Option<&Arc<Control>>,
) -> Result<Dns, RecordLogError> {
    let log = RecordLogger::start(&config.dns_log, metrics.log_dropped.clone())?;
    let source = control.map(|control| Arc::clone(control) as Arc<dyn NameSource>);
    Ok(Dns::new(config.dns_port, config.resolv_conf.clone(), open_files, (metrics.clone(), log), source))
}

/// The data path, with `plan` in force. `files` are those that the plan was read from.
pub(super) fn proxy(
    config: Config,
    (plan, files): (Plan, usize),
    open_files: u64,
    (metrics, names): (Metrics, Names),
) -> Result<Proxy, StartError> {
    let registry = Registry::default();
    let traffic_log = TrafficLogger::new(metrics.traffic_log.clone());
    traffic_log.use_only(&plan.logs.targets()).map_err(system("the traffic log"))?;
    let settings = plan.mtls.as_ref().map(|mtls| mtls.settings.clone()).unwrap_or_default();
    let tls = Tls::start(config.identity.clone(), settings, &metrics.tls).map_err(StartError::Tls)?;
    let documents = Documents::new(files, metrics.documents.clone());
    documents.left_out(plan.left_out);
    let control = Control::new(&config, metrics.control.clone()).map(Arc::new);
    Ok(Proxy {
        running: ArcSwap::new(registry.open(plan)),
        plan_changed: Notify::new(),
        registry,
        documents,
        names,
        traffic_log,
        ports: config.sidecar_ports(),
        own: OwnAddresses::from_kernel().map_err(StartError::Addresses)?,
        own_sockets: Arc::default(),
        pipes: Pipes::new(pipes::MOST, metrics.pipes.clone()),
        capture: Capture::new(metrics.capture.clone()),
        access_log: RecordLogger::start(&config.access_log, metrics.access_log.dropped.clone())?,
        tls,
        dns: Arc::new(dns(&config, open_files, &metrics.dns, control.as_ref())?),
        control,
        metrics,
        limits: Limits::new(open_files),
        table: Table::default(),
        destinations: Destinations::default(),
        history: History::default(),
        mishaps: RecentFailures::default(),
        requests: Arc::new(RequestBook::new(config.workers)),
        no_source: Throttle::new(NO_SOURCE_LOG_EVERY),
        came_back: Throttle::new(NO_SOURCE_LOG_EVERY),
        config,
    })
}
