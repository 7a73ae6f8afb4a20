// SPDX-License-Identifier: Apache-2.0
//! The agent: what its tasks share, and how they begin and end.
//!
//! ```text
//! stay     the binary and the entry: placed, watched, put back       ──▶ readiness, layout, "verify now"
//! health   /metrics, /ready, /live
//! pods     the plugin's socket, verify and repair, the node's taint  ◀── readiness, layout, "verify now"
//! SIGTERM  ──▶ shutdown ──▶ each task ends; nothing is removed
//! ```
//! One thread runs all of it; what waits for a disk or a program does so on threads of its own.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::health;
use super::kube::Client;
use super::layout::Layout;
use super::metrics::Metrics;
use super::{pods, stay};
use crate::cli::Paths;
use crate::cli::agent::{Mode, Position, Repair, StatusAddress};
use crate::conflist::Entry;

/// How long tasks may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Threads for what waits for a disk or a program.
const BLOCKING_THREADS: usize = 8;

/// What the agent was asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where things are on the node.
    pub paths: Paths,
    /// How the plugin gets into the chain.
    pub mode: Mode,
    /// Where in the chain.
    pub position: Position,
    /// Our entry.
    pub entry: Entry,
    /// What happens to a damaged pod.
    pub repair: Repair,
    /// This node's name in Kubernetes; without it no API server is asked.
    pub node_name: Option<String>,
    /// The API server of the cluster that this process runs in; asked only with a node's name.
    pub api_server: Option<Arc<Client>>,
    /// The key of the taint to take off this node once the entry is effective.
    pub hold_until_ready: Option<String>,
    /// Where `/metrics`, `/ready` and `/live` are served.
    pub status_address: StatusAddress,
}

/// What the agent's tasks share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// What was asked for.
    pub options: Arc<Options>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Told when our entry had been away for a while: pods may have started without rules.
    pub verify_now: Arc<Notify>,
    /// Where things are; looked up again every few seconds, since k3s moves its folders with each release.
    layout: watch::Receiver<Arc<Layout>>,
    readiness: watch::Receiver<Readiness>,
    shutdown: watch::Receiver<bool>,
}

/// Whether the next pod of this node will be covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Our entry is effective in this file, as the node calls it.
    Effective(String),
    /// It is not, for this reason.
    Not(String),
}

impl Readiness {
    /// Whether it will.
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Effective(_))
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effective(file) => write!(f, "ready: the entry is effective in {file}"),
            Self::Not(reason) => write!(f, "not ready: {reason}"),
        }
    }
}

impl Options {
    /// The API server and this node's name there, where both are known.
    pub fn cluster(&self) -> Option<(Arc<Client>, String)> {
        Some((Arc::clone(self.api_server.as_ref()?), self.node_name.clone()?))
    }
}

impl Context {
    /// Where things are now.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.borrow())
    }

    /// Whether the next pod will be covered.
    pub fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    /// Waits until the next pod will be covered; for the taint. `false`: the agent ends first.
    pub async fn until_ready(&self) -> bool {
        let mut readiness = self.readiness.clone();
        tokio::select! {
            ready = readiness.wait_for(Readiness::is_ready) => ready.is_ok(),
            () = self.shutdown() => false,
        }
    }

    /// Waits until the agent is told to end.
    pub async fn shutdown(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the agent is gone already.
        let _ = shutdown.wait_for(|ends| *ends).await;
    }
}

/// What the task that keeps things in place tells the others.
#[derive(Debug)]
pub struct Told {
    /// See [`Context::layout`].
    pub layout: watch::Sender<Arc<Layout>>,
    /// See [`Context::readiness`].
    pub readiness: watch::Sender<Readiness>,
}

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No runtime, no signals.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The status address is taken, or not this machine's.
    #[error("--status-address {address}: {source}")]
    Listen {
        /// As given.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
pub fn run(options: Options, layout: Layout) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(AgentError::Start)?;
    let ended = runtime.block_on(work(options, layout));
    // A program that hangs on a thread of its own does not keep the agent.
    runtime.shutdown_timeout(ENDS_WITHIN);
    ended
}

async fn work(options: Options, layout: Layout) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Start)?;
    let address = options.status_address.0;
    let listener = health::bind(address).map_err(|source| AgentError::Listen { address, source })?;

    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving /metrics, /ready and /live");
    }
    let (tell_layout, layout) = watch::channel(Arc::new(layout));
    let (tell_readiness, readiness) = watch::channel(Readiness::Not("starting".to_owned()));
    let (end, shutdown) = watch::channel(false);
    let context = Context {
        options: Arc::new(options),
        metrics: Arc::default(),
        verify_now: Arc::default(),
        layout,
        readiness,
        shutdown,
    };
    let mut tasks = JoinSet::new();
    let told = Told { layout: tell_layout, readiness: tell_readiness };
    tasks.spawn(stay::run(context.clone(), told));
    let serving = tokio::spawn(health::serve(listener, context.clone()));
    pods::spawn(&context, &mut tasks);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end: the plugin and its entry stay on the node");
    let _ = end.send(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDS_WITHIN, all).await.is_err() {
        tracing::warn!("some work did not end within {} s and is left", ENDS_WITHIN.as_secs());
    }
    serving.abort();
    Ok(())
}
