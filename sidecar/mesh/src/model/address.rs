// SPDX-License-Identifier: Apache-2.0
//! Hosts by their IP address or by their name.

use crate::model::host_name::host_name;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Stands for the address of a host whose name was not looked up. No host has it: it is reserved (RFC 1112, 4), and no
/// kernel routes to it.
pub const BY_NAME: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));

/// A host: its IP address, or a name that is looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The address; a mapped IPv6 one is the IPv4 address that it means.
    Ip(IpAddr),
    /// The name, in lower case and without a dot at its end.
    Name(Box<str>),
}

impl Host {
    /// Reads an address or a name.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Self::Ip(ip.to_canonical()));
        }
        let name = host_name(text)?;
        // As in URLs: libc would read 10.0.0 and 0x7f.1 as addresses, so a typing error would be another host.
        let last = name.rsplit('.').next().unwrap_or_default();
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let hex =
            last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        (!number(last) && !hex).then(|| Self::Name(name.into()))
    }

    /// Returns the name, where there is no address.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Ip(_) => None,
            Self::Name(name) => Some(name),
        }
    }

    /// Returns the address, [`BY_NAME`] for a name.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Ip(ip) => *ip,
            Self::Name(_) => BY_NAME,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A port of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Address or name of the host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Reads `10.0.0.1:5000`, `[fd00::1]:5000` or `logstash.logging:5000`.
    pub fn parse(text: &str) -> Option<Self> {
        let found = match text.parse::<SocketAddr>() {
            Ok(address) => Self::from(address),
            Err(_) => {
                let (host, port) = text.rsplit_once(':')?;
                if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                let host = Host::parse(host).filter(|host| host.name().is_some())?;
                Self { host, port: port.parse().ok()? }
            }
        };
        (found.port != 0).then_some(found)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for (text, shown, is_name) in [
            ("10.0.0.1", "10.0.0.1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", false),
            ("fd00::1", "fd00::1", false),
            ("Web.Example.Internal.", "web.example.internal", true),
            ("localhost", "localhost", true),
            ("web-1", "web-1", true),
            ("1.web", "1.web", true),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!((host.to_string().as_str(), host.name().is_some()), (shown, is_name), "{text}");
            assert_eq!(host.ip() == BY_NAME, is_name, "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.256", "1", "0x7f.1", "0x7f000001", "a b", "a..b", "web:80", "*"] {
            assert_eq!(Host::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_port_of_a_host_has_both() {
        for (text, shown) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[fd00::1]:5000", "[fd00::1]:5000"),
            ("logstash.logging:5000", "logstash.logging:5000"),
            ("Logstash:1", "logstash:1"),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "nowhere",
            "a:",
            ":5000",
            "a:0",
            "10.0.0.1:0",
            "a:70000",
            "a:+5",
            "tcp://a:5",
            "fd00::1:5000",
            "10.0.0:5",
        ] {
            assert_eq!(HostPort::parse(text), None, "{text:?}");
        }
    }
}
