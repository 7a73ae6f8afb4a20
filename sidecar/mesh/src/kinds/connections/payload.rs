// SPDX-License-Identifier: Apache-2.0
//! Bytes that a check sends or expects.

use crate::read::{At, Read};
use serde_json::{Value, json};

/// Most bytes of one payload. A check reads 64 KiB at most, so an answer with a few of these is found.
pub const LONGEST_PAYLOAD: usize = 16 * 1024;

/// Bytes as a MeshHealthCheck has them: its text as it stands.
///
/// Kuma's pages say Base64. Its control plane hands the text to Envoy undecoded, so that is what servers get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

/// Bytes as a HealthCheck has them: Base64, which Kuma decodes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(pub Vec<u8>);

fn is_long_enough(bytes: &[u8]) -> bool {
    (1..=LONGEST_PAYLOAD).contains(&bytes.len())
}

impl Read for Payload {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = value.as_str().map(str::as_bytes).filter(|bytes| is_long_enough(bytes));
        text.map(|bytes| Self(bytes.into())).or_else(|| at.wrong(value, "a text of 1 to 16384 bytes"))
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": LONGEST_PAYLOAD})
    }
}

impl Read for Encoded {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let bytes = value.as_str().and_then(decode).filter(|bytes| is_long_enough(bytes));
        bytes.map(Self).or_else(|| at.wrong(value, "1 to 16384 bytes in Base64, as Zm9v for foo"))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[A-Za-z0-9+/_-]+={0,2}$"})
    }
}

/// Decodes Base64 in either alphabet, with padding or without, as protobuf's JSON takes it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let padding = text.len() - digits.len();
    let fits = match digits.len() % 4 {
        0 => padding == 0,
        2 => padding == 0 || padding == 2,
        3 => padding == 0 || padding == 1,
        _ => false,
    };
    if !fits {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_in_either_alphabet_with_padding_or_without() {
        for (text, bytes) in [
            ("Zm9v", &b"foo"[..]),
            ("YmF6", b"baz"),
            ("cGluZwo=", b"ping\n"),
            ("cGluZwo", b"ping\n"),
            ("YQ==", b"a"),
            ("YQ", b"a"),
            ("+/8=", &[0xfb, 0xff]),
            ("-_8", &[0xfb, 0xff]),
            ("", b""),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Z", "Zm9vY", "Zm9v=", "YQ=", "YQ===", "Zm 9", "Zm9é", "=Zm9", "Zm=9"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
