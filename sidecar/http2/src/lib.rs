// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 as a relay: the requests of one client connection go to one server connection, stream by stream.
//!
//! ```text
//! client ─▶ watched ─▶ h2 ─▶ session ─▶ stream: decide │ delay │ answer ─▶ h2 ─▶ watched ─▶ server
//!                                        └─ transfer: bodies, trailers, resets, both ways ─┘
//! ```
//! [`Session::relay`] is one future for both connections and all their streams. The owner's [`Rules`] decide about heads and keep
//! the books; they see no socket and no body.
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 7 | `session` | both connections: accept, connect, GOAWAY, floods, the end |
//! | 6 | `stream` | one request: decision, transfer, books |
//! | 5 | `watched` | a connection's bytes: floods, a full socket |
//! | 4 | `link` | what streams, connections and the handle share |
//! | 4 | `late` | frames on streams that are over |
//! | 3 | `rules` | the owner's traits, and what they are told |
//! | 2 | `reply` | local answers, plain and in gRPC's form |
//! | 1 | `frames` | frames counted in bytes |
//! | 1 | `malformed` | requests that are refused |
//! | 1 | `settings` | bounds |

mod frames;
mod late;
mod link;
mod malformed;
mod reply;
mod rules;
mod session;
mod settings;
mod stream;
mod watched;

pub use h2::Reason;
pub use http;
pub use link::Handle;
pub use malformed::Malformed;
pub use reply::{MAX_TEXT, Reply, grpc_status, is_grpc};
pub use rules::{Decision, Edits, Exchange, Failure, How, Outcome, Peer, Rules};
pub use session::{Cause, End, Session};
pub use settings::Settings;
