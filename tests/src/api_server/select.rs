// SPDX-License-Identifier: Apache-2.0
//! Selectors by labels and by fields.

use std::collections::BTreeSet;

use serde_json::Value;

use super::path::Query;

/// Fields that a selector may name.
const FIELDS: [&str; 11] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.serviceAccountName",
    "spec.signerName",
    "status.phase",
    "status.podIP",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.uid",
    "type",
];

/// One requirement for a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Absent(String),
}

/// A selector; an empty one selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    /// The field's JSON pointer, and the value that it has or has not.
    fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// Reads both selectors of a query; the error is for a `Status`.
    pub(super) fn parse(query: &Query) -> Result<Self, String> {
        let labels = parts(query.get("labelSelector").unwrap_or_default());
        let fields = query.get("fieldSelector").unwrap_or_default().split(',');
        let fields = fields.filter(|part| !part.trim().is_empty());
        Ok(Self {
            labels: labels.into_iter().map(requirement).collect::<Result<_, _>>()?,
            fields: fields.map(field).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let has = |requirement: &Requirement| {
            let value = |key: &String| labels.get(key).and_then(Value::as_str);
            match requirement {
                Requirement::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
                // An absent label is not one of them either.
                Requirement::NotIn(key, values) => !value(key).is_some_and(|value| values.contains(value)),
                Requirement::Exists(key) => value(key).is_some(),
                Requirement::Absent(key) => value(key).is_none(),
            }
        };
        let is = |(pointer, is_equal, wanted): &(String, bool, String)| {
            let found = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            (found == wanted) == *is_equal
        };
        self.labels.iter().all(has) && self.fields.iter().all(is)
    }
}

/// The parts between commas that stand in no parentheses.
fn parts(selector: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_end = |letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    };
    selector.split(is_end).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let name = |key: &str| {
        let key = key.trim();
        let is_legal = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
        match !key.is_empty() && key.chars().all(is_legal) {
            true => Ok(key.to_owned()),
            false => Err(format!("unable to parse requirement: {part:?}: {key:?} is no name of a label")),
        }
    };
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some((key, values)) = part.split_once('(') {
        let values =
            values.strip_suffix(')').ok_or_else(|| format!("unable to parse requirement: {part:?}"))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        return match key.trim().rsplit_once(' ') {
            Some((key, "in")) => Ok(Requirement::In(name(key)?, values)),
            Some((key, "notin")) => Ok(Requirement::NotIn(name(key)?, values)),
            _ => Err(format!("unable to parse requirement: {part:?}: neither in nor notin")),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(name(key)?, one(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(name(key)?, one(value)));
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(name(key)?)),
        None => Ok(Requirement::Exists(name(part)?)),
    }
}

fn field(part: &str) -> Result<(String, bool, String), String> {
    let (key, value, is_equal) = if let Some((key, value)) = part.split_once("!=") {
        (key, value, false)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, value, true)
    } else {
        return Err(format!("invalid selector: {part:?}"));
    };
    let key = key.trim();
    if !FIELDS.contains(&key) {
        return Err(format!("field label not supported: {key}"));
    }
    Ok((format!("/{}", key.replace('.', "/")), is_equal, value.trim().to_owned()))
}
