// SPDX-License-Identifier: Apache-2.0
//! Servers outside of the mesh, behind endpoints as mesh members are. Nothing of the mesh is spoken to them: TLS, where a
//! document has it, is that of the document.

use crate::metrics::{Counter, metrics};
use crate::plan::external::{ExternalEndpoint, ExternalHost, ExternalTls};
use crate::plan::{ClusterPlan, Discovery};
use crate::tls::{Outside, OutsideFault, SystemRoots};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

metrics! {
    /// TLS of one cluster with servers outside of the mesh.
    #[derive(Default)]
    pub(crate) struct OutsiderMetrics {
        full: Counter => "cluster.{cluster}.ssl.handshake";
        resumed: Counter => "cluster.{cluster}.ssl.handshake", "cluster.{cluster}.ssl.session_reused";
        failed: Counter => "cluster.{cluster}.ssl.connection_error";
    }
}

/// A server outside of the mesh.
#[derive(Debug)]
pub(crate) struct Outsider {
    /// The server as its document names it.
    pub(crate) host: ExternalHost,
    /// `None` = bytes pass as the application sends them.
    pub(crate) tls: Option<OutsiderTls>,
}

/// TLS to a server outside of the mesh.
#[derive(Debug)]
pub(crate) struct OutsiderTls {
    /// The fault fails each connection: bytes that were meant for TLS never leave without it.
    pub(crate) config: Result<Arc<Outside>, OutsideFault>,
    /// Those of the cluster.
    pub(crate) counters: Arc<OutsiderMetrics>,
}

/// Configurations of TLS by their settings, for as long as a plan or a connection uses them, so that a reload forgets no
/// session.
#[derive(Debug, Default)]
pub(super) struct OutsideConfigs(Mutex<HashMap<Arc<ExternalTls>, Weak<Outside>>>);

/// The configurations of clusters.
pub(super) type Opened = HashMap<Arc<ExternalTls>, Result<Arc<Outside>, OutsideFault>>;

/// Returns the servers of a cluster outside of the mesh.
fn servers(upstream: &Discovery) -> &[ExternalEndpoint] {
    match upstream {
        Discovery::External(endpoints) => endpoints,
        Discovery::OriginalDst { .. } | Discovery::Application { .. } | Discovery::Endpoints(_) => &[],
    }
}

impl OutsideConfigs {
    /// Returns the configurations of clusters: the ones in use where the settings stay, else new ones.
    pub(super) fn open<'p>(&self, clusters: impl Iterator<Item = &'p Arc<ClusterPlan>>) -> Opened {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let system = SystemRoots::default();
        let mut opened = Opened::new();
        let servers = clusters.flat_map(|cluster| servers(&cluster.upstream));
        for tls in servers.filter_map(|server| server.tls.as_ref()) {
            if opened.contains_key(tls) {
                continue;
            }
            let config = match known.get(tls).and_then(Weak::upgrade) {
                Some(there) => Ok(there),
                // One that failed is tried again: the image may have the file by then.
                None => Outside::new(tls, &system).map(Arc::new),
            };
            if let Ok(config) = &config {
                known.insert(Arc::clone(tls), Arc::downgrade(config));
            }
            opened.insert(Arc::clone(tls), config);
        }
        known.retain(|_, config| config.strong_count() != 0);
        // One line, as all of them lack the same.
        if let Some(fault) = opened.values().find_map(|config| config.as_ref().err()) {
            tracing::warn!("calls to some servers outside of the mesh will fail: {fault}");
        }
        opened
    }
}

impl Outsider {
    /// Makes the server of an endpoint of a cluster that has these counters.
    pub(super) fn new(
        endpoint: &ExternalEndpoint,
        counters: &OnceLock<Arc<OutsiderMetrics>>,
        opened: &Opened,
    ) -> Self {
        let tls = endpoint.tls.as_ref().and_then(|tls| opened.get(tls)).map(|config| OutsiderTls {
            config: config.clone(),
            counters: Arc::clone(counters.get_or_init(Arc::default)),
        });
        Self { host: endpoint.host.clone(), tls }
    }
}

#[cfg(test)]
mod tests;
