// SPDX-License-Identifier: Apache-2.0
//! The traffic log that documents ask for: lines with placeholders, to files and TCP servers.
//!
//! ```text
//! Mesh.logging, MeshAccessLog ─▶ Sink (a format and a target) ─▶ a bounded queue per target ─▶ its thread
//! ```

mod backend;
mod format;

pub use backend::MOST_TARGETS;
pub(crate) use backend::{Backends, TrafficLogMetrics};
pub use format::{LineFormat, Traffic};

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A file; `/dev/stdout` too.
    File(String),
    /// A TCP server.
    Tcp(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Lines of a format, to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Where lines go.
    pub target: Target,
    /// How they look.
    pub format: Arc<LineFormat>,
}
