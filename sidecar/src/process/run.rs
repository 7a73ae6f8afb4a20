// SPDX-License-Identifier: Apache-2.0
//! The life of the process: bind everything, start the workers, serve, drain, exit.

use crate::admin::Ask;
use crate::admin::{self, App};
use crate::cluster::destinations::Destinations;
use crate::cluster::limits::Limits;
use crate::cluster::registry::Registry;
use crate::connection::metrics::Metrics;
use crate::connection::proxy::Proxy;
use crate::connection::table::Table;
use crate::net::addrs::Direction;
use crate::net::bind::{self, ListenError};
use crate::net::own_addresses::OwnAddresses;
use crate::net::throttle::Throttle;
use crate::observe::access_log::{AccessLogError, AccessLogger};
use crate::observe::capture::Capture;
use crate::observe::close_reason::CloseReason;
use crate::observe::documents::Documents;
use crate::observe::failures::Mishaps;
use crate::observe::history::History;
use crate::observe::logging::LogControl;
use crate::observe::readiness::Readiness;
use crate::observe::traffic_log;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::process::drain::{Act, Drain};
use crate::process::listeners::{self, Doors, Knocked};
use crate::process::prober;
use crate::process::reload;
use crate::process::workers::Workers;
use crate::relay::pipes::{self, Pipes};
use crate::resources::ResourceError;
use crate::resources::files::Fingerprint;
use crate::tls::Tls;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long connections may take to notice that they are stopped, and the access log to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Requests to drain that may wait; more than a few are one too many.
const ASKS: usize = 8;
/// How often the missing source address of the inbound hop is logged.
const NO_SOURCE_LOG_EVERY: Duration = Duration::from_secs(60);

/// Why the sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// What documents say of TLS.
    #[error("MeshTLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The pod's addresses.
    #[error("cannot read this pod's addresses (netlink): {0}")]
    Addresses(#[source] io::Error),
    /// Mesh documents.
    #[error(transparent)]
    Resources(Box<ResourceError>),
    /// Threads, signals, epoll.
    #[error("cannot start {what}: {source}; is a limit on threads or files too low?")]
    System {
        /// What was not to be had.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<ResourceError> for StartError {
    fn from(error: ResourceError) -> Self {
        Self::Resources(Box::new(error))
    }
}

/// Everything that listens.
struct Listeners {
    inbound: Option<StdListener>,
    outbound: Option<StdListener>,
    status: StdListener,
    admin: StdListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, ListenError> {
        let proxy = |port: u16, option| {
            (port != 0).then(|| bind::bind_proxy(port, option, config.tcp_keepalive)).transpose()
        };
        Ok(Self {
            inbound: proxy(config.inbound_port, "--inbound-port")?,
            outbound: proxy(config.outbound_port, "--outbound-port")?,
            admin: bind::bind(config.admin, "--admin-address")?,
            // Last: who reaches the status port may rely on the others being open.
            status: bind::bind(config.status, "--status-address")?,
        })
    }
}

/// Runs the sidecar until it is told to stop.
///
/// # Errors
/// When it cannot start; nothing is left running then.
pub fn run(config: Config, log: LogControl) -> Result<(), Vec<StartError>> {
    tracing::debug!(?config, "options");
    // Documents first: what is wrong with them is told even where a port is in use as well.
    let (seen, plan) = reload::load(&config).map_err(into)?;
    let mut errors = Vec::new();
    let bound = listeners::bind(&config, &plan, |_| false).unwrap_or_else(|failed| {
        errors.extend(failed.into_iter().map(StartError::from));
        Vec::new()
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    run_with(config, log, seen, plan, bound).map_err(|error| vec![error])
}

fn into<E: Into<StartError>>(errors: Vec<E>) -> Vec<StartError> {
    errors.into_iter().map(Into::into).collect()
}

fn run_with(
    config: Config,
    log: LogControl,
    seen: Fingerprint,
    plan: Plan,
    bound: Vec<Knocked>,
) -> Result<(), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let main = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .map_err(system("the main loop"))?;
    // Before anything can be reached: until then SIGUSR2 would kill, and SIGTERM not be an orderly end.
    let signals = main.block_on(async { Signals::new() }).map_err(system("signal handling"))?;
    let open_files = raise_open_files();
    let listeners = Listeners::bind(&config)?;
    let metrics = Metrics::default();
    let registry = Registry::default();
    let documents = Documents::default();
    documents.loaded(seen.files());
    reload::warn(&plan);
    let traffic_log = traffic_log::Backends::new(metrics.traffic_log_dropped.clone());
    traffic_log.use_only(&plan.log_targets()).map_err(system("the traffic log"))?;
    let access_log = AccessLogger::start(&config.access_log, metrics.access_log_dropped.clone())?;
    let tls = Tls::new(config.identity.clone(), &metrics.tls);
    if let Some(mtls) = &plan.mtls {
        tls.set(mtls.settings.clone()).map_err(StartError::Tls)?;
    }
    let proxy = Arc::new(Proxy {
        running: ArcSwap::new(registry.open(plan)),
        registry,
        documents,
        traffic_log,
        ports: config.sidecar_ports(),
        own: OwnAddresses::from_kernel().map_err(StartError::Addresses)?,
        pipes: Pipes::new(pipes::MOST, metrics.pipes.clone()),
        tls,
        metrics,
        limits: Limits::new(open_files),
        table: Table::default(),
        destinations: Destinations::default(),
        history: History::default(),
        mishaps: Mishaps::default(),
        capture: Capture::default(),
        access_log,
        no_source: Throttle::new(NO_SOURCE_LOG_EVERY),
        config,
    });
    let workers = Workers::start(proxy.config.workers).map_err(system("the worker threads"))?;
    let served = main
        .block_on(serve(&proxy, (listeners, bound), &workers, signals, log, seen))
        .map_err(system("serving"));
    workers.stop();
    proxy.access_log.finish(LAST_WORDS);
    proxy.traffic_log.finish(LAST_WORDS);
    served
}

async fn serve(
    proxy: &Arc<Proxy>,
    (listeners, bound): (Listeners, Vec<Knocked>),
    workers: &Workers,
    mut signals: Signals,
    log: LogControl,
    seen: Fingerprint,
) -> io::Result<()> {
    let Listeners { inbound, outbound, status, admin } = listeners;
    let readiness = Arc::new(Readiness::default());
    let (drain, asks) = mpsc::channel(ASKS);
    let app = App {
        proxy: Arc::clone(proxy),
        readiness: Arc::clone(&readiness),
        drain,
        log,
        started: Instant::now(),
    };
    tokio::spawn({
        let proxy = Arc::clone(proxy);
        async move { proxy.history.keep(|| proxy.metrics.reading()).await }
    });
    tokio::spawn({
        let pipes = Arc::clone(&proxy.pipes);
        async move { pipes.keep_let_go().await }
    });
    tokio::spawn({
        let proxy = Arc::clone(proxy);
        async move { proxy.tls.keep(&proxy.metrics.tls).await }
    });

    let doors = Arc::new(Doors::new(Arc::clone(proxy), workers.handles().cloned().collect()));
    for (listener, direction) in [(inbound, Direction::Inbound), (outbound, Direction::Outbound)] {
        if let Some(listener) = listener {
            doors.open_redirected(listener, direction)?;
        }
    }
    doors.follow(&proxy.running.load().plan, bound)?;
    if let Some(worker) = workers.handles().next() {
        let proxy = Arc::clone(proxy);
        worker.spawn(async move {
            proxy.table.keep_swept(|| proxy.running.load().plan.shortest_idle_timeout()).await;
        });
    }
    if !proxy.config.resources.is_empty() {
        tokio::spawn(reload::keep(Arc::clone(proxy), Arc::clone(&doors), seen));
    }
    readiness.serving();
    tokio::spawn(admin::serve(TcpListener::from_std(status)?, app.clone().status()));
    tokio::spawn(admin::serve(TcpListener::from_std(admin)?, app.clone().admin()));
    if proxy.config.inbound_port != 0 {
        tokio::spawn(prober::prove(Arc::clone(proxy), announce_ready(app)));
    } else {
        announce_ready(app)();
    }

    let mut drain = Drain::new(proxy.config.drain_delay, proxy.config.drain_time);
    drain_when_asked(proxy, &readiness, &mut drain, &doors, &mut signals, asks).await;

    // Outbound first, so that no connection comes after the last was reset.
    doors.close_and_wait(Direction::Inbound).await;
    doors.close_and_wait(Direction::Outbound).await;
    proxy.table.stop_all(CloseReason::DrainTimeout);
    let _ = tokio::time::timeout(LAST_WORDS, proxy.table.empty()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Says once in the log that the sidecar is ready.
fn announce_ready(app: App) -> impl Fn() {
    let said = std::cell::Cell::new(false);
    move || {
        if app.check_ready().is_ok() && !said.replace(true) {
            let config = &app.proxy.config;
            tracing::info!(
                inbound_port = config.inbound_port,
                outbound_port = config.outbound_port,
                status = %config.status,
                admin = %config.admin,
                workers = config.workers,
                "ready"
            );
        }
    }
}

/// Serves until it is time to finish.
async fn drain_when_asked(
    proxy: &Proxy,
    readiness: &Readiness,
    drain: &mut Drain,
    doors: &Doors,
    signals: &mut Signals,
    mut asks: mpsc::Receiver<Ask>,
) {
    loop {
        let ask = tokio::select! {
            // What somebody asks for comes before what time brings.
            biased;
            ask = signals.next() => Some(ask),
            Some(ask) = asks.recv() => Some(ask),
            () = proxy.table.empty(), if drain.waits_for_empty() => None,
            () = at(drain.deadline()) => None,
        };
        let now = Instant::now();
        let open = proxy.table.len();
        let acts = match ask {
            Some(ask) => drain.ask(ask, now, open),
            None => drain.tick(now, open),
        };
        if ask.is_some() || !acts.is_empty() {
            tracing::info!(open, state = drain.name(), "draining");
        }
        for act in acts {
            match act {
                Act::NotReady => readiness.draining(),
                Act::CloseInbound => doors.close(Direction::Inbound),
                Act::Finish => return,
            }
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::All,
            _ = self.interrupt.recv() => Ask::All,
            _ = self.drain.recv() => Ask::Inbound,
        }
    }
}

/// Lets this process open as many files as the hard limit allows, and says how many that is. A proxied connection is
/// two.
fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
