// SPDX-License-Identifier: Apache-2.0
//! JSON patches (RFC 6902) and merge patches (RFC 7396).

use serde_json::Value;

use super::super::encode::Refusal;

/// Applies a merge patch.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(serde_json::Map::new());
    }
    for (key, value) in members {
        if value.is_null() {
            object.as_object_mut().and_then(|object| object.remove(key));
        } else {
            merge(&mut object[key], value);
        }
    }
}

/// Applies a JSON patch, all of it or nothing.
pub(super) fn json(object: &Value, patch: &Value) -> Result<Value, Refusal> {
    let Value::Array(operations) = patch else { return Err(Refusal::new(400, "a JSON patch is an array")) };
    let mut patched = object.clone();
    for operation in operations {
        step(&mut patched, operation).map_err(|message| Refusal::new(422, message))?;
    }
    Ok(patched)
}

fn step(object: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |key: &str| operation[key].as_str().ok_or_else(|| format!("{operation} has no {key}"));
    let path = text("path")?;
    let value = || operation.get("value").cloned().ok_or_else(|| format!("{operation} has no value"));
    let found = |object: &Value, path: &str| {
        object.pointer(path).cloned().ok_or_else(|| format!("{operation}: nothing at {path:?}"))
    };
    match text("op")? {
        "test" if object.pointer(path) == Some(&value()?) => Ok(()),
        "test" => Err(format!("testing value {path} failed")),
        "replace" => {
            let place = object.pointer_mut(path).ok_or_else(|| format!("{operation}: nothing to replace"))?;
            *place = value()?;
            Ok(())
        }
        "add" => add(object, path, value()?),
        "remove" => remove(object, path).map(drop),
        "move" => {
            let moved = remove(object, text("from")?)?;
            add(object, path, moved)
        }
        "copy" => {
            let copied = found(object, text("from")?)?;
            add(object, path, copied)
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// The parent of a place, and the place's own name.
fn parent<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| format!("{path:?} is no pointer"))?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = object.pointer_mut(parent).ok_or_else(|| format!("no parent of {path:?}"))?;
    Ok((parent, last))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    match parent(object, path)? {
        (Value::Object(members), name) => _ = members.insert(name, value),
        (Value::Array(items), name) if name == "-" => items.push(value),
        (Value::Array(items), name) => match name.parse::<usize>() {
            Ok(index) if index <= items.len() => items.insert(index, value),
            _ => return Err(format!("{path:?} is out of bounds")),
        },
        _ => return Err(format!("the parent of {path:?} holds nothing")),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, String> {
    let absent = || format!("unable to remove nonexistent key: {path}");
    match parent(object, path)? {
        (Value::Object(members), name) => members.remove(&name).ok_or_else(absent),
        (Value::Array(items), name) => match name.parse::<usize>() {
            Ok(index) if index < items.len() => Ok(items.remove(index)),
            _ => Err(absent()),
        },
        _ => Err(absent()),
    }
}
