// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a document, each problem with its place.

use serde_json::Value;

/// Problems that are kept of one document; a broken generator makes thousands of the same.
const MOST_PROBLEMS: usize = 100;
/// Characters of a value that an error repeats.
const SHOWN: usize = 60;

/// What is wrong at one place of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}found {found}; allowed: {allowed}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Problem {
    /// The field: `networking.inbound[0].port`.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

/// All problems of a document.
#[derive(Debug, Default)]
pub struct Problems {
    told: Vec<Problem>,
    /// Those that are only counted.
    more: usize,
    /// The mappings that have a field which is not known: something that is absent there may be that field, misspelt.
    strange: Vec<String>,
}

impl Problems {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.told.len() + self.more
    }

    /// All, and how many more there were than are kept.
    pub fn into_all(self) -> Vec<Problem> {
        let Self { mut told, more, strange: _ } = self;
        if more > 0 {
            let (path, found) = (String::new(), format!("{more} more problems"));
            told.push(Problem { path, found, allowed: "none".into() });
        }
        told
    }
}

/// A place in a document, and the problems found so far.
#[derive(Debug)]
pub struct At<'a> {
    path: String,
    problems: &'a mut Problems,
}

impl<'a> At<'a> {
    /// The document's root.
    pub fn root(problems: &'a mut Problems) -> Self {
        Self { path: String::new(), problems }
    }

    /// Goes into a field, and comes back.
    pub fn field<T>(&mut self, key: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        push_field(&mut self.path, key);
        let result = work(self);
        self.path.truncate(before);
        result
    }

    /// Goes into an item of a list, and comes back.
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
        if self.problems.told.len() < MOST_PROBLEMS {
            self.problems.told.push(Problem { path, found, allowed });
        } else {
            self.problems.more += 1;
        }
    }

    /// Notes that the mapping here has a field which is not known.
    pub(crate) fn strange(&mut self) {
        if self.problems.strange.len() < MOST_PROBLEMS {
            self.problems.strange.push(self.path.clone());
        }
    }

    /// Where this is.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The mappings that have a field which is not known.
    pub(crate) fn take_strange(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems.strange)
    }

    /// How many problems there are.
    pub fn count(&self) -> usize {
        self.problems.count()
    }
}

/// `path.key`
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

/// `path[index]`
pub(crate) fn push_item(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// A value in the words of whoever wrote it.
pub fn describe(value: &Value) -> String {
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
