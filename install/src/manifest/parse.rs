// SPDX-License-Identifier: Apache-2.0
//! Text → documents: a tree of values with their places. Scalars are read as `kubectl` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, StructureStyle};
use serde_json::{Map, Number, Value};

use super::{Document, ManifestError};

/// Deepest nesting. A pod's deepest field is at some fifteen.
const DEEPEST: usize = 64;
/// Most bytes that the anchors and aliases of a text may add in memory: ten times what etcd takes for one object.
const MOST_REPEATED: usize = 16 << 20;
/// Bytes of a value in memory, without those of a text.
const OF_VALUE: usize = 64;
/// Key that merges another mapping into its own.
const MERGE: &str = "<<";

/// A value, and its place in the text.
#[derive(Debug)]
pub(super) struct Node {
    pub range: Range<usize>,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A scalar or an alias, with its value.
    Leaf(Value),
    /// A mapping or list in brackets: replaced as a whole.
    Flow(Box<Content>),
    Mapping(Vec<Pair>),
    Sequence(Vec<Node>),
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Pair {
    pub key: String,
    pub key_range: Range<usize>,
    pub value: Node,
}

impl Node {
    pub(super) const fn is_flow(&self) -> bool {
        matches!(self.content, Content::Flow(_))
    }
}

impl Content {
    /// The value without places.
    fn value(&self) -> Value {
        match self {
            Self::Leaf(value) => value.clone(),
            Self::Flow(content) => content.value(),
            Self::Sequence(items) => items.iter().map(|item| item.content.value()).collect(),
            Self::Mapping(pairs) => {
                let mut map = Map::new();
                for pair in pairs.iter().filter(|pair| pair.key != MERGE) {
                    map.insert(pair.key.clone(), pair.value.content.value());
                }
                for pair in pairs.iter().filter(|pair| pair.key == MERGE) {
                    merge(&mut map, pair.value.content.value());
                }
                Value::Object(map)
            }
        }
    }
}

/// Adds the keys of `other` that `map` does not have.
fn merge(map: &mut Map<String, Value>, other: Value) {
    match other {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Value::Array(others) => others.into_iter().for_each(|other| merge(map, other)),
        _ => {}
    }
}

/// Reads all documents of a text.
///
/// # Errors
/// The first line that is no YAML, or says something twice.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut options = Options::default();
    // They stay in the text, which is edited in place.
    options.emit_comments = false;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { text, parser, anchors: BTreeMap::new(), repeated: 0 };
    let mut documents: Vec<Document> = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) => {
                reader.anchors = BTreeMap::new();
            }
            Event::DocumentEnd => {
                if let Some(document) = documents.last_mut() {
                    let end = range(&span, text.len()).start;
                    document.range.end = end.max(line_end(text, document.root.range.end));
                }
            }
            Event::StreamStart | Event::StreamEnd => {}
            event => {
                let root = reader.node(event, span, 0)?;
                let start = line_start(text, root.range.start);
                documents.push(Document { value: root.content.value(), root, range: start..text.len() });
            }
        }
    }
    Ok(documents)
}

/// The start of the line of `offset`, if nothing but spaces stands before it.
fn line_start(text: &str, offset: usize) -> usize {
    let line = text[..offset].rfind('\n').map_or(0, |end| end + 1);
    if text[line..offset].trim().is_empty() { line } else { offset }
}

/// The end of the line in which a value ends, its line break included. A block text ends at the start of the next line.
fn line_end(text: &str, offset: usize) -> usize {
    let value = text[..offset].trim_end().len();
    text[value..].find('\n').map_or(text.len(), |end| value + end + 1)
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    /// Values of anchors, with their sizes.
    anchors: BTreeMap<usize, (Value, usize)>,
    /// Bytes that anchors and aliases have added so far.
    repeated: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, ManifestError> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(next)) => Ok(Some(next)),
            Some(Err(error)) => {
                Err(ManifestError { line: error.marker().line(), what: format!("no YAML: {}", error.info()) })
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ManifestError> {
        let wrong = |what: &str| ManifestError { line: span.start.line(), what: what.to_owned() };
        if depth > DEEPEST {
            return Err(wrong("nested too deep"));
        }
        let mut range = range(&span, self.text.len());
        let (content, anchor, flow) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text =
                    tag.as_ref().is_some_and(|tag| tag.core_suffix().is_some_and(|name| name == "str"));
                let value = if style == ScalarStyle::Plain && !is_text {
                    plain(&text)
                } else {
                    Value::String(text.into_owned())
                };
                (Content::Leaf(value), anchor, false)
            }
            Event::Alias(id) => {
                let (value, size) = self.anchors.get(&id).ok_or_else(|| wrong("an alias of itself"))?;
                self.repeated += size;
                if self.repeated > MOST_REPEATED {
                    return Err(wrong("aliases repeat too much"));
                }
                (Content::Leaf(value.clone()), 0, false)
            }
            Event::SequenceStart(style, anchor, _) => {
                let mut items = Vec::new();
                let end = self.items(depth, &mut items)?;
                range.end = end_of(&range, items.last(), style, &end, self.text.len());
                (Content::Sequence(items), anchor, style == StructureStyle::Flow)
            }
            Event::MappingStart(style, anchor, _) => {
                let mut pairs = Vec::new();
                let end = self.pairs(depth, &mut pairs)?;
                let last = pairs.last().map(|pair| &pair.value);
                range.end = end_of(&range, last, style, &end, self.text.len());
                (Content::Mapping(pairs), anchor, style == StructureStyle::Flow)
            }
            _ => return Err(wrong("no value")),
        };
        if anchor != 0 {
            let value = content.value();
            let size = size(&value);
            self.repeated += size;
            if self.repeated > MOST_REPEATED {
                return Err(wrong("anchors and aliases repeat too much"));
            }
            self.anchors.insert(anchor, (value, size));
        }
        let content = if flow { Content::Flow(Box::new(content)) } else { content };
        Ok(Node { range, content })
    }

    /// Reads items to the end of the list, and returns the span of the end.
    fn items(&mut self, depth: usize, items: &mut Vec<Node>) -> Result<Span, ManifestError> {
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, span)) => return Ok(span),
                Some((event, span)) => items.push(self.node(event, span, depth + 1)?),
                None => return Err(ManifestError { line: 0, what: "ends within a list".to_owned() }),
            }
        }
    }

    fn pairs(&mut self, depth: usize, pairs: &mut Vec<Pair>) -> Result<Span, ManifestError> {
        let ends = || ManifestError { line: 0, what: "ends within a mapping".to_owned() };
        let mut keys = BTreeSet::new();
        loop {
            let (event, span) = match self.next()? {
                Some((Event::MappingEnd, span)) => return Ok(span),
                Some(next) => next,
                None => return Err(ends()),
            };
            let line = span.start.line();
            let wrong = |what: String| ManifestError { line, what };
            let key_node = self.node(event, span, depth + 1)?;
            let key = match key_node.content {
                Content::Leaf(Value::String(key)) => key,
                Content::Leaf(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
                _ => return Err(wrong("a key that is no text".to_owned())),
            };
            if !keys.insert(key.clone()) {
                return Err(wrong(format!("{key:?} stands twice: which value should count?")));
            }
            let (event, span) = self.next()?.ok_or_else(ends)?;
            let mut value = self.node(event, span, depth + 1)?;
            if value.range.is_empty() {
                // An absent value has no place of its own: the parser names that of the next one.
                value.range = key_node.range.end..key_node.range.end;
            }
            pairs.push(Pair { key, key_range: key_node.range, value });
        }
    }
}

/// The bytes of `value` in memory, about.
fn size(value: &Value) -> usize {
    let more = match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + OF_VALUE + size(value)).sum(),
        Value::String(text) => text.len(),
        _ => 0,
    };
    OF_VALUE + more
}

fn range(span: &Span, most: usize) -> Range<usize> {
    let start = span.start.byte_offset().unwrap_or(most).min(most);
    let end = span.end.byte_offset().unwrap_or(most).min(most);
    start..end.max(start)
}

/// The end of a collection: its bracket, or the end of its last value.
fn end_of(
    start: &Range<usize>,
    last: Option<&Node>,
    style: StructureStyle,
    end: &Span,
    most: usize,
) -> usize {
    match style {
        StructureStyle::Flow => range(end, most).end,
        StructureStyle::Block => last.map_or(start.end, |last| last.range.end),
    }
}

/// A plain scalar as the YAML that Kubernetes reads means it.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(|number| number * sign);
    let all_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let whole = if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        radix(octal, 8)
    } else if digits.len() > 1 && digits.starts_with('0') && all_digits(digits) {
        radix(&digits[1..], 8)
    } else if all_digits(digits) {
        radix(digits, 10)
    } else {
        None
    };
    if let Some(whole) = whole {
        return Value::Number(whole.into());
    }
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    let number = text.parse::<f64>().ok().filter(|_| is_number).and_then(Number::from_f64);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}
