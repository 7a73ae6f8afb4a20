// SPDX-License-Identifier: Apache-2.0
//! An admitted connection to its end, by the protocol of its listener.
//!
//! | served as | the server is dialled | then |
//! |---|---|---|
//! | TCP | at once | bytes in both directions |
//! | HTTP | at the first whole request that its rules let pass | messages; behind the preface of HTTP/2 streams |

mod filters;
pub(super) mod http;
mod http2;
mod session;
pub(super) mod tcp;

use crate::observe::close_reason::CloseReason;
use crate::relay::End;
use http::Http;
use http2::Http2;
use std::task::{Context, Poll};
use tcp::Tcp;

/// A connection with both its sides.
#[expect(clippy::large_enum_variant, reason = "a connection of TCP costs no allocation")]
pub(crate) enum Carry {
    Bytes(Tcp),
    Messages(Box<Http>),
    Streams(Box<Http2>),
}

// === impl Carry ===

impl Carry {
    /// Relays until the connection is over.
    pub(crate) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        match self {
            Self::Bytes(tcp) => tcp.poll_relay(cx),
            Self::Messages(http) => http.poll_relay(cx),
            Self::Streams(http) => http.poll_relay(cx),
        }
    }

    /// Closes both sides and writes the closing record.
    pub(crate) fn end(self, end: End<CloseReason>) {
        match self {
            Self::Bytes(tcp) => tcp.end(end),
            Self::Messages(http) => http.end(end),
            Self::Streams(http) => http.end(end),
        }
    }

    #[cfg(test)]
    pub(crate) fn cluster(&self) -> &std::sync::Arc<crate::cluster::registry::ClusterState> {
        match self {
            Self::Bytes(tcp) => tcp.cluster(),
            Self::Messages(http) => http.cluster(),
            Self::Streams(http) => http.cluster(),
        }
    }
}

#[cfg(test)]
mod tests;
