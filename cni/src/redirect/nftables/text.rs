// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → nft`: the same rules in the language of the `nft` tool, for people and for golden files. Pure.

use std::fmt::Write;

use ipnet::IpNet;

use super::{PRIORITY, TABLE};
use crate::redirect::ruleset::{Action, Chain, Hook, Match, Protocol, Rule, Ruleset};

/// The rules as a file for `nft -f`.
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
        let hook = match hook {
            Hook::Prerouting => "prerouting",
            Hook::Output => "output",
        };
        let _ = writeln!(out, "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;");
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule_text(rule));
    }
    out.push_str("\t}\n");
    out
}

fn rule_text(rule: &Rule) -> String {
    let conditions = rule.on.iter().map(condition_text);
    let action = match rule.then {
        Action::Direct => "return".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Goto(chain) => format!("goto {}", chain.nftables()),
        Action::Redirect(port) => format!("redirect to :{port}"),
    };
    conditions.chain([action]).collect::<Vec<_>>().join(" ")
}

fn condition_text(condition: &Match) -> String {
    match condition {
        Match::Protocol(Protocol::Tcp) => "meta l4proto tcp".to_owned(),
        Match::NotProtocol(Protocol::Tcp) => "meta l4proto != tcp".to_owned(),
        Match::FromLoopbackInterface => "iif lo".to_owned(),
        Match::DestinationOwn(true) => "fib daddr type local".to_owned(),
        Match::DestinationOwn(false) => "fib daddr type != local".to_owned(),
        Match::Destination(net) => address("daddr", net),
        Match::Source(net) => address("saddr", net),
        Match::DestinationPort(range) if range.start() == range.end() => {
            format!("th dport {}", range.start())
        }
        Match::DestinationPort(range) => format!("th dport {}-{}", range.start(), range.end()),
        Match::Uid(uid) => format!("meta skuid {uid}"),
    }
}

fn address(which: &str, net: &IpNet) -> String {
    let family = match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    format!("{family} {which} {}", net.trunc())
}
