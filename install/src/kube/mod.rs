// SPDX-License-Identifier: Apache-2.0
//! The part of Kubernetes' API that the agent and the injector need, over one connection a call.
//!
//! ```text
//! reflect LIST and WATCH, metadata only  ──▶ a mirror: this node's pods, or all namespaces
//! pods    a mirror that answers the plugin's questions
//! events  POST, about pods and their owners ◀── a short queue ◀── told  each once in a while, at a bounded rate
//! hold    GET and PATCH this node, once: its taint goes
//! ```
//! Written by hand over hyper and rustls: these few calls are these files, while a client of the whole API would bring a
//! cache of whole pods, connection pools and its own retries. While the API server is away, known pods stay known, and
//! every call is retried with growing pauses.

pub mod backoff;
pub mod events;
pub mod hold;
pub mod http;
pub mod metadata;
pub mod pods;
pub(crate) mod reflect;
pub(crate) mod service;
pub(crate) mod told;

pub use backoff::Backoff;
pub use events::Events;
pub use http::{ApiError, Client};
pub use metadata::ObjectMeta;
pub use pods::Pods;
