// SPDX-License-Identifier: Apache-2.0
//! What the agent is asked to do.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::conflist::{Entry, Position};
use crate::host::entry::Mode;
use crate::host::paths::Paths;
use crate::kube::Client;

/// What the agent was asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where things are on the node.
    pub paths: Paths,
    /// How the plugin gets into the chain.
    pub mode: Mode,
    /// Where in the chain.
    pub position: Position,
    /// Our entry.
    pub entry: Entry,
    /// What happens to a damaged pod.
    pub repair: OnDamage,
    /// This node's name in Kubernetes; without it no API server is asked.
    pub node_name: Option<String>,
    /// The API server of the cluster that this process runs in; asked only with a node's name.
    pub api_server: Option<Arc<Client>>,
    /// The key of the taint to take off this node once the entry is effective.
    pub hold_until_ready: Option<String>,
    /// Where `/metrics`, `/ready` and `/live` are served.
    pub status_address: StatusAddress,
}

impl Options {
    /// The API server and this node's name there, where both are known.
    pub(crate) fn cluster(&self) -> Option<(Arc<Client>, String)> {
        Some((Arc::clone(self.api_server.as_ref()?), self.node_name.clone()?))
    }
}

/// What happens to a pod whose rules are missing or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDamage {
    /// They are put right in place.
    Repair,
    /// An event, a metric and a log line report it.
    Report,
    /// Pods are not verified.
    Off,
}

/// An address to serve at; `:PORT` is every address of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusAddress(pub SocketAddr);

/// An address that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be ADDRESS:PORT or :PORT, such as :15090, 127.0.0.1:15090 or [::1]:15090")]
pub(crate) struct NoAddress;

impl FromStr for StatusAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let whole = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
        whole.parse().map(Self).map_err(|_| NoAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_addresses() {
        for (text, address) in
            [(":15090", "[::]:15090"), ("127.0.0.1:1", "127.0.0.1:1"), ("[::1]:2", "[::1]:2")]
        {
            assert_eq!(text.parse::<StatusAddress>().unwrap().0.to_string(), address);
        }
        for wrong in ["", "15090", ":", ":70000", "localhost:1"] {
            assert_eq!(wrong.parse::<StatusAddress>(), Err(NoAddress), "{wrong}");
        }
    }
}
