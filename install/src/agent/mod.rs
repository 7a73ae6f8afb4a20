// SPDX-License-Identifier: Apache-2.0
//! The node agent. This module starts its tasks and ends them.
//!
//! ```text
//! keep_entry  places, watches and restores the binary and the entry     ──▶ readiness, layout, "verify now"
//! health      /metrics, /ready, /live
//! pods        the plugin's socket, verify and repair, the node's taint  ◀── readiness, layout, "verify now"
//! SIGTERM     ──▶ shutdown ──▶ each task ends; nothing is removed
//! ```
//! One thread runs all tasks. Work that waits for a disk or a program runs on blocking threads.

pub(crate) mod contention;
pub(crate) mod context;
pub(crate) mod health;
pub(crate) mod keep_entry;
pub(crate) mod metrics;
pub(crate) mod options;
pub(crate) mod pods;
pub(crate) mod shared;
pub(crate) mod socket;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync;
use tokio::task::JoinSet;

use self::context::{Context, Publishers, Readiness};
use self::options::AgentOptions;
use crate::host::layout::Layout;

/// Time for the tasks to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Blocking threads, for work that waits for a disk or a program.
const BLOCKING_THREADS: usize = 8;

/// The reason why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The event loop or the signal handlers cannot be had.
    #[error("cannot start: {0}")]
    Start(io::Error),
    #[error("--status-address {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(options: AgentOptions, layout: Layout) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(AgentError::Start)?;
    let ended = runtime.block_on(work(options, layout));
    // A program that hangs on a blocking thread must not keep the agent from its exit.
    runtime.shutdown_timeout(ENDS_WITHIN);
    ended
}

async fn work(options: AgentOptions, layout: Layout) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Start)?;
    for harmless in [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // The kernel goes on calling the handler when nothing listens any more: the signal no longer ends the agent.
        drop(signal(harmless).map_err(AgentError::Start)?);
    }
    let address = options.status_address.0;
    let listener = health::bind(address).map_err(|source| AgentError::Listen { address, source })?;

    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving /metrics, /ready and /live");
    }
    let (layout_sender, layout) = sync::watch::channel(Arc::new(layout));
    let (readiness_sender, readiness) = sync::watch::channel(Readiness::Not("starting".to_owned()));
    let (end, shutdown) = sync::watch::channel(false);
    let context = Context {
        options: Arc::new(options),
        metrics: Arc::default(),
        verify_now: Arc::default(),
        layout,
        readiness,
        shutdown,
    };
    let mut tasks = JoinSet::new();
    let publishers = Publishers { layout: layout_sender, readiness: readiness_sender };
    tasks.spawn(keep_entry::run(context.clone(), publishers));
    let serving = tokio::spawn(health::serve(listener, context.clone()));
    pods::spawn(&context, &mut tasks);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down: the plugin and its entry stay on the node");
    let _ = end.send(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDS_WITHIN, all).await.is_err() {
        tracing::warn!("some work did not end within {} s and is left", ENDS_WITHIN.as_secs());
    }
    serving.abort();
    Ok(())
}
