// SPDX-License-Identifier: Apache-2.0
//! What the DNS server follows: the file that names its servers, the names of the plan in force, the ways that the pod has. And
//! its part of `/ready`, in which the loops that serve have a word too.

use crate::dns::Dns;
use crate::dns::names::{Names, Reach};
use crate::dns::resolv_conf::{self, FileState};
use crate::net::addrs::Family;
use crate::observe::readiness::{Block, Readiness};
use crate::plan::names::MeshNames;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Polling interval of resolv.conf, as of the documents.
const EVERY: Duration = Duration::from_secs(1);

impl Dns {
    /// Reads the servers, and returns the state of the file that was read.
    ///
    /// A file that cannot be read or names no server leaves the old ones in use: it may be half written.
    pub(super) fn read_servers(&self) -> Option<FileState> {
        let path = self.resolv_conf.display();
        // Before the file: a change meanwhile is then seen as one.
        let seen = FileState::of(&self.resolv_conf).ok();
        match resolv_conf::read(&self.resolv_conf, self.port) {
            Ok(addresses) if addresses.is_empty() => tracing::warn!("{path} names no DNS server to ask"),
            Ok(addresses) => {
                let servers = self.servers.load().follow(&addresses, resolv_conf::is_in_pod);
                tracing::info!(servers = ?servers.addresses(), "DNS queries are forwarded");
                self.servers.store(Arc::new(servers));
            }
            Err(error) => tracing::warn!("cannot read {path}: {error}"),
        }
        seen
    }

    /// Reasons why queries cannot be forwarded.
    fn reasons(&self) -> Vec<String> {
        let path = self.resolv_conf.display();
        let none = self.servers.load().is_empty();
        none.then(|| format!("DNS: {path} names no server to which queries could be forwarded"))
            .into_iter()
            .collect()
    }
}

/// Follows the servers of resolv.conf. The first reading is done when this returns; the task goes on for ever.
pub(crate) fn follow_servers(dns: Arc<Dns>, readiness: &Readiness) -> impl Future<Output = ()> + use<> {
    let mut seen = dns.read_servers();
    let block = readiness.block(dns.reasons());
    async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let look = {
                let dns = Arc::clone(&dns);
                move || {
                    let now = FileState::of(&dns.resolv_conf).ok();
                    if now == seen { now } else { dns.read_servers() }
                }
            };
            // Off the main thread, which answers the kubelet's probes. A panic there is told by the log.
            if let Ok(now) = tokio::task::spawn_blocking(look).await
                && now != seen
            {
                seen = now;
                block.update(dns.reasons());
            }
        }
    }
}

/// Follows the names of the plan in force, and the families that the pod can reach: an address of a family without a route
/// would cost each application a failed connect. The names are made once when this returns; the task goes on for ever.
pub(crate) fn follow_names(
    dns: Arc<Dns>,
    in_force: impl Fn() -> Arc<MeshNames> + Send,
    reaches: impl Fn(Family) -> bool + Send,
) -> impl Future<Output = ()> + Send {
    let mut mesh = in_force();
    let mut reach = Reach::by(&reaches);
    dns.put(&mesh, reach);
    async move {
        loop {
            tokio::select! {
                () = dns.plan_changed.notified() => {}
                // The kernel could tell of routes as they change; two questions of 5 µs a second need no socket for that.
                () = tokio::time::sleep(EVERY) => {}
            }
            let now = in_force();
            let way = if now.names.is_empty() { reach } else { Reach::by(&reaches) };
            if !Arc::ptr_eq(&now, &mesh) || way != reach {
                (mesh, reach) = (now, way);
                dns.put(&mesh, reach);
            }
        }
    }
}

impl Dns {
    /// Answers with these names from the next query on, in the families that the pod could reach until now.
    pub(crate) fn put_names(&self, mesh: &Arc<MeshNames>) {
        let reach = self.names.load().reach();
        self.put(mesh, reach);
    }

    /// Answers with these names from the next query on.
    fn put(&self, mesh: &Arc<MeshNames>, reach: Reach) {
        if !mesh.names.is_empty() {
            if reach == (Reach { v4: false, v6: false }) {
                tracing::warn!(
                    "names of the mesh have no address here: the pod has no route to their addresses"
                );
            }
            tracing::debug!(names = mesh.names.len(), ?reach, "names of the mesh are answered");
        }
        self.names.store(Arc::new(Names::of(Arc::clone(mesh), reach)));
    }
}

/// A loop that has to serve for as long as the process lives. While it cannot, or when it has ended, the sidecar is not ready.
#[derive(Debug)]
pub(crate) struct Serving {
    readiness: Readiness,
    failing: Option<Block>,
}

impl Serving {
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self { readiness, failing: None }
    }

    /// Notes a success.
    pub(crate) fn works(&mut self) {
        self.failing = None;
    }

    /// Notes an error.
    pub(crate) fn fails(&mut self, error: &io::Error) {
        if self.failing.is_none() {
            tracing::warn!(%error, "cannot receive DNS queries; trying again until it works");
            self.failing =
                Some(self.readiness.block(vec![format!("DNS: queries cannot be received: {error}")]));
        }
    }
}

/// The loop ended, which only a panic or the end of the process does.
impl Drop for Serving {
    fn drop(&mut self) {
        let ended = "DNS: the server has ended by a fault of the sidecar, which the log shows";
        std::mem::forget(self.readiness.block(vec![ended.to_owned()]));
    }
}
