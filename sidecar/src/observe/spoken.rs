// SPDX-License-Identifier: Apache-2.0
//! The protocol that a connection speaks, and the identity at its other end.

use crate::metrics::labels;
use culvert_mesh::model::spiffe::SpiffeId;

/// Protocol of an inbound connection, where a mesh's mTLS asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spoken {
    /// TLS of the mesh, with the peer's identity verified.
    MeshTls,
    /// TLS between the application and its client.
    OwnTls,
    /// No TLS at all.
    Plain,
}

impl Spoken {
    /// All values, for tables and labels.
    pub const ALL: [Self; 3] = [Self::MeshTls, Self::OwnTls, Self::Plain];

    /// The name in logs, metrics and statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeshTls => "mesh_tls",
            Self::OwnTls => "own_tls",
            Self::Plain => "plain",
        }
    }
}

labels! { Spoken: "spoken" }

/// Protocol and peer of a connection.
#[derive(Debug)]
pub struct Known {
    pub(crate) spoken: Spoken,
    /// Identity of the mesh member at the other end.
    pub(crate) peer: Option<SpiffeId>,
}
