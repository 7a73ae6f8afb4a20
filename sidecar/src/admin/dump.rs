// SPDX-License-Identifier: Apache-2.0
//! JSON as Envoy prints its configuration: one space for each level, and the fields that people look for first in the order
//! of protobuf's numbers.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use serde_json::ser::PrettyFormatter;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Fields that come first, in this order.
const FIRST: [&str; 8] =
    ["@type", "name", "version_info", "active_state", "listener", "cluster", "address", "port_value"];
/// Fields that come last, in this order.
const LAST: [&str; 4] = ["use_original_dst", "traffic_direction", "bind_to_port", "last_updated"];

struct Ordered<'v>(&'v Value);

fn place(key: &str) -> usize {
    let last = || LAST.iter().position(|one| *one == key).map(|at| FIRST.len() + 1 + at);
    FIRST.iter().position(|one| *one == key).or_else(last).unwrap_or(FIRST.len())
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by_key(|(key, _)| place(key));
                let mut to = to.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    to.serialize_entry(key, &Ordered(value))?;
                }
                to.end()
            }
            Value::Array(items) => {
                let mut to = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    to.serialize_element(&Ordered(item))?;
                }
                to.end()
            }
            other => other.serialize(to),
        }
    }
}

/// Formats JSON as Envoy does.
pub(super) fn text(value: &Value) -> String {
    let mut text = Vec::new();
    let format = PrettyFormatter::with_indent(b" ");
    let written = Ordered(value).serialize(&mut serde_json::Serializer::with_formatter(&mut text, format));
    // Neither a Vec nor a Value can fail.
    debug_assert!(written.is_ok());
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
}

/// Names a configuration in the shape of Kong Mesh's: a UUID (version 8, made from the content).
pub(super) fn version(of: &[Value]) -> String {
    let text = of.iter().map(Value::to_string).collect::<Vec<_>>().concat();
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    let bits = half(0) << 64 | half(1);
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 0x8 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Protobuf's spelling: seconds, with as many decimals as it needs.
pub(super) fn duration(duration: Duration) -> String {
    let mut text = duration.as_secs().to_string();
    if duration.subsec_nanos() != 0 {
        let decimals = format!("{:09}", duration.subsec_nanos());
        let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_people_look_for_come_first() {
        let value =
            json!({"last_updated": 1, "active_state": [{}], "name": "n", "filter": null, "@type": "t"});
        let expected = "{\n \"@type\": \"t\",\n \"name\": \"n\",\n \"active_state\": [\n  {}\n ],\n \"filter\": null,\n \"last_updated\": 1\n}\n";
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn a_version_is_a_uuid_that_changes_with_what_it_names() {
        let one = version(&[json!({"a": 1})]);
        assert_eq!(one, version(&[json!({"a": 1})]));
        assert_ne!(one, version(&[json!({"a": 2})]));
        let groups: Vec<_> = one.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{one}");
        assert_eq!(&one[14..15], "8", "{one}");
        assert!("89ab".contains(&one[19..20]), "{one}");
    }
}
