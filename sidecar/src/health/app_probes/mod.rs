// SPDX-License-Identifier: Apache-2.0
//! A kubelet's probes, passed on to the application: under mTLS STRICT the kubelet itself cannot connect, as it is not in
//! the mesh.
//!
//! The injector rewrites each probe to an HTTP GET of the status port, and gives the original ones to the sidecar by
//! `--app-probes`. Any other path is not found, so the status port opens no other port or path of the application.

pub(crate) mod answer;
mod grpc;
mod http;
mod https;
mod target;

pub(crate) use crate::options::app_probes::Probe;
use crate::options::app_probes::ProbeKind;
use crate::options::config::SidecarPorts;

use crate::net::addrs::{DialAddr, Family, inbound_source};
use crate::net::dial;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// Result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeReply {
    /// HTTP status for the kubelet: 200 to 399 is success.
    pub(crate) status: u16,
    /// Reason for the status, in words for people.
    pub(crate) words: String,
}

impl ProbeReply {
    fn new(status: u16, words: impl Into<String>) -> Self {
        Self { status, words: words.into() }
    }

    fn unavailable(words: impl Into<String>) -> Self {
        Self::new(503, words)
    }
}

/// Sends a probe to the application, at the pod's address, as the kubelet would. `own` are ports of the sidecar.
pub(crate) async fn run(probe: &Probe, pod: IpAddr, own: &SidecarPorts) -> ProbeReply {
    let asked = async {
        let port = match &probe.kind {
            ProbeKind::Http(get) => return http::get(pod, get, own).await,
            ProbeKind::Tcp { port } | ProbeKind::Grpc { port, .. } => *port,
        };
        match (connect(SocketAddr::new(pod, port)).await, &probe.kind) {
            (Ok(tcp), ProbeKind::Grpc { service, .. }) => grpc::check(tcp, service).await,
            (Ok(_), _) => ProbeReply::new(200, "connected"),
            (Err(error), _) => ProbeReply::unavailable(error.to_string()),
        }
    };
    let timeout = probe.timeout;
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
        ProbeReply::unavailable(format!("the application did not answer within {} s", timeout.as_secs()))
    })
}

/// Connects from the source of the inbound hop, which the redirect rules let through to the application. Where that address
/// is missing, nothing is redirected, and any source will do.
async fn connect(to: SocketAddr) -> Result<TcpStream, dial::DialError> {
    let addr = DialAddr::new(to);
    let source = inbound_source(Family::of(to.ip()));
    match dial::dial(addr, Some(source), None).await {
        Err(dial::DialError::NoSource { .. }) => dial::dial(addr, None, None).await,
        dialled => dialled,
    }
}

#[cfg(test)]
mod tests;
