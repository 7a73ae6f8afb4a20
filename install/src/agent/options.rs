// SPDX-License-Identifier: Apache-2.0
//! The options of the agent.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::conflist::{Entry, Position};
use crate::host::entry::Mode;
use crate::host::paths::Paths;
use crate::kube::Client;

/// The options of the agent, set once at its start.
#[derive(Debug, Clone)]
pub(crate) struct AgentOptions {
    pub paths: Paths,
    pub mode: Mode,
    pub position: Position,
    pub entry: Entry,
    pub repair: OnDamage,
    /// The node's name in Kubernetes. Without it the agent asks no API server.
    pub node_name: Option<String>,
    /// The API server of the cluster that this process runs in; unused without `node_name`.
    pub api_server: Option<Arc<Client>>,
    /// Key of the taint that the agent keeps off the node while the entry is effective.
    pub hold_until_ready: Option<String>,
    /// Address of `/metrics`, `/ready` and `/live`.
    pub status_address: StatusAddress,
}

impl AgentOptions {
    /// Returns the API server and the node's name there, where both are known.
    pub(crate) fn cluster(&self) -> Option<(Arc<Client>, String)> {
        Some((Arc::clone(self.api_server.as_ref()?), self.node_name.clone()?))
    }
}

/// The treatment of a pod whose rules are missing or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDamage {
    /// The agent repairs the rules in place.
    Repair,
    /// An event, a metric and a log line report it.
    Report,
    /// Pods are not verified.
    Off,
}

/// An address to listen at; `:PORT` means every address of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusAddress(pub SocketAddr);

/// Error for a text that is no such address.
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
