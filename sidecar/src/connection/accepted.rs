// SPDX-License-Identifier: Apache-2.0
//! A connection as it came from a listener.

use crate::net::addrs::{ClientAddr, Direction, OrigDst};
use crate::net::limit::Claim;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// A connection as it came from the listener.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) client: ClientAddr,
    pub(crate) direction: Direction,
    /// The port of the listener's socket.
    pub(crate) listen_port: u16,
    /// The listener, where the connection was not redirected but dialled a port that a document binds.
    pub(crate) bound: Option<Bound>,
}

/// A listener that a document binds.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
}

/// The facts of a connection that are known when it is admitted, and never change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionInfo {
    /// Unique in this process, ascending.
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    /// `None` where the kernel knows none: the connection was not redirected, and will be refused.
    pub(crate) orig_dst: Option<OrigDst>,
    pub(crate) opened: Instant,
    /// The standing of the client where a limit is near. Written by admission; until then the client may have every place.
    pub(crate) claim: Claim,
}
