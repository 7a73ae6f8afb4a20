// SPDX-License-Identifier: Apache-2.0
//! JSON as Go's `encoding/json` takes it, by which every runtime reads its files, where `serde_json` is stricter.

use std::borrow::Cow;

use serde_json::Value;

use crate::system::lossless::is_stand_in;

/// Length of an escape such as `\ud800`.
const ESCAPE: usize = 6;

/// Returns the text with U+FFFD in place of each half of a surrogate pair that stands alone, as in Go. The length stays, and so
/// does every position.
pub(super) fn tolerated(text: &str) -> Cow<'_, str> {
    let mut halves = Vec::new();
    let mut at = 0;
    // Outside of strings JSON has no backslash.
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        at += match (escaped(text, at), escaped(text, at + ESCAPE)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE,
            (Some(0xD800..=0xDFFF), _) => {
                halves.push(at);
                ESCAPE
            }
            // The backslash and what it escapes, which is one byte where the text is JSON.
            _ => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    if halves.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut tolerated = text.to_owned();
    for at in halves {
        tolerated.replace_range(at..at + ESCAPE, "\\ufffd");
    }
    Cow::Owned(tolerated)
}

/// Reads the number of the escape at this position: `\u` and four hexadecimal digits.
fn escaped(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
}

/// Parses a whole text.
pub(super) fn value(text: &str) -> Option<Value> {
    serde_json::from_str(&tolerated(text)).ok()
}

/// Parses a string. A byte that is no UTF-8 is U+FFFD.
pub(super) fn string(raw: &str) -> Result<String, serde_json::Error> {
    let text: String = serde_json::from_str(raw)?;
    Ok(text.replace(is_stand_in, "\u{fffd}"))
}

/// Returns true for keys that name the same field of a Go struct.
pub(super) fn is_field(key: &str, field: &str) -> bool {
    // Go also folds the long s and the Kelvin sign.
    key.replace('\u{17f}', "s").replace('\u{212a}', "k").eq_ignore_ascii_case(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_replaced_in_place() {
        for (text, expected) in [
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""\udc00a""#, r#""\ufffda""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud800\ud83d\ude00\uD800""#, r#""\ufffd\ud83d\ude00\ufffd""#),
            (r#""\\ud800""#, r#""\\ud800""#),
            (r#""\ud80"#, r#""\ud80"#),
            ("\"\\", "\"\\"),
            ("\\é\\", "\\é\\"),
        ] {
            assert_eq!(tolerated(text), expected, "{text}");
        }
        assert_eq!(value(r#"{"\udfff":"\ud800"}"#), Some(serde_json::json!({ "\u{fffd}": "\u{fffd}" })));
    }
}
