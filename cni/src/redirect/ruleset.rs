// SPDX-License-Identifier: Apache-2.0
//! Chains and rules as data: what a plan is, and what each engine writes in its own language.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::policy::Protocol;

/// Where a chain is hooked into the kernel's way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where on the way.
    pub at: Point,
    /// In which order, and what it may do there.
    pub stage: Stage,
}

/// A place on the way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A packet that arrived on an interface, before routing.
    Prerouting,
    /// A packet that a process of the pod sends.
    Output,
}

/// What a chain is for: the order of stages at one place, and iptables' table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before conntrack: what is not tracked, and traced.
    Raw,
    /// After conntrack: what is dropped.
    Mangle,
    /// A connection's first packet: where it goes.
    Nat,
    /// After that: what is rejected.
    Filter,
}

/// A chain's name; one name in each engine's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainName {
    /// Holds the note that says whose rules these are; never entered by a packet.
    About,
    /// Packets from peers, before conntrack.
    RawInbound,
    /// Packets of the pod's processes, before conntrack.
    RawOutbound,
    /// Packets that conntrack cannot place.
    Invalid,
    /// Connections from peers.
    Inbound,
    /// Connections of the pod's processes.
    Outbound,
    /// DNS queries of the pod's processes.
    Dns,
    /// Connections from behind a virtual interface.
    VirtualInterfaces,
    /// UDP of the pod's processes.
    OutboundUdp,
    /// To the sidecar's inbound listener.
    InboundRedirect,
    /// To the sidecar's outbound listener.
    OutboundRedirect,
    /// To the sidecar's DNS server.
    DnsRedirect,
}

impl ChainName {
    /// The name in table `inet culvert`.
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
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `net`.
    pub(crate) const fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// One condition; a rule's conditions must all hold.
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
        /// The name or its beginning.
        name: String,
        /// Whether it is only the beginning.
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
    /// The source port is this one.
    SourcePort(u16),
    /// The source port is another one.
    NotSourcePort(u16),
    /// The sending process runs as one of these uids.
    Uid(RangeInclusive<u32>),
    /// A process listens on the destination's address and port.
    Listening,
    /// conntrack cannot place the packet.
    Invalid,
    /// The packet answers what the other side sent first.
    Reply,
}

/// What happens to a packet for which all conditions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on as if we were not there; at the top level of a hook.
    Direct,
    /// The chain that jumped here goes on.
    Back,
    /// It is dropped.
    Drop,
    /// It is answered by ICMP's "port unreachable".
    Reject,
    /// It passes conntrack untracked.
    Untrack,
    /// It is marked for `nft monitor trace`; the rules go on.
    Trace,
    /// Another chain decides, and where that has no answer, the rules go on here.
    Jump(ChainName),
    /// The rest of the way is decided in another chain.
    Goto(ChainName),
    /// It is handed to this port of the pod itself, the original destination kept by conntrack.
    Redirect(u16),
}

/// One rule, and because of what it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions, in the order in which they are checked.
    pub on: Vec<Match>,
    /// What then happens.
    pub then: Action,
    /// Why, for a person: a row of the contract, or a setting by its name.
    pub because: Cow<'static, str>,
}

/// A chain and its rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: ChainName,
    /// Where it is hooked in; `None`: entered from other chains only.
    pub hook: Option<Hook>,
    /// Its rules; the first whose conditions hold decides.
    pub rules: Vec<Rule>,
}

/// All chains of one pod; the same for each engine.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// In the order in which they are written.
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
            Self::SourcePort(port) => write!(f, "from port {port}"),
            Self::NotSourcePort(port) => write!(f, "not from port {port}"),
            Self::Uid(range) => write!(f, "from {}", range_words("uid", range)),
            Self::Listening => f.write_str("where a process listens"),
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
            Self::Untrack => f.write_str("untracked"),
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

/// A single address without its `/32` or `/128`.
fn words(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn range_words<T: fmt::Display + PartialEq>(thing: &str, range: &RangeInclusive<T>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { format!("{thing} {first}") } else { format!("{thing}s {first}-{last}") }
}
