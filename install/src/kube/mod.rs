// SPDX-License-Identifier: Apache-2.0
//! As much of Kubernetes' API as the agent needs, over one connection a call.
//!
//! ```text
//! pods    LIST and WATCH, this node's pods only, metadata only ──▶ Pods, from which the plugin's questions are answered
//! events  POST, what was put right                             ◀── a short queue
//! hold    GET and PATCH this node, once: its taint goes
//! ```
//! By hand over hyper and rustls: the six calls are these files, and a client of the whole API would bring a cache of whole
//! pods, connection pools and its own retries. An API server that is away changes nothing: what is known of pods stays, and
//! every call is tried again, ever more seldom.

pub mod backoff;
pub mod events;
pub mod hold;
pub mod http;
pub mod metadata;
pub mod pods;

pub use backoff::Backoff;
pub use events::Events;
pub use http::{ApiError, Client};
pub use metadata::ObjectMeta;
pub use pods::Pods;
