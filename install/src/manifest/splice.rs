// SPDX-License-Identifier: Apache-2.0
//! A document and the values that it should have → edits of its text.

use std::ops::Range;

use serde_json::{Map, Value};

use super::parse::{Content, Node, Pair};
use super::print;

/// Text in place of a range.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edit {
    range: Range<usize>,
    text: String,
}

impl Edit {
    /// The edit with another text.
    pub(super) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        Self { range: self.range, text: change(self.text) }
    }
}

/// The place of new lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    /// Right below the value before them.
    Value,
    /// Below the empty lines that belong to it.
    EmptyLines,
}

/// Edits that make `before`, the value of `node`, into `after`. `None` where only a new print can.
pub(super) fn edits(
    text: &str,
    node: &Node,
    before: &Value,
    after: &Value,
    below: Below,
) -> Option<Vec<Edit>> {
    let mut splice = Splice { text, below, edits: Vec::new() };
    splice.node(node, before, after, None)?;
    Some(splice.edits)
}

/// The text of `range` after `edits`.
pub(super) fn apply(text: &str, range: Range<usize>, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.range.start);
    let mut out = String::new();
    let mut done = range.start;
    for Edit { range: place, text: new } in edits {
        // An insertion before the end of a line that another edit removes: the new text still comes.
        out.push_str(text.get(done..place.start).unwrap_or_default());
        out.push_str(&new);
        done = done.max(place.end);
    }
    out.push_str(text.get(done..range.end).unwrap_or_default());
    out
}

struct Splice<'a> {
    text: &'a str,
    below: Below,
    edits: Vec<Edit>,
}

impl Splice<'_> {
    fn node(&mut self, node: &Node, before: &Value, after: &Value, key: Option<&Pair>) -> Option<()> {
        if before == after {
            return Some(());
        }
        match (&node.content, before, after) {
            (Content::Mapping(pairs), Value::Object(before), Value::Object(after)) if !after.is_empty() => {
                self.mapping(pairs, before, after)
            }
            (Content::Sequence(items), Value::Array(before), Value::Array(after)) if !after.is_empty() => {
                self.sequence(items, before, after, key?)
            }
            (Content::Mapping(_) | Content::Sequence(_), ..) => None,
            _ if is_nothing(before) && print::is_block(after) && key.is_some() => {
                self.below(node, after, key?)
            }
            _ => {
                self.replace(node.range.clone(), &print::inline(after));
                Some(())
            }
        }
    }

    /// Puts lines below the key of an absent or empty value.
    fn below(&mut self, node: &Node, after: &Value, pair: &Pair) -> Option<()> {
        let lines = print::pair(&pair.key, after, self.column(pair.key_range.start));
        let (_, lines) = lines.split_once('\n')?;
        let colon = pair.key_range.end + self.text[pair.key_range.end..].find(':')? + 1;
        if node.range.start > colon {
            self.replace(colon..node.range.end, "");
        }
        self.insert_after(colon, lines.to_owned());
        Some(())
    }

    fn mapping(
        &mut self,
        pairs: &[Pair],
        before: &Map<String, Value>,
        after: &Map<String, Value>,
    ) -> Option<()> {
        let indent = self.column(pairs.first()?.key_range.start);
        for pair in pairs {
            match (before.get(&pair.key), after.get(&pair.key)) {
                (Some(was), Some(new)) => self.node(&pair.value, was, new, Some(pair))?,
                (Some(_), None) => self.remove_lines(pair.key_range.start, pair_end(pair), true)?,
                // A key that merges another mapping.
                (None, _) => {}
            }
        }
        let mut new = String::new();
        for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
            new.push_str(&print::pair(key, value, indent));
        }
        self.insert_after(pair_end(pairs.last()?), new);
        Some(())
    }

    fn sequence(&mut self, items: &[Node], before: &[Value], after: &[Value], key: &Pair) -> Option<()> {
        let dash = self.dash(items.first()?)?;
        let indent = self.column(dash);
        let kept = kept(before, after);
        let mut stays = vec![false; items.len()];
        kept.iter().flatten().for_each(|place| stays[*place] = true);
        for (item, stays) in items.iter().zip(stays) {
            if !stays {
                self.remove_lines(self.dash(item)?, item.range.end, false)?;
            }
        }
        // New items go below the item before them, and those without one below the key: a comment above the first item
        // stays with it.
        let mut below = key.key_range.end;
        let mut new = String::new();
        for (value, place) in after.iter().zip(&kept) {
            let Some(place) = *place else {
                new.push_str(&print::item(value, indent));
                continue;
            };
            self.insert_after(below, std::mem::take(&mut new));
            self.node(&items[place], &before[place], value, None)?;
            below = items[place].range.end;
        }
        self.insert_after(below, new);
        Some(())
    }

    fn replace(&mut self, range: Range<usize>, text: &str) {
        self.edits.push(Edit { range, text: text.to_owned() });
    }

    /// Puts lines below the line of `offset`.
    fn insert_after(&mut self, offset: usize, lines: String) {
        if lines.is_empty() {
            return;
        }
        if self.below == Below::EmptyLines && self.text[..offset].ends_with('\n') {
            self.edits.push(Edit { range: offset..offset, text: lines });
            return;
        }
        let end = self.line_end(offset);
        // The line's own end follows.
        let text = format!("\n{}", lines.trim_end_matches('\n'));
        self.edits.push(Edit { range: end..end, text });
    }

    /// Removes the lines from the one of `start` to the one of `end`. `None` if something else stands before `start`.
    fn remove_lines(&mut self, start: usize, end: usize, alone: bool) -> Option<()> {
        let line = self.text[..start].rfind('\n')?;
        let line = if self.text[..line].ends_with('\r') { line - 1 } else { line };
        if alone && !self.text[line..start].trim().is_empty() {
            return None;
        }
        let end = self.line_end(end);
        self.edits.push(Edit { range: line..end, text: String::new() });
        Some(())
    }

    /// The end of the line of `offset`. A block text ends at the start of the next line: the one before it counts.
    fn line_end(&self, offset: usize) -> usize {
        let offset = self.text[..offset].trim_end_matches(['\n', '\r', ' ']).len();
        let rest = &self.text[offset..];
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        offset + line.strip_suffix('\r').unwrap_or(line).len()
    }

    /// The column of a place. A mark of the byte order at the start of the text takes none.
    fn column(&self, offset: usize) -> usize {
        let line = self.text[..offset].rfind('\n').map_or(0, |end| end + 1);
        self.text[line..offset].trim_start_matches('\u{feff}').len()
    }

    /// The place of an item's dash, if nothing but comments stands between the two.
    fn dash(&self, item: &Node) -> Option<usize> {
        let mut before = self.text[..item.range.start].trim_end();
        loop {
            let line = before.rfind('\n').map_or(0, |end| end + 1);
            let is_comment = |(at, _): &(usize, &str)| {
                before[line..line + at].chars().next_back().is_none_or(char::is_whitespace)
            };
            match before[line..].match_indices('#').find(is_comment) {
                None => return before.ends_with('-').then(|| before.len() - 1),
                Some((at, _)) => before = before[..line + at].trim_end(),
            }
        }
    }
}

fn pair_end(pair: &Pair) -> usize {
    pair.value.range.end.max(pair.key_range.end)
}

/// For each item of `after` the one of `before` that it stays. The order is that of `before`: an item that moved is new.
fn kept(before: &[Value], after: &[Value]) -> Vec<Option<usize>> {
    let name_alike = |(one, other): (&Value, &Value)| Name::of(one) == Name::of(other);
    if before.len() == after.len() && before.iter().zip(after).all(name_alike) {
        return (0..after.len()).map(Some).collect();
    }
    let mut limit = before.len();
    let mut kept: Vec<_> = after
        .iter()
        .rev()
        .map(|wanted| {
            let place = before[..limit].iter().rposition(|item| is_same(item, wanted))?;
            limit = place;
            Some(place)
        })
        .collect();
    kept.reverse();
    kept
}

/// True for null and empty collections.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The name of an item: a container's, or an object's with its kind and namespace.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a>([Option<&'a str>; 4]);

impl<'a> Name<'a> {
    /// `None` for an item without a name.
    fn of(item: &'a Value) -> Option<Self> {
        let text = |path: &str| item.pointer(path).and_then(Value::as_str);
        let (own, object) = (text("/name"), text("/metadata/name"));
        own.or(object).map(|_| Self([own, object, text("/metadata/namespace"), text("/kind")]))
    }
}

/// True for equal values, and for two of the same name.
fn is_same(one: &Value, other: &Value) -> bool {
    match (Name::of(one), Name::of(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}
