// SPDX-License-Identifier: Apache-2.0
//! Operations of JSON Patch (RFC 6902), as an AdmissionReview carries them.

use serde::Serialize;
use serde_json::Value;

/// One change. Paths are JSON pointers into the pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Sets a member, or inserts into a list: `-` is its end.
    Add {
        path: String,
        value: Value,
    },
    Replace {
        path: String,
        value: Value,
    },
    Remove {
        path: String,
    },
}

impl Eq for Operation {}

impl Operation {
    pub(super) fn add(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Add { path: path.into(), value: value.into() }
    }

    pub(super) fn replace(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Replace { path: path.into(), value: value.into() }
    }

    /// The changed place.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Add { path, .. } | Self::Replace { path, .. } | Self::Remove { path } => path,
        }
    }

    /// The verb, as in JSON.
    pub(crate) const fn verb(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Replace { .. } => "replace",
            Self::Remove { .. } => "remove",
        }
    }
}

/// A key as a part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Applies operations in their order. `None` if a path leads nowhere.
pub(crate) fn apply(pod: &mut Value, operations: &[Operation]) -> Option<()> {
    for operation in operations {
        let (parent, last) = operation.path().rsplit_once('/')?;
        let last = last.replace("~1", "/").replace("~0", "~");
        match (pod.pointer_mut(parent)?, operation) {
            (Value::Object(map), Operation::Add { value, .. }) => _ = map.insert(last, value.clone()),
            (Value::Object(map), Operation::Replace { value, .. }) => *map.get_mut(&last)? = value.clone(),
            (Value::Object(map), Operation::Remove { .. }) => _ = map.remove(&last)?,
            (Value::Array(list), Operation::Add { value, .. }) => {
                let place = if last == "-" { list.len() } else { last.parse().ok()? };
                (place <= list.len()).then(|| list.insert(place, value.clone()))?;
            }
            (Value::Array(list), Operation::Replace { value, .. }) => {
                *list.get_mut(last.parse::<usize>().ok()?)? = value.clone();
            }
            (Value::Array(list), Operation::Remove { .. }) => {
                let place = last.parse().ok()?;
                (place < list.len()).then(|| list.remove(place))?;
            }
            _ => return None,
        }
    }
    Some(())
}
