// SPDX-License-Identifier: Apache-2.0
//! From a tree of values to typed structs: every error with its place, and none hides another.
//!
//! `fields!` makes three things of one list of fields: the struct, its reader, and its JSON
//! Schema. So what the schema says, what the reader takes and what the error lists as allowed cannot differ.

pub(crate) mod hosts;
pub(crate) mod log_fields;
pub(crate) mod part;
pub(crate) mod problems;
pub(crate) mod tree;
pub(crate) mod values;
pub(crate) mod yaml;

pub(crate) use problems::{At, FieldWithoutEffect, Problem, Problems, describe};
pub(crate) use values::{Lifetime, UrlPath};

use crate::model::labels::Labels;
use crate::model::tags::Tags;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A value that a document can have.
pub trait Read: Sized {
    /// Reads the value; `None` for a wrong one, whose problem is noted.
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self>;
    /// Returns the JSON Schema of the value.
    fn schema() -> Value;
}

impl Read for String {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => at.wrong(value, "text; put it in quotes"),
            _ => at.wrong(value, "text"),
        }
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Read for bool {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        value.as_bool().or_else(|| at.wrong(value, "true or false"))
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

impl Read for u32 {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let number = value.as_u64().and_then(|number| Self::try_from(number).ok());
        number.or_else(|| at.wrong(value, "a number from 0 to 4294967295"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
    }
}

impl Read for IpAddr {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let ip = value.as_str().and_then(|text| text.parse::<Self>().ok());
        ip.map(|ip| ip.to_canonical())
            .or_else(|| at.wrong(value, "an IPv4 or IPv6 address; names are not looked up"))
    }

    fn schema() -> Value {
        json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let Some(items) = value.as_array() else { return at.wrong(value, "a list") };
        let read = items.iter().enumerate().map(|(index, item)| at.item(index, |at| T::read(item, at)));
        // Every item is read before a wrong one makes the list wrong, so that each error is reported.
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

/// A list of at most one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtMostOne<T>(pub Option<T>);

impl<T: Read> Read for AtMostOne<T> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let many = value.as_array().is_some_and(|items| items.len() > 1);
        if many {
            at.problem(describe(value), "one entry");
        }
        let items = Vec::<T>::read(value, at)?;
        (!many).then(|| Self(items.into_iter().next()))
    }

    fn schema() -> Value {
        json!({"type": "array", "maxItems": 1, "items": T::schema()})
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl Read for Port {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let port = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
        port.map(Self).or_else(|| at.wrong(value, "a port from 1 to 65535"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 1, "maximum": u16::MAX})
    }
}

/// A port that the sidecar redirects to; 0 = no redirect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedirectPort(pub u16);

impl Read for RedirectPort {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let port = value.as_u64().and_then(|number| u16::try_from(number).ok());
        port.map(Self).or_else(|| at.wrong(value, "a port from 0 to 65535; 0 = no redirect"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0, "maximum": u16::MAX})
    }
}

impl<T: Read> Read for Arc<T> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        T::read(value, at).map(Self::new)
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl Read for Tags {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        /// The rule is Kuma's: tags become parts of names in statistics.
        const ALLOWED: &str =
            "1 to 253 of letters, digits, '-', '_', '.', ':' and '/' (or \"*\" in a selector)";
        let Some(map) = value.as_object() else { return at.wrong(value, "a mapping of tags to text") };
        let fits = |text: &str| {
            (1..=253).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
        };
        let before = at.count();
        let mut tags = BTreeMap::new();
        for (key, value) in map {
            at.field(key, |at| {
                if !fits(key) {
                    at.problem(format!("the tag {key:?}"), ALLOWED);
                }
                let Some(text) = String::read(value, at) else { return };
                if text != "*" && !fits(&text) {
                    at.problem(describe(value), ALLOWED);
                }
                tags.insert(key.clone(), text);
            });
        }
        (at.count() == before).then_some(Self(tags))
    }

    fn schema() -> Value {
        let text = json!({"type": "string", "minLength": 1, "maxLength": 253});
        json!({"type": "object", "additionalProperties": text})
    }
}

impl Read for Labels {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let Some(map) = value.as_object() else { return at.wrong(value, "a mapping of labels to text") };
        let before = at.count();
        let read = |(key, value): (&String, &Value)| {
            at.field(key, |at| String::read(value, at)).map(|text| (key.clone(), text))
        };
        let labels = map.iter().filter_map(read).collect();
        (at.count() == before).then_some(Self(labels))
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

/// A duration: Go's spelling (`10s`, `1m30s`, `500ms`, `3h`) or protobuf's (`1.5s`). 0 = none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// Returns the duration, `None` for 0.
    pub fn get(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl Read for Span {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = value.as_str().unwrap_or_default();
        let whole = crate::model::duration::parse(text).ok();
        whole.or_else(|| decimal_seconds(text)).map(Self).or_else(|| {
            at.wrong(value, "a duration of at most a year, as \"10s\", \"1.5s\", \"1m30s\" or \"3h\"")
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$|^[0-9]+\\.[0-9]{1,9}s$|^0$"})
    }
}

/// Reads protobuf's `1.5s`; whole seconds belong to Go's grammar.
fn decimal_seconds(text: &str) -> Option<Duration> {
    let (seconds, decimals) = text.strip_suffix('s')?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let whole = crate::model::duration::parse(&format!("{seconds}s")).ok()?;
    let nanos: u32 = format!("{decimals:0<9}").parse().ok()?;
    Some(whole + Duration::from_nanos(nanos.into()))
}

/// A field that is accepted with any value and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ignored;

impl Read for Ignored {
    fn read(_: &Value, _: &mut At<'_>) -> Option<Self> {
        Some(Self)
    }

    fn schema() -> Value {
        json!(true)
    }
}

/// A mapping whose fields are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping;

impl Read for Mapping {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        if value.is_object() { Some(Self) } else { at.wrong(value, "a mapping") }
    }

    fn schema() -> Value {
        json!({"type": "object"})
    }
}

/// A field that was read and checked, and has no effect on this pod's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEffect;

/// The fields of a mapping, taken one by one; a field that is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Fields<'v> {
    map: &'v Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'v> Fields<'v> {
    /// Returns the fields of a mapping; another value is a problem.
    pub(crate) fn of(value: &'v Value, at: &mut At<'_>) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { map, known: Vec::new() }),
            _ => at.wrong(value, "a mapping"),
        }
    }

    /// Reads a field by the first of its names; an absent field and `null` are the same.
    pub(crate) fn take<T: Read>(&mut self, keys: &[&'static str], at: &mut At<'_>) -> Option<T> {
        self.known.extend(keys);
        let mut there =
            keys.iter().filter_map(|key| Some((*key, self.map.get(*key).filter(|v| !v.is_null())?)));
        let (key, value) = there.next()?;
        if let Some((second, _)) = there.next() {
            at.field(second, |at| at.problem("the same field a second time", format!("{key} or {second}")));
        }
        at.field(key, |at| T::read(value, at))
    }

    /// Reads a field that has to be there.
    pub(crate) fn require<T: Read>(&mut self, keys: &[&'static str], at: &mut At<'_>) -> Option<T> {
        let before = at.count();
        let read = self.take(keys, at);
        if read.is_none() && at.count() == before {
            at.field(keys[0], |at| at.problem("nothing", "this field is required"));
        }
        read
    }

    /// Reads a field that has no effect here and notes that. `about` says what Kuma has it for.
    pub(crate) fn without_effect<T: Read>(
        &mut self,
        keys: &[&'static str],
        about: &'static str,
        at: &mut At<'_>,
    ) -> NoEffect {
        if self.take::<T>(keys, at).is_some() {
            at.field(keys[0], |at| at.note_no_effect(about));
        }
        NoEffect
    }

    /// Reports every field that was not taken: culvert does not have it.
    pub(crate) fn finish(self, at: &mut At<'_>) {
        for (key, value) in self.map {
            if !self.known.contains(&key.as_str()) && !value.is_null() {
                let found = format!("a field that culvert does not have, {}", describe(value));
                at.note_unknown_field();
                at.field(key, |at| at.problem(found, self.known.join(", ")));
            }
        }
    }
}

/// Returns the schema of a mapping, with one property for each name of each field.
pub(crate) fn object_schema(doc: &str, fields: &[(&[&str], &str, bool, Value)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (keys, doc, must, schema) in fields {
        for key in *keys {
            let mut schema = schema.clone();
            if let (Some(schema), false) = (schema.as_object_mut(), doc.is_empty()) {
                schema.insert("description".into(), doc.trim().into());
            }
            properties.insert((*key).into(), schema);
        }
        // One of several names is enough, and a list of required names cannot express that.
        if *must && keys.len() == 1 {
            required.push(keys[0]);
        }
    }
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !doc.trim().is_empty() {
        schema["description"] = doc.trim().into();
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// A struct, its reader and its schema from one list of fields. A field is `name: Type = "key" | "other key"`, where
/// the type is `required T`, `optional T` (an `Option<T>`), `default T` (`T::default()` where it is absent) or
/// `no_effect T` (checked and not kept; its documentation is the reason in a warning).
macro_rules! fields {
    ($(#[doc = $doc:literal])* $vis:vis struct $name:ident {
        $($(#[doc = $field_doc:literal])* $field:ident: $kind:ident $type:ty = $($key:literal)|+,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[doc = $field_doc])* $vis $field: $crate::read::fields!(@type $kind $type),)*
        }

        impl $crate::read::Read for $name {
            fn read(value: &serde_json::Value, at: &mut $crate::read::At<'_>) -> Option<Self> {
                let before = at.count();
                let mut fields = $crate::read::Fields::of(value, at)?;
                $(let $field = $crate::read::fields!(@read $kind [$type] fields at [$($field_doc)*] $($key)|+);)*
                fields.finish(at);
                if at.count() != before {
                    return None;
                }
                Some(Self { $($field: $crate::read::fields!(@keep $kind $field),)* })
            }

            fn schema() -> serde_json::Value {
                $crate::read::object_schema(concat!($($doc, "\n",)* ""), &[
                    $((
                        &[$($key),+],
                        concat!($($field_doc, "\n",)* ""),
                        $crate::read::fields!(@must $kind),
                        <$type as $crate::read::Read>::schema(),
                    ),)*
                ])
            }
        }
    };
    (@type optional $type:ty) => { Option<$type> };
    (@type no_effect $type:ty) => { $crate::read::NoEffect };
    (@type $kind:ident $type:ty) => { $type };
    (@read required [$type:ty] $fields:ident $at:ident [$($doc:literal)*] $($key:literal)|+) => {
        $fields.require(&[$($key),+], $at)
    };
    (@read no_effect [$type:ty] $fields:ident $at:ident [$($doc:literal)*] $($key:literal)|+) => {
        $fields.without_effect::<$type>(&[$($key),+], concat!($($doc),*), $at)
    };
    (@read $kind:ident [$type:ty] $fields:ident $at:ident [$($doc:literal)*] $($key:literal)|+) => {
        $fields.take(&[$($key),+], $at)
    };
    (@keep required $field:ident) => { $field? };
    (@keep optional $field:ident) => { $field };
    (@keep no_effect $field:ident) => { $field };
    (@keep default $field:ident) => { $field.unwrap_or_default() };
    (@must required) => { true };
    (@must $kind:ident) => { false };
}
pub(crate) use fields;

/// An enum of words, its reader and its schema.
macro_rules! words {
    ($(#[doc = $doc:literal])* $vis:vis enum $name:ident {
        $($(#[doc = $word_doc:literal])* $word:ident = $($text:literal)|+,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[doc = $word_doc])* $word,)*
        }

        impl $crate::read::Read for $name {
            fn read(value: &serde_json::Value, at: &mut $crate::read::At<'_>) -> Option<Self> {
                match value.as_str() {
                    $($(Some($text))|+ => Some(Self::$word),)*
                    _ => at.wrong(value, [$($($text),+),*].join(", ")),
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"type": "string", "enum": [$($($text),+),*]})
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests;
