// SPDX-License-Identifier: Apache-2.0
//! What this machine says about itself. Nothing here changes the node: what must be tried is tried in a network
//! namespace that dies with its thread.

pub mod capabilities;
pub mod deadline;
pub mod iptables;
pub mod kernel;
pub mod listeners;
pub mod namespace;
pub mod nftables;
pub mod place;
pub mod probe;
