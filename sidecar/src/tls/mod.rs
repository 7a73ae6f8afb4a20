// SPDX-License-Identifier: Apache-2.0
//! TLS between mesh members, and to servers outside of the mesh.
//!
//! ```text
//! first bytes ─▶ handshake ─▶ the peer's identity ─▶ TLS as one end of the relay
//! ```
//!
//! [`first`] finds out which protocol a client speaks ([`sniff`]), [`handshake`] makes a [`session`], [`peer`] reads the
//! peer's identity from its certificate, and the relay then reads and writes the [`stream`]. [`keeper`] holds the
//! workload's [`identity`] and rustls' configuration of it ([`configs`], [`verify`]). Servers outside of the mesh are not
//! shown that identity: [`configs::outside`] has the configurations for these. [`asked`] reads the server's name in the first
//! bytes of calls to the outside, TLS or not.

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
pub(crate) use configs::outside::{Outside, SystemRoots};
pub(crate) use error::{OutsideFault, TlsError};
pub(crate) use identity::{Described, FILES, Signed};
pub(crate) use keeper::Tls;
pub(crate) use metrics::{Handshake, TlsMetrics};
pub(crate) use stream::TlsStream;

#[cfg(test)]
pub(crate) use configs::outside::tests as outside_tests;
#[cfg(test)]
mod tests;
