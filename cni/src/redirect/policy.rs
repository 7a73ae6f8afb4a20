// SPDX-License-Identifier: Apache-2.0
//! What should happen to which traffic, in the user's terms.
//!
//! A `Policy` is what the annotations of a pod and the defaults of its node come to; [`super::plan()`] turns it into chains
//! and rules. Every field is already parsed: a value never reaches a rule as text.

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// On or off; a word where a bare `bool` would need a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toggle {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

impl Toggle {
    /// Whether it is on.
    pub const fn is_enabled(self) -> bool {
        matches!(self, Self::Enabled)
    }

    /// The other one.
    pub const fn inverse(self) -> Self {
        match self {
            Self::Enabled => Self::Disabled,
            Self::Disabled => Self::Enabled,
        }
    }
}

/// Numbers that a list names: sorted, without overlap, adjacent ones joined.
///
/// One range becomes one rule: the engines use no kernel sets, whose formats have crashed neighbours' tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges<T>(Vec<RangeInclusive<T>>);

/// TCP or UDP ports, 1 to 65535.
pub type Ports = Ranges<u16>;

impl<T: Copy + Ord + Into<u64>> Ranges<T> {
    /// Sort and join `ranges`; each must begin no later than it ends.
    pub fn new(mut ranges: Vec<RangeInclusive<T>>) -> Self {
        ranges.sort_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<T>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if (*range.start()).into() <= (*last.end()).into() + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = &RangeInclusive<T>> {
        self.0.iter()
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no number is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: fmt::Display + PartialEq> fmt::Display for Ranges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// A destination port that names nobody: 0 is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// A port from 1 to 65535.
    pub const fn new(port: u16) -> Option<Self> {
        if port == 0 { None } else { Some(Self(port)) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The uid that the sidecar runs as; the only one whose connections out are not redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyUid(u32);

impl ProxyUid {
    /// 1 to 4294967294: a proxy that runs as root would exempt the pod's other root processes with it, and the largest
    /// number is the kernel's "no uid".
    pub const fn new(uid: u32) -> Option<Self> {
        if uid == 0 || uid == u32::MAX { None } else { Some(Self(uid)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What happens to connections from peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Whether they are redirected at all.
    pub redirect: Toggle,
    /// Where to: the sidecar's inbound listener.
    pub port: Port,
    /// The sidecar's status port, which probes reach directly.
    pub status_port: Port,
    /// Ports that go to the application directly.
    pub exclude_ports: Ports,
}

/// What happens to connections that the pod's processes open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Whether they are redirected at all.
    pub redirect: Toggle,
    /// Where to: the sidecar's outbound listener.
    pub port: Port,
    /// Ports that go out directly.
    pub exclude_ports: Ports,
}

/// What should happen to a pod's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whose connections out stay as they are.
    pub proxy_uid: ProxyUid,
    /// Connections from peers.
    pub inbound: Inbound,
    /// Connections to others.
    pub outbound: Outbound,
}

/// The uid that the sidecar runs as unless told otherwise. Kuma's; held equal to the sidecar's by a test.
pub const DEFAULT_PROXY_UID: ProxyUid = ProxyUid(5678);
/// The seeds' port for redirected inbound connections.
pub const DEFAULT_INBOUND_PORT: Port = Port(15006);
/// The seeds' port for redirected outbound connections.
pub const DEFAULT_OUTBOUND_PORT: Port = Port(15001);
/// The port of the sidecar's `/ready`, `/live` and `/metrics`.
pub const DEFAULT_STATUS_PORT: Port = Port(15020);

impl Default for Policy {
    fn default() -> Self {
        Self {
            proxy_uid: DEFAULT_PROXY_UID,
            inbound: Inbound {
                redirect: Toggle::Enabled,
                port: DEFAULT_INBOUND_PORT,
                status_port: DEFAULT_STATUS_PORT,
                exclude_ports: Ports::default(),
            },
            outbound: Outbound {
                redirect: Toggle::Enabled,
                port: DEFAULT_OUTBOUND_PORT,
                exclude_ports: Ports::default(),
            },
        }
    }
}

impl Policy {
    /// The ports that the sidecar listens on: the kernel must not hand them out to others.
    pub fn sidecar_ports(&self) -> [Port; 3] {
        [self.inbound.port, self.outbound.port, self.inbound.status_port]
    }
}

/// The loopback address that the sidecar's inbound hop comes from, IPv4. Envoy's and Istio's choice as well.
pub const HOP_SOURCE_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6; ADD puts it on `lo`.
pub const HOP_SOURCE_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// `net` as a network of either family; for constants of the plan.
pub(crate) fn host(address: impl Into<std::net::IpAddr>) -> IpNet {
    IpNet::from(address.into())
}
