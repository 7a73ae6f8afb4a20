// SPDX-License-Identifier: Apache-2.0
//! Templates of names: the part of Go's text/template that documents of Kuma use.
//!
//! | in a template | becomes |
//! |---|---|
//! | `{{ .Name }}` | a field of a service, or a parameter of a VirtualOutbound |
//! | `{{ label "key" }}` | a label of a service |
//! | `{{ "text" }}` | the text |
//! | `{{- … -}}` | the same, without white space before it and behind it |
//! | `{{/* … */}}` | nothing |
//!
//! Go has conditions, loops and functions too. A template with one is an error that names it.

use std::fmt;

/// Expressions that a template may have, for errors.
const ALLOWED: &str = "text, {{ .Field }} and {{ label \"key\" }}";

/// Stands in a name for a value that there is not, as in Go.
const NO_VALUE: &str = "<no value>";

/// A template that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Asks(Ask),
}

/// A value that a template asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The field with this name.
    Field(String),
    /// The label with this key.
    Label(String),
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "{{{{ .{name} }}}}"),
            Self::Label(key) => write!(f, "{{{{ label {key:?} }}}}"),
        }
    }
}

/// A fault of a template: found and allowed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) found: String,
    pub(super) allowed: String,
}

/// A name in which values are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The name, with a mark where a value is missing.
    pub(super) text: String,
    /// The expression of the first value that is missing.
    pub(super) first: String,
}

impl Template {
    /// Parses a template.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let mut parts = Vec::new();
        let mut rest = text;
        // The last expression takes away the white space behind it.
        let mut trims = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (trims_before, after) = match after.strip_prefix('-') {
                Some(inner) if inner.starts_with(char::is_whitespace) => (true, inner),
                _ => (false, after),
            };
            let end = end_of_action(after)
                .ok_or_else(|| fault(format!("{text:?}, with a {{{{ without its }}}}")))?;
            let action = &after[..end];
            let before = if trims { before.trim_start() } else { before };
            push_text(&mut parts, if trims_before { before.trim_end() } else { before });
            let inner = action.strip_suffix('-').filter(|inner| inner.ends_with(char::is_whitespace));
            trims = inner.is_some();
            match action_of(inner.unwrap_or(action).trim())? {
                Some(Part::Text(constant)) => push_text(&mut parts, &constant),
                Some(asks) => parts.push(asks),
                None => {}
            }
            rest = &after[end + "}}".len()..];
        }
        push_text(&mut parts, if trims { rest.trim_start() } else { rest });
        Ok(Self(parts))
    }

    /// Returns the values that the template asks for, in their order.
    pub(super) fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.0.iter().filter_map(|part| match part {
            Part::Asks(ask) => Some(ask),
            Part::Text(_) => None,
        })
    }

    /// Returns the end that all its names have: what stands behind the last value, with a dot in it at least.
    pub(super) fn end(&self) -> Option<&str> {
        match self.0.last()? {
            Part::Text(end) if end.contains('.') => Some(end),
            Part::Text(_) | Part::Asks(_) => None,
        }
    }

    /// Puts values in their places.
    pub(super) fn render<'v>(&self, value: impl Fn(&Ask) -> Option<&'v str>) -> Result<String, Missing> {
        let (mut text, mut first) = (String::new(), None);
        for part in &self.0 {
            match part {
                Part::Text(constant) => text.push_str(constant),
                Part::Asks(ask) => match value(ask) {
                    Some(value) => text.push_str(value),
                    None => {
                        text.push_str(NO_VALUE);
                        first.get_or_insert_with(|| ask.to_string());
                    }
                },
            }
        }
        match first {
            None => Ok(text),
            Some(first) => Err(Missing { text, first }),
        }
    }
}

fn fault(found: String) -> Fault {
    Fault { found, allowed: ALLOWED.into() }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.into())),
    }
}

/// Returns the place of the `}}` that ends an action; one in quotes ends none.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(open) if letter == '\\' && open != '`' => escaped = true,
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if "\"'`".contains(letter) => quote = Some(letter),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// Returns the meaning of an action; a comment has none.
fn action_of(action: &str) -> Result<Option<Part>, Fault> {
    if action.starts_with("/*") && action.ends_with("*/") && action.len() >= "/**/".len() {
        return Ok(None);
    }
    let unknown = || fault(format!("{{{{ {action} }}}}"));
    if let Some(name) = action.strip_prefix('.') {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let is_name = !name.is_empty()
            && name.chars().all(fits)
            && !name.starts_with(|first: char| first.is_ascii_digit());
        return if is_name { Ok(Some(Part::Asks(Ask::Field(name.into())))) } else { Err(unknown()) };
    }
    if let Some(argument) = action.strip_prefix("label").filter(|rest| !rest.starts_with(is_word)) {
        let key = constant(argument.trim_start()).ok_or_else(unknown)?;
        return Ok(Some(Part::Asks(Ask::Label(key))));
    }
    constant(action).map(|text| Some(Part::Text(text))).ok_or_else(unknown)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '.'
}

/// Returns the text in quotes. Go has single ones for a letter; pages of Kuma have them around whole keys.
fn constant(quoted: &str) -> Option<String> {
    let open = quoted.chars().next().filter(|first| "\"'`".contains(*first))?;
    let inner = quoted[open.len_utf8()..].strip_suffix(open)?;
    if open == '`' {
        return (!inner.contains('`')).then(|| inner.into());
    }
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(letters.next().filter(|next| "\\\"'".contains(*next))?),
            letter if letter == open => return None,
            letter => text.push(letter),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(ask: &Ask) -> Option<&'static str> {
        match ask {
            Ask::Field(name) => [("Name", "web"), ("Zone", "east"), ("svc", "api"), ("Namespace", "")]
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| *value),
            Ask::Label(key) => (key == "team/x").then_some("blue"),
        }
    }

    #[test]
    fn values_take_the_place_of_expressions() {
        for (text, expected) in [
            ("", ""),
            ("fixed.mesh", "fixed.mesh"),
            ("{{ .Name }}.svc.{{ .Zone }}.mesh.local", "web.svc.east.mesh.local"),
            ("{{.svc}}.foo", "api.foo"),
            ("{{label \"team/x\"}}.mesh", "blue.mesh"),
            ("{{ label 'team/x' }}.mesh", "blue.mesh"),
            ("{{ label `team/x` }}.mesh", "blue.mesh"),
            ("a {{- .Name -}}  b", "awebb"),
            ("a {{- .Name }} b", "aweb b"),
            ("a \n{{ .Name -}} \n b", "a \nwebb"),
            ("a  {{- /* why */ -}}  b", "ab"),
            ("a {{- \" -}} \" }}b", "a -}} b"),
            ("{{ \"}}\" }}", "}}"),
            ("{{/* a note */}}{{ .Name }}", "web"),
            ("{{ .Namespace }}.x", ".x"),
        ] {
            let rendered = Template::parse(text).unwrap().render(value);
            assert_eq!(rendered.as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_go_has_more_is_named() {
        for text in [
            "{{ .Name",
            "{{ \"}}",
            "{{ }}",
            "{{ . }}",
            "{{ .Name.Inner }}",
            "{{ .1 }}",
            "{{ .a-b }}",
            "{{ Name }}",
            "{{ if .Name }}x{{ end }}",
            "{{ .Name | printf \"%s\" }}",
            "{{ label }}",
            "{{ label .Name }}",
            "{{ labels \"a\" }}",
            "{{ label \"a\" \"b\" }}",
            "{{ label \"a }}",
            "{{ label \"a\\/b\" }}",
            "{{ printf \"%s\" .Name }}",
        ] {
            let fault = Template::parse(text).unwrap_err();
            assert!(fault.found.contains("{{") && fault.allowed == ALLOWED, "{text}: {fault:?}");
        }
    }

    #[test]
    fn a_missing_value_is_named_and_marked() {
        let missing =
            Template::parse("{{ label \"a\" }}.{{ .Name }}.{{ .b }}").unwrap().render(value).unwrap_err();
        assert_eq!(missing.text, "<no value>.web.<no value>");
        assert_eq!(missing.first, "{{ label \"a\" }}");
        let asks: Vec<_> =
            Template::parse("{{ .Name }}{{ label 'k' }}").unwrap().asks().map(ToString::to_string).collect();
        assert_eq!(asks, ["{{ .Name }}", "{{ label \"k\" }}"]);
    }
}
