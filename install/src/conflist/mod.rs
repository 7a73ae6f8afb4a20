// SPDX-License-Identifier: Apache-2.0
//! The edit of a conflist, as pure functions from text to text. Bytes that are not ours stay as they are.
//!
//! ```text
//! names and texts of a folder ─effective─▶ the file that the runtime uses ─document─▶ byte range of each plugin
//!                             ─stand_in─▶ the list of ours before a single plugin's file
//!                                                    entry, position ─edit─▶ the text with our entry, or without
//! ```
//!
//! The entry is spliced into the text, so key order, unknown keys, numbers and white space of the rest stay. Removal
//! cuts out exactly what was inserted: insert and remove give back the same bytes.

pub(crate) mod document;
pub(crate) mod edit;
pub(crate) mod effective;
pub(crate) mod entry;
mod go_json;
pub(crate) mod position;
#[cfg(test)]
mod samples;
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

pub(crate) use document::{Conf, Conflist, Invalid, MAX_BYTES};
pub(crate) use edit::{Ensured, ensure, remove, unwrap, wrap};
pub(crate) use effective::{Choice, Loaded, Loader, text_of};
pub(crate) use entry::{Entry, EntryError, TYPE};
pub(crate) use position::Position;
