// SPDX-License-Identifier: Apache-2.0
//! Real container runtimes around the plugin, each in a world of its own.
//!
//! ```text
//!   World ─ folder, network, mount and process namespaces, cgroup
//!   ├─ node     the namespace that plugins take for the host's
//!   │   ├─ containerd ── CRI ── Pod ── Container           bin/<type> = lab-record ─▶ recorded/<type>
//!   │   └─ podman                                                          └─▶ calls
//!   └─ outside  a neighbour on the node's cable
//! ```
//! The programs are Debian's; `tests/run` installs them. What they leave on a machine (mounts, bridges, rules of iptables,
//! `/run`, `/var/lib`) they leave in the world, and it ends with its value.

pub mod conflist;
pub mod containerd;
mod cri;
mod image;
pub mod init;
mod kubelet;
pub mod leftovers;
pub mod network;
pub mod node;
pub mod podman;
pub mod record;
pub mod world;

pub use containerd::{Container, Containerd, Exec, Exit, Pod};
pub use image::{PAGE, SIDECAR};
pub use leftovers::{Machine, Traces};
pub use node::{Agent, Node, Sandbox};
pub use podman::Podman;
pub use record::Call;
pub use world::World;
