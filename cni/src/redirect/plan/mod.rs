// SPDX-License-Identifier: Apache-2.0
//! `Policy → Ruleset`: one order of rules for all engines. Pure; golden files hold it.
//!
//! The rules follow the rows of the table "Where each connection lands" in ANNOTATIONS.md: the first row that matches decides.

mod dns;
mod inbound;
mod outbound;

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::policy::{
    ClosedPorts, DnsCapture, IpFamilies, OutboundUdp, Policy, Ports, Protocol, Toggle, VirtualInterface,
};
use super::ruleset::{Action, Chain, ChainName, Family, Hook, Match, Point, Rule, Ruleset, Stage};

const TCP: Match = Match::Protocol(Protocol::Tcp);
const UDP: Match = Match::Protocol(Protocol::Udp);
const NOT_TCP: Match = Match::NotProtocol(Protocol::Tcp);
const NOT_UDP: Match = Match::NotProtocol(Protocol::Udp);

/// Plan the chains and rules for `policy`.
pub fn plan(policy: &Policy) -> Ruleset {
    let Policy { inbound: to_pod, outbound: to_others, dns, virtual_interfaces, .. } = policy;
    let inbound_redirected = to_pod.redirect.is_enabled();
    let outbound_redirected = to_others.redirect.is_enabled();
    let captures_dns = dns.capture != DnsCapture::Off;
    let mut chains = Vec::new();

    chains.extend(chain_if_any(ChainName::RawInbound, Point::Prerouting, Stage::Raw, traced(policy.trace)));
    let before_conntrack = traced(policy.trace).into_iter().chain(dns::zone(policy)).collect();
    chains.extend(chain_if_any(ChainName::RawOutbound, Point::Output, Stage::Raw, before_conntrack));
    if policy.drop_invalid.is_enabled() {
        chains.push(invalid(policy));
    }
    // Target chains come first: an engine may need a chain before the rule that names it.
    if inbound_redirected {
        chains.push(redirect(
            ChainName::InboundRedirect,
            to_pod.port.get(),
            &[Protocol::Tcp],
            "the sidecar's inbound listener",
        ));
    }
    if outbound_redirected {
        chains.push(redirect(
            ChainName::OutboundRedirect,
            to_others.port.get(),
            &[Protocol::Tcp],
            "the sidecar's outbound listener",
        ));
    }
    if captures_dns {
        let both = [Protocol::Udp, Protocol::Tcp];
        chains.push(redirect(ChainName::DnsRedirect, dns.port.get(), &both, "the sidecar's DNS server"));
        chains.push(dns::captured(policy));
    }
    let virtual_interfaces: &[VirtualInterface] = if outbound_redirected { virtual_interfaces } else { &[] };
    if !virtual_interfaces.is_empty() {
        chains.push(inbound::behind_interfaces(virtual_interfaces));
    }
    if inbound_redirected || !virtual_interfaces.is_empty() {
        chains.push(inbound::chain(policy, !virtual_interfaces.is_empty()));
    }
    if inbound_redirected || outbound_redirected || captures_dns {
        chains.push(outbound::chain(policy));
    }
    if inbound_redirected && to_pod.closed_ports == ClosedPorts::Refuse {
        chains.push(inbound::strays(policy));
    }
    if inbound_redirected || outbound_redirected {
        chains.push(outbound::strays(policy));
    }
    if to_others.udp == OutboundUdp::Reject {
        chains.push(outbound::udp(policy));
    }
    Ruleset { chains }
}

fn traced(trace: Toggle) -> Vec<Rule> {
    if trace.is_enabled() { vec![rule([], Action::Trace, "trace")] } else { Vec::new() }
}

fn invalid(policy: &Policy) -> Chain {
    let mut rules = other_family(policy.families);
    rules.push(rule(
        [Match::FromLoopbackInterface(false), TCP, Match::Invalid],
        Action::Drop,
        "drop-invalid",
    ));
    hooked(ChainName::Invalid, Point::Prerouting, Stage::Mangle, rules)
}

/// Conditions of segments that a chain behind nat passes over: those that open no connection, and those of connections that
/// were redirected. All others have the destination that they were sent to.
fn opened_elsewhere() -> [Rule; 3] {
    [
        // First: most packets end here, and each rule costs them some 50 ns.
        rule([TCP, Match::NotOpening], Action::Direct, "only a connection's first segment is judged"),
        rule([NOT_TCP], Action::Direct, "only TCP is redirected"),
        rule([TCP, Match::Translated], Action::Direct, "it was redirected"),
    ]
}

fn redirect(name: ChainName, port: u16, protocols: &[Protocol], because: &'static str) -> Chain {
    let one = |protocol: &Protocol| rule([Match::Protocol(*protocol)], Action::Redirect(port), because);
    Chain { name, hook: None, rules: protocols.iter().map(one).collect() }
}

/// Rule that keeps the family outside the policy direct, if there is one.
fn other_family(families: IpFamilies) -> Vec<Rule> {
    let other = match families {
        IpFamilies::Dual => return Vec::new(),
        IpFamilies::V4 => Family::V6,
        IpFamilies::V6 => Family::V4,
    };
    vec![rule([Match::Family(other)], Action::Direct, "ip-family")]
}

fn to_ports<'a>(ports: &'a Ports, then: Action, setting: &'static str) -> impl Iterator<Item = Rule> + 'a {
    ports.iter().map(move |range| rule([TCP, Match::DestinationPort(range.clone())], then, setting))
}

fn hooked(name: ChainName, at: Point, stage: Stage, rules: Vec<Rule>) -> Chain {
    Chain { name, hook: Some(Hook { at, stage }), rules }
}

fn chain_if_any(name: ChainName, at: Point, stage: Stage, rules: Vec<Rule>) -> Option<Chain> {
    (!rules.is_empty()).then(|| hooked(name, at, stage, rules))
}

fn rule(on: impl IntoIterator<Item = Match>, then: Action, because: impl Into<Cow<'static, str>>) -> Rule {
    Rule { on: on.into_iter().collect(), then, because: because.into() }
}

fn uid(policy: &Policy) -> Match {
    let uid = policy.proxy_uid.get();
    Match::Uid(uid..=uid)
}

fn to(net: IpNet) -> Match {
    Match::Destination(net)
}

fn from(net: IpNet) -> Match {
    Match::Source(net)
}

fn to_port(port: u16) -> Match {
    Match::DestinationPort(port..=port)
}

fn loopback_v4() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
}

fn link_local_v6() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::nftables;
    use crate::redirect::policy::{Port, ProxyUid, Ranges, Toggle};

    fn in_words(rules: &Ruleset) -> String {
        let rule = |rule: &Rule| format!("  {rule} ({})\n", rule.because);
        rules
            .chains
            .iter()
            .map(|chain| {
                format!("{}\n{}", chain.name.nftables(), chain.rules.iter().map(rule).collect::<String>())
            })
            .collect()
    }

    #[test]
    fn golden_default() {
        insta::assert_snapshot!("default", nftables::script(&plan(&Policy::default())));
        insta::assert_snapshot!("default_in_words", in_words(&plan(&Policy::default())));
    }

    #[test]
    fn golden_ports_and_uid() {
        let mut policy = Policy { proxy_uid: ProxyUid::new(1_000_600_000).unwrap(), ..Policy::default() };
        policy.inbound.port = Port::new(25006).unwrap();
        policy.outbound.port = Port::new(25001).unwrap();
        policy.inbound.status_port = Port::new(25020).unwrap();
        policy.inbound.exclude_ports = Ranges::new(vec![22..=22, 9000..=9010]);
        policy.outbound.exclude_ports = Ranges::new(vec![5432..=5432, 6379..=6380]);
        insta::assert_snapshot!("ports_and_uid", nftables::script(&plan(&policy)));
    }

    #[test]
    fn golden_one_direction() {
        let mut gateway = Policy::default();
        gateway.inbound.redirect = Toggle::Disabled;
        insta::assert_snapshot!("inbound_disabled", nftables::script(&plan(&gateway)));
        let mut server = Policy::default();
        server.outbound.redirect = Toggle::Disabled;
        insta::assert_snapshot!("outbound_disabled", nftables::script(&plan(&server)));
    }

    #[test]
    fn no_direction_needs_no_chain() {
        let mut policy = Policy::default();
        policy.inbound.redirect = Toggle::Disabled;
        policy.outbound.redirect = Toggle::Disabled;
        assert_eq!(plan(&policy), Ruleset::default());
    }

    #[test]
    fn a_chain_stands_before_the_rules_that_go_to_it() {
        let rules = plan(&Policy::default());
        for (index, chain) in rules.chains.iter().enumerate() {
            for rule in &chain.rules {
                if let Action::Goto(target) = rule.then {
                    assert!(rules.chains[..index].iter().any(|before| before.name == target), "{target:?}");
                }
            }
        }
    }
}
