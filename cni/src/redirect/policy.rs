// SPDX-License-Identifier: Apache-2.0
//! What should happen to which traffic, in the user's terms.
//!
//! A `Policy` is what the annotations of a pod and the defaults of its node come to; [`super::plan()`] turns it into chains
//! and rules. Every field is already parsed: a value never reaches a rule as text.

use std::fmt;
use std::net::IpAddr;
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
    pub(crate) const fn inverse(self) -> Self {
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

    /// Whether `number` lies in one of the ranges.
    pub fn contains(&self, number: T) -> bool {
        self.0.iter().any(|range| range.contains(&number))
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
    pub(crate) const fn new(port: u16) -> Option<Self> {
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
    pub(crate) const fn new(uid: u32) -> Option<Self> {
        if uid == 0 || uid == u32::MAX { None } else { Some(Self(uid)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What happens to a peer's connection to a port that nobody listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedPorts {
    /// It reaches the sidecar too.
    Redirect,
    /// The kernel refuses it, as it would without a sidecar. nftables only.
    Refuse,
}

/// What happens to the application's UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutboundUdp {
    /// It goes out directly.
    Direct,
    /// It is refused, but for captured DNS, loopback and the sidecar's own.
    Reject,
}

/// Which families of addresses the redirect is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4; IPv6 stays direct.
    V4,
    /// IPv6; IPv4 stays direct.
    V6,
}

/// Which engine writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// nftables, unless the kernel cannot; then iptables-nft, then -legacy.
    Auto,
    /// nftables by netlink.
    Nftables,
    /// Whichever variant of iptables is there, -nft before -legacy.
    Iptables,
    /// The iptables programs over nf_tables.
    IptablesNft,
    /// The iptables programs over x_tables.
    IptablesLegacy,
}

/// A transport protocol that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
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
    /// The only TCP ports that are redirected; empty: all. If set, `exclude_ports` is not consulted.
    pub include_ports: Ports,
    /// TCP ports that go to the application directly.
    pub exclude_ports: Ports,
    /// Ports of Kuma's data plane proxy that go to it directly, whatever is included.
    pub kuma_ports: Ports,
    /// Peers whose connections go to the application directly.
    pub exclude_sources: Vec<IpNet>,
    /// What happens on ports that nobody listens on.
    pub closed_ports: ClosedPorts,
}

/// Processes whose connections go out directly, for some protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UidExclusion {
    /// The protocols: one or both.
    pub protocols: Vec<Protocol>,
    /// The destination ports; empty: all.
    pub ports: Ports,
    /// The uids.
    pub uids: RangeInclusive<u32>,
}

/// What happens to connections that the pod's processes open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Whether they are redirected at all.
    pub redirect: Toggle,
    /// Where to: the sidecar's outbound listener.
    pub port: Port,
    /// The only TCP ports that are redirected; empty: all. If set, `exclude_ports` is not consulted.
    pub include_ports: Ports,
    /// TCP ports that go out directly.
    pub exclude_ports: Ports,
    /// Destinations that are reached directly, DNS servers too.
    pub exclude_destinations: Vec<IpNet>,
    /// Processes that reach others directly.
    pub exclude_uids: Vec<UidExclusion>,
    /// What happens to UDP.
    pub(crate) udp: OutboundUdp,
}

/// Whose DNS queries are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsCapture {
    /// Nobody's.
    Off,
    /// Those to any server.
    All,
    /// Those to these servers.
    Servers(Vec<IpAddr>),
}

/// What happens to the application's DNS queries over UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Which ones are captured.
    pub capture: DnsCapture,
    /// Where to: the sidecar's DNS server, on loopback.
    pub port: Port,
}

/// An interface behind which other machines live (docker in the pod, KubeVirt), whose connections count as the pod's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualInterface {
    /// The interface's name, or what it begins with.
    pub name: String,
    /// Whether `name` is only the beginning.
    pub is_prefix: bool,
    /// The network behind it, to which connections are not redirected.
    pub net: IpNet,
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
    /// DNS queries.
    pub dns: Dns,
    /// Interfaces behind which other machines live.
    pub virtual_interfaces: Vec<VirtualInterface>,
    /// Which families this is about.
    pub families: IpFamilies,
    /// Whether segments that conntrack cannot place are dropped.
    pub drop_invalid: Toggle,
    /// Whether packets are marked for `nft monitor trace`.
    pub trace: Toggle,
    /// Which engine writes the rules.
    pub engine: EngineChoice,
}

/// The uid that the sidecar runs as unless told otherwise. Kuma's; held equal to the sidecar's by a test.
pub(crate) const DEFAULT_PROXY_UID: ProxyUid = ProxyUid(5678);
/// The seeds' port for redirected inbound connections.
pub(crate) const DEFAULT_INBOUND_PORT: Port = Port(15006);
/// The seeds' port for redirected outbound connections.
pub(crate) const DEFAULT_OUTBOUND_PORT: Port = Port(15001);
/// The port of the sidecar's `/ready`, `/live` and `/metrics`.
pub(crate) const DEFAULT_STATUS_PORT: Port = Port(15020);

/// Kuma's port for captured DNS.
pub(crate) const DEFAULT_DNS_PORT: Port = Port(15053);
/// Where DNS servers listen.
pub const DNS_SERVER_PORT: u16 = 53;

impl Default for Policy {
    fn default() -> Self {
        Self {
            proxy_uid: DEFAULT_PROXY_UID,
            inbound: Inbound {
                redirect: Toggle::Enabled,
                port: DEFAULT_INBOUND_PORT,
                status_port: DEFAULT_STATUS_PORT,
                include_ports: Ports::default(),
                exclude_ports: Ports::default(),
                kuma_ports: Ports::default(),
                exclude_sources: Vec::new(),
                closed_ports: ClosedPorts::Redirect,
            },
            outbound: Outbound {
                redirect: Toggle::Enabled,
                port: DEFAULT_OUTBOUND_PORT,
                include_ports: Ports::default(),
                exclude_ports: Ports::default(),
                exclude_destinations: Vec::new(),
                exclude_uids: Vec::new(),
                udp: OutboundUdp::Direct,
            },
            dns: Dns { capture: DnsCapture::Off, port: DEFAULT_DNS_PORT },
            virtual_interfaces: Vec::new(),
            families: IpFamilies::Dual,
            drop_invalid: Toggle::Disabled,
            trace: Toggle::Disabled,
            engine: EngineChoice::Auto,
        }
    }
}

impl Policy {
    /// The ports that the sidecar listens on: the kernel must not hand them out to others.
    pub(crate) fn sidecar_ports(&self) -> Vec<Port> {
        let dns = (self.dns.capture != DnsCapture::Off).then_some(self.dns.port);
        [self.inbound.port, self.outbound.port, self.inbound.status_port].into_iter().chain(dns).collect()
    }
}

impl IpFamilies {
    /// Whether IPv6 is redirected.
    pub const fn with_v6(self) -> bool {
        matches!(self, Self::Dual | Self::V6)
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
