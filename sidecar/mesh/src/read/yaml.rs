// SPDX-License-Identifier: Apache-2.0
//! YAML text → trees of values, document by document.

use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, budget, options};

/// The deepest nesting of a document; ours have eight.
const DEEPEST: usize = 64;
/// Nodes of one document: a list of everything in a mesh is one document.
const MOST_NODES: usize = 2_000_000;

/// Error of a text that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map_or_else(String::new, |line| format!("line {line}: ")))]
pub(crate) struct YamlError {
    line: Option<u64>,
    what: String,
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
pub(crate) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pieces = Vec::new();
    let (mut start, mut before) = (0, 0);
    let mut at = 0;
    let mut push = |text: &'_ str, range: std::ops::Range<usize>, before| {
        let part = &text[range.clone()];
        let says_something = |line: &str| {
            // A directive, as `%YAML 1.2`, stands before the mark of its document.
            let directive = line.starts_with('%');
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            !directive && !["", "...", "null", "~"].contains(&line) && !line.starts_with('#')
        };
        if part.lines().any(says_something) {
            pieces.push((range, before));
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
            && at != start
        {
            push(text, start..at, before);
            (start, before) = (at, number as u64);
        }
        at += line.len();
    }
    push(text, start..at, before);
    pieces
        .into_iter()
        .enumerate()
        .map(|(index, (range, before))| Piece { number: index + 1, before, text: &text[range] })
        .collect()
}

impl Piece<'_> {
    /// Its values, and why it is no YAML, with the line of the file. Where a key stands twice there are both: the first of
    /// the two counts, so that other errors can be reported as well.
    pub(crate) fn parse(&self) -> (Option<Value>, Option<YamlError>) {
        match parse(self.text) {
            Ok(value) => (Some(value), None),
            Err(YamlError { line, what }) => {
                let error = YamlError { line: line.map(|line| line + self.before), what };
                (with_policy(self.text, DuplicateKeyPolicy::FirstWins).ok(), Some(error))
            }
        }
    }

    /// Returns true if the text has this anywhere.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

/// Reads the values of one document.
///
/// # Errors
/// The text is not YAML.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    with_policy(text, DuplicateKeyPolicy::Error)
}

fn with_policy(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, YamlError> {
    let options = options! {
        budget: budget! { max_depth: DEEPEST, max_nodes: MOST_NODES, max_events: 2 * MOST_NODES },
        duplicate_keys: duplicate_keys,
        // YAML 1.2: `name: y` is a name.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, place) = match error.location() {
            Some(at) => (Some(at.line()), format!(" at line {}, column {}", at.line(), at.column())),
            None => (None, String::new()),
        };
        let what = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("the key {key:?} a second time")
            }
            // The place as it counts in the file comes before.
            other => one_line(other.to_string().trim_end_matches(&place)),
        };
        YamlError { line, what }
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
            pieces(text).iter().map(|piece| (piece.number, piece.parse().0.unwrap())).collect();
        assert_eq!(values, [(1, json!({"a": 1})), (2, json!({"b": "---\ntext\n"})), (3, json!({"c": 3}))]);
        assert!(pieces("").is_empty());
        assert_eq!(pieces("a: 1").len(), 1);
        assert_eq!(pieces("---a: 1\n").len(), 1);
    }

    #[test]
    fn what_says_nothing_is_no_document() {
        for nothing in
            ["", "\u{feff}", "\u{feff}# a\r\n---\r\n...\r\n---\nnull\n---\n~ \n", "%YAML 1.2\n---\n"]
        {
            assert!(pieces(nothing).is_empty(), "{nothing:?}");
        }
        for one in ["\u{feff}a: 1\r\n", "%YAML 1.2\n---\na: 1\n...\n", "# %\n--- {a: 1}\n---\nnull\n"] {
            let values: Vec<_> = pieces(one).iter().map(|piece| piece.parse().0).collect();
            assert_eq!(values, [Some(json!({"a": 1}))], "{one:?}");
        }
    }

    #[test]
    fn an_error_has_the_files_line_and_hides_no_other_document() {
        let text = "a: 1\n---\nb: [1\nc: 2\n---\nd: 1\nd: 2\n";
        let pieces = pieces(text);
        assert_eq!(pieces.len(), 3);
        assert!(pieces[0].parse().1.is_none());
        let error = pieces[1].parse().1.unwrap().to_string();
        assert!(error.starts_with("line 4: "), "{error}");
        let (value, error) = pieces[2].parse();
        assert_eq!(value, Some(json!({"d": 1})), "the other errors can be told");
        let error = error.unwrap().to_string();
        assert!(error == "line 7: the key \"d\" a second time", "{error}");
    }

    #[test]
    fn only_true_and_false_are_true_and_false() {
        assert_eq!(parse("{a: y, b: no, c: true}"), Ok(json!({"a": "y", "b": "no", "c": true})));
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
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(10_000)).is_err());
    }
}
