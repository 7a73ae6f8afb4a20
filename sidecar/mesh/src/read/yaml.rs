// SPDX-License-Identifier: Apache-2.0
//! YAML text → trees of values, document by document.

use crate::read::tree::{self, Tree};
use serde::de::DeserializeSeed as _;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, alias_limits, budget, options};
use std::cell::Cell;

/// The deepest nesting of a document; ours have eight.
const DEEPEST: usize = 64;
/// Values that aliases repeat in one document. What programs write has no aliases; people name a block of tags or two.
const MOST_REPEATED: usize = 10_000;
/// Bytes of the blocks that aliases may repeat.
const MOST_NAMED_BYTES: usize = 1 << 20;

/// Error of a text that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map_or_else(String::new, |line| format!("line {line}: ")))]
pub(crate) struct YamlError {
    line: Option<u64>,
    what: String,
    /// True if nothing but a key that stands twice is wrong, so far.
    twice: bool,
}

/// The text of one document.
#[derive(Debug)]
pub(crate) struct Piece<'t> {
    /// Number from 1; empty documents do not count.
    pub number: usize,
    /// Number of lines before it in the file.
    before: u64,
    text: &'t str,
}

/// Takes a file apart at its `---` lines, so that a document that is no YAML does not hide the errors of the others. A
/// line that begins so is a mark wherever it stands: inside of a document text is indented.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n').enumerate();
    let (mut start, mut before, mut at) = (0, 0, 0);
    let mut end = false;
    let parts = std::iter::from_fn(move || {
        for (number, line) in lines.by_ref() {
            let rest = line.strip_prefix("---");
            let mark = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']));
            let part = (before, &text[start..at]);
            let closes = mark && at != start;
            if closes {
                (start, before) = (at, number as u64);
            }
            at += line.len();
            if closes {
                return Some(part);
            }
        }
        (!std::mem::replace(&mut end, true)).then(|| (before, &text[start..]))
    });
    let documents = parts.filter(|(_, text)| text.lines().any(says_something)).enumerate();
    documents.map(|(index, (before, text))| Piece { number: index + 1, before, text })
}

fn says_something(line: &str) -> bool {
    // A directive, as `%YAML 1.2`, stands before the mark of its document.
    let directive = line.starts_with('%');
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !directive && !["", "...", "null", "~"].contains(&line) && !line.starts_with('#')
}

impl<'t> Piece<'t> {
    /// Its values, and why it is no YAML, with the line of the file. Where a key stands twice there are both: the first of
    /// the two counts, so that other errors can be reported as well. A field `items` is empty: its items go to `take` with
    /// the number of the attempt, of which the last one counts.
    pub(crate) fn parse(&self, take: &mut dyn FnMut(usize, Value)) -> (Option<Value>, Option<YamlError>) {
        match with_policy(self.text, DuplicateKeyPolicy::Error, &mut |item| take(1, item)) {
            Ok(value) => (Some(value), None),
            Err(YamlError { line, what, twice }) => {
                let error = YamlError { line: line.map(|line| line + self.before), what, twice };
                let again =
                    || with_policy(self.text, DuplicateKeyPolicy::FirstWins, &mut |item| take(2, item));
                (twice.then(again).and_then(Result::ok), Some(error))
            }
        }
    }

    /// Returns the text of the document.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Returns the same document with another text of as many lines.
    pub(crate) fn with_text<'a>(&self, text: &'a str) -> Piece<'a> {
        Piece { number: self.number, before: self.before, text }
    }

    /// Returns true if the text has this anywhere.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

/// Reads the values of a text that is one field of a document.
///
/// # Errors
/// The text is not YAML.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    let mut items = Vec::new();
    let mut value = with_policy(text, DuplicateKeyPolicy::Error, &mut |item| items.push(item))?;
    if let Some(Value::Array(list)) = value.get_mut("items") {
        *list = items;
    }
    Ok(value)
}

fn with_policy(
    text: &str,
    duplicate_keys: DuplicateKeyPolicy,
    take: &mut dyn FnMut(Value),
) -> Result<Value, YamlError> {
    // Each value has at least a byte of text or is repeated; the tree counts the memory of both.
    let most_nodes = text.len() + MOST_REPEATED;
    let options = options! {
        budget: budget! {
            max_depth: DEEPEST,
            max_nodes: most_nodes,
            max_events: 2 * most_nodes,
            max_recorded_anchor_events: MOST_REPEATED,
            max_recorded_anchor_bytes: MOST_NAMED_BYTES,
        },
        alias_limits: alias_limits! { max_total_replayed_events: MOST_REPEATED },
        duplicate_keys: duplicate_keys,
        // YAML 1.2: `name: y` is a name.
        strict_booleans: true,
        with_snippet: false,
        emit_comments: false,
    };
    let left = Cell::new(tree::MOST_BYTES);
    let tree = Tree::document(&left, take);
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
        tree.deserialize(document)
    });
    read.map_err(|error| {
        let (line, place) = match error.location() {
            Some(at) => (Some(at.line()), format!(" at line {}, column {}", at.line(), at.column())),
            None => (None, String::new()),
        };
        let twice = matches!(error.without_snippet(), serde_saphyr::Error::DuplicateMappingKey { .. });
        let what = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("the key {key:?} a second time")
            }
            // The place as it counts in the file comes before.
            other => one_line(other.to_string().trim_end_matches(&place)),
        };
        YamlError { line, what, twice }
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_file_holds_many_documents() {
        let text =
            "# a comment\n---\na: 1\n--- # two\nb: |\n  ---\n  text\n---\n\n# nothing\n---\n---\nc: 3\n...\n";
        let values: Vec<_> =
            pieces(text).map(|piece| (piece.number, piece.parse(&mut |_, _| ()).0.unwrap())).collect();
        assert_eq!(values, [(1, json!({"a": 1})), (2, json!({"b": "---\ntext\n"})), (3, json!({"c": 3}))]);
        assert_eq!(pieces("").count(), 0);
        assert_eq!(pieces("a: 1").count(), 1);
        assert_eq!(pieces("---a: 1\n").count(), 1);
    }

    #[test]
    fn what_says_nothing_is_no_document() {
        for nothing in
            ["", "\u{feff}", "\u{feff}# a\r\n---\r\n...\r\n---\nnull\n---\n~ \n", "%YAML 1.2\n---\n"]
        {
            assert_eq!(pieces(nothing).count(), 0, "{nothing:?}");
        }
        for one in ["\u{feff}a: 1\r\n", "%YAML 1.2\n---\na: 1\n...\n", "# %\n--- {a: 1}\n---\nnull\n"] {
            let values: Vec<_> = pieces(one).map(|piece| piece.parse(&mut |_, _| ()).0).collect();
            assert_eq!(values, [Some(json!({"a": 1}))], "{one:?}");
        }
    }

    #[test]
    fn an_error_has_the_files_line_and_hides_no_other_document() {
        let text = "a: 1\n---\nb: [1\nc: 2\n---\nd: 1\nd: 2\n";
        let pieces: Vec<_> = pieces(text).collect();
        assert_eq!(pieces.len(), 3);
        assert!(pieces[0].parse(&mut |_, _| ()).1.is_none());
        let error = pieces[1].parse(&mut |_, _| ()).1.unwrap().to_string();
        assert!(error.starts_with("line 4: "), "{error}");
        let (value, error) = pieces[2].parse(&mut |_, _| ());
        assert_eq!(value, Some(json!({"d": 1})), "the other errors can be told");
        let error = error.unwrap().to_string();
        assert!(error == "line 7: the key \"d\" a second time", "{error}");
    }

    #[test]
    fn only_true_and_false_are_true_and_false() {
        assert_eq!(parse("{a: y, b: no, c: true}"), Ok(json!({"a": "y", "b": "no", "c": true})));
    }

    #[test]
    fn a_list_leaves_its_items_one_by_one_and_once_more_where_a_key_stands_twice() {
        let items = |text: &str| {
            let mut taken = Vec::new();
            let piece = pieces(text).next().unwrap();
            let (value, error) = piece.parse(&mut |attempt, item| taken.push((attempt, item)));
            (value, error.is_some(), taken)
        };
        let list = Some(json!({"kind": "List", "items": []}));
        let two = vec![(1, json!({"a": 1})), (1, json!(2))];
        assert_eq!(items("items: [{a: 1}, 2]\nkind: List\n"), (list.clone(), false, two));
        let (value, wrong, taken) = items("items: [{a: 1, a: 2}, 3]\nkind: List\n");
        assert_eq!((value, wrong), (list, true));
        assert_eq!(taken.last(), Some(&(2, json!(3))));
        // Only those of the document itself, and only a list.
        let (value, _, taken) = items("a: {items: [1]}\nitems: {b: 1}\n");
        assert_eq!((value, taken), (Some(json!({"a": {"items": [1]}, "items": {"b": 1}})), vec![]));
        assert_eq!(parse("items: [1]"), Ok(json!({"items": [1]})));
        assert_eq!(parse("[1, a, ~, 1.5, {5: true}]"), Ok(json!([1, "a", null, 1.5, {"5": true}])));
    }

    #[test]
    fn what_would_explode_is_an_error() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (from, to) in ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"].iter().map(|pair| pair.split_at(1))
        {
            bomb.push_str(&format!(
                "{to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n"
            ));
        }
        let text = "x".repeat(100_000);
        for (text, expected) in [
            (bomb, "budget breached: RecordedAnchorEvents"),
            ("[".repeat(10_000), "recursion limit exceeded"),
            // Short in text, long in memory: half a million values of 64 bytes.
            (format!("[{}]", "x,".repeat(500_000)), "found values that take more than 16777216 bytes"),
            // One long text, many times.
            (format!("a: &a {text}\nb: [{}]", ["*a"; 100].join(",")), "budget breached: "),
            (
                format!("a: &a {text}\nb: [{}]", vec!["*a"; 1000].join(",")),
                "found values that take more than 16777216 bytes",
            ),
            (
                format!("a: &a [{}]\nb: [{}]", "x,".repeat(200), ["*a"; 60].join(",")),
                "alias replay limit exceeded",
            ),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        // What people write with a name for a block of tags.
        assert!(parse(&format!("a: &a {{b: c, d: e}}\nf: [{}]", ["*a"; 10].join(","))).is_ok());
    }
}
