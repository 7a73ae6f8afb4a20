// SPDX-License-Identifier: Apache-2.0
//! Target of a request, and the host that it and the Host field name.

use crate::refusal::Refusal;

/// Target of a request in one of its four forms (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Path and query: `/index?a=b`.
    Origin(&'a str),
    /// Whole URI: `http://host/index`.
    Absolute {
        /// URI as it was sent.
        uri: &'a str,
        /// Scheme.
        scheme: &'a str,
        /// Host and port.
        authority: &'a str,
    },
    /// Host and port of CONNECT.
    Authority(&'a str),
    /// `*` of OPTIONS.
    Asterisk,
}

impl<'a> Target<'a> {
    /// Reads the target of a request with this method.
    pub(super) fn read(method: &str, target: &'a str) -> Result<Self, Refusal> {
        if method == "CONNECT" {
            let with_port = host_and_port(target.as_bytes()).is_some_and(|(_, port)| port.is_some());
            return if with_port { Ok(Self::Authority(target)) } else { Err(Refusal::Target) };
        }
        if target.starts_with('/') {
            return Ok(Self::Origin(target));
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Self::Asterisk);
        }
        let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !is_scheme(scheme) || host_and_port(authority.as_bytes()).is_none() {
            return Err(Refusal::Target);
        }
        Ok(Self::Absolute { uri: target, scheme, authority })
    }

    /// Checks the Host field against the target. A server may route by either.
    pub(super) fn agrees_with(self, host: &[u8]) -> Result<(), Refusal> {
        // The field is empty where the target has no authority.
        if host.is_empty() && matches!(self, Self::Origin(_) | Self::Asterisk) {
            return Ok(());
        }
        let (field, field_port) = host_and_port(host).ok_or(Refusal::BadHost)?;
        let (authority, default) = match self {
            Self::Origin(_) | Self::Asterisk => return Ok(()),
            Self::Absolute { authority, scheme, .. } => (authority, default_port(scheme)),
            // Common clients leave the port out of the field.
            Self::Authority(authority) => (authority, None),
        };
        let (target, port) = host_and_port(authority.as_bytes()).ok_or(Refusal::Target)?;
        let same_port = match self {
            Self::Authority(_) => field_port.is_none() || field_port == port,
            _ => field_port.or(default) == port.or(default),
        };
        if same_port && target.eq_ignore_ascii_case(field) { Ok(()) } else { Err(Refusal::HostDiffers) }
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws") {
        Some(80)
    } else if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss") {
        Some(443)
    } else {
        None
    }
}

/// Splits `host`, `host:`, `host:port` and the same with an address in brackets. User information is none of them.
fn host_and_port(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, rest) = if text.first() == Some(&b'[') {
        let (host, rest) = text.split_at(text.iter().position(|byte| *byte == b']')? + 1);
        let within = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b":.%-_~".contains(byte);
        (!within.is_empty() && within.iter().all(allowed)).then_some((host, rest))?
    } else {
        let (host, rest) = text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len()));
        // Without the comma, which is what a reader makes of two fields, and `%`, which some decode and some refuse.
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte);
        (!host.is_empty() && host.iter().all(allowed)).then_some((host, rest))?
    };
    let port = match rest {
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            Some(std::str::from_utf8(digits).ok()?.parse().ok()?)
        }
        _ => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::refusal::Refusal;

    #[test]
    fn a_target_has_the_form_of_its_method() {
        let absolute = |uri, scheme, authority| Ok::<_, Refusal>(Target::Absolute { uri, scheme, authority });
        for (method, target, read) in [
            ("GET", "/a/../b//c%2F?d#f", Ok(Target::Origin("/a/../b//c%2F?d#f"))),
            ("GET", "//host/a", Ok(Target::Origin("//host/a"))),
            ("OPTIONS", "*", Ok(Target::Asterisk)),
            ("GET", "*", Err(Refusal::Target)),
            ("OPTIONS", "/*", Ok(Target::Origin("/*"))),
            ("GET", "a", Err(Refusal::Target)),
            ("GET", "host:80", Err(Refusal::Target)),
            ("GET", "http://h", absolute("http://h", "http", "h")),
            ("GET", "HTTPS://h:443?a", absolute("HTTPS://h:443?a", "HTTPS", "h:443")),
            ("GET", "http://[::1]:8/#a", absolute("http://[::1]:8/#a", "http", "[::1]:8")),
            ("GET", "http:///a", Err(Refusal::Target)),
            ("GET", "http://user@h/a", Err(Refusal::Target)),
            ("GET", "http://h\\@other/a", Err(Refusal::Target)),
            ("GET", "1http://h/a", Err(Refusal::Target)),
            ("GET", "http://%68/a", Err(Refusal::Target)),
            ("GET", "://h/a", Err(Refusal::Target)),
            ("CONNECT", "h:443", Ok(Target::Authority("h:443"))),
            ("CONNECT", "[::1]:443", Ok(Target::Authority("[::1]:443"))),
            ("CONNECT", "h", Err(Refusal::Target)),
            ("CONNECT", "h:", Err(Refusal::Target)),
            ("CONNECT", "h:65536", Err(Refusal::Target)),
            ("CONNECT", "/", Err(Refusal::Target)),
            ("CONNECT", "http://h:443", Err(Refusal::Target)),
        ] {
            assert_eq!(Target::read(method, target), read, "{method} {target}");
        }
    }

    #[test]
    fn the_host_field_names_the_targets_host() {
        for (method, target, host, agrees) in [
            ("GET", "/", "h", Ok(())),
            ("GET", "/", "", Ok(())),
            ("OPTIONS", "*", "", Ok(())),
            ("GET", "/", "a.b-c_d:8080", Ok(())),
            ("GET", "/", "[fe80::1%25eth0]:80", Ok(())),
            ("GET", "/", "a, b", Err(Refusal::BadHost)),
            ("GET", "/", "a b", Err(Refusal::BadHost)),
            ("GET", "/", "a,b", Err(Refusal::BadHost)),
            ("GET", "/", "a/b", Err(Refusal::BadHost)),
            ("GET", "/", "u@a", Err(Refusal::BadHost)),
            ("GET", "/", "%61", Err(Refusal::BadHost)),
            ("GET", "/", "a:b", Err(Refusal::BadHost)),
            ("GET", "/", "a:+8", Err(Refusal::BadHost)),
            ("GET", "/", ":80", Err(Refusal::BadHost)),
            ("GET", "/", "[]", Err(Refusal::BadHost)),
            ("GET", "/", "[::1", Err(Refusal::BadHost)),
            ("GET", "/", "[::1]x", Err(Refusal::BadHost)),
            ("GET", "http://H/", "h", Ok(())),
            ("GET", "http://h/", "h:80", Ok(())),
            ("GET", "https://h:443/", "h", Ok(())),
            ("GET", "http://h:443/", "h", Err(Refusal::HostDiffers)),
            ("GET", "http://h/", "h:8080", Err(Refusal::HostDiffers)),
            ("GET", "http://h/", "other", Err(Refusal::HostDiffers)),
            ("GET", "http://h/", "", Err(Refusal::BadHost)),
            ("GET", "ftp://h/", "h", Ok(())),
            ("CONNECT", "h:443", "h:443", Ok(())),
            ("CONNECT", "h:443", "H", Ok(())),
            ("CONNECT", "h:443", "h:80", Err(Refusal::HostDiffers)),
            ("CONNECT", "h:443", "other:443", Err(Refusal::HostDiffers)),
        ] {
            let target = Target::read(method, target).expect("the target is right");
            assert_eq!(target.agrees_with(host.as_bytes()), agrees, "{target:?} {host}");
        }
    }
}
