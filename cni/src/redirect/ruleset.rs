// SPDX-License-Identifier: Apache-2.0
//! Chains and rules as data, independent of the engine that writes them.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::policy::Protocol;

/// Number of the conntrack zone for captured DNS queries. Any would do that no other program in the pod uses.
pub(crate) const ZONE: u16 = 15053;

/// The place of a base chain in the kernel's packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Point of the packet path.
    pub at: Point,
    /// Order among the chains at that point, and the allowed actions.
    pub stage: Stage,
}

/// A point of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A packet that arrived on an interface, before routing.
    Prerouting,
    /// A packet for the pod itself, after routing.
    Input,
    /// A packet that a process of the pod sends.
    Output,
}

/// The purpose of a chain, in the order of evaluation; also its table in iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before conntrack: traced packets, and those with a zone of their own.
    Raw,
    /// After conntrack: dropped packets.
    Mangle,
    /// First packet of a connection: its destination.
    Nat,
    /// After nat: rejected and reset packets.
    Filter,
}

/// A chain's name, which each engine spells in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainName {
    /// The owner's note; no packet enters it.
    About,
    /// Packets from peers, before conntrack.
    RawInbound,
    /// Packets of the pod's processes, before conntrack.
    RawOutbound,
    /// Packets that are invalid for conntrack.
    Invalid,
    /// Connections that peers open.
    Inbound,
    /// Connections of the pod's processes.
    Outbound,
    /// DNS queries of the pod's processes.
    Dns,
    /// Connections from behind a virtual interface.
    VirtualInterfaces,
    /// Connections of peers that nat should have redirected.
    InboundStrays,
    /// Connections of the pod's processes that nat should have redirected.
    OutboundStrays,
    /// UDP of the pod's processes.
    OutboundUdp,
    /// Redirect to the sidecar's inbound listener.
    InboundRedirect,
    /// Redirect to the sidecar's outbound listener.
    OutboundRedirect,
    /// Redirect to the sidecar's DNS server.
    DnsRedirect,
}

impl ChainName {
    /// Returns the name in table `inet culvert`.
    pub const fn nftables(self) -> &'static str {
        match self {
            Self::About => "about",
            Self::RawInbound => "raw_inbound",
            Self::RawOutbound => "raw_outbound",
            Self::Invalid => "invalid",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Dns => "dns",
            Self::VirtualInterfaces => "virtual_interfaces",
            Self::InboundStrays => "inbound_strays",
            Self::OutboundStrays => "outbound_strays",
            Self::OutboundUdp => "outbound_udp",
            Self::InboundRedirect => "inbound_redirect",
            Self::OutboundRedirect => "outbound_redirect",
            Self::DnsRedirect => "dns_redirect",
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, in iptables the programs without a 6.
    V4,
    /// IPv6, in iptables the programs with a 6.
    V6,
}

impl Family {
    pub(crate) const fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet is of this family.
    Family(Family),
    /// The transport protocol is this one.
    Protocol(Protocol),
    /// The transport protocol is not this one.
    NotProtocol(Protocol),
    /// The packet arrived (or did not arrive) on `lo`.
    FromLoopbackInterface(bool),
    /// The packet arrived on the interface of this name, or on one whose name begins so.
    Interface {
        /// Name of the interface, or its beginning.
        name: String,
        /// True if `name` is only the beginning.
        is_prefix: bool,
    },
    /// The destination is (or is not) an address of the pod, loopback ones included.
    DestinationOwn(bool),
    /// The destination lies in this network; implies its family.
    Destination(IpNet),
    /// The source lies in this network; implies its family.
    Source(IpNet),
    /// The destination port lies in this range; behind a rule or condition that leaves only TCP or UDP.
    DestinationPort(RangeInclusive<u16>),
    /// The destination port is another one.
    NotDestinationPort(u16),
    /// The sending process runs as one of these uids.
    Uid(RangeInclusive<u32>),
    /// A process listens on the destination's address and port.
    Listening,
    /// The TCP segment does not open a connection.
    NotOpening,
    /// The connection's destination was translated.
    Translated,
    /// The packet is invalid for conntrack.
    Invalid,
    /// The packet goes in the reply direction of its connection.
    Reply,
}

/// The action for a packet that matches all conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the packet as it is; ends the chain at the top level of a hook.
    Direct,
    /// Continue in the calling chain.
    Back,
    /// Drop the packet without an answer.
    Drop,
    /// Answer with ICMP's "port unreachable".
    Reject,
    /// Answer with a TCP reset; behind a condition that leaves only TCP.
    Reset,
    /// Leave the connection as it is, and keep later nat chains from changing its destination. Behind conditions that leave
    /// only TCP of this family.
    Keep(Family),
    /// Let conntrack look the packet up in a zone of culvert's own, in its original direction.
    Zone,
    /// Mark the packet for `nft monitor trace` and continue with the next rule.
    Trace,
    /// Enter another chain, and continue here if it does not decide.
    Jump(ChainName),
    /// Enter another chain, without a way back.
    Goto(ChainName),
    /// Redirect to this port of the pod itself; conntrack keeps the original destination.
    Redirect(u16),
}

/// One rule, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions that must all hold, in the order of evaluation.
    pub on: Vec<Match>,
    /// Action for a packet that matches.
    pub then: Action,
    /// Reason for people: the name of a setting, or a row of the table of landings in ANNOTATIONS.md.
    pub because: Cow<'static, str>,
}

/// A chain and its rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Unique name in the ruleset.
    pub name: ChainName,
    /// Hook of a base chain; `None` if the chain is only entered from other chains.
    pub hook: Option<Hook>,
    /// Rules; the first that matches decides.
    pub rules: Vec<Rule>,
}

/// All chains of one pod, the same for each engine.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Chains in the order of writing.
    pub chains: Vec<Chain>,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(Family::V4) => f.write_str("IPv4"),
            Self::Family(Family::V6) => f.write_str("IPv6"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::NotProtocol(protocol) => write!(f, "not {protocol}"),
            Self::FromLoopbackInterface(true) => f.write_str("arriving on lo"),
            Self::FromLoopbackInterface(false) => f.write_str("arriving from outside"),
            Self::Interface { name, is_prefix } => {
                write!(f, "arriving on {name}{}", if *is_prefix { "…" } else { "" })
            }
            Self::DestinationOwn(true) => f.write_str("to an address of the pod"),
            Self::DestinationOwn(false) => f.write_str("to an address outside of the pod"),
            Self::Destination(net) => write!(f, "to {}", words(net)),
            Self::Source(net) => write!(f, "from {}", words(net)),
            Self::DestinationPort(range) => write!(f, "to {}", range_words("port", range)),
            Self::NotDestinationPort(port) => write!(f, "not to port {port}"),
            Self::Uid(range) => write!(f, "from {}", range_words("uid", range)),
            Self::Listening => f.write_str("where a process listens"),
            Self::NotOpening => f.write_str("opening no connection"),
            Self::Translated => f.write_str("with another destination than at first"),
            Self::Invalid => f.write_str("which conntrack cannot place"),
            Self::Reply => f.write_str("in answer to a peer"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Back => f.write_str("decided further on"),
            Self::Drop => f.write_str("dropped"),
            Self::Reject => f.write_str("rejected"),
            Self::Reset => f.write_str("reset"),
            Self::Keep(_) => f.write_str("direct, past other NAT rules"),
            Self::Zone => f.write_str("tracked in a zone of its own"),
            Self::Trace => f.write_str("traced"),
            Self::Jump(chain) => write!(f, "see {}, then further on", chain.nftables()),
            Self::Goto(chain) => write!(f, "see {}", chain.nftables()),
            Self::Redirect(port) => write!(f, "redirected to port {port}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.on.is_empty() {
            f.write_str("anything else")?;
        }
        for (index, condition) in self.on.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{condition}")?;
        }
        write!(f, ": {}", self.then)
    }
}

/// Returns the network, or a single address without its `/32` or `/128`.
fn words(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn range_words<T: fmt::Display + PartialEq>(thing: &str, range: &RangeInclusive<T>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { format!("{thing} {first}") } else { format!("{thing}s {first}-{last}") }
}
