// SPDX-License-Identifier: Apache-2.0
//! The admission webhook. This module starts its tasks and ends them.
//!
//! ```text
//! API server ──TLS──▶ server ──▶ admit ──review, namespaces, inject──▶ answer
//! upkeep      Secret ◀─▶ certificate ──▶ server;  its CAs ──▶ MutatingWebhookConfiguration
//! namespaces  LIST and WATCH            told  events on owners            pages  /healthz, /ready, /metrics
//! SIGTERM     ──▶ not ready ──▶ a while later: no new connections, and the open ones end
//! ```
//! One thread runs all tasks: an answer takes a tenth of a millisecond, and waits for nothing.

mod admit;
pub(crate) mod certificate;
pub(crate) mod metrics;
mod namespaces;
pub(crate) mod options;
mod pages;
mod places;
mod review;
mod server;
mod told;
pub(crate) mod upkeep;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::admit::Injector;
use self::metrics::Metrics;
use self::namespaces::Namespaces;
use self::options::WebhookOptions;
use self::pages::{Readiness, Status};
use self::upkeep::{Served, Upkeep};
use crate::kube::Events;
use crate::kube::events::{Reporter, post};
use crate::kube::told::Told;
use crate::system::listen::{ListenError, listen};

/// Time between SIGTERM and the end of new connections, in which a Service forgets this replica.
const LEAVES_AFTER: Duration = Duration::from_secs(3);
/// Time for open connections to end after that: an API server waits at most 5 s for an answer.
const DRAINS_WITHIN: Duration = Duration::from_secs(7);
/// Connections of the status port at a time: the kubelet and a scraper, and some peers besides.
const STATUS_CONNECTIONS: usize = 32;
/// Connections that the kernel may finish before they are accepted: API servers may send hundreds of reviews at once.
const BACKLOG: i32 = 1024;

/// The reason why the webhook cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    /// The event loop or the signal handlers cannot be had.
    #[error("cannot start: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot serve TLS: {0}")]
    Tls(rustls::Error),
    #[error("a part of the injector ended, which is a bug: see the log above, and report it")]
    Ended,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(options: WebhookOptions) -> Result<(), WebhookError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(WebhookError::Start)?;
    runtime.block_on(work(options))
}

async fn work(options: WebhookOptions) -> Result<(), WebhookError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(WebhookError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(WebhookError::Start)?;
    let listener = listen("listen", options.listen, BACKLOG)?;
    let status = listen("status-address", options.status_address, BACKLOG)?;
    let metrics = Arc::<Metrics>::default();
    let (events, queue) = Events::new();
    let injector = Arc::new(Injector {
        settings: options.settings.clone(),
        namespaces: Namespaces::default(),
        client: Arc::clone(&options.client),
        metrics: Arc::clone(&metrics),
        told: Told::new(events, metrics.events_dropped.clone()),
    });
    let (served, readiness) = (Arc::<Served>::default(), Arc::<Readiness>::default());
    let tls = tls(&served)?;
    // Not ready any more, and no connections any more.
    let ((leave, leaving), (end, ending)) = (watch::channel(false), watch::channel(false));

    let mut serving = tokio::spawn(server::serve(listener, tls, Arc::clone(&injector), ending));
    // None of them ends by itself.
    let mut others = JoinSet::new();
    let pages =
        Status { injector: Arc::clone(&injector), readiness: Arc::clone(&readiness), ending: leaving };
    others.spawn(culvert_serve::serve(status, STATUS_CONNECTIONS, pages));
    others.spawn(Upkeep::new(&options, metrics, served, readiness).run());
    let followed = Arc::clone(&injector);
    others.spawn(async move { followed.namespaces.follow(&followed.client).await });
    let (client, instance) = (options.client, options.instance);
    others.spawn(async move {
        let reporter =
            Reporter { component: "culvert-injector", controller: "culvert.dev/injector", instance };
        post(&client, &reporter, queue).await;
    });

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // Kubernetes starts it again, and another replica answers meanwhile.
        _ = &mut serving => return Err(WebhookError::Ended),
        _ = others.join_next() => return Err(WebhookError::Ended),
    }
    tracing::info!("shutting down: new reviews go to other replicas, and open ones are answered");
    leave.send_replace(true);
    sleep(LEAVES_AFTER).await;
    end.send_replace(true);
    if timeout(DRAINS_WITHIN, serving).await.is_err() {
        tracing::warn!("some connections did not end within {} s and are cut", DRAINS_WITHIN.as_secs());
    }
    Ok(())
}

fn tls(served: &Arc<Served>) -> Result<Arc<ServerConfig>, WebhookError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(WebhookError::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(served) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
