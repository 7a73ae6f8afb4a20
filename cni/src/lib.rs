// SPDX-License-Identifier: Apache-2.0
//! culvert-cni: a chained CNI plugin that installs inbound and outbound redirect chains in a pod's network namespace,
//! and the redirect engine behind it.
//!
//! Data flows one way, and each step is a module with a type between:
//!
//! ```text
//! stdin, env ─protocol─▶ Request ─pod─▶ Decision ─┬─ PassThrough(reason)
//!                                                 └─ Redirect(Policy) ─plan─▶ Ruleset ─engine─▶ kernel ─▶ prevResult
//! ```
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 6 | `command` | one module a verb; errors become CNI codes |
//! | 5 | `attachment` | the record of an attachment in `stateDir` |
//! | 4 | `pod` | annotations and node defaults, made into a decision |
//! | 3 | `protocol` | the CNI wire: environment, configuration, replies |
//! | 2 | `agent` | the node agent's socket: messages, and the plugin's half |
//! | 2 | `redirect` | policy, plan, engines: rules in the kernel, and back |
//! | 1 | `log` | log lines |
//! | 1 | `metadata` | a pod's name and annotations |
//! | 1 | `netlink` | netlink messages and sockets |
//! | 1 | `netns` | network namespaces, entered on a thread of their own |
//! | 1 | `retired` | the plugin's end after an uninstall |
//! | 0 | `shown` | foreign values in messages |

pub mod agent;
pub mod attachment;
pub mod command;
pub mod log;
pub mod metadata;
pub mod netlink;
pub mod netns;
pub mod pod;
pub mod protocol;
pub mod redirect;
pub mod retired;
mod shown;
