// SPDX-License-Identifier: Apache-2.0
//! Questions that a command asks of the machine. Nothing is changed: trials run in a network namespace that dies with
//! its thread.

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
