// SPDX-License-Identifier: Apache-2.0
//! The traffic log that documents ask for: lines with placeholders, to files and TCP servers.
//!
//! ```text
//! Mesh.logging, MeshAccessLog ─▶ Sink (a format and a target) ─▶ a bounded queue per target ─▶ its thread
//! ```

mod backend;
mod format;

pub use backend::{Backends, MOST_TARGETS};
pub use format::{LineFormat, Template, Traffic};

use crate::resources::read::{At, Read};
use serde_json::{Value, json};
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

/// The address of a TCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketTarget(pub SocketAddr);

impl Read for SocketTarget {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let address = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let address = address.filter(|address| address.port() != 0).map(Self);
        address.or_else(|| {
            at.wrong(value, "an IP address and a port, as 127.0.0.1:5000; names are not looked up")
        })
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}
