// SPDX-License-Identifier: Apache-2.0
//! The treatment of a pod's traffic, in the user's terms.
//!
//! A `Policy` is the result of a pod's annotations and its node's defaults; [`super::plan()`] turns it into chains and
//! rules. Every field is already parsed: a value never reaches a rule as text.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// On or off; a word where a bare `bool` would need a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toggle {
    /// Switched on: `enabled` in an annotation.
    Enabled,
    /// Switched off: `disabled` in an annotation.
    Disabled,
}

impl Toggle {
    /// Returns true for [`Self::Enabled`].
    pub const fn is_enabled(self) -> bool {
        matches!(self, Self::Enabled)
    }

    pub(crate) const fn inverse(self) -> Self {
        match self {
            Self::Enabled => Self::Disabled,
            Self::Disabled => Self::Enabled,
        }
    }
}

/// A set of numbers as ranges: sorted, without overlap, adjacent ones joined.
///
/// One range becomes one rule. The engines use no kernel sets, whose userdata has crashed other versions of `nft`.
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

    /// Iterate over the ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = &RangeInclusive<T>> {
        self.0.iter()
    }

    /// Returns true if one of the ranges has `number`.
    pub fn contains(&self, number: T) -> bool {
        self.0.iter().any(|range| range.contains(&number))
    }

    /// Returns true if there is no range; in a policy that often means "all".
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

/// A port other than 0, which is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// Returns `None` for 0.
    pub(crate) const fn new(port: u16) -> Option<Self> {
        if port == 0 { None } else { Some(Self(port)) }
    }

    /// Returns the port as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Uid of the sidecar, whose own connections to other pods are not redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyUid(u32);

impl ProxyUid {
    /// Returns `None` for 0, which would exempt all root processes of the pod from the redirect, and for 4294967295, the
    /// kernel's "no uid".
    pub(crate) const fn new(uid: u32) -> Option<Self> {
        if uid == 0 || uid == u32::MAX { None } else { Some(Self(uid)) }
    }

    /// Returns the uid as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The treatment of a peer's connection to a port without a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedPorts {
    /// Redirect it to the sidecar like any other.
    Redirect,
    /// Let the kernel refuse it, as without a sidecar. nftables only.
    Refuse,
}

/// The treatment of the application's UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutboundUdp {
    /// Let it out directly.
    Direct,
    /// Refuse it, except captured DNS, loopback and the sidecar's own.
    Reject,
}

/// The address families that are redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 and IPv6, the default.
    Dual,
    /// IPv4 only; IPv6 stays direct.
    V4,
    /// IPv6 only; IPv4 stays direct.
    V6,
}

/// The engines that may write the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// nftables; on kernels without it iptables-nft, then -legacy.
    Auto,
    /// nf_tables over netlink, without a program.
    Nftables,
    /// The installed variant of iptables, -nft before -legacy.
    Iptables,
    /// The iptables programs over nf_tables.
    IptablesNft,
    /// The iptables programs over x_tables.
    IptablesLegacy,
}

/// A transport protocol, as far as rules distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

/// The treatment of connections from peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Switch for the whole direction.
    pub redirect: Toggle,
    /// Port of the sidecar's inbound listener.
    pub port: Port,
    /// Port of the sidecar's status server, which probes reach directly.
    pub status_port: Port,
    /// The only TCP ports that are redirected; empty means all. If set, `exclude_ports` is not consulted.
    pub include_ports: Ports,
    /// TCP ports that go to the application directly.
    pub exclude_ports: Ports,
    /// Ports of Kuma's data plane proxy that are never redirected, even if included.
    pub kuma_ports: Ports,
    /// Peers whose connections go to the application directly.
    pub exclude_sources: Vec<IpNet>,
    /// Treatment of ports without a listener.
    pub closed_ports: ClosedPorts,
}

/// Processes whose connections to some protocols and ports go out directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UidExclusion {
    /// One protocol or both.
    pub protocols: Vec<Protocol>,
    /// Destination ports; empty means all.
    pub ports: Ports,
    /// Uids of the processes.
    pub uids: RangeInclusive<u32>,
}

/// The treatment of connections that the pod's processes open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Switch for the whole direction.
    pub redirect: Toggle,
    /// Port of the sidecar's outbound listener.
    pub port: Port,
    /// The only TCP ports that are redirected; empty means all. If set, `exclude_ports` is not consulted.
    pub include_ports: Ports,
    /// TCP ports that go out directly.
    pub exclude_ports: Ports,
    /// Destinations that are reached directly, DNS servers included.
    pub exclude_destinations: Vec<IpNet>,
    /// Processes that reach some destinations directly.
    pub exclude_uids: Vec<UidExclusion>,
    /// Treatment of UDP other than captured DNS.
    pub(crate) udp: OutboundUdp,
}

/// The DNS queries that are captured, by their server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsCapture {
    /// Queries to no server, the default.
    Off,
    /// Queries to any server.
    All,
    /// Queries to these servers.
    Servers(Vec<IpAddr>),
}

/// The treatment of the application's DNS queries over UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Queries that are captured, by their server.
    pub capture: DnsCapture,
    /// Port of the sidecar's DNS server on loopback.
    pub port: Port,
}

/// An interface to machines inside the pod (docker, KubeVirt), whose connections count as the pod's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualInterface {
    /// Name of the interface, or its beginning.
    pub name: String,
    /// True if `name` is only the beginning.
    pub is_prefix: bool,
    /// Network behind the interface; connections into it are not redirected to the outbound listener.
    pub net: IpNet,
}

/// The treatment of all of a pod's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Uid of the sidecar, whose own connections stay direct.
    pub proxy_uid: ProxyUid,
    /// Treatment of connections from peers.
    pub inbound: Inbound,
    /// Treatment of connections to other pods and hosts.
    pub outbound: Outbound,
    /// Treatment of DNS queries.
    pub dns: Dns,
    /// Interfaces to machines inside the pod.
    pub virtual_interfaces: Vec<VirtualInterface>,
    /// Address families that are redirected.
    pub families: IpFamilies,
    /// Switch for dropping segments that are invalid for conntrack.
    pub drop_invalid: Toggle,
    /// Switch for marking packets for `nft monitor trace`.
    pub trace: Toggle,
    /// Engines that may write the rules.
    pub engine: EngineChoice,
}

/// Default uid of the sidecar: Kuma's. A test holds it equal to the sidecar's own default.
pub(crate) const DEFAULT_PROXY_UID: ProxyUid = ProxyUid(5678);
/// Default port of the sidecar's inbound listener: Istio's and Kuma's.
pub(crate) const DEFAULT_INBOUND_PORT: Port = Port(15006);
/// Default port of the sidecar's outbound listener: Istio's and Kuma's.
pub(crate) const DEFAULT_OUTBOUND_PORT: Port = Port(15001);
/// Default port of the sidecar's `/ready`, `/live` and `/metrics`.
pub(crate) const DEFAULT_STATUS_PORT: Port = Port(15020);

/// Default port of the sidecar's DNS server: Kuma's.
pub(crate) const DEFAULT_DNS_PORT: Port = Port(15053);
/// Well-known port of DNS servers.
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
    /// Returns the ports of the sidecar's listeners, which the kernel must not use for outgoing connections.
    pub(crate) fn sidecar_ports(&self) -> Vec<Port> {
        let dns = (self.dns.capture != DnsCapture::Off).then_some(self.dns.port);
        [self.inbound.port, self.outbound.port, self.inbound.status_port].into_iter().chain(dns).collect()
    }
}

impl IpFamilies {
    /// Returns true if IPv6 is redirected.
    pub const fn with_v6(self) -> bool {
        matches!(self, Self::Dual | Self::V6)
    }
}

/// Source address of the sidecar's inbound hop over IPv4. Istio and Kuma use the same.
pub const HOP_SOURCE_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// Source address of the sidecar's inbound hop over IPv6; ADD puts it on `lo`.
pub const HOP_SOURCE_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Returns `address` as a network with one address.
pub(crate) fn host(address: impl Into<std::net::IpAddr>) -> IpNet {
    IpNet::from(address.into())
}
