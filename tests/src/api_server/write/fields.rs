// SPDX-License-Identifier: Apache-2.0
//! Fields of objects as `managedFields` names them.
//!
//! A path is made of `f:NAME` for a member, `k:{…}` for an item of a list with keys, `v:…` for an item of a set. A list of
//! which nothing is known is one field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// The way to a field.
pub(super) type Path = Vec<String>;
pub(super) type Fields = BTreeSet<Path>;

/// Lists of Kubernetes' own kinds whose items have a key.
const KEYED: [(&str, &str); 7] = [
    ("conditions", "type"),
    ("containers", "name"),
    ("env", "name"),
    ("initContainers", "name"),
    ("ownerReferences", "uid"),
    ("volumes", "name"),
    ("webhooks", "name"),
];

/// Knowledge about lists.
#[derive(Clone, Copy)]
pub(super) enum Lists<'a> {
    /// Kubernetes' own kinds, and all metadata.
    Own,
    /// A custom resource, by its OpenAPI schema.
    Schema(&'a Value),
}

enum List {
    Atomic,
    Set,
    Keyed(Vec<String>),
}

impl<'a> Lists<'a> {
    fn member(self, name: &str, is_top: bool) -> Self {
        match self {
            Self::Schema(_) if is_top && name == "metadata" => Self::Own,
            Self::Schema(schema) => Self::Schema(match schema["properties"].get(name) {
                Some(property) => property,
                None => &schema["additionalProperties"],
            }),
            Self::Own => Self::Own,
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Schema(schema) => Self::Schema(&schema["items"]),
            Self::Own => Self::Own,
        }
    }

    /// The kind of the list of this name.
    fn list(self, name: &str, items: &[Value]) -> List {
        let keys = match self {
            Self::Own if name == "finalizers" => return List::Set,
            Self::Own => {
                let keyed = KEYED.iter().find(|(list, _)| *list == name);
                keyed.map(|(_, key)| vec![(*key).to_owned()]).unwrap_or_default()
            }
            Self::Schema(schema) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => return List::Set,
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array().map(Vec::as_slice);
                    keys.unwrap_or_default().iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect()
                }
                _ => Vec::new(),
            },
        };
        let has_keys = |item: &Value| keys.iter().all(|key| item.get(key).is_some());
        if keys.is_empty() || !items.iter().all(has_keys) { List::Atomic } else { List::Keyed(keys) }
    }
}

/// An item's step in a path.
fn step_of(item: &Value, list: &List) -> String {
    match list {
        List::Keyed(keys) => {
            let keys: Map<String, Value> = keys.iter().map(|key| (key.clone(), item[key].clone())).collect();
            format!("k:{}", Value::Object(keys))
        }
        List::Set | List::Atomic => format!("v:{item}"),
    }
}

/// All fields of an object with their values; items of lists with keys are fields too, of null.
pub(super) fn of(object: &Value, lists: Lists<'_>) -> BTreeMap<Path, Value> {
    let mut all = BTreeMap::new();
    collect(object, lists, &mut Vec::new(), "", &mut all);
    all.retain(|path, _| is_managed(path));
    all
}

/// The server's own fields have no manager.
fn is_managed(path: &Path) -> bool {
    const OF_METADATA: [&str; 10] = [
        "f:creationTimestamp",
        "f:deletionGracePeriodSeconds",
        "f:deletionTimestamp",
        "f:generateName",
        "f:generation",
        "f:managedFields",
        "f:name",
        "f:namespace",
        "f:resourceVersion",
        "f:uid",
    ];
    match path.first().map(String::as_str) {
        Some("f:metadata") => path.get(1).is_some_and(|second| !OF_METADATA.contains(&second.as_str())),
        first => !matches!(first, None | Some("f:apiVersion" | "f:kind")),
    }
}

fn collect(value: &Value, lists: Lists<'_>, path: &mut Path, name: &str, all: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            let is_top = path.is_empty();
            for (name, member) in members {
                path.push(format!("f:{name}"));
                collect(member, lists.member(name, is_top), path, name, all);
                path.pop();
            }
        }
        Value::Array(items) => match lists.list(name, items) {
            List::Atomic => _ = all.insert(path.clone(), value.clone()),
            list => {
                for item in items {
                    path.push(step_of(item, &list));
                    all.insert(path.clone(), Value::Null);
                    if matches!(list, List::Keyed(_)) {
                        collect(item, lists.item(), path, "", all);
                    }
                    path.pop();
                }
            }
        },
        _ => _ = all.insert(path.clone(), value.clone()),
    }
}

/// Merges an applied object into one that is there.
pub(super) fn merge(there: &mut Value, applied: &Value, lists: Lists<'_>) {
    merge_at(there, applied, lists, "", true);
}

fn merge_at(there: &mut Value, applied: &Value, lists: Lists<'_>, name: &str, is_top: bool) {
    match (there, applied) {
        (Value::Object(there), Value::Object(applied)) => {
            for (name, member) in applied {
                let old = there.entry(name.clone()).or_insert(Value::Null);
                merge_at(old, member, lists.member(name, is_top), name, false);
            }
        }
        (Value::Array(there), Value::Array(applied)) => match lists.list(name, applied) {
            List::Atomic => there.clone_from(applied),
            list => {
                for item in applied {
                    let step = step_of(item, &list);
                    match there.iter_mut().find(|old| step_of(old, &list) == step) {
                        Some(old) => merge_at(old, item, lists.item(), "", false),
                        None => there.push(item.clone()),
                    }
                }
            }
        },
        (there, applied) => *there = applied.clone(),
    }
}

/// Removes a field, and each parent that is empty then.
pub(super) fn remove(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let (kind, name) = first.split_once(':').unwrap_or_default();
    let is_empty = |value: &Value| match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (kind, value) {
        ("f", Value::Object(members)) => {
            let Some(member) = members.get_mut(name) else { return };
            remove(member, rest);
            if rest.is_empty() || is_empty(member) {
                members.remove(name);
            }
        }
        (_, Value::Array(items)) => {
            let wanted: Value = serde_json::from_str(name).unwrap_or_default();
            let is_it = |item: &Value| match (kind, &wanted) {
                ("k", Value::Object(keys)) => keys.iter().all(|(key, value)| item.get(key) == Some(value)),
                _ => *item == wanted,
            };
            let Some(index) = items.iter().position(is_it) else { return };
            match rest {
                [] => _ = items.remove(index),
                // An item does not lose its keys; it goes as a whole.
                [field] if field.strip_prefix("f:").is_some_and(|field| wanted.get(field).is_some()) => {}
                rest => remove(&mut items[index], rest),
            }
        }
        _ => {}
    }
}

/// `fieldsV1` of fields.
pub(super) fn encode(fields: &Fields) -> Value {
    let mut tree = json!({});
    for path in fields {
        let mut at = &mut tree;
        for step in path {
            at =
                at.as_object_mut().expect("each level is an object").entry(step).or_insert_with(|| json!({}));
        }
        // An item of a list is a field itself, beside those in it.
        if path.last().is_some_and(|last| last.starts_with("k:")) {
            at["."] = json!({});
        }
    }
    tree
}

/// Fields of a `fieldsV1`.
pub(super) fn decode(tree: &Value) -> Fields {
    fn walk(tree: &Value, path: &mut Path, fields: &mut Fields) {
        let members = tree.as_object().filter(|members| !members.is_empty());
        let Some(members) = members else {
            fields.insert(path.clone());
            return;
        };
        for (step, below) in members {
            if step == "." {
                fields.insert(path.clone());
                continue;
            }
            path.push(step.clone());
            walk(below, path, fields);
            path.pop();
        }
    }
    let mut fields = Fields::new();
    walk(tree, &mut Vec::new(), &mut fields);
    fields.remove(&Path::new());
    fields
}

/// A path as messages name it: `.data.x`.
pub(super) fn words(path: &[String]) -> String {
    let step = |step: &String| match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some((_, value)) => format!("[={value}]"),
        None => step.clone(),
    };
    path.iter().map(step).collect()
}
