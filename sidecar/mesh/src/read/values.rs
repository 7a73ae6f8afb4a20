// SPDX-License-Identifier: Apache-2.0
//! Readers of shares, and of values that are checked and have no effect here.

use super::{At, Read};
use crate::model::percentage::Percentage;
use serde_json::{Value, json};

/// A lifetime as Kuma has it for certificates: numbers with units, the largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime;

/// Units of a lifetime, in their order.
const UNITS: [&str; 7] = ["y", "w", "d", "h", "m", "s", "ms"];

fn is_lifetime(text: &str) -> bool {
    let (mut rest, mut units) = (text, &UNITS[..]);
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let unit = number.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
        let Some(at) = units.iter().position(|known| *known == unit) else { return false };
        if number.len() == rest.len() {
            return false;
        }
        (rest, units) = (&number[unit.len()..], &units[at + 1..]);
    }
    !text.is_empty()
}

impl Read for Lifetime {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let fits = value.as_str().is_some_and(|text| text == "0" || is_lifetime(text));
        if fits { Some(Self) } else { at.wrong(value, "a lifetime, as \"1y\", \"2w\", \"1d12h\" or \"24h\"") }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$|^0$"})
    }
}

impl Read for Percentage {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let share = match value {
            Value::String(text) => Self::parse(text),
            _ => value.as_f64().and_then(Self::of),
        };
        share.or_else(|| at.wrong(value, "a number from 0 to 100, as 50 or \"0.5\""))
    }

    fn schema() -> Value {
        json!({"anyOf": [
            {"type": "number", "minimum": 0, "maximum": 100},
            {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"},
        ]})
    }
}

/// The path of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath;

impl Read for UrlPath {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let fits = |text: &str| text.starts_with('/') && !text.contains(char::is_whitespace);
        if value.as_str().is_some_and(fits) {
            Some(Self)
        } else {
            at.wrong(value, "the path of a URL, as \"/healthz\"")
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^/\\S*$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_each_unit_at_most_once_and_the_largest_first() {
        for right in ["0", "1y", "2w", "24h", "1d12h", "10m", "90s", "5ms", "1y2w3d4h5m6s7ms"] {
            assert!(right == "0" || is_lifetime(right), "{right}");
        }
        for wrong in ["", "2e", "d", "1", "1h1d", "1h1h", "1 h", "-1h", "1.5h", "1hour", "1h 1m", "٣h"] {
            assert!(!is_lifetime(wrong), "{wrong}");
        }
    }
}
