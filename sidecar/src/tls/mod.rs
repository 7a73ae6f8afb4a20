// SPDX-License-Identifier: Apache-2.0
//! TLS between mesh members.
//!
//! ```text
//! first bytes ─▶ handshake ─▶ who is it? ─▶ TLS as one end of the relay
//! ```
//!
//! [`first`] tells what a client speaks ([`sniff`]), [`handshake`] makes a [`session`], [`peer`] reads from its
//! certificate who is at the other end, and [`stream`] is what the relay reads and writes then. [`keeper`] holds the
//! workload's [`identity`] and what rustls makes of it ([`configs`], [`verify`]).

pub mod certificate;
mod configs;
mod error;
pub mod first;
pub mod handshake;
mod identity;
mod keeper;
mod metrics;
mod peer;
mod session;
pub mod sniff;
mod stream;
mod turns;
pub(crate) mod unverified;
mod verify;

pub use configs::Configs;
pub use error::{PeerFault, TlsError};
pub use identity::{Described, FILES, Identity, IdentityFault};
pub use keeper::Tls;
pub(crate) use metrics::{Handshake, TlsMetrics};
pub use stream::TlsStream;

#[cfg(test)]
mod tests;
