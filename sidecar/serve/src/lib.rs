// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 for a few short pages, with every size, time and number bounded: any pod can reach the ports.
//!
//! ```text
//! bind ─▶ serve ─▶ a task for each connection ─▶ Pages::answer ─▶ Reply
//! ```
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 2 | `metrics` | metrics in the format that is asked for |
//! | 2 | `server` | accepting, bounds, fairness between peers |
//! | 1 | `reply` | answers |
//! | 1 | `bind` | listening sockets |
//! | 1 | `network` | the network that counts as one peer |

mod bind;
pub mod metrics;
mod network;
pub mod reply;
mod server;

pub use bind::{BindError, bind, bind_with};
pub use hyper::body::Incoming;
pub use hyper::header::HeaderMap;
pub use hyper::{Method, Request, StatusCode};
pub use network::network_of;
pub use reply::Reply;
pub use server::{LocalAddress, Pages, PeerAddress, accept, oldest_of_most, serve, serve_for};
