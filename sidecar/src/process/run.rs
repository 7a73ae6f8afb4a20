// SPDX-License-Identifier: Apache-2.0
//! The life of the process: bind everything, start the workers, serve, drain, exit.

use crate::admin::{App, DrainRequest};
use crate::connection::metrics::Metrics;
use crate::connection::proxy::Proxy;
use crate::health;
use crate::net::addrs::Direction;
use crate::net::resolve::Names;
use crate::observe::close_reason::CloseReason;
use crate::observe::history::Reading;
use crate::observe::logging::LogControl;
use crate::observe::readiness::Readiness;
use crate::options::config::Config;
use crate::process::drain::{Drain, DrainAction};
use crate::process::identity::IdentityGate;
use crate::process::reload::Seen;
use crate::process::services::{BoundServices, Context, RunningServices};
use crate::process::signals::{self, Asked, Signals};
use crate::process::start::{self, StartError, system};
use crate::process::workers::Workers;
use crate::process::{holders, prober, reload};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Time for connections to notice that they are stopped, and for each log to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// Requests to drain that may wait; more than a few say nothing new.
const DRAIN_REQUESTS: usize = 8;

/// Runs the sidecar until it has drained.
///
/// # Errors
/// All reasons why it cannot start; nothing is left running then.
pub fn run(config: Config, log: LogControl) -> Result<(), Vec<StartError>> {
    tracing::debug!(?config, "options");
    let main = start::main_loop()?;
    // Documents may take seconds to read, and log rotation does not ask whether they have been.
    main.block_on(async { signals::survive() }).map_err(system("signal handling"))?;
    // Documents first: their errors are reported even where a port is in use as well.
    let metrics = Metrics::default();
    let names = Names::new(metrics.names.clone());
    let (documents, (plan, found)) = reload::load(&config, &names).map_err(start::all)?;
    // Before a port is open: until then SIGTERM is no orderly end.
    let signals = main.block_on(async { Signals::new() }).map_err(system("signal handling"))?;
    let open_files = start::raise_open_files();
    let services = BoundServices::bind(&config, &plan).map_err(start::all)?;
    reload::warn(&plan);
    let proxy = start::proxy(config, (plan, documents.files()), open_files, (metrics, names))?;
    let proxy = Arc::new(proxy);
    if let Some(control) = &proxy.control {
        control.set_base(Arc::new(found));
    }
    let workers = Workers::start(proxy.config.workers).map_err(system("the worker threads"))?;
    let served = main.block_on(serve(&proxy, services, &workers, signals, log, documents));
    workers.stop();
    proxy.access_log.finish(FLUSH_DEADLINE);
    proxy.dns.log.finish(FLUSH_DEADLINE);
    proxy.traffic_log.finish(FLUSH_DEADLINE);
    Ok(served.map_err(system("serving"))?)
}

async fn serve(
    proxy: &Arc<Proxy>,
    services: BoundServices,
    workers: &Workers,
    signals: Signals,
    log: LogControl,
    documents: Seen,
) -> io::Result<()> {
    let readiness = Readiness::new(proxy.metrics.readiness.clone());
    let starting = readiness.block(vec!["starting: the listeners do not accept yet".into()]);
    let (drain, drain_requests) = mpsc::channel(DRAIN_REQUESTS);
    let context = Context {
        proxy: Arc::clone(proxy),
        workers: workers.handles().cloned().collect(),
        app: App {
            proxy: Arc::clone(proxy),
            readiness: readiness.clone(),
            drain,
            log,
            started: Instant::now(),
        },
        identity: Arc::new(IdentityGate::new(proxy, &readiness)),
        documents,
    };
    spawn_upkeep(&context);
    // Without an inbound listener there is nothing that the connection could come back on.
    if proxy.config.inbound_port != 0 {
        let block = readiness.block(proxy.capture.unproved(proxy.config.verify_redirect));
        tokio::spawn(prober::prove(Arc::clone(proxy), block));
    }
    let mut services = services.spawn(&context)?;
    drop(starting);
    tokio::spawn(announce_ready(Arc::clone(proxy), readiness.clone()));

    drain_when_asked(proxy, &readiness, &mut services, signals, drain_requests).await;
    // Before the rest is reset, so that no connection comes after the last was.
    services.drain(Direction::Inbound);
    services.drain(Direction::Outbound);
    services.closed().await;
    proxy.table.stop_all(CloseReason::DrainTimeout);
    let _ = tokio::time::timeout(FLUSH_DEADLINE, proxy.table.empty()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts the tasks that look after state once a second or so, for as long as the process lives.
fn spawn_upkeep(context: &Context) {
    let proxy = || Arc::clone(&context.proxy);
    tokio::spawn({
        let proxy = proxy();
        async move {
            let read = || Reading { requests: proxy.requests.take_second(), ..proxy.metrics.reading() };
            proxy.history.keep(read).await
        }
    });
    tokio::spawn({
        let proxy = proxy();
        async move { proxy.pipes.keep_let_go().await }
    });
    tokio::spawn({
        let (proxy, identity) = (proxy(), Arc::clone(&context.identity));
        async move { proxy.tls.keep(&proxy.metrics.tls, || identity.update()).await }
    });
    // On the main thread, so that no stream waits for the handshake of a check.
    tokio::spawn(health::keep(proxy()));
    // On a worker, as it wakes and closes connections.
    if let Some(worker) = context.workers.first() {
        let proxy = proxy();
        worker.spawn(async move {
            proxy.table.keep_swept(|| proxy.running.load().shortest_idle_timeout()).await;
        });
    }
}

/// Logs, once, that the sidecar is ready.
async fn announce_ready(proxy: Arc<Proxy>, readiness: Readiness) {
    readiness.ready().await;
    let config = &proxy.config;
    tracing::info!(
        inbound_port = config.inbound_port,
        outbound_port = config.outbound_port,
        status = %config.status,
        admin = %config.admin,
        workers = config.workers,
        "ready"
    );
}

/// An event of the drain.
enum Next {
    Request(DrainRequest),
    /// No connection is open, and the application has ended.
    Unused,
    Time,
}

/// Serves until the drain is over.
async fn drain_when_asked(
    proxy: &Proxy,
    readiness: &Readiness,
    services: &mut RunningServices,
    mut signals: Signals,
    mut requests: mpsc::Receiver<DrainRequest>,
) {
    let mut drain = Drain::new(proxy.config.drain_delay, proxy.config.drain_time);
    loop {
        let next = tokio::select! {
            // A request comes before what time brings: a second SIGTERM means now.
            biased;
            asked = signals.next() => match asked {
                Asked::Drain(request) => Next::Request(request),
                Asked::ReopenLogs => {
                    proxy.access_log.reopen();
                    proxy.dns.log.reopen();
                    proxy.traffic_log.reopen();
                    continue;
                }
            },
            Some(request) = requests.recv() => Next::Request(request),
            () = holders::gone(proxy), if drain.waits_for_unused() => Next::Unused,
            () = sleep_until(drain.deadline()) => Next::Time,
        };
        let now = Instant::now();
        let actions = match next {
            Next::Request(request) => drain.request(request, now),
            Next::Unused => drain.unused(),
            Next::Time => drain.tick(now),
        };
        if matches!(next, Next::Request(_)) || !actions.is_empty() {
            tracing::info!(open = proxy.table.len(), state = drain.name(), "draining");
        }
        for action in actions {
            match action {
                DrainAction::NotReady => readiness.drain(),
                DrainAction::CloseInbound => {
                    services.drain(Direction::Inbound);
                    proxy.table.drain_inbound();
                }
                DrainAction::Finish => return,
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
