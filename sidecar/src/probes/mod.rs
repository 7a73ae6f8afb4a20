// SPDX-License-Identifier: Apache-2.0
//! A kubelet's probes, passed on to the application: where a mesh's mTLS is STRICT, the kubelet is a stranger.
//!
//! Whoever injects the sidecar rewrites each probe to an HTTP GET of the status port and tells the sidecar by
//! `--app-probes` what it was. Only what is told so is passed on: a path that is not among them is not found, so this is no
//! door to other ports or paths.

mod grpc;
mod http;

use crate::options::app_probes::What;
pub use crate::options::app_probes::{PREFIX, Probe};

use crate::net::addrs::{DialAddr, Family, inbound_source};
use crate::net::dial;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// What a probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    /// The status for the kubelet: 200 to 399 is well.
    pub status: u16,
    /// Why, for people.
    pub words: String,
}

impl ProbeReply {
    fn new(status: u16, words: impl Into<String>) -> Self {
        Self { status, words: words.into() }
    }

    fn unavailable(words: impl Into<String>) -> Self {
        Self::new(503, words)
    }
}

/// Asks the application what the kubelet would have asked, at an address of the pod, as the kubelet does.
pub async fn ask(probe: &Probe, pod: IpAddr) -> ProbeReply {
    let asked = async {
        let tcp = match connect(SocketAddr::new(pod, probe.what.port())).await {
            Ok(tcp) => tcp,
            Err(error) => return ProbeReply::unavailable(error.to_string()),
        };
        match &probe.what {
            What::Tcp { .. } => ProbeReply::new(200, "connected"),
            What::Http(get) => http::ask(tcp, pod, get).await,
            What::Grpc { service, .. } => grpc::ask(tcp, service).await,
        }
    };
    let timeout = probe.timeout;
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
        ProbeReply::unavailable(format!("the application did not answer within {} s", timeout.as_secs()))
    })
}

/// By the inbound hop, which the redirect rules let through to the application; where nothing is redirected, its source is
/// as good as another.
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
