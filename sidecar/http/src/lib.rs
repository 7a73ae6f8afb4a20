// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 as a relay sees it: bytes pass as they came, or the message is refused.
//!
//! ```text
//! client ─bytes─▶ head ─▶ framing ─▶ exchange ─▶ forward so many bytes │ wait │ answer and close
//! server ─bytes─▶ head ─▶ framing ─▶    │      ─▶ the same
//!                                    chunks
//! ```
//! Pure: no sockets, no runtime, no clock, and nothing on the heap but the text of a local answer. The owner reads and
//! writes; an [`Exchange`] says, for each side, how many of the bytes at the front of its buffer may be forwarded. A message
//! that two readers could read differently is refused and never repaired.
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 5 | `exchange` | one connection: requests under way, what each side may do next, how it ends |
//! | 5 | `edit` | fields that leave a head, or are set in it |
//! | 4 | `head` | heads of requests and responses out of bytes that come in pieces |
//! | 3 | `framing` | fields that decide where a message ends, and the decision |
//! | 2 | `chunks` | chunked bodies |
//! | 2 | `reply` | answers that the relay gives itself |
//! | 1 | `refusal` | the rules, one name and status each |

pub mod chunks;
pub mod edit;
pub mod exchange;
pub mod framing;
pub mod head;
pub mod refusal;
pub mod reply;

pub use edit::{Edit, WrongEdit, edited};
pub use exchange::{Exchange, Step, Verdict};
pub use framing::Framing;
pub use head::{Field, Fields, RequestHead, ResponseHead, Target, Version};
pub use refusal::Refusal;
pub use reply::{Reply, Words};
