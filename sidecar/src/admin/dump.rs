// SPDX-License-Identifier: Apache-2.0
//! JSON as Envoy prints its configuration: one space for each level, and the fields that people look for first in the order
//! of protobuf's numbers.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Fields that come first, in this order.
const FIRST: [&str; 8] =
    ["@type", "name", "version_info", "active_state", "listener", "cluster", "address", "port_value"];
/// Fields that come last, in this order.
const LAST: [&str; 4] = ["use_original_dst", "traffic_direction", "bind_to_port", "last_updated"];

/// Objects with an order of their own, which protobuf's numbers give their fields: by the last word of their type, or by the
/// field that they stand in.
const ORDERS: [(&str, &[&str]); 13] = [
    (
        "HttpConnectionManager",
        &[
            "stat_prefix",
            "route_config",
            "http_filters",
            "forward_client_cert_details",
            "set_current_client_cert_details",
            "stream_idle_timeout",
            "common_http_protocol_options",
            "request_headers_timeout",
        ],
    ),
    ("TcpProxy", &["stat_prefix", "cluster", "max_connect_attempts", "idle_timeout", "weighted_clusters"]),
    ("HTTPFault", &["delay", "abort", "headers", "response_rate_limit"]),
    (
        "LocalRateLimit",
        &[
            "stat_prefix",
            "status",
            "token_bucket",
            "filter_enabled",
            "filter_enforced",
            "response_headers_to_add",
        ],
    ),
    ("route_config", &["name", "virtual_hosts", "validate_clusters", "request_headers_to_remove"]),
    ("virtual_hosts", &["name", "domains", "routes"]),
    ("routes", &["match", "route", "typed_per_filter_config"]),
    ("route", &["cluster", "weighted_clusters", "timeout", "retry_policy", "hash_policy"]),
    ("retry_policy", &["retry_on", "num_retries"]),
    ("headers", &["name", "invert_match", "string_match"]),
    ("percentage", &["numerator", "denominator"]),
    ("token_bucket", &["max_tokens", "tokens_per_fill", "fill_interval"]),
    ("matchers", &["predicate", "on_match"]),
];

/// A value, and the field that it stands in.
struct Ordered<'v>(&'v Value, &'v str);

fn place(key: &str) -> usize {
    let last = || LAST.iter().position(|one| *one == key).map(|at| FIRST.len() + 1 + at);
    FIRST.iter().position(|one| *one == key).or_else(last).unwrap_or(FIRST.len())
}

/// Returns the order of an object's fields behind its type, if it has one of its own.
fn order(of: &Map<String, Value>, stands_in: &str) -> Option<&'static [&'static str]> {
    let kind = of.get("@type").and_then(Value::as_str).and_then(|kind| kind.rsplit('.').next());
    let name = kind.unwrap_or(stands_in);
    ORDERS.iter().find(|(of, _)| *of == name).map(|(_, order)| *order)
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let order = order(map, self.1);
                let place = |key: &str| match order {
                    Some(_) if key == "@type" => 0,
                    Some(order) => 1 + order.iter().position(|one| *one == key).unwrap_or(order.len()),
                    None => place(key),
                };
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by_key(|(key, _)| place(key));
                let mut to = to.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    to.serialize_entry(key, &Ordered(value, key))?;
                }
                to.end()
            }
            Value::Array(items) => {
                let mut to = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    to.serialize_element(&Ordered(item, self.1))?;
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
    let written =
        Ordered(value, "").serialize(&mut serde_json::Serializer::with_formatter(&mut text, format));
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

/// Protobuf's spelling: seconds, with as many groups of three decimals as it needs.
pub(super) fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
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
    fn objects_with_an_order_of_their_own_have_it() {
        let proxy =
            json!({"@type": "a.v3.TcpProxy", "z": 1, "idle_timeout": 2, "cluster": 3, "stat_prefix": 4});
        let route = json!({"route": {"timeout": 1, "cluster": 2}, "match": 3});
        for (value, expected) in [
            (json!([proxy]), &["@type", "stat_prefix", "cluster", "idle_timeout", "z"][..]),
            (json!({"routes": [route]}), &["routes", "match", "route", "cluster", "timeout"]),
            (
                json!({"percentage": {"denominator": 1, "numerator": 2}}),
                &["percentage", "numerator", "denominator"],
            ),
        ] {
            let text = text(&value);
            let keys: Vec<_> =
                text.split('"').filter(|word| text.contains(&format!("\"{word}\":"))).collect();
            assert_eq!(keys, expected, "{text}");
        }
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
