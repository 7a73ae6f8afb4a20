// SPDX-License-Identifier: Apache-2.0
//! Problems of a document, each with its path.

use serde_json::Value;

/// Problems that are kept of one document; a broken generator makes thousands of the same.
const MOST_PROBLEMS: usize = 100;
/// Characters of a value that an error repeats.
const SHOWN: usize = 60;

/// A problem at one place of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}found {found}; allowed: {allowed}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Problem {
    /// Path of the field, as `networking.inbound[0].port`.
    pub path: String,
    /// Value that was found.
    pub found: String,
    /// Values that are allowed.
    pub allowed: String,
}

/// All problems of one document.
#[derive(Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    /// Number of problems that are counted only.
    more: usize,
    /// Paths of mappings with an unknown field: a field that is absent there may be that one, misspelt.
    unknown: Vec<String>,
    /// Fields without effect here.
    no_effect: Vec<FieldWithoutEffect>,
}

/// A field that is read and has no effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldWithoutEffect {
    /// Path without the numbers of list items, as `networking.inbound[].serviceProbe`.
    pub field: String,
    /// Purpose of the field in Kuma.
    pub about: &'static str,
}

impl Problems {
    /// Returns the number of problems.
    pub fn count(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Takes the fields without effect, each once.
    pub(crate) fn take_no_effect(&mut self) -> Vec<FieldWithoutEffect> {
        std::mem::take(&mut self.no_effect)
    }

    /// Returns all problems, and as the last one the number of those that were not kept.
    pub fn into_all(self) -> Vec<Problem> {
        let Self { mut kept, more, unknown: _, no_effect: _ } = self;
        if more > 0 {
            let (path, found) = (String::new(), format!("{more} more problems"));
            kept.push(Problem { path, found, allowed: "none".into() });
        }
        kept
    }
}

/// A place in a document, and the problems found so far.
#[derive(Debug)]
pub struct At<'a> {
    path: String,
    problems: &'a mut Problems,
}

impl<'a> At<'a> {
    /// Returns the root of the document.
    pub fn root(problems: &'a mut Problems) -> Self {
        Self { path: String::new(), problems }
    }

    /// Runs `work` with the path of a field.
    pub fn field<T>(&mut self, key: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        push_field(&mut self.path, key);
        let result = work(self);
        self.path.truncate(before);
        result
    }

    /// Runs `work` with the path of an item of a list.
    pub fn item<T>(&mut self, index: usize, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        push_item(&mut self.path, index);
        let result = work(self);
        self.path.truncate(before);
        result
    }

    /// Notes a problem here.
    pub fn problem(&mut self, found: impl Into<String>, allowed: impl Into<String>) {
        let path = self.path.clone();
        self.note(path, found.into(), allowed.into());
    }

    /// Notes that a value here is not what is allowed.
    pub fn wrong<T>(&mut self, value: &Value, allowed: impl Into<String>) -> Option<T> {
        self.problem(describe(value), allowed);
        None
    }

    /// Notes a problem elsewhere, at a whole path.
    pub(crate) fn note(&mut self, path: String, found: String, allowed: String) {
        if self.problems.kept.len() < MOST_PROBLEMS {
            self.problems.kept.push(Problem { path, found, allowed });
        } else {
            self.problems.more += 1;
        }
    }

    /// Notes that the mapping here has an unknown field.
    pub(crate) fn note_unknown_field(&mut self) {
        if self.problems.unknown.len() < MOST_PROBLEMS {
            self.problems.unknown.push(self.path.clone());
        }
    }

    /// Notes that the field here has no effect.
    pub(crate) fn note_no_effect(&mut self, about: &'static str) {
        let field = without_numbers(&self.path);
        // Each inbound of a Dataplane has the same fields.
        if !self.problems.no_effect.iter().any(|there| there.field == field) {
            self.problems.no_effect.push(FieldWithoutEffect { field, about: about.trim() });
        }
    }

    /// Returns the path of this place.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Takes the paths of mappings with an unknown field.
    pub(crate) fn take_unknown_fields(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems.unknown)
    }

    /// Returns the number of problems.
    pub fn count(&self) -> usize {
        self.problems.count()
    }
}

/// Appends a field to a path: `path.key`.
pub(crate) fn push_field(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    // A key with a dot of its own, as `kuma.io/service`, would read like two.
    if key.contains('.') {
        path.push_str(&format!("{key:?}"));
    } else {
        path.push_str(key);
    }
}

/// Appends an item of a list to a path: `path[index]`.
pub(crate) fn push_item(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// Returns a path without the numbers of its items: `path[3]` becomes `path[]`.
fn without_numbers(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&letter| {
            inside = letter == '[' || (inside && letter != ']');
            !inside || letter == '['
        })
        .collect()
}

/// Returns a value as an error shows it, cut to 60 characters.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() > SHOWN => {
            format!("{:?}", text.chars().take(SHOWN).chain(['…']).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a mapping".into(),
    }
}
