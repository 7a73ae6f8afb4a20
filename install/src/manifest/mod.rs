// SPDX-License-Identifier: Apache-2.0
//! Manifests as text: documents with the place of each value, and edits that leave the text around them. Pure.
//!
//! ```text
//! text ──parse──▶ documents ──values──▶ the caller's changes ──splice──▶ edits of the text ──check──▶ text
//! ```
//! The edited text is read again. Where it does not say what is wanted (as after a change inside an anchor that other places
//! repeat), the document is printed anew, without its comments. A value in brackets is written as a whole.

mod parse;
mod print;
mod splice;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde_json::Value;

use self::parse::Node;
pub(crate) use self::parse::documents;
use self::splice::Below;

/// A manifest that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct ManifestError {
    /// Line of the text, from 1.
    pub line: usize,
    /// The fault, in words.
    pub what: String,
}

/// One document of a text.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its content.
    pub value: Value,
    root: Node,
    /// Bytes of the text from its first line to what ends it, comments behind it included.
    range: Range<usize>,
}

/// A text after its changes.
#[derive(Debug)]
pub(crate) struct Edited {
    pub text: String,
    /// Places in the list of the documents that were printed anew, without their comments.
    pub reprinted: Vec<usize>,
}

/// Changes documents of `text` to the values of `wanted`; those with `None` stay byte by byte.
pub(crate) fn edited(text: &str, documents: &[Document], wanted: &[Option<Value>]) -> Edited {
    let mut edited = Edited { text: String::with_capacity(text.len() * 2), reprinted: Vec::new() };
    let mut done = 0;
    for (place, (document, wanted)) in documents.iter().zip(wanted).enumerate() {
        let Some(wanted) = wanted else { continue };
        edited.text.push_str(&text[done..document.range.start]);
        done = document.range.end;
        match changed(text, document, wanted) {
            Some(changed) => edited.text.push_str(&changed),
            None => {
                edited.text.push_str(&ended(text, document, print::document(wanted)));
                edited.reprinted.push(place);
            }
        }
    }
    edited.text.push_str(&text[done..]);
    edited
}

/// The document's text after its changes, if it then says what is wanted.
fn changed(text: &str, document: &Document, wanted: &Value) -> Option<String> {
    if document.root.is_flow() {
        let Range { start, end } = document.root.range.clone();
        let (before, after) = (&text[document.range.start..start], &text[end..document.range.end]);
        return Some(format!("{before}{}{after}", ended(text, document, print::json(wanted))));
    }
    // The second way is for a last text that keeps the empty lines behind it.
    [Below::Value, Below::EmptyLines].into_iter().find_map(|below| {
        let edits = splice::edits(text, &document.root, &document.value, wanted, below)?;
        let edits = edits.into_iter().map(|edit| edit.map(|new| ended(text, document, new))).collect();
        let changed = splice::apply(text, document.range.clone(), edits);
        let again = documents(&changed).ok()?;
        (again.len() == 1 && again[0].value == *wanted).then_some(changed)
    })
}

/// Printed lines with the line ends of the document.
fn ended(text: &str, document: &Document, printed: String) -> String {
    let text = &text[document.range.clone()];
    let is_windows = text.find('\n').is_some_and(|end| text[..end].ends_with('\r'));
    if is_windows { printed.replace('\n', "\r\n") } else { printed }
}
