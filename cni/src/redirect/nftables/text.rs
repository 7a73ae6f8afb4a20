// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → nft`: the rules in the language of the `nft` tool, for people and for golden files. Pure.

use std::fmt::{Display, Write};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::table::{KernelHook, TABLE};
use crate::redirect::policy::Protocol;
use crate::redirect::ruleset::{Action, Chain, Family, Match, Point, Rule, Ruleset, ZONE};

/// Render the rules as a file for `nft -f`.
pub fn text(rules: &Ruleset) -> String {
    let mut out = format!("table inet {TABLE} {{\n");
    // Writing to a String cannot fail.
    for (index, chain) in rules.chains.iter().enumerate() {
        let _ = write!(out, "{}{}", if index == 0 { "" } else { "\n" }, chain_text(chain));
    }
    out.push_str("}\n");
    out
}

fn chain_text(chain: &Chain) -> String {
    let mut out = format!("\tchain {} {{\n", chain.name.nftables());
    if let Some(hook) = chain.hook {
        let KernelHook { number: _, priority, kind } = hook.into();
        let at = match hook.at {
            Point::Prerouting => "prerouting",
            Point::Input => "input",
            Point::Output => "output",
        };
        let _ = writeln!(out, "\t\ttype {kind} hook {at} priority {priority}; policy accept;");
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule_text(rule));
    }
    out.push_str("\t}\n");
    out
}

fn rule_text(rule: &Rule) -> String {
    let action = match rule.then {
        Action::Direct | Action::Back => "return".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Reject => "reject with icmpx port-unreachable".to_owned(),
        Action::Reset => "reject with tcp reset".to_owned(),
        Action::Keep(Family::V4) => "dnat ip to ip daddr".to_owned(),
        Action::Keep(Family::V6) => "dnat ip6 to ip6 daddr".to_owned(),
        Action::Zone => format!("ct original zone set {ZONE}"),
        Action::Trace => "meta nftrace set 1".to_owned(),
        Action::Jump(chain) => format!("jump {}", chain.nftables()),
        Action::Goto(chain) => format!("goto {}", chain.nftables()),
        Action::Redirect(port) => format!("redirect to :{port}"),
    };
    rule.on.iter().map(condition_text).chain([action]).collect::<Vec<_>>().join(" ")
}

fn condition_text(condition: &Match) -> String {
    match condition {
        Match::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Match::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Match::Protocol(protocol) => format!("meta l4proto {}", name(*protocol)),
        Match::NotProtocol(protocol) => format!("meta l4proto != {}", name(*protocol)),
        Match::FromLoopbackInterface(true) => "iif lo".to_owned(),
        Match::FromLoopbackInterface(false) => "iif != lo".to_owned(),
        Match::Interface { name, is_prefix } => {
            format!("iifname \"{name}{}\"", if *is_prefix { "*" } else { "" })
        }
        Match::DestinationOwn(true) => "fib daddr type local".to_owned(),
        Match::DestinationOwn(false) => "fib daddr type != local".to_owned(),
        Match::Destination(net) => address("daddr", net),
        Match::Source(net) => address("saddr", net),
        Match::DestinationPort(range) => format!("th dport {}", numbers(range)),
        Match::NotDestinationPort(port) => format!("th dport != {port}"),
        Match::Uid(range) => format!("meta skuid {}", numbers(range)),
        // Both values match: only a missing socket ends the rule.
        Match::Listening => "socket transparent { 0, 1 }".to_owned(),
        Match::NotOpening => "tcp flags & (fin | syn | rst | ack) != syn".to_owned(),
        Match::Translated => "ct status dnat".to_owned(),
        Match::Invalid => "ct state invalid".to_owned(),
        Match::Reply => "ct direction reply".to_owned(),
    }
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn numbers<T: Display + PartialEq>(range: &RangeInclusive<T>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn address(which: &str, net: &IpNet) -> String {
    let family = match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    format!("{family} {which} {}", net.trunc())
}
