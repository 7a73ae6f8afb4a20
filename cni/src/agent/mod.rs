// SPDX-License-Identifier: Apache-2.0
//! The node agent's socket: its messages, and the plugin's half ([`client`]).
//!
//! The agent listens on `agentSocket` (`/run/culvert/agent.sock`, a unix stream socket, 0600). One connection carries one
//! request and at most one answer, each a JSON object on one line, closed by a line feed:
//!
//! ```text
//! {"annotations":{"namespace":"shop","name":"web-0","uid":"2f…"}}     asks for what Kubernetes knows of a pod
//!     {"annotations":{"culvert.dev/redirect":"enabled"}}              pod known: its culvert.dev and kuma.io annotations
//!     {"unknown":"no pod shop/web-0 on this node"}                    pod not known, with the reason
//! {"report":{"verb":"ADD","network":"k8s","containerId":"…",…}}       reports a verb: no answer
//! {"status":{}}                                                       asks for each pod of this node
//!     {"status":{"node":"worker-1","pods":[…]}}
//! anything else
//!     {"error":"…"}
//! ```
//! A request is at most [`MAX_REQUEST`] bytes and must be complete within a second, an answer at most [`MAX_ANSWER`] within
//! another. Both sides ignore unknown keys: the plugin stays on the node while the agent is upgraded.

pub mod client;
mod messages;

pub(crate) use self::messages::DEFAULT_SOCKET;
pub use self::messages::{Answer, MAX_ANSWER, MAX_REQUEST, Report, Request};
pub use crate::metadata::PodRef;
