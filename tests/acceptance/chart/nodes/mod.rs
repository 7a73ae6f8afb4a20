// SPDX-License-Identifier: Apache-2.0
//! The chart on the nodes: the agent, and what `helm uninstall` does there.

pub(super) mod agent;
mod cluster;
mod node;
mod scheduling;
