// SPDX-License-Identifier: Apache-2.0
//! Foreign values in messages. A message says the reason first and the value last: a kubelet cuts its event, in which the
//! message ends up, at 1,024 characters.

/// Longest value in a message, in characters.
const MAX_VALUE: usize = 200;
/// Longest message, in characters. A runtime puts some 250 in front, and a kubelet's event holds 1,024.
const MAX_MESSAGE: usize = 700;

/// Quote `value`, control characters escaped, and cut it.
pub(crate) fn shown(value: impl AsRef<str>) -> String {
    format!("\"{}\"", plain(value))
}

/// Escape control characters in `text` and cut it.
pub(crate) fn plain(text: impl AsRef<str>) -> String {
    let mut escaped_text = String::new();
    // An escaped character stays whole.
    let mut length = 0;
    for character in text.as_ref().chars() {
        let escaped = character.escape_debug();
        length += escaped.len();
        if length > MAX_VALUE {
            escaped_text.push('…');
            break;
        }
        escaped_text.extend(escaped);
    }
    escaped_text
}

/// Cut a whole message.
pub(crate) fn cut(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        None => message,
        Some((end, _)) => format!("{}…", &message[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_and_cut() {
        let rows = [
            ("", r#""""#.to_owned()),
            ("a\n\"b\"", r#""a\n\"b\"""#.to_owned()),
            (&"x".repeat(200), format!("\"{}\"", "x".repeat(200))),
            (&"ü".repeat(201), format!("\"{}…\"", "ü".repeat(200))),
            (&"\n".repeat(101), format!("\"{}…\"", "\\n".repeat(100))),
        ];
        for (value, expected) in rows {
            assert_eq!(shown(value), expected);
        }
    }

    #[test]
    fn messages_are_cut() {
        assert_eq!(cut("ü".repeat(700)), "ü".repeat(700));
        assert_eq!(cut("ü".repeat(701)), format!("{}…", "ü".repeat(700)));
    }
}
