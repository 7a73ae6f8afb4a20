// SPDX-License-Identifier: Apache-2.0
//! The controller. This module starts its tasks and ends them.
//!
//! ```text
//! API server ──LIST, WATCH──▶ watch ──▶ world ──touched──▶ followers ──▶ streams ──compile──▶ sidecars
//!      ▲                                  │
//!      │           other replicas ──parts─┴──▶ picture ◀── traffic ◀──reports── streams
//!      └──lease, authority, ConfigMaps, conditions, CRDs, certificates◀── keep
//! SIGTERM ──▶ not ready, the lease given back ──▶ a while later: the streams end, and sidecars go to other replicas
//! ```
//! Nothing here stands in a connection's path but the first look-up of a destination. While the API server is away, what is known
//! stays; while the controller is away, sidecars go on with what they know.
//!
//! | level | module | holds |
//! |---|---|---|
//! | 6 | `mod` | tasks |
//! | 5 | `pages`, `keep`, `watch` | status port and the picture of the mesh; writes; reads |
//! | 5 | `stream` | sidecars' calls |
//! | 4 | `shared` | state of all tasks |
//! | 3 | `compile` | documents for one sidecar, pure |
//! | 3 | `followers` | streams by what they follow |
//! | 3 | `traffic` | connections that sidecars report, pure |
//! | 2 | `world`, `authority` | the cluster; certificates, pure |
//! | 2 | `told` | events on documents and pods |
//! | 1 | `peers` | bounds on what one peer has |
//! | 1 | `key`, `options`, `metrics` | plain data |

pub(crate) mod authority;
pub(crate) mod compile;
mod followers;
mod keep;
pub(crate) mod key;
pub(crate) mod metrics;
pub(crate) mod options;
mod pages;
mod peers;
pub(crate) mod shared;
pub(crate) mod stream;
mod told;
pub(crate) mod traffic;
pub(crate) mod watch;
pub(crate) mod world;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::options::ControllerOptions;
use self::pages::Status;
use self::shared::Shared;
use self::world::Of;
use crate::inject::Identity;
use crate::kube::events::{Reporter, post};
use crate::kube::{Client, Events};
use crate::system::listen::{ListenError, listen};

/// Time between SIGTERM and the end of streams, in which the Service forgets this replica.
const LEAVES_AFTER: Duration = Duration::from_secs(3);
/// Connections of the status port at a time.
const STATUS_CONNECTIONS: usize = 32;
/// Connections that the kernel may finish before they are accepted: all sidecars come at once after a restart.
const BACKLOG: i32 = 4096;
/// Threads: one compiles while another one talks.
const THREADS: usize = 2;

/// The reason why the controller cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    /// The event loop or the signal handlers cannot be had.
    #[error("cannot start: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot serve TLS: {0}")]
    Tls(rustls::Error),
    #[error("cannot talk to the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("a part of the controller ended, which is a bug: see the log above, and report it")]
    Ended,
}

/// Runs until SIGTERM or SIGINT.
/// Events go by `posts`, which needs no more than one call.
pub(crate) fn run(
    options: ControllerOptions,
    api: kube::Config,
    posts: Client,
) -> Result<(), ControllerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .map_err(ControllerError::Start)?;
    runtime.block_on(work(options, api, posts))
}

async fn work(options: ControllerOptions, api: kube::Config, posts: Client) -> Result<(), ControllerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControllerError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControllerError::Start)?;
    let ControllerOptions { listen: listen_at, status_address, settings } = options;
    let listener = listen("listen", listen_at, BACKLOG)?;
    let status = listen("status-address", status_address, BACKLOG)?;
    let (events, queue) = Events::new();
    let instance = settings.instance.clone();
    let shared = Arc::new(Shared::new(settings, kube::Client::try_from(api)?, &events));
    let tls = stream::server::tls(&shared).map_err(ControllerError::Tls)?;
    let (leave, leaving) = channel::channel(false);

    // None of them ends by itself.
    let mut tasks = JoinSet::new();
    let lists = watch::start(&shared, &mut tasks);
    tasks.spawn(all_listed(Arc::clone(&shared), lists));
    let port = status.local_addr().map_or(status_address.port(), |address| address.port());
    let pages = Status::new(Arc::clone(&shared), leaving, port);
    tasks.spawn(culvert_serve::serve(status, STATUS_CONNECTIONS, pages));
    tasks.spawn(keep::authority::keep(Arc::clone(&shared)));
    tasks.spawn(keep::lease::hold(Arc::clone(&shared)));
    tasks.spawn(keep::written::keep(Arc::clone(&shared)));
    if shared.settings.identity == Identity::Requests {
        tasks.spawn(keep::requests::keep(Arc::clone(&shared)));
    }
    tasks.spawn(stream::server::serve(listener, tls, Arc::clone(&shared)));
    tasks.spawn(async move {
        let reporter =
            Reporter { component: "culvert-controller", controller: "culvert.dev/controller", instance };
        post(&posts, &reporter, queue).await;
    });
    let crds = tokio::spawn(keep::crds::make(Arc::clone(&shared)));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // Kubernetes starts it again, and another replica serves meanwhile.
        _ = tasks.join_next() => return Err(ControllerError::Ended),
    }
    tracing::info!("shutting down: sidecars go to other replicas");
    crds.abort();
    leave.send_replace(true);
    keep::lease::give_back(&shared).await;
    sleep(LEAVES_AFTER).await;
    Ok(())
}

/// Notes when every watch has brought its first list. Until then a sidecar would be told of half a cluster.
async fn all_listed(shared: Arc<Shared>, mut lists: mpsc::Receiver<Of>) {
    let mut came = HashSet::new();
    while came.len() < watch::count() {
        let Some(of) = lists.recv().await else { return };
        came.insert(of);
    }
    tracing::info!("the cluster is listed: sidecars can be served");
    shared.listed.send_replace(true);
    shared.wake.notify_one();
    shared.followers().tell_all();
    // A kind that was made meanwhile has its first list: the first Mesh may be due.
    while lists.recv().await.is_some() {
        shared.wake.notify_one();
    }
}
