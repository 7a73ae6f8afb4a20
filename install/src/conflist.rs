// SPDX-License-Identifier: Apache-2.0
//! The edit of a conflist, as pure functions from text to text. What we don't own keeps its bytes.
//!
//! ```text
//! names and texts of a folder ─effective─▶ the file that the runtime uses ─document─▶ where each plugin stands
//!                                                    entry, position ─edit─▶ the text with ours in it, or without
//! ```
//!
//! Our entry is spliced into the text as it stands: so key order, unknown keys, numbers and white space of the rest are
//! kept, and to remove is to cut out what was spliced in. Insert, then remove, is the identity, byte for byte.

pub mod document;
pub mod edit;
pub mod effective;
pub mod entry;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use document::{Conf, Conflist, Invalid};
pub use edit::{Ensured, ensure, remove, unwrap, wrap};
pub use effective::{Choice, Loaded, Loader, effective, text_of};
pub use entry::{Entry, EntryError};

/// The plugin's type in a conflist, which is also its binary's name.
pub const TYPE: &str = "culvert-cni";

/// The largest file that is read, in bytes: libcni's own bound.
pub const MAX_BYTES: u64 = 2 << 20;
