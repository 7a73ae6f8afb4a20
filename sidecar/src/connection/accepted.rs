// SPDX-License-Identifier: Apache-2.0
//! A connection as it came from a listener.

use crate::net::addrs::{ClientAddr, Direction};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A connection as it came from the listener.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who opened it.
    pub client: ClientAddr,
    /// Which listener it came to.
    pub direction: Direction,
    /// That listener's port.
    pub listen_port: u16,
    /// The listener, where it was not redirected but dialled a port that a document binds.
    pub bound: Option<Bound>,
}

/// A listener that a document binds.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}
