// SPDX-License-Identifier: Apache-2.0
//! Names of hosts, as documents, TLS and HTTP spell them.

use std::net::IpAddr;

/// Longest name of a host (RFC 1035, 2.3.4), without the dot at its end.
const LONGEST: usize = 253;
/// Longest part between two dots.
const LONGEST_LABEL: usize = 63;

/// Returns a host's name in lower case and without the dot at its end; `None` for an address, and for text that names no host.
///
/// An underscore is allowed, as in Kuma: names of services have it.
pub fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let fits = text.len() <= LONGEST && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err();
    fits.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_one_spelling() {
        for (text, name) in [
            ("example.com", "example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("localhost", "localhost"),
            ("demo-client_mesh_svc_80.mesh", "demo-client_mesh_svc_80.mesh"),
            ("_sip.a", "_sip.a"),
            ("1.2.3", "1.2.3"),
        ] {
            assert_eq!(host_name(text).as_deref(), Some(name), "{text}");
        }
        let longest = format!("{}a", "a.".repeat(126));
        assert_eq!((longest.len(), host_name(&longest).is_some()), (253, true));
    }

    #[test]
    fn what_names_no_host_is_none() {
        let long_label = format!("{}.a", "a".repeat(64));
        let long = "a.".repeat(127) + "a";
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "-a.b",
            "a.-b",
            "a b",
            "a,b",
            "a/b",
            "a:1",
            "a@b",
            "*.a",
            "bücher.de",
            "a\0b",
            "a\r\nb",
            "1.2.3.4",
            "1.2.3.4.",
            "::1",
            "[::1]",
            &long_label,
            &long,
        ] {
            assert_eq!(host_name(text), None, "{text:?}");
        }
    }
}
