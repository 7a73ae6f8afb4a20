// SPDX-License-Identifier: Apache-2.0
//! Query strings: `a=1&b=%5Ex` → pairs.

/// Splits and decodes a query string; a key without `=` has an empty value.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// Undoes percent-encoding. Other text stays as it is; `+` too, as it has a meaning in a regular expression and `curl` does
/// not encode it.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if first == b'%'
            && let (Some(high), Some(low)) = (digit(0), digit(1))
        {
            bytes.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        for (query, expected) in [
            ("", vec![]),
            ("filter=cx", vec![("filter", "cx")]),
            ("filter=%5Ecluster%5C..%2A&format=json", vec![("filter", "^cluster\\..*"), ("format", "json")]),
            ("a+b=%&c=%4", vec![("a+b", "%"), ("c", "%4")]),
            ("usedonly&x==", vec![("usedonly", ""), ("x", "=")]),
            ("x=%ff", vec![("x", "\u{fffd}")]),
        ] {
            let got = pairs(query);
            let got: Vec<_> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(got, expected, "{query}");
        }
    }
}
