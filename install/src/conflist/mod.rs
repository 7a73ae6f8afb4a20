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

pub(crate) mod document;
pub(crate) mod edit;
pub(crate) mod effective;
pub(crate) mod entry;
pub(crate) mod position;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub(crate) use document::{Conf, Conflist, Invalid, MAX_BYTES};
pub(crate) use edit::{Ensured, ensure, remove, unwrap, wrap};
pub(crate) use effective::{Choice, Loaded, Loader, effective, text_of};
pub(crate) use entry::{Entry, EntryError, TYPE};
pub(crate) use position::Position;
