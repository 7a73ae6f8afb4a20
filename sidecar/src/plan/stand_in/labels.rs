// SPDX-License-Identifier: Apache-2.0
//! The pod's labels, as the downward API writes them into a file: a line `key="value"` each, the value quoted as by Go's %q.

use serde_json::{Map, Value};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Longest file that is read. A pod's labels and annotations have at most 256 KiB.
const LONGEST: u64 = 256 * 1024;

/// Fault of the file with the pod's labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--pod-labels {path}: {what}", path = path.display())]
pub struct LabelsError {
    path: PathBuf,
    what: String,
}

/// Reads the labels.
///
/// # Errors
/// The file cannot be read, or a line is no label.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, LabelsError> {
    let error = |what: String| LabelsError { path: path.into(), what };
    let text = text(path).map_err(|failed| error(failed.to_string()))?;
    parse(&text).map_err(|(line, what)| error(format!("line {line}: {what}")))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("found more than {LONGEST} bytes; allowed: the pod's labels")));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Map<String, Value>, (usize, String)> {
    let mut labels = Map::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let label = line.split_once('=').filter(|(key, _)| !key.is_empty());
        let label = label.and_then(|(key, value)| Some((key, unquoted(value)?)));
        let (key, value) = label.ok_or_else(|| {
            (number + 1, format!("found {line:?}; allowed: key=\"value\", as the downward API writes it"))
        })?;
        labels.insert(key.into(), value.into());
    }
    Ok(labels)
}

/// Reads a text in Go's double quotes.
fn unquoted(quoted: &str) -> Option<String> {
    let mut rest = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(letter) = rest.chars().next() {
        let (this, behind) = rest.split_at(letter.len_utf8());
        rest = match letter {
            '"' => return None,
            '\\' => unescaped(behind, &mut bytes)?,
            _ => {
                bytes.extend_from_slice(this.as_bytes());
                behind
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// Reads what stands behind a backslash, and returns the rest.
fn unescaped<'t>(text: &'t str, bytes: &mut Vec<u8>) -> Option<&'t str> {
    let (kind, rest) = text.split_at_checked(1)?;
    let number = |digits: usize| {
        let (number, rest) = rest.split_at_checked(digits)?;
        Some((u32::from_str_radix(number, 16).ok()?, rest))
    };
    let byte = match kind {
        "a" => 7,
        "b" => 8,
        "t" => b'\t',
        "n" => b'\n',
        "v" => 11,
        "f" => 12,
        "r" => b'\r',
        "\\" => b'\\',
        "\"" => b'"',
        "x" => {
            let (byte, rest) = number(2)?;
            bytes.push(u8::try_from(byte).ok()?);
            return Some(rest);
        }
        "u" | "U" => {
            let (letter, rest) = number(if kind == "u" { 4 } else { 8 })?;
            bytes.extend_from_slice(char::from_u32(letter)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        _ => return None,
    };
    bytes.push(byte);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_go_quotes_it() {
        for (quoted, value) in [
            (r#""web""#, Some("web")),
            (r#""""#, Some("")),
            (r#""a\"b\\c\td""#, Some("a\"b\\c\td")),
            (r#""\x41\u00e9\U0001F600é""#, Some("Aé😀é")),
            (r#""\a\b\v\f\r\n""#, Some("\u{7}\u{8}\u{b}\u{c}\r\n")),
            ("web", None),
            (r#"""#, None),
            (r#""a"b""#, None),
            (r#""a\""#, None),
            (r#""\q""#, None),
            (r#""\x4""#, None),
            (r#""\xff""#, None),
            (r#""\ud800""#, None),
        ] {
            assert_eq!(unquoted(quoted).as_deref(), value, "{quoted}");
        }
    }

    #[test]
    fn each_line_is_a_label_and_another_one_is_named() {
        let labels = parse("app=\"web\"\npod-template-hash=\"5d9\"\n\nempty=\"\"").unwrap();
        assert_eq!(
            Value::Object(labels).to_string(),
            r#"{"app":"web","empty":"","pod-template-hash":"5d9"}"#
        );
        for (text, line) in [("app", 1), ("a=\"b\"\napp=web", 2), ("=\"a\"", 1)] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text}");
        }
        assert_eq!(parse("").unwrap().len(), 0);
        let error = read(Path::new("/nowhere/labels")).unwrap_err().to_string();
        assert!(error.starts_with("--pod-labels /nowhere/labels: No such file"), "{error}");
    }
}
