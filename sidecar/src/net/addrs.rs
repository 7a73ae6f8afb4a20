// SPDX-License-Identifier: Apache-2.0
//! Addresses with their meaning in the type, so that no two of them can be swapped by mistake.
//!
//! Every address is kept in its own family: a peer that reaches a dual-stack socket as `::ffff:10.0.0.1` is
//! `10.0.0.1` from here on.

use crate::metrics::labels;
pub use culvert_mesh::model::addresses::{INBOUND_SOURCE_V6, is_loopback};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Takes the address, an IPv4-mapped IPv6 one as the IPv4 address that it is. A link-local one keeps its scope,
            /// without which it cannot be dialled.
            pub fn new(addr: SocketAddr) -> Self {
                match addr {
                    SocketAddr::V6(v6) if is_link_local((*v6.ip()).into()) => {
                        Self(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into())
                    }
                    _ => Self(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
                }
            }

            /// Returns the address without its meaning.
            pub fn get(self) -> SocketAddr {
                self.0
            }

            /// Returns the family, IPv4 for a mapped address.
            pub fn family(self) -> Family {
                Family::of(self.0.ip())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// The peer that opened the connection, as the listener sees it.
    ClientAddr
}
address! {
    /// The destination that the client dialled, before the redirect.
    OrigDst
}
address! {
    /// The local end of an accepted connection.
    ListenAddr
}
address! {
    /// The address that the sidecar dials.
    DialAddr
}

/// The way in which a connection crosses the pod's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From a peer to the pod's application.
    Inbound,
    /// From the pod's application to the outside.
    Outbound,
}

impl Direction {
    /// Both values, for tables.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// Returns the name that logs, metrics and listeners use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address family of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, mapped addresses included.
    V4,
    /// IPv6, mapped addresses excluded.
    V6,
}

impl Family {
    /// Both values, for tables.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address; an IPv4-mapped one is IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the name that logs, metrics and listeners use.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Returns the name for text that people read.
    pub fn title(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

labels! { Direction: "direction", Family: "family" }

/// The source of the sidecar's inbound hop: the redirect rules let a connection from here to the pod's own address
/// through to the application.
pub const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Returns true for `fe80::/10`, where an address means something on one link only.
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Returns the source of the inbound hop in a family.
pub fn inbound_source(family: Family) -> IpAddr {
    match family {
        Family::V4 => INBOUND_SOURCE_V4.into(),
        Family::V6 => INBOUND_SOURCE_V6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_is() {
        let client = ClientAddr::new("[::ffff:10.1.2.3]:80".parse().unwrap());
        assert_eq!(client.get(), "10.1.2.3:80".parse().unwrap());
        assert_eq!(client.family(), Family::V4);
    }

    #[test]
    fn a_link_local_address_keeps_its_scope_and_no_other_has_one() {
        for (text, expected) in [
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
            ("[fd00::1%3]:80", "[fd00::1]:80"),
            ("[fe80::1]:80", "[fe80::1]:80"),
        ] {
            assert_eq!(OrigDst::new(text.parse().unwrap()).to_string(), expected);
        }
    }
}
