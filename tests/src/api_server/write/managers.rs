// SPDX-License-Identifier: Apache-2.0
//! Managers of fields: who owns each, by `managedFields`, and server-side apply.

use serde_json::{Value, json};

use super::super::encode::{self, Refusal};
use super::fields::{self, Fields, Lists};

/// The author of a write.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) manager: String,
    /// The part that is written: `status`, or empty for the object itself.
    pub(super) part: String,
    pub(super) api_version: String,
}

/// An entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    part: String,
    api_version: String,
    time: String,
    fields: Fields,
}

impl Entry {
    fn is_of(&self, author: &Author, operation: &str) -> bool {
        self.manager == author.manager && self.part == author.part && self.operation == operation
    }

    fn new(author: &Author, operation: &str) -> Self {
        let Author { manager, part, api_version } = author.clone();
        Self {
            manager,
            operation: operation.to_owned(),
            part,
            api_version,
            time: encode::now(),
            fields: Fields::new(),
        }
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |entry: &Value| Entry {
        manager: text(&entry["manager"]),
        operation: text(&entry["operation"]),
        part: text(&entry["subresource"]),
        api_version: text(&entry["apiVersion"]),
        time: text(&entry["time"]),
        fields: fields::decode(&entry["fieldsV1"]),
    };
    entries.iter().map(entry).collect()
}

fn keep(object: &mut Value, entries: &[Entry]) {
    let entry = |entry: &Entry| {
        let mut all = json!({
            "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
            "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": fields::encode(&entry.fields),
        });
        if !entry.part.is_empty() {
            all["subresource"] = entry.part.clone().into();
        }
        all
    };
    let entries: Vec<Value> = entries.iter().filter(|entry| !entry.fields.is_empty()).map(entry).collect();
    if entries.is_empty() {
        object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("managedFields"));
    } else {
        object["metadata"]["managedFields"] = entries.into();
    }
}

/// Notes an update: its author owns each field that it changed, alone.
pub(super) fn updated(old: Option<&Value>, new: &mut Value, author: &Author, lists: Lists<'_>) {
    let before = old.map(|old| fields::of(old, lists)).unwrap_or_default();
    let after = fields::of(new, lists);
    let changed: Fields = after
        .iter()
        .filter(|(path, value)| before.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    let gone: Fields = before.into_keys().filter(|path| !after.contains_key(path)).collect();
    let mut entries = old.map(read).unwrap_or_default();
    for entry in &mut entries {
        let is_mine = entry.is_of(author, "Update");
        entry.fields.retain(|path| !gone.contains(path) && (is_mine || !changed.contains(path)));
    }
    if !changed.is_empty() {
        if !entries.iter().any(|entry| entry.is_of(author, "Update")) {
            entries.push(Entry::new(author, "Update"));
        }
        for entry in entries.iter_mut().filter(|entry| entry.is_of(author, "Update")) {
            entry.fields.extend(changed.iter().cloned());
            entry.time = encode::now();
        }
    }
    keep(new, &entries);
}

/// Merges an applied object into the one that is there. It refuses a field that another manager owns with another value,
/// unless it is forced, and takes away what this manager applied before and does not any more.
pub(super) fn apply(
    there: &Value,
    applied: &Value,
    author: &Author,
    lists: Lists<'_>,
    is_forced: bool,
) -> Result<Value, Refusal> {
    let wanted = fields::of(applied, lists);
    let present = fields::of(there, lists);
    let mut entries = read(there);
    let is_other_value = |path: &fields::Path| {
        wanted.get(path).is_some_and(|value| present.get(path).is_some_and(|present| present != value))
    };
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.is_of(author, "Apply")) {
        let conflicts: Fields = entry.fields.iter().filter(|path| is_other_value(path)).cloned().collect();
        for path in &conflicts {
            let message = format!("conflict with {:?} using {}", entry.manager, entry.api_version);
            causes.push(
                json!({ "reason": "FieldManagerConflict", "message": message, "field": fields::words(path) }),
            );
        }
        entry.fields.retain(|path| !conflicts.contains(path));
    }
    if !causes.is_empty() && !is_forced {
        return Err(conflict(&causes));
    }
    let mut mine: Fields = wanted.into_keys().collect();
    let others: Fields = entries
        .iter()
        .filter(|entry| !entry.is_of(author, "Apply"))
        .flat_map(|entry| entry.fields.iter().cloned())
        .collect();
    if !entries.iter().any(|entry| entry.is_of(author, "Apply")) {
        entries.push(Entry::new(author, "Apply"));
    }
    let mut result = there.clone();
    for entry in entries.iter_mut().filter(|entry| entry.is_of(author, "Apply")) {
        let dropped = entry.fields.iter().filter(|path| !mine.contains(*path));
        // The longest first: an item of a list goes after its fields.
        let mut dropped: Vec<&fields::Path> = dropped.collect();
        dropped.sort_by_key(|path| std::cmp::Reverse(path.len()));
        for path in dropped {
            let is_anothers = others.iter().any(|other| other.starts_with(path));
            let is_still_mine = mine.iter().any(|mine| mine.starts_with(path));
            if !is_anothers && !is_still_mine {
                fields::remove(&mut result, path);
            }
        }
        if entry.fields != mine {
            entry.fields = std::mem::take(&mut mine);
            entry.time = encode::now();
        }
    }
    fields::merge(&mut result, applied, lists);
    keep(&mut result, &entries);
    Ok(result)
}

fn conflict(causes: &[Value]) -> Refusal {
    let words = |cause: &Value| {
        let text = |key: &str| cause[key].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("message"), text("field"))
    };
    let all: Vec<String> = causes.iter().map(words).collect();
    let plural = if all.len() == 1 { "" } else { "s" };
    let message = format!("Apply failed with {} conflict{plural}: {}", all.len(), all.join("; "));
    Refusal::new(409, message).about(json!({ "causes": causes }))
}
