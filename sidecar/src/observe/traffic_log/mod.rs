// SPDX-License-Identifier: Apache-2.0
//! The traffic log that documents ask for: lines with placeholders, to files and TCP servers.
//!
//! ```text
//! Mesh.logging, MeshAccessLog ─▶ Sink (a format and a target) ─▶ a bounded queue per target ─▶ its thread
//! ```

mod backend;
mod format;
mod http;

pub use backend::MOST_TARGETS;
pub(crate) use backend::{TrafficLogMetrics, TrafficLogger};
pub use format::LineFormat;
pub(crate) use format::Traffic;
pub(crate) use http::{HttpEnd, HttpTraffic};

use culvert_mesh::model::address::HostPort;
use std::fmt;
use std::sync::Arc;

/// Destination of a traffic log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A file; `/dev/stdout` too.
    File(String),
    /// A TCP server. A name is looked up at each connect, by the target's thread.
    Tcp(HostPort),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Tcp(server) => write!(f, "tcp://{server}"),
        }
    }
}

/// Lines of a format, to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// File or server that lines go to.
    pub target: Target,
    /// Format of each line.
    pub format: Arc<LineFormat>,
}
