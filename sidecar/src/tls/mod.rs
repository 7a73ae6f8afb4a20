// SPDX-License-Identifier: Apache-2.0
//! TLS between mesh members.
//!
//! ```text
//! first bytes ─▶ handshake ─▶ the peer's identity ─▶ TLS as one end of the relay
//! ```
//!
//! [`first`] finds out which protocol a client speaks ([`sniff`]), [`handshake`] makes a [`session`], [`peer`] reads the
//! peer's identity from its certificate, and the relay then reads and writes the [`stream`]. [`keeper`] holds the
//! workload's [`identity`] and rustls' configuration of it ([`configs`], [`verify`]). [`asked`] reads the server's name in the
//! first bytes of calls to the outside, TLS or not.

pub mod asked;
pub(crate) mod certificate;
mod configs;
mod error;
pub(crate) mod first;
pub(crate) mod handshake;
mod identity;
mod keeper;
mod metrics;
mod peer;
pub(crate) mod places;
mod session;
pub mod sniff;
mod stream;
mod verify;

pub(crate) use configs::Configs;
pub(crate) use error::TlsError;
pub(crate) use identity::{Described, FILES};
pub(crate) use keeper::Tls;
pub(crate) use metrics::{Handshake, TlsMetrics};
pub(crate) use stream::TlsStream;

#[cfg(test)]
mod tests;
