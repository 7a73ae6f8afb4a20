// SPDX-License-Identifier: Apache-2.0
//! The protocol that a connection speaks, and the identity at its other end.

use crate::metrics::labels;
use culvert_mesh::model::spiffe::SpiffeId;

/// What an inbound connection turned out to speak, where a mesh's mTLS asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spoken {
    /// TLS of the mesh: the peer is known.
    MeshTls,
    /// TLS between the application and its client.
    OwnTls,
    /// Neither.
    Plain,
}

impl Spoken {
    /// All, for tables.
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

/// What a connection speaks, and with whom.
#[derive(Debug)]
pub struct Known {
    /// What it speaks.
    pub spoken: Spoken,
    /// Who the mesh member at the other end is.
    pub peer: Option<SpiffeId>,
}
