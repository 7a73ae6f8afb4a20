// SPDX-License-Identifier: Apache-2.0
//! The node: what this machine says about itself, and the agent that stays on it.
//!
//! What asks changes nothing: what must be tried is tried in a network namespace that dies with its thread. The agent's
//! tasks begin in `agent.rs`.

pub mod agent;
pub mod answer;
pub mod binary;
pub mod capabilities;
pub mod clock;
pub mod cri;
pub mod deadline;
pub mod entry;
pub mod files;
mod glob;
pub mod health;
pub mod inventory;
pub mod iptables;
pub mod kernel;
pub mod kube;
pub mod layout;
pub mod leave;
pub mod listeners;
pub mod metrics;
pub mod namespace;
pub mod neighbours;
pub mod nftables;
pub mod patience;
pub mod place;
pub mod pods;
pub mod probe;
pub mod reload;
pub mod root;
pub mod runtime_config;
pub mod runtimes;
pub mod socket;
pub mod status;
pub mod stay;
pub mod verify;
pub mod watch;
