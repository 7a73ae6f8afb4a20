// SPDX-License-Identifier: Apache-2.0
//! Labels of documents, and of selectors that choose by them.

use std::collections::BTreeMap;

/// Labels of a document, or those that a selector asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(pub BTreeMap<String, String>);

impl Labels {
    /// Returns the value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns true if each of `wanted` is among the labels.
    pub fn has_all(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}
