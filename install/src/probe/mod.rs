// SPDX-License-Identifier: Apache-2.0
//! What a command asks of the machine. Nothing is changed here: what must be tried is tried in a network namespace that dies
//! with its thread.

pub(crate) mod capabilities;
pub(crate) mod deadline;
pub(crate) mod facts;
pub(crate) mod inventory;
pub(crate) mod iptables;
pub(crate) mod kernel;
pub(crate) mod listeners;
pub(crate) mod namespace;
pub(crate) mod nftables;
pub(crate) mod place;
