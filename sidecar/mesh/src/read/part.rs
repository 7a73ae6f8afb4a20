// SPDX-License-Identifier: Apache-2.0
//! Rules about several fields of a document, as far as each of them can be read.
//!
//! A struct is there only once all of its fields are right. Rules about several fields are therefore held against the tree
//! of values: each reads the fields it is about, and has nothing to say where one of them is wrong itself. So one that is
//! wrong hides no other error and makes no second one.

use super::Read;
use super::problems::{At, Problems, push_field, push_item};
use serde_json::Value;

/// The field is wrong itself, and its reader has reported that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported;

/// A part of a document, with its path.
#[derive(Debug)]
pub struct Part<'v> {
    value: &'v Value,
    path: String,
    unknown: &'v [String],
}

impl<'v> Part<'v> {
    /// Returns the part at `path`. `unknown`: paths of mappings that have an unknown field.
    pub fn new(value: &'v Value, path: &str, unknown: &'v [String]) -> Self {
        Self { value, path: path.into(), unknown }
    }

    /// Returns a field of any type; an absent one is `null`.
    pub fn field(&self, key: &str) -> Self {
        let mut path = self.path.clone();
        push_field(&mut path, key);
        Self { value: self.value.get(key).unwrap_or(&Value::Null), path, unknown: self.unknown }
    }

    /// Returns true if the field is there; `Err` where an unknown field may be this one, misspelt.
    pub fn has(&self, key: &str) -> Result<bool, Reported> {
        match self.value.get(key) {
            Some(value) if !value.is_null() => Ok(true),
            _ if self.value.is_object() && !self.unknown.contains(&self.path) => Ok(false),
            _ => Err(Reported),
        }
    }

    /// Reads a field's value, `None` for an absent field.
    pub fn get<T: Read>(&self, key: &str) -> Result<Option<T>, Reported> {
        if !self.has(key)? {
            return Ok(None);
        }
        T::read(&self.value[key], &mut At::root(&mut Problems::default())).map(Some).ok_or(Reported)
    }

    /// Reads a value whose type another field decides, and notes its problem.
    pub fn check<T: Read>(&self, key: &str, at: &mut At<'_>) {
        if self.has(key) == Ok(true) {
            let part = self.field(key);
            let mut problems = Problems::default();
            T::read(part.value, &mut At::root(&mut problems));
            for problem in problems.into_all() {
                part.problem_here(at, problem.found, problem.allowed);
            }
        }
    }

    /// Reads the value of a field that has to be there.
    pub fn need<T: Read>(&self, key: &str) -> Result<T, Reported> {
        self.get(key)?.ok_or(Reported)
    }

    /// Returns true for an empty mapping or list; `None` for another type.
    pub fn is_empty(&self) -> Option<bool> {
        match self.value {
            Value::Object(map) => Some(map.is_empty()),
            Value::Array(list) => Some(list.is_empty()),
            _ => None,
        }
    }

    /// Returns true for this text.
    pub fn is_text(&self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    /// Returns a field's items; none for an absent field.
    pub fn items(&self, key: &str) -> Result<Vec<Self>, Reported> {
        if !self.has(key)? {
            return Ok(Vec::new());
        }
        let list = self.field(key);
        let items = list.value.as_array().ok_or(Reported)?;
        Ok(items.iter().enumerate().map(|(index, value)| list.item(index, value)).collect())
    }

    fn item(&self, index: usize, value: &'v Value) -> Self {
        let mut path = self.path.clone();
        push_item(&mut path, index);
        Self { value, path, unknown: self.unknown }
    }

    /// Returns the keys of a mapping.
    pub fn keys(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.value.as_object().into_iter().flatten().map(|(key, _)| key.as_str())
    }

    /// Returns the keys of a mapping whose values are text, with these values.
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
