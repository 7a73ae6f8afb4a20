// SPDX-License-Identifier: Apache-2.0
//! A tree of values, built within an allowance of memory. The items of a list leave it one by one.
//!
//! Aliases make a short text a large tree, and so do short values: a list of `x` takes 32 times its text. So the memory of
//! the tree counts, and not its text. A list of everything in a mesh is one document, and its tree
//! would take more than the documents that come of it; each of its items is a tree of its own instead.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Bytes of the largest tree: a Dataplane with 4,096 inbounds and 4,096 outbounds takes 8 MiB.
pub(crate) const MOST_BYTES: usize = 16 << 20;
/// Bytes that a value takes beside its text: its place among others, and the allocator's share.
const EACH: usize = 64;

/// Returns the bytes of a tree, counted as its allowance is.
pub(crate) fn memory(value: &Value) -> usize {
    let below = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(memory).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| EACH + key.len() + memory(value)).sum(),
    };
    EACH + below
}

/// Takes the items of a list.
pub(crate) type Items<'f> = &'f mut dyn FnMut(Value);

/// Builds a tree.
pub(crate) struct Tree<'b, 'f> {
    /// Bytes that are left of the allowance.
    left: &'b Cell<usize>,
    place: Place<'f>,
}

/// Place of the value in the document.
enum Place<'f> {
    /// The whole document: its field `items` is taken apart.
    Document(Items<'f>),
    /// The field `items` of the document.
    Items(Items<'f>),
    Below,
}

impl<'b, 'f> Tree<'b, 'f> {
    /// Begins a document. The tree that it becomes has an empty list where the items were.
    pub(crate) fn document(left: &'b Cell<usize>, items: Items<'f>) -> Self {
        Self { left, place: Place::Document(items) }
    }

    fn spend<E: Error>(&self, text: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(EACH + text);
        let left = left.ok_or_else(|| {
            E::custom(format_args!("found values that take more than {MOST_BYTES} bytes of memory"))
        })?;
        self.left.set(left);
        Ok(())
    }

    fn leaf<E: Error>(&self, value: impl Into<Value>) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.leaf(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.leaf(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.leaf(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let left = self.left;
        let below = || Tree { left, place: Place::Below };
        let mut list = Vec::new();
        if let Place::Items(take) = self.place {
            // What is outside of the list has its own allowance.
            let outside = left.get();
            loop {
                left.set(MOST_BYTES);
                let Some(item) = items.next_element_seed(below())? else { break };
                take(item);
            }
            left.set(outside);
        } else {
            while let Some(item) = items.next_element_seed(below())? {
                list.push(item);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let left = self.left;
        let mut take = match self.place {
            Place::Document(take) => Some(take),
            Place::Items(_) | Place::Below => None,
        };
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let place = take.take_if(|_| key == "items").map_or(Place::Below, Place::Items);
            Tree { left, place: Place::Below }.spend::<A::Error>(key.len())?;
            let value = entries.next_value_seed(Tree { left, place })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key: text, also where it looks like a number.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        Ok(key.into())
    }

    fn visit_string<E: Error>(self, key: String) -> Result<String, E> {
        Ok(key)
    }
}
