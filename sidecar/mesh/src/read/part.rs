// SPDX-License-Identifier: Apache-2.0
//! What several fields of a document say together, as far as each of them can be read.
//!
//! A struct is there only once all of its fields are right. Rules about several fields are therefore held against the tree
//! of values: each reads the fields it is about, and has nothing to say where one of them is wrong itself. So one that is
//! wrong hides no other error and makes no second one.

use super::Read;
use super::problems::{At, Problems, push_field, push_item};
use serde_json::Value;

/// The field is wrong itself, which its reader has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told;

/// A part of a document.
#[derive(Debug)]
pub struct Part<'v> {
    value: &'v Value,
    path: String,
    strange: &'v [String],
}

impl<'v> Part<'v> {
    /// The part at `path`. `strange`: mappings with a field that is not known.
    pub fn new(value: &'v Value, path: &str, strange: &'v [String]) -> Self {
        Self { value, path: path.into(), strange }
    }

    /// A field, whatever it is; where it is absent, nothing.
    pub fn field(&self, key: &str) -> Self {
        let mut path = self.path.clone();
        push_field(&mut path, key);
        Self { value: self.value.get(key).unwrap_or(&Value::Null), path, strange: self.strange }
    }

    /// Whether the field is there; `Err` where one that is misspelt may be it.
    pub fn has(&self, key: &str) -> Result<bool, Told> {
        match self.value.get(key) {
            Some(value) if !value.is_null() => Ok(true),
            _ if self.value.is_object() && !self.strange.contains(&self.path) => Ok(false),
            _ => Err(Told),
        }
    }

    /// A field's value, `None` where it is absent.
    pub fn get<T: Read>(&self, key: &str) -> Result<Option<T>, Told> {
        if !self.has(key)? {
            return Ok(None);
        }
        T::read(&self.value[key], &mut At::root(&mut Problems::default())).map(Some).ok_or(Told)
    }

    /// The value of a field that has to be there.
    pub fn need<T: Read>(&self, key: &str) -> Result<T, Told> {
        self.get(key)?.ok_or(Told)
    }

    /// Whether a mapping or list has nothing in it; `None`: it is neither.
    pub fn is_empty(&self) -> Option<bool> {
        match self.value {
            Value::Object(map) => Some(map.is_empty()),
            Value::Array(list) => Some(list.is_empty()),
            _ => None,
        }
    }

    /// A field's items; none where it is absent.
    pub fn items(&self, key: &str) -> Result<Vec<Self>, Told> {
        if !self.has(key)? {
            return Ok(Vec::new());
        }
        let list = self.field(key);
        let items = list.value.as_array().ok_or(Told)?;
        Ok(items.iter().enumerate().map(|(index, value)| list.item(index, value)).collect())
    }

    fn item(&self, index: usize, value: &'v Value) -> Self {
        let mut path = self.path.clone();
        push_item(&mut path, index);
        Self { value, path, strange: self.strange }
    }

    /// A mapping's keys that are text, with their values.
    pub fn texts(&self) -> impl Iterator<Item = (&'v str, &'v str)> + use<'v> {
        let fields = self.value.as_object().into_iter().flatten();
        fields.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// Notes a problem with a field.
    pub fn problem(&self, at: &mut At<'_>, key: &str, found: impl Into<String>, allowed: impl Into<String>) {
        at.note(self.field(key).path, found.into(), allowed.into());
    }

    /// Notes a problem with this part as a whole.
    pub fn problem_here(&self, at: &mut At<'_>, found: impl Into<String>, allowed: impl Into<String>) {
        at.note(self.path.clone(), found.into(), allowed.into());
    }
}
