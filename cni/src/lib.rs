// SPDX-License-Identifier: Apache-2.0
//! culvert-cni: a chained CNI plugin that installs inbound and outbound redirect chains in a pod's network namespace,
//! and the redirect engine behind it.
//!
//! One way, no way back, each step a module with a type between:
//!
//! ```text
//! stdin, env ─protocol─▶ Request ─pod─▶ Decision ─┬─ PassThrough(reason)
//!                                                 └─ Redirect(Policy) ─plan─▶ Ruleset ─engine─▶ kernel ─▶ prevResult
//! ```

pub mod agent;
pub mod attachment;
pub mod command;
pub mod log;
pub mod netlink;
pub mod netns;
pub mod pod;
pub mod protocol;
pub mod redirect;
pub mod retired;
