// SPDX-License-Identifier: Apache-2.0
//! Values → YAML, in blocks as `kubectl` prints them, but with the name first.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::parse::plain;

/// Keys that stand first.
const FIRST: [&str; 4] = ["apiVersion", "kind", "name", "image"];
/// Plain texts that YAML takes for something else.
const NO_TEXT: [&str; 13] =
    ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity", "~"];

/// A whole document in blocks, with the end of its last line.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

/// A whole document in JSON.
pub(super) fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// `key: value` at `indent`, with the end of its last line.
pub(super) fn pair(key: &str, value: &Value, indent: usize) -> String {
    let mut text = " ".repeat(indent);
    write_pair(&mut text, key, value, indent);
    text
}

/// `- value` at `indent`, with the end of its last line.
pub(super) fn item(value: &Value, indent: usize) -> String {
    let mut text = " ".repeat(indent);
    write_item(&mut text, value, indent);
    text
}

/// A value within a line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Writes lines at `indent`, each with its end.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in ordered(map) {
                text.push_str(&" ".repeat(indent));
                write_pair(text, key, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&" ".repeat(indent));
                write_item(text, item, indent);
            }
        }
        other => _ = writeln!(text, "{}{}", " ".repeat(indent), inline(other)),
    }
}

fn write_pair(text: &mut String, key: &str, value: &Value, indent: usize) {
    if is_block(value) {
        _ = writeln!(text, "{}:", scalar(key));
        block(text, value, indent + 2);
    } else {
        _ = writeln!(text, "{}: {}", scalar(key), inline(value));
    }
}

fn write_item(text: &mut String, value: &Value, indent: usize) {
    if is_block(value) {
        let mut inner = String::new();
        block(&mut inner, value, indent + 2);
        // The first line stands behind the dash.
        _ = write!(text, "- {}", inner.trim_start_matches(' '));
    } else {
        _ = writeln!(text, "- {}", inline(value));
    }
}

/// True for a collection that takes lines of its own.
pub(super) fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn ordered(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let first = FIRST.iter().filter_map(|key| map.get_key_value(*key));
    first.chain(map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())))
}

/// A text as a scalar: plain where nothing else can be meant, else in quotes.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else if text.contains('"') && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        // JSON's text is YAML's in double quotes.
        Value::from(text).to_string()
    }
}

/// True for a text that every reader of YAML takes for itself.
fn is_plain(text: &str) -> bool {
    let option = text.strip_prefix("--").unwrap_or(text);
    let Some(first) = option.bytes().next() else { return false };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    // As an amount: what else begins with a digit may be a time or a date.
    if first.is_ascii_digit() {
        return option.bytes().all(fits) && plain(text) == *text;
    }
    // A colon is a key's only before a space or the end.
    (first.is_ascii_alphabetic() || first == b'/')
        && option.bytes().all(|byte| fits(byte) || b"-_/=:".contains(&byte))
        && !option.ends_with(':')
        && !NO_TEXT.contains(&text.to_ascii_lowercase().as_str())
}
