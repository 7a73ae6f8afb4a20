// SPDX-License-Identifier: Apache-2.0
//! TLS over real sockets: both our sides against each other, and against rustls' own buffered interface as a stranger.

mod authority;
mod handshakes;
mod identities;
mod streams;
mod trust;
