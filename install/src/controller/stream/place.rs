// SPDX-License-Identifier: Apache-2.0
//! Names of destinations on the stream. Pure.

use std::fmt;
use std::net::SocketAddr;

use crate::controller::world::Host;

/// Longest name of an address that is read: an IPv6 address and a port take 47 bytes.
const MAX_ADDRESS: usize = 64;

/// Destination, as a sidecar names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Address and port.
    At(SocketAddr),
    /// Host name.
    Named(Host),
}

impl Place {
    /// Reads a name. `None` for one that is neither.
    pub(super) fn read(name: &str) -> Option<Self> {
        let at = Some(name).filter(|name| name.len() <= MAX_ADDRESS).and_then(|name| name.parse().ok());
        at.map(Self::At).or_else(|| Host::read(name).map(Self::Named))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::Named(host) => host.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_addresses_or_hosts_and_are_written_as_they_are_read() {
        for name in ["10.0.0.1:80", "[fd00::1]:443"] {
            assert_eq!(Place::read(name), Some(Place::At(name.parse().unwrap())));
        }
        for name in ["10.0.0.1", "web", "web.shop.mesh", "web_shop_svc_80.mesh"] {
            assert_eq!(Place::read(name), Some(Place::Named(Host::read(name).unwrap())));
        }
        for name in ["10.0.0.1:80", "[fd00::1]:443", "10.0.0.1", "web.shop.mesh"] {
            assert_eq!(Place::read(name).map(|place| place.to_string()).as_deref(), Some(name));
        }
        for name in ["", "web:80", "10.0.0.1:99999", "[fd00::1]", "fd00::1", "web.", "Web"] {
            assert_eq!(Place::read(name), None, "{name}");
        }
        assert_eq!(Place::read(&format!("[fd00::1%{}1]:80", "0".repeat(60))), None, "no address is so long");
    }
}
