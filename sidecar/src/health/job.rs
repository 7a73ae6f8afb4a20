// SPDX-License-Identifier: Apache-2.0
//! A check to be made, and its end.

use crate::cluster::endpoint::Behind;
use crate::cluster::registry::ClusterId;
use crate::cluster::stream::Stream;
use crate::net::addrs::DialAddr;
use crate::net::dial::DialError;
use crate::net::limit::Permit;
use crate::net::own_sockets::OwnSocket;
use crate::plan::health::CheckPlan;
use crate::tls::TlsError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an answer that are looked at.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// A target: an address of a cluster.
pub(super) type Key = (ClusterId, SocketAddr);

/// A check to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) to: DialAddr,
    /// Source of the hop to the application.
    pub(super) source: Option<IpAddr>,
    /// The server behind an endpoint, which may speak TLS.
    pub(super) behind: Option<Behind>,
    pub(super) check: Arc<CheckPlan>,
    pub(super) kept: Option<Kept>,
}

/// Reason for which a check did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no answer that the check accepts came within {0:?}")]
    TimedOut(Duration),
    #[error("the connection ended before an answer that the check accepts")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("64 KiB of answer came, and not the bytes that the check accepts")]
    TooMuch,
}

impl CheckError {
    /// Returns true if this host or sidecar lacks something, which says nothing of the endpoint.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_ours(),
            Self::Tls(error) => error.is_ours(),
            Self::TimedOut(_) | Self::Closed | Self::Io(_) | Self::TooMuch => false,
        }
    }
}

/// A connection that the next check uses again.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) connection: Opened,
    /// Its place among such connections.
    pub(super) _place: Permit,
}

/// A connection to an endpoint. Fields are dropped in this order: a socket is forgotten before it is closed.
pub(super) struct Opened {
    pub(super) noted: Option<OwnSocket>,
    pub(super) stream: Stream,
    pub(super) tls: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("noted", &self.noted).field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// The end of a check, with a connection that the next one may use again.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) outcome: Result<Option<Opened>, CheckError>,
}
