// SPDX-License-Identifier: Apache-2.0
//! The pod that documents are read for.

use std::collections::BTreeMap;

/// The pod that documents are read for. Its own Dataplane is checked against the ports of the sidecar; without a name no
/// Dataplane is the pod's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The mesh that the pod belongs to.
    pub mesh: String,
    /// Name of the pod's Dataplane, in Kubernetes also `name.namespace`.
    pub dataplane: Option<String>,
    /// Values of the variables in the pod's own Dataplane, by name.
    pub variables: BTreeMap<String, String>,
    /// Port that redirected inbound connections come to; 0 = off.
    pub inbound_port: u16,
    /// Port that redirected outbound connections come to; 0 = off.
    pub outbound_port: u16,
    /// Ports that the sidecar listens on itself; no connection may be forwarded to them.
    pub own_ports: Vec<u16>,
}

impl Context {
    pub(crate) fn is_own_port(&self, port: u16) -> bool {
        self.own_ports.contains(&port)
    }
}
