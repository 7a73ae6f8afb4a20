// SPDX-License-Identifier: Apache-2.0
//! The landing of a connection by a [`Ruleset`], and the deciding rule: the plan evaluated without a kernel. Pure.

use std::net::IpAddr;

use super::policy::Protocol;
use super::ruleset::{Action, Chain, ChainName, Family, Match, Point, Rule, Ruleset, Stage};

/// The opener of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process of the pod, by its uid.
    Process(u32),
    /// A peer outside the pod, whose packets arrive on this interface.
    Peer(String),
}

/// A connection's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// A process of the pod, or a peer.
    pub origin: Origin,
    /// Transport protocol of the packet.
    pub protocol: Protocol,
    /// Source address, before any translation.
    pub source: IpAddr,
    /// Destination address, before any translation.
    pub destination: IpAddr,
    /// True if the destination is an address of the pod, loopback included.
    pub destination_is_own: bool,
    /// Destination port, before any translation.
    pub destination_port: u16,
    /// True if a process of the pod listens on the destination.
    pub is_listened: bool,
}

/// The end of a connection's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// At the destination, as without culvert.
    Direct,
    /// At this port of the pod.
    Redirected(u16),
    /// Nowhere: the packet is dropped, without an answer.
    Dropped,
    /// Nowhere: the sender gets an ICMP error.
    Rejected,
}

/// A landing, and the rules that led to it; no rules if none matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained<'a> {
    /// Result of the last deciding stage.
    pub landing: Landing,
    /// Matching rules that influenced the result, the deciding one last.
    pub by: Vec<&'a Rule>,
}

/// The result of a chain.
enum Walk {
    /// The chain ended, or a rule returned: the calling chain continues.
    Back,
    /// A rule decided for this hook.
    Decided(Landing),
}

/// Evaluate `rules` for the first packet of `connection`.
pub fn explain<'a>(rules: &'a Ruleset, connection: &Connection) -> Explained<'a> {
    let at = match connection.origin {
        Origin::Process(_) => Point::Output,
        Origin::Peer(_) => Point::Prerouting,
    };
    let mut by = Vec::new();
    let mut landing = Landing::Direct;
    for stage in [Stage::Raw, Stage::Mangle, Stage::Nat, Stage::Filter] {
        let hooked = |chain: &&Chain| chain.hook.is_some_and(|hook| hook.at == at && hook.stage == stage);
        for chain in rules.chains.iter().filter(hooked) {
            let mut here = Vec::new();
            let decided = match walk(rules, chain, connection, &mut here, MAX_DEPTH) {
                Walk::Decided(decided) => decided,
                Walk::Back => Landing::Direct,
            };
            // A stage that changes nothing is only reported if no other stage has a deciding rule.
            if decided != Landing::Direct || (by.is_empty() && stage == Stage::Nat) {
                by = here;
                landing = decided;
            }
            match landing {
                Landing::Dropped | Landing::Rejected => return Explained { landing, by },
                // The destination is loopback from here on, which no later rule matches.
                Landing::Redirected(_) => return Explained { landing, by },
                Landing::Direct => {}
            }
        }
    }
    Explained { landing, by }
}

/// Limit for nested chains. A plan nests at most two; the bound protects against loops in other rulesets.
const MAX_DEPTH: usize = 8;

fn walk<'a>(
    rules: &'a Ruleset,
    chain: &'a Chain,
    connection: &Connection,
    by: &mut Vec<&'a Rule>,
    depth: usize,
) -> Walk {
    let enter = |name: ChainName, by: &mut Vec<&'a Rule>| match rules
        .chains
        .iter()
        .find(|chain| chain.name == name)
    {
        Some(chain) if depth > 0 => walk(rules, chain, connection, by, depth - 1),
        _ => Walk::Back,
    };
    for rule in chain.rules.iter().filter(|rule| fits(rule, connection)) {
        let before = by.len();
        by.push(rule);
        match rule.then {
            Action::Direct | Action::Keep(_) | Action::Zone => return Walk::Decided(Landing::Direct),
            Action::Drop => return Walk::Decided(Landing::Dropped),
            Action::Reject | Action::Reset => return Walk::Decided(Landing::Rejected),
            Action::Redirect(port) => return Walk::Decided(Landing::Redirected(port)),
            Action::Back => return Walk::Back,
            Action::Goto(name) => return enter(name, by),
            Action::Jump(name) => match enter(name, by) {
                Walk::Back => by.truncate(before),
                decided => return decided,
            },
            Action::Trace => by.truncate(before),
        }
    }
    Walk::Back
}

fn fits(rule: &Rule, connection: &Connection) -> bool {
    rule.on.iter().all(|condition| holds(condition, connection))
}

fn holds(condition: &Match, connection: &Connection) -> bool {
    let Connection {
        origin,
        protocol,
        source,
        destination,
        destination_is_own,
        destination_port,
        is_listened,
    } = connection;
    let interface = match origin {
        Origin::Process(_) => None,
        Origin::Peer(interface) => Some(interface.as_str()),
    };
    match condition {
        Match::Family(Family::V4) => destination.is_ipv4(),
        Match::Family(Family::V6) => destination.is_ipv6(),
        Match::Protocol(wanted) => protocol == wanted,
        Match::NotProtocol(unwanted) => protocol != unwanted,
        Match::FromLoopbackInterface(from) => (interface == Some("lo")) == *from,
        Match::Interface { name, is_prefix: true } => {
            interface.is_some_and(|interface| interface.starts_with(name))
        }
        Match::Interface { name, is_prefix: false } => interface == Some(name),
        Match::DestinationOwn(own) => destination_is_own == own,
        Match::Destination(net) => net.contains(destination),
        Match::Source(net) => net.contains(source),
        Match::DestinationPort(range) => range.contains(destination_port),
        Match::NotDestinationPort(port) => destination_port != port,
        Match::Uid(range) => matches!(origin, Origin::Process(uid) if range.contains(uid)),
        Match::Listening => *is_listened,
        // The first packet of a connection opens it, is never invalid for conntrack, and never a reply. Where its destination
        // was translated, the walk has ended.
        Match::NotOpening | Match::Translated | Match::Invalid | Match::Reply => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::plan;
    use crate::redirect::policy::{DnsCapture, OutboundUdp, Policy, Ranges, Toggle};

    fn from_process(uid: u32, source: &str, destination: &str, own: bool) -> Connection {
        Connection {
            origin: Origin::Process(uid),
            protocol: Protocol::Tcp,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            destination_is_own: own,
            destination_port: 80,
            is_listened: true,
        }
    }

    fn from_peer(destination: &str, own: bool, port: u16) -> Connection {
        let origin = Origin::Peer("eth0".to_owned());
        let source = if destination.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
        Connection { origin, destination_port: port, ..from_process(0, source, destination, own) }
    }

    /// The table "Where each connection lands" of ANNOTATIONS.md, row by row, for the default policy.
    #[test]
    fn the_default_policy_does_as_the_page_says() {
        let rules = plan(&Policy::default());
        let rows = [
            ("link-local", from_process(0, "fe80::2", "fe80::1", false), Landing::Direct),
            ("app to loopback", from_process(0, "127.0.0.1", "127.0.0.9", true), Landing::Direct),
            ("app to loopback, v6", from_process(0, "::1", "::1", true), Landing::Direct),
            ("app to itself", from_process(0, "10.0.0.2", "10.0.0.2", true), Landing::Direct),
            ("hop", from_process(5678, "127.0.0.6", "10.0.0.2", true), Landing::Direct),
            ("hop, v6", from_process(5678, "::6", "fd00::2", true), Landing::Direct),
            ("sidecar to 127.0.0.1", from_process(5678, "127.0.0.1", "127.0.0.1", true), Landing::Direct),
            ("sidecar to ::1", from_process(5678, "::1", "::1", true), Landing::Direct),
            (
                "sidecar to 127.0.0.6",
                from_process(5678, "127.0.0.1", "127.0.0.6", true),
                Landing::Redirected(15006),
            ),
            ("sidecar to ::6", from_process(5678, "::6", "::6", true), Landing::Redirected(15006)),
            (
                "sidecar to the pod",
                from_process(5678, "10.0.0.2", "10.0.0.2", true),
                Landing::Redirected(15006),
            ),
            ("sidecar to others", from_process(5678, "10.0.0.2", "192.0.2.1", false), Landing::Direct),
            ("app to others", from_process(1000, "10.0.0.2", "192.0.2.1", false), Landing::Redirected(15001)),
            (
                "root to others, v6",
                from_process(0, "fd00::2", "2001:db8::1", false),
                Landing::Redirected(15001),
            ),
            ("forged", from_peer("127.0.0.1", true, 80), Landing::Direct),
            ("forged, v6", from_peer("::1", true, 80), Landing::Direct),
            ("forged hop", from_peer("::6", true, 80), Landing::Dropped),
            ("forwarded", from_peer("192.0.2.9", false, 80), Landing::Direct),
            ("status", from_peer("10.0.0.2", true, 15020), Landing::Direct),
            ("peer", from_peer("10.0.0.2", true, 80), Landing::Redirected(15006)),
            ("peer, v6", from_peer("fd00::2", true, 65535), Landing::Redirected(15006)),
        ];
        for (name, connection, expected) in rows {
            let explained = explain(&rules, &connection);
            assert_eq!(explained.landing, expected, "{name}: {:?}", explained.by);
        }
    }

    #[test]
    fn no_exclusion_switches_off_a_pods_call_to_itself() {
        let mut policy = Policy::default();
        policy.outbound.exclude_ports = Ranges::new(vec![1..=65535]);
        policy.outbound.exclude_destinations = vec!["0.0.0.0/0".parse().unwrap()];
        policy.inbound.exclude_ports = Ranges::new(vec![1..=65535]);
        policy.outbound.redirect = Toggle::Disabled;
        let to_oneself = from_process(5678, "10.0.0.2", "10.0.0.2", true);
        assert_eq!(explain(&plan(&policy), &to_oneself).landing, Landing::Redirected(15006));
    }

    #[test]
    fn the_deciding_rule_is_named() {
        let mut policy = Policy::default();
        policy.outbound.exclude_ports = Ranges::new(vec![80..=80]);
        let rules = plan(&policy);
        let explained = explain(&rules, &from_process(0, "10.0.0.2", "192.0.2.1", false));
        assert_eq!(explained.by.last().unwrap().because, "exclude-outbound-ports");
    }

    #[test]
    fn dns_is_captured_and_other_udp_rejected() {
        let mut policy = Policy::default();
        policy.outbound.udp = OutboundUdp::Reject;
        policy.dns.capture = DnsCapture::Servers(vec!["10.96.0.10".parse().unwrap()]);
        let rules = plan(&policy);
        let udp = |uid, destination: &str, port| Connection {
            protocol: Protocol::Udp,
            destination_port: port,
            ..from_process(uid, "10.0.0.2", destination, false)
        };
        let rows = [
            (udp(0, "10.96.0.10", 53), Landing::Redirected(15053)),
            (udp(5678, "10.96.0.10", 53), Landing::Direct),
            (udp(0, "8.8.8.8", 53), Landing::Rejected),
            (udp(0, "192.0.2.1", 443), Landing::Rejected),
            (udp(5678, "192.0.2.1", 443), Landing::Direct),
        ];
        for (connection, expected) in rows {
            assert_eq!(explain(&rules, &connection).landing, expected, "{connection:?}");
        }
    }
}
