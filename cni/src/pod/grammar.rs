// SPDX-License-Identifier: Apache-2.0
//! The grammar of values: what a text must look like to become a port, a list of ports, a uid. Pure.
//!
//! Each function answers with what is allowed when the text is not; the caller adds the setting's name and the value.

use crate::redirect::policy::{Port, Ports, ProxyUid, Ranges, Toggle};

/// The most ranges in one list: each is a rule in the kernel.
const MAX_RANGES: usize = 1024;

/// What a value must look like.
pub type Allowed = String;

/// `enabled` or `disabled`.
pub fn toggle(text: &str) -> Result<Toggle, Allowed> {
    match text {
        "enabled" => Ok(Toggle::Enabled),
        "disabled" => Ok(Toggle::Disabled),
        _ => Err("enabled or disabled".to_owned()),
    }
}

/// The same as Kuma writes it: `true`, `false`, `yes` and `no` too.
pub fn kuma_toggle(text: &str) -> Result<Toggle, Allowed> {
    match text {
        "enabled" | "true" | "yes" => Ok(Toggle::Enabled),
        "disabled" | "false" | "no" => Ok(Toggle::Disabled),
        _ => Err("enabled, disabled, true, false, yes or no".to_owned()),
    }
}

/// A port from 1 to 65535.
pub fn port(text: &str) -> Result<Port, Allowed> {
    digits(text)
        .and_then(|digits| digits.parse().ok())
        .and_then(Port::new)
        .ok_or_else(|| "a port from 1 to 65535".to_owned())
}

/// A uid from 1 to 4294967294.
pub fn proxy_uid(text: &str) -> Result<ProxyUid, Allowed> {
    digits(text)
        .and_then(|digits| digits.parse().ok())
        .and_then(ProxyUid::new)
        .ok_or_else(|| "a uid from 1 to 4294967294".to_owned())
}

/// Ports and ranges: `80,443,8000-8999`.
pub fn ports(text: &str) -> Result<Ports, Allowed> {
    let allowed = || "ports from 1 to 65535 and ranges of them, as in 80,443,8000-8999".to_owned();
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim) {
        if ranges.len() == MAX_RANGES {
            return Err(format!("at most {MAX_RANGES} ports and ranges"));
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (port(first).map_err(|_| allowed())?, port(last).map_err(|_| allowed())?);
        if first > last {
            return Err(format!("{}, a range's smaller port first", allowed()));
        }
        ranges.push(first.get()..=last.get());
    }
    Ok(Ranges::new(ranges))
}

/// A number is digits only: `parse` would take a sign as well.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ports_are_sorted_and_joined() {
        let rows = [
            ("80", "80"),
            ("443,80", "80,443"),
            (" 80 , 81,82 ", "80-82"),
            ("1-65535", "1-65535"),
            ("8000-8999,8500-9500", "8000-9500"),
            ("65535,1", "1,65535"),
            ("0080", "80"),
        ];
        for (text, expected) in rows {
            assert_eq!(ports(text).map(|ports| ports.to_string()), Ok(expected.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_ports_is_refused() {
        for text in [
            "", ",", "80,", "0", "65536", "-1", "+80", "80-", "-80", "90-80", "http", "80;443", "1-2-3",
            "８０",
        ] {
            assert!(ports(text).is_err(), "{text:?}");
        }
        let many = (0..=MAX_RANGES).map(|n| (2 * n + 1).to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(ports(&many), Err("at most 1024 ports and ranges".to_owned()));
    }

    #[test]
    fn a_proxy_that_is_root_or_nobody_is_refused() {
        assert_eq!(proxy_uid("4294967294").map(ProxyUid::get), Ok(4_294_967_294));
        assert_eq!(proxy_uid("1000600000").map(ProxyUid::get), Ok(1_000_600_000));
        for text in ["0", "4294967295", "-1", "root", ""] {
            assert!(proxy_uid(text).is_err(), "{text:?}");
        }
    }
}
