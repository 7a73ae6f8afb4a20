// SPDX-License-Identifier: Apache-2.0
//! The grammar of values: ports, lists of ports, networks, uids. Pure.
//!
//! The error of each function names the allowed values; the caller adds the setting's name and its value.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::redirect::policy::{
    Port, Ports, Protocol, ProxyUid, Ranges, Toggle, UidExclusion, VirtualInterface,
};

/// Limit for the ranges in one list: each becomes a rule in the kernel.
const MAX_RANGES: usize = 1024;

/// Limit for the exclusions by uid; each may have [`MAX_RANGES`] ports.
const MAX_EXCLUSIONS: usize = 64;

/// Description of the allowed values, for an error message.
pub(crate) type Allowed = String;

/// Parse `enabled` or `disabled`.
pub(crate) fn toggle(text: &str) -> Result<Toggle, Allowed> {
    match text {
        "enabled" => Ok(Toggle::Enabled),
        "disabled" => Ok(Toggle::Disabled),
        _ => Err("enabled or disabled".to_owned()),
    }
}

/// Parse a toggle that may also be spelled `true` or `false`.
pub(crate) fn toggle_or_bool(text: &str) -> Result<Toggle, Allowed> {
    match text {
        "true" => Ok(Toggle::Enabled),
        "false" => Ok(Toggle::Disabled),
        _ => toggle(text).map_err(|_| "enabled, disabled, true or false".to_owned()),
    }
}

/// Parse a toggle in Kuma's spellings: also `true`, `false`, `yes` and `no`.
pub(crate) fn kuma_toggle(text: &str) -> Result<Toggle, Allowed> {
    match text {
        "enabled" | "true" | "yes" => Ok(Toggle::Enabled),
        "disabled" | "false" | "no" => Ok(Toggle::Disabled),
        _ => Err("enabled, disabled, true, false, yes or no".to_owned()),
    }
}

/// Parse a port from 1 to 65535.
pub(crate) fn port(text: &str) -> Result<Port, Allowed> {
    digits(text)
        .and_then(|digits| digits.parse().ok())
        .and_then(Port::new)
        .ok_or_else(|| "a port from 1 to 65535".to_owned())
}

/// Parse a uid from 1 to 4294967294.
pub(crate) fn proxy_uid(text: &str) -> Result<ProxyUid, Allowed> {
    digits(text)
        .and_then(|digits| digits.parse().ok())
        .and_then(ProxyUid::new)
        .ok_or_else(|| "a uid from 1 to 4294967294".to_owned())
}

/// Parse ports and ranges, as in `80,443,8000-8999`.
pub(crate) fn ports(text: &str) -> Result<Ports, Allowed> {
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

/// Parse IP addresses and networks of either family; bits behind the mask are cleared.
pub(crate) fn cidrs(text: &str) -> Result<Vec<IpNet>, Allowed> {
    list(text, "addresses and networks, as in 10.0.0.1,192.168.0.0/16,2001:db8::/32", cidr)
}

/// Parse IP addresses of either family.
pub(crate) fn addresses(text: &str) -> Result<Vec<IpAddr>, Allowed> {
    list(text, "disabled, all, or nameservers' addresses, as in 10.96.0.10,2001:db8::53", |part| {
        part.parse().ok()
    })
}

/// Parse a list of `interface:network`; a name that ends in `+` is a prefix.
pub(crate) fn virtual_interfaces(text: &str) -> Result<Vec<VirtualInterface>, Allowed> {
    list(text, "interfaces with their networks, as in docker0:172.17.0.0/16,br-+:fd00::/8", |part| {
        let (interface, net) = part.split_once(':')?;
        let (name, is_prefix) = match interface.trim().strip_suffix('+') {
            Some(beginning) => (beginning, true),
            None => (interface.trim(), false),
        };
        // A subset of the kernel's rules for names (dev_valid_name), without characters that could end a rule's text.
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '@');
        let good =
            !name.is_empty() && name.len() <= 15 && name.chars().all(allowed) && name != "." && name != "..";
        good.then_some(VirtualInterface { name: name.to_owned(), is_prefix, net: cidr(net.trim())? })
    })
}

/// Parse exclusions `[protocols:][ports:]uids`, separated by `;`.
pub(crate) fn uid_exclusions(text: &str) -> Result<Vec<UidExclusion>, Allowed> {
    let allowed = || {
        "entries [protocols:][ports:]uids, as in tcp:80,443:1234;udp:53:1000-1010; protocols are tcp, udp, tcp,udp or *; \
         ports a list or *; uids one or a range"
            .to_owned()
    };
    let parts: Vec<&str> = text.split(';').map(str::trim).collect();
    if parts.len() > MAX_EXCLUSIONS {
        return Err(format!("at most {MAX_EXCLUSIONS} entries"));
    }
    parts.into_iter().map(|part| uid_exclusion(part).ok_or_else(allowed)).collect()
}

fn uid_exclusion(text: &str) -> Option<UidExclusion> {
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    let (protocols, numbers, uids) = match parts[..] {
        [uids] => ("*", "*", uids),
        [ports, uids] => ("*", ports, uids),
        [protocols, ports, uids] => (protocols, ports, uids),
        _ => return None,
    };
    let protocols = match protocols {
        "" | "*" => vec![Protocol::Tcp, Protocol::Udp],
        list => {
            let mut found = Vec::new();
            for name in list.split(',').map(|name| name.trim().to_ascii_lowercase()) {
                let protocol = match name.as_str() {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    _ => return None,
                };
                if !found.contains(&protocol) {
                    found.push(protocol);
                }
            }
            found
        }
    };
    let ports = match numbers {
        "" | "*" => Ports::default(),
        list => ports(list).ok()?,
    };
    let (first, last) = uids.split_once('-').unwrap_or((uids, uids));
    let (first, last) = (any_uid(first)?, any_uid(last)?);
    (first <= last).then_some(UidExclusion { protocols, ports, uids: first..=last })
}

/// Parse a uid from 0 to 4294967294; the next number is the kernel's "no uid".
fn any_uid(text: &str) -> Option<u32> {
    digits(text.trim())?.parse().ok().filter(|uid| *uid != u32::MAX)
}

fn cidr(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

fn list<T: PartialEq>(
    text: &str,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Allowed> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim) {
        let one = parse(part).ok_or_else(|| allowed.to_owned())?;
        if found.len() == MAX_RANGES {
            return Err(format!("at most {MAX_RANGES} entries"));
        }
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Ok(found)
}

/// Returns the text if it consists of digits only: `parse` alone would accept a sign.
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
    fn malformed_lists_of_ports_are_refused() {
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
    fn a_proxy_uid_of_root_or_of_no_uid_is_refused() {
        assert_eq!(proxy_uid("4294967294").map(ProxyUid::get), Ok(4_294_967_294));
        assert_eq!(proxy_uid("1000600000").map(ProxyUid::get), Ok(1_000_600_000));
        for text in ["0", "4294967295", "-1", "root", ""] {
            assert!(proxy_uid(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks_of_either_family_are_parsed() {
        let shown = |text: &str| {
            cidrs(text).map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown("10.1.2.3/8, fd00::1"), Ok("10.0.0.0/8 fd00::1/128".to_owned()));
        assert_eq!(shown("0.0.0.0/0,::/0,0.0.0.0/0"), Ok("0.0.0.0/0 ::/0".to_owned()));
        for text in
            ["", "10.0.0.0/33", "10.0.0", "fe80::1%eth0", "10.0.0.1;10.0.0.2", "example.com", "::/129"]
        {
            assert!(cidrs(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn exclusions_by_uid_are_parsed() {
        let all = [Protocol::Tcp, Protocol::Udp];
        let rows: [(&str, &[Protocol], &str, std::ops::RangeInclusive<u32>); 7] = [
            ("1234", &all, "", 1234..=1234),
            ("80,443:1234", &all, "80,443", 1234..=1234),
            ("tcp:80-90:0", &[Protocol::Tcp], "80-90", 0..=0),
            ("udp:53:1000-1010", &[Protocol::Udp], "53", 1000..=1010),
            ("TCP,udp:*:1000600000", &all, "", 1_000_600_000..=1_000_600_000),
            ("*:*:7", &all, "", 7..=7),
            ("::7", &all, "", 7..=7),
        ];
        for (text, protocols, ports, uids) in rows {
            let found = uid_exclusions(text).expect(text);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].protocols, protocols, "{text}");
            assert_eq!(found[0].ports.to_string(), ports, "{text}");
            assert_eq!(found[0].uids, uids, "{text}");
        }
        assert_eq!(uid_exclusions("tcp:80:1;udp:53:2").map(|list| list.len()), Ok(2));
        let wrong = [
            "",
            "*",
            "tcp:80:*",
            "80:1,2",
            "sctp:80:1",
            "tcp:0:1",
            "tcp:80:1:2",
            "5-4",
            "4294967295",
            "-1",
            "1;",
            "tcp:x:1",
        ];
        for text in wrong {
            assert!(uid_exclusions(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn interfaces_are_parsed_with_their_networks() {
        let found = virtual_interfaces("docker0:172.17.0.1/16, br-+:fd00::/8").unwrap();
        assert_eq!((found[0].name.as_str(), found[0].is_prefix), ("docker0", false));
        assert_eq!((found[1].name.as_str(), found[1].is_prefix), ("br-", true));
        assert_eq!(found[0].net.to_string(), "172.17.0.0/16");
        let wrong = [
            "",
            "docker0",
            ":10.0.0.0/8",
            "+:10.0.0.0/8",
            "a b:10.0.0.0/8",
            "a/b:10.0.0.0/8",
            "docker0:x",
            "a\"b:10.0.0.0/8",
            "sixteen-bytes-16:10.0.0.0/8",
            "a+b:10.0.0.0/8",
        ];
        for text in wrong {
            assert!(virtual_interfaces(text).is_err(), "{text:?}");
        }
    }
}
