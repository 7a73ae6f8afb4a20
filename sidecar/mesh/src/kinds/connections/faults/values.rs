// SPDX-License-Identifier: Apache-2.0
//! Values of faults: a status, and a bandwidth.

use crate::read::{At, Read};
use serde_json::{Value, json};

/// Status of an answer, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultStatus(pub u16);

impl Read for FaultStatus {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
        // Kuma takes 100 to 199 as well, which Envoy then refuses: they are no final answers.
        let final_status = number.filter(|number| (200..=599).contains(number));
        final_status.map(Self).or_else(|| at.wrong(value, "a status from 200 to 599"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 200, "maximum": 599})
    }
}

/// A bandwidth above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// KiB in a second: what Kuma calls kbps is Envoy's `limit_kbps`, which counts these.
    pub kbps: u64,
}

impl Bandwidth {
    /// Reads `50mbps`, `100 kbps` or `1Gbps`: MeshFaultInjection has large letters, FaultInjection small ones.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.strip_prefix(' ').unwrap_or(unit) {
            "kbps" | "Kbps" => 1,
            "mbps" | "Mbps" => 1_000,
            "gbps" | "Gbps" => 1_000_000,
            _ => return None,
        };
        let kbps = number.parse::<u64>().ok()?.checked_mul(factor)?;
        (kbps > 0).then_some(Self { kbps })
    }
}

impl Read for Bandwidth {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let parsed = value.as_str().and_then(Self::parse);
        parsed.or_else(|| at.wrong(value, "a bandwidth above 0 in kbps, Mbps or Gbps, as \"50Mbps\""))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+ ?[kKmMgG]bps$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_in_all_units() {
        for (text, kbps) in [
            ("1kbps", 1),
            ("100 kbps", 100),
            ("50mbps", 50_000),
            ("50 Mbps", 50_000),
            ("2Gbps", 2_000_000),
            ("3gbps", 3_000_000),
            ("18446744073709551615kbps", u64::MAX),
        ] {
            assert_eq!(Bandwidth::parse(text), Some(Bandwidth { kbps }), "{text}");
        }
        for wrong in [
            "",
            "1000",
            "kbps",
            "0kbps",
            "-1kbps",
            "1.5mbps",
            "1  kbps",
            " 1kbps",
            "1kbps ",
            "1bps",
            "1MBPS",
            "1tbps",
            "18446744073709551615mbps",
            "\u{663}kbps",
        ] {
            assert_eq!(Bandwidth::parse(wrong), None, "{wrong:?}");
        }
    }
}
