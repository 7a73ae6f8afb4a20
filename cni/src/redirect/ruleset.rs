// SPDX-License-Identifier: Apache-2.0
//! Chains and rules as data: what a plan is, and what each engine writes in its own language.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// Where a chain is hooked into the kernel's way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A packet that arrived on an interface, before routing.
    Prerouting,
    /// A packet that a process of the pod sends.
    Output,
}

/// A chain's name; one name in each engine's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainName {
    /// Holds the note that says whose rules these are; never entered by a packet.
    About,
    /// Connections from peers.
    Inbound,
    /// Connections of the pod's processes.
    Outbound,
    /// To the sidecar's inbound listener.
    InboundRedirect,
    /// To the sidecar's outbound listener.
    OutboundRedirect,
}

impl ChainName {
    /// The name in table `inet culvert`.
    pub const fn nftables(self) -> &'static str {
        match self {
            Self::About => "about",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::InboundRedirect => "inbound_redirect",
            Self::OutboundRedirect => "outbound_redirect",
        }
    }
}

/// A transport protocol that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
}

/// One condition; a rule's conditions must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The transport protocol is this one.
    Protocol(Protocol),
    /// The transport protocol is not this one.
    NotProtocol(Protocol),
    /// The packet arrived on `lo`.
    FromLoopbackInterface,
    /// The destination is (or is not) an address of the pod, loopback ones included.
    DestinationOwn(bool),
    /// The destination lies in this network; implies its family.
    Destination(IpNet),
    /// The source lies in this network; implies its family.
    Source(IpNet),
    /// The destination port lies in this range.
    DestinationPort(RangeInclusive<u16>),
    /// The sending process runs as this uid.
    Uid(u32),
}

/// What happens to a packet for which all conditions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on as if we were not there.
    Direct,
    /// It is dropped.
    Drop,
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
            Self::Protocol(Protocol::Tcp) => f.write_str("TCP"),
            Self::NotProtocol(Protocol::Tcp) => f.write_str("not TCP"),
            Self::FromLoopbackInterface => f.write_str("arriving on lo"),
            Self::DestinationOwn(true) => f.write_str("to an address of the pod"),
            Self::DestinationOwn(false) => f.write_str("to an address outside of the pod"),
            Self::Destination(net) => write!(f, "to {}", words(net)),
            Self::Source(net) => write!(f, "from {}", words(net)),
            Self::DestinationPort(range) if range.start() == range.end() => {
                write!(f, "to port {}", range.start())
            }
            Self::DestinationPort(range) => write!(f, "to ports {}-{}", range.start(), range.end()),
            Self::Uid(uid) => write!(f, "from uid {uid}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Drop => f.write_str("dropped"),
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
