// SPDX-License-Identifier: Apache-2.0
//! The names of the mesh as plain data: addresses of each name, and the listeners of the connections to these addresses.

pub(crate) mod lookup;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The names of the mesh, and the addresses that stand for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshNames {
    /// In the order of their hosts; no two have the same.
    pub names: Vec<MeshName>,
    /// Name of the listener of the connections to an address. The listener is bound to none.
    pub ways: HashMap<SocketAddr, Arc<str>>,
    /// Names that documents ask for and that do not exist, in the order of their hosts.
    pub refused: Vec<RefusedName>,
}

/// A name of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshName {
    /// The name, in lower case and without a dot at its end.
    pub host: Arc<str>,
    /// Addresses of both families, those of a family that the pod has no route to too.
    pub addresses: Arc<[IpAddr]>,
    /// Seconds for which clients keep an answer.
    pub ttl: u32,
    /// Ports that can be called by the name, in their order.
    pub ports: Vec<NamePort>,
    /// Kind and name of the service, as in `MeshService backend`.
    pub service: Arc<str>,
    /// Kind and name of the document that made the name, as in `HostnameGenerator local`; of `<service>.mesh` the Dataplane's.
    pub by: Arc<str>,
}

/// A port that can be called by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePort {
    /// The port.
    pub port: u16,
    /// Name of the port, for SRV.
    pub name: Option<Arc<str>>,
    /// Name of the listener of its connections.
    pub listener: Arc<str>,
}

/// A name that a document asks for and that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedName {
    /// The name, as far as there is one.
    pub host: Arc<str>,
    /// The reason, with kind and name of the documents.
    pub why: Arc<str>,
}

impl MeshNames {
    /// Finds a name, in any case and with or without a dot at its end.
    pub fn find(&self, host: &str) -> Option<&MeshName> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.names.binary_search_by(|name| (*name.host).cmp(&host)).ok().map(|at| &self.names[at])
    }
}
