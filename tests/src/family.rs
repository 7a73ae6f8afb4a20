//! The lab's addresses, in both families alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 or IPv6. Every test of a connection runs over [`Family::BOTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both families.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The pod's address on `eth0`.
    pub fn pod(self) -> IpAddr {
        self.pick(Ipv4Addr::new(10, 77, 0, 2), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2))
    }

    /// The peer's address on the other end of the pod's `eth0`; also the pod's gateway.
    pub fn peer(self) -> IpAddr {
        self.pick(Ipv4Addr::new(10, 77, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1))
    }

    /// An address somewhere outside; the peer answers for it.
    pub fn outside(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))
    }

    /// `127.0.0.1`, `::1`
    pub fn loopback(self) -> IpAddr {
        self.pick(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    }

    /// `127.0.0.6`, `::6`: the source of the sidecar's inbound hop.
    pub fn hop(self) -> IpAddr {
        self.pick(Ipv4Addr::new(127, 0, 0, 6), Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))
    }

    /// The wildcard address.
    pub fn any(self) -> IpAddr {
        self.pick(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }

    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Anything that names an address and a port: `"192.0.2.10:80"`, `(family.pod(), 80)`, a [`SocketAddr`], a server.
pub trait At {
    /// The address. Panics on a text that is none: a test's own mistake.
    fn at(&self) -> SocketAddr;
}

impl At for SocketAddr {
    fn at(&self) -> SocketAddr {
        *self
    }
}

impl At for str {
    fn at(&self) -> SocketAddr {
        self.parse().unwrap_or_else(|e| panic!("{self}: {e}"))
    }
}

impl At for (&str, u16) {
    fn at(&self) -> SocketAddr {
        let address: IpAddr = self.0.parse().unwrap_or_else(|e| panic!("{}: {e}", self.0));
        (address, self.1).into()
    }
}

impl At for (IpAddr, u16) {
    fn at(&self) -> SocketAddr {
        (*self).into()
    }
}

impl<T: At + ?Sized> At for &T {
    fn at(&self) -> SocketAddr {
        (**self).at()
    }
}

/// An address as the other side sees it: `::ffff:10.77.0.2` is `10.77.0.2`.
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
