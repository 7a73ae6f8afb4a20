// SPDX-License-Identifier: Apache-2.0
//! Sidecars' streams and calls.
//!
//! ```text
//! accept ─▶ TLS ─▶ HTTP/2 ─▶ token reviewed ─┬─▶ stream: requests ─▶ session ─▶ compile ─▶ responses
//!                                             └─▶ sign
//! ```

mod grpc;
mod intake;
mod place;
pub(crate) mod reviewed;
pub(crate) mod server;
mod session;
#[expect(clippy::module_inception, reason = "the one stream among the parts of all")]
mod stream;
