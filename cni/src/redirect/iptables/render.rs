// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → iptables-restore`, one text per family, in the format that `iptables-save` prints. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use ipnet::IpNet;

use crate::redirect::owner::Owner;
use crate::redirect::policy::Protocol;
use crate::redirect::ruleset::{Action, Chain, ChainName, Family, Match, Point, Rule, Ruleset, Stage, ZONE};

/// A table of iptables, in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
}

impl Table {
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// Culvert's lines in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Names of the chains, in order.
    pub(crate) chains: Vec<String>,
    /// Lines `-A PREROUTING -j …` of built-in chains.
    pub(crate) hooks: Vec<String>,
    /// Lines `-A CULVERT_…`, in order.
    pub(crate) rules: Vec<String>,
}

/// Culvert's lines in one family, by table.
pub(crate) type Rendered = BTreeMap<Table, Lines>;

/// Prefix of all of culvert's chains.
pub(crate) const PREFIX: &str = "CULVERT_";

/// Chain in mangle for DROP rules of the plan's nat chains: iptables has no DROP in nat.
const DROPPED: &str = "CULVERT_DROPPED";

/// Spell a chain's name for iptables.
pub(crate) fn chain_name(name: ChainName) -> String {
    format!("{PREFIX}{}", name.nftables().to_ascii_uppercase())
}

/// Render `rules` for `family`, with the note of `owner`.
pub(crate) fn render(rules: &Ruleset, owner: Option<&Owner>, family: Family) -> Rendered {
    let mut tables = Rendered::new();
    for chain in &rules.chains {
        let lines = tables.entry(table_of(chain)).or_default();
        let name = chain_name(chain.name);
        lines.chains.push(name.clone());
        if let Some(hook) = chain.hook {
            lines.hooks.push(format!("-A {} -j {name}", built_in(hook.at)));
        }
    }
    let mut dropped = Vec::new();
    for chain in &rules.chains {
        let table = table_of(chain);
        let name = chain_name(chain.name);
        for rule in chain.rules.iter().filter(|rule| holds_in(rule, family)) {
            if rule.then == Action::Drop && table == Table::Nat {
                dropped.push(line(DROPPED, rule, family));
            } else {
                tables.entry(table).or_default().rules.push(line(&name, rule, family));
            }
        }
    }
    if !dropped.is_empty() {
        let mangle = tables.entry(Table::Mangle).or_default();
        mangle.chains.push(DROPPED.to_owned());
        mangle.hooks.push(format!("-A PREROUTING -j {DROPPED}"));
        mangle.rules.extend(dropped);
    }
    if let Some(owner) = owner {
        let nat = tables.entry(Table::Nat).or_default();
        let about = chain_name(ChainName::About);
        nat.rules.push(format!("-A {about} -m comment --comment \"{owner}\" -j RETURN"));
        nat.chains.push(about);
    }
    tables
}

/// Render the text for `iptables-restore --noflush` that replaces the lines of `old` by those of `new`.
pub(crate) fn restore_text(old: &Rendered, new: &Rendered) -> String {
    let mut out = String::new();
    for table in Table::ALL {
        let (old, new) = (old.get(&table), new.get(&table));
        if old.is_none() && new.is_none() {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "*{}", table.name());
        for chain in new.iter().flat_map(|lines| &lines.chains) {
            let _ = writeln!(out, ":{chain} - [0:0]");
        }
        for hook in old.iter().flat_map(|lines| &lines.hooks) {
            let _ = writeln!(out, "{}", hook.replacen("-A", "-D", 1));
        }
        let gone = |chain: &&String| !new.is_some_and(|new| new.chains.contains(chain));
        for chain in old.iter().flat_map(|lines| &lines.chains) {
            let _ = writeln!(out, "-F {chain}");
        }
        for chain in old.iter().flat_map(|lines| &lines.chains).filter(gone) {
            let _ = writeln!(out, "-X {chain}");
        }
        for line in new.iter().flat_map(|lines| lines.rules.iter().chain(&lines.hooks)) {
            // Inserted, so that culvert's chains come before those of other programs.
            let is_hook = !line.starts_with("-A CULVERT_");
            let _ = writeln!(out, "{}", if is_hook { line.replacen("-A", "-I", 1) } else { line.clone() });
        }
        out.push_str("COMMIT\n");
    }
    out
}

fn table_of(chain: &Chain) -> Table {
    match chain.hook.map(|hook| hook.stage) {
        Some(Stage::Raw) => Table::Raw,
        Some(Stage::Mangle) => Table::Mangle,
        Some(Stage::Filter) => Table::Filter,
        // All chains without a hook belong to nat.
        Some(Stage::Nat) | None => Table::Nat,
    }
}

const fn built_in(at: Point) -> &'static str {
    match at {
        Point::Prerouting => "PREROUTING",
        Point::Input => "INPUT",
        Point::Output => "OUTPUT",
    }
}

/// Returns true if `rule` can match packets of `family`.
fn holds_in(rule: &Rule, family: Family) -> bool {
    rule.on.iter().all(|condition| match condition {
        Match::Family(of) => *of == family,
        Match::Destination(net) | Match::Source(net) => Family::of(net) == family,
        _ => true,
    })
}

/// One line, its parts in the order of `iptables-save`: addresses, interface, protocol, matches, target.
fn line(chain: &str, rule: &Rule, family: Family) -> String {
    let mut addresses = String::new();
    let mut interface = String::new();
    let mut protocol = String::new();
    let mut ports = String::new();
    let mut matches = String::new();
    let mut transport = "tcp";
    for condition in &rule.on {
        // Writing to a String cannot fail.
        let _ = match condition {
            Match::Family(_) => Ok(()),
            Match::Protocol(of) => {
                transport = protocol_name(*of);
                write!(protocol, " -p {transport}")
            }
            Match::NotProtocol(of) => write!(protocol, " ! -p {}", protocol_name(*of)),
            Match::FromLoopbackInterface(true) => write!(interface, " -i lo"),
            Match::FromLoopbackInterface(false) => write!(interface, " ! -i lo"),
            Match::Interface { name, is_prefix } => {
                write!(interface, " -i {name}{}", if *is_prefix { "+" } else { "" })
            }
            Match::DestinationOwn(true) => write!(matches, " -m addrtype --dst-type LOCAL"),
            Match::DestinationOwn(false) => write!(matches, " -m addrtype ! --dst-type LOCAL"),
            Match::Destination(net) => write!(addresses, "{}", address("-d", net)),
            Match::Source(net) => write!(addresses, "{}", address("-s", net)),
            Match::DestinationPort(range) if range.start() == range.end() => {
                write!(ports, " --dport {}", range.start())
            }
            Match::DestinationPort(range) => write!(ports, " --dport {}:{}", range.start(), range.end()),
            Match::NotDestinationPort(port) => write!(ports, " ! --dport {port}"),
            Match::Uid(range) if range.start() == range.end() => {
                write!(matches, " -m owner --uid-owner {}", range.start())
            }
            Match::Uid(range) => write!(matches, " -m owner --uid-owner {}-{}", range.start(), range.end()),
            // The settings refuse this for iptables. Left out, closed ports are redirected, which is the safe side.
            Match::Listening => Ok(()),
            Match::NotOpening => write!(ports, " ! --tcp-flags FIN,SYN,RST,ACK SYN"),
            Match::Translated => write!(matches, " -m conntrack --ctstate DNAT"),
            Match::Invalid => write!(matches, " -m conntrack --ctstate INVALID"),
            Match::Reply => write!(matches, " -m conntrack --ctdir REPLY"),
        };
    }
    if !ports.is_empty() {
        ports = format!(" -m {transport}{ports}");
    }
    format!("-A {chain}{addresses}{interface}{protocol}{matches}{ports}{}", target(rule.then, family))
}

fn target(action: Action, family: Family) -> String {
    match action {
        Action::Direct | Action::Back => " -j RETURN".to_owned(),
        Action::Drop => " -j DROP".to_owned(),
        Action::Reject => match family {
            Family::V4 => " -j REJECT --reject-with icmp-port-unreachable".to_owned(),
            Family::V6 => " -j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        },
        Action::Reset => " -j REJECT --reject-with tcp-reset".to_owned(),
        // A translation into the range of all ports, which changes none.
        Action::Keep(_) => " -j DNAT --to-destination :1-65535".to_owned(),
        Action::Zone => format!(" -j CT --zone-orig {ZONE}"),
        Action::Trace => " -j TRACE".to_owned(),
        Action::Jump(chain) => format!(" -j {}", chain_name(chain)),
        Action::Goto(chain) => format!(" -g {}", chain_name(chain)),
        Action::Redirect(port) => format!(" -j REDIRECT --to-ports {port}"),
    }
}

/// Returns no condition for "any address", as `iptables-save` prints it.
fn address(option: &str, net: &IpNet) -> String {
    if net.prefix_len() == 0 { String::new() } else { format!(" {option} {}", net.trunc()) }
}

const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
