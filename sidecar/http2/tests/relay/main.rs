// SPDX-License-Identifier: Apache-2.0
//! Sessions between real clients and servers.
#![allow(clippy::unwrap_used, reason = "all of this is tests; clippy sees only functions marked so")]

mod abuse;
mod answers;
mod bodies;
mod ends;
mod harness;
mod heads;
mod resets;
