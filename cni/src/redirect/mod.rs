// SPDX-License-Identifier: Apache-2.0
//! The redirect engine: a [`policy`], as chains and rules ([`plan()`]), in the kernel ([`install()`]).
//!
//! Everything here acts on the network namespace of the calling thread; [`crate::netns::Netns::enter`] provides one.

pub mod beside;
pub mod engine;
pub mod explain;
mod install;
pub mod iptables;
pub mod living;
pub mod loopback;
pub mod nftables;
pub mod owner;
mod plan;
pub mod policy;
pub mod repair;
pub mod ruleset;
pub mod sysctl;

pub use self::engine::Outcome;
pub use self::install::{Footprint, Installed, Namespace, RedirectError, install, remove, verify};
pub use self::plan::plan;
