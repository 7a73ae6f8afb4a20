// SPDX-License-Identifier: Apache-2.0
//! Text from outside, as a part of one line: a name with a line feed must not look like a line of the log.
//!
//! Names of documents, files and meshes are free text. They are not refused, since other programs take them; but they are
//! shown with escapes wherever people or programs read line by line.

use std::borrow::Cow;
use std::fmt::Write;

/// Notation of the characters that are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// `\n`, `\u{2028}`
    Text,
    /// `\u000a`, `\u2028`: within the strings of JSON, where all others are escaped already.
    Json,
}

/// Returns true for control characters, line separators of Unicode, and marks that change the direction of what follows.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns the text with escapes for all that could begin a line or hide a part of it.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, Escape::Text)
}

pub(crate) fn escaped(text: &str, escape: Escape) -> Cow<'_, str> {
    let Some(first) = text.find(is_escaped) else { return text.into() };
    let mut line = String::with_capacity(text.len() + 16);
    line.push_str(&text[..first]);
    for c in text[first..].chars() {
        match escape {
            _ if !is_escaped(c) => line.push(c),
            Escape::Text => line.extend(c.escape_default()),
            // Writing to a String does not fail. All of these are below 0x10000.
            Escape::Json => _ = write!(line, "\\u{:04x}", u32::from(c)),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_a_line_or_hides_a_part_of_it_is_escaped() {
        for (text, expected) in [
            ("web → api, naïve 日本", "web → api, naïve 日本"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{0}\u{1b}[2K\u{7f}", "\\u{0}\\u{1b}[2K\\u{7f}"),
            ("a\u{b}b\u{c}c\u{85}d", "a\\u{b}b\\u{c}c\\u{85}d"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("\u{202e}a\u{2066}b\u{200f}", "\\u{202e}a\\u{2066}b\\u{200f}"),
        ] {
            assert_eq!(one_line(text), expected);
            assert!(!one_line(text).contains(is_escaped));
        }
        assert_eq!(escaped("{\"a\":\"b\u{2028}\u{85}c\"}", Escape::Json), "{\"a\":\"b\\u2028\\u0085c\"}");
    }
}
