// SPDX-License-Identifier: Apache-2.0
//! `Policy → Ruleset`: one order of rules for all engines. Pure; golden files hold it.
//!
//! The rows are those of contract §4 ("Where each connection lands"), first row that fits decides.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::policy::{HOP_SOURCE_V4, HOP_SOURCE_V6, Inbound, Outbound, Policy, Ports, host};
use super::ruleset::{Action, Chain, ChainName, Hook, Match, Protocol, Rule, Ruleset};

const NOT_TCP: Match = Match::NotProtocol(Protocol::Tcp);

/// The chains that make `policy` true.
pub fn plan(policy: &Policy) -> Ruleset {
    let mut chains = Vec::with_capacity(4);
    let inbound_redirected = policy.inbound.redirect.is_enabled();
    let outbound_redirected = policy.outbound.redirect.is_enabled();
    // Chains that others go to come first: an engine may need a chain before the rule that names it.
    if inbound_redirected {
        chains.push(redirect(
            ChainName::InboundRedirect,
            policy.inbound.port.get(),
            "the sidecar's inbound listener",
        ));
    }
    if outbound_redirected {
        let port = policy.outbound.port.get();
        chains.push(redirect(ChainName::OutboundRedirect, port, "the sidecar's outbound listener"));
    }
    if inbound_redirected {
        chains.push(inbound(&policy.inbound));
    }
    if inbound_redirected || outbound_redirected {
        chains.push(outbound(policy));
    }
    Ruleset { chains }
}

fn inbound(policy: &Inbound) -> Chain {
    let Inbound { redirect: _, port: _, status_port, exclude_ports } = policy;
    let mut rules = vec![
        rule([Match::FromLoopbackInterface], Action::Direct, "decided when it was sent"),
        rule([NOT_TCP], Action::Direct, "only TCP is redirected"),
        // The kernel itself drops what arrives from outside for 127.0.0.0/8 and ::1, but only after this hook: a redirect
        // here would rewrite the destination and hand loopback-only services to the neighbours.
        rule([to(loopback_v4())], Action::Direct, "forged: the kernel drops it"),
        rule([to(host(Ipv6Addr::LOCALHOST))], Action::Direct, "forged: the kernel drops it"),
        // ::6 is an ordinary address to the kernel, which would deliver it from any interface.
        rule([to(host(HOP_SOURCE_V6))], Action::Drop, "forged: the hop's own address"),
        rule([Match::DestinationOwn(false)], Action::Direct, "forwarded traffic is not ours"),
        rule([to_port(status_port.get())], Action::Direct, "status-port"),
    ];
    rules.extend(excluded(exclude_ports, "exclude-inbound-ports"));
    rules.push(rule([], Action::Goto(ChainName::InboundRedirect), "peers reach the pod through the sidecar"));
    Chain { name: ChainName::Inbound, hook: Some(Hook::Prerouting), rules }
}

fn outbound(policy: &Policy) -> Chain {
    let Outbound { redirect, port: _, exclude_ports } = &policy.outbound;
    let mut rules = vec![
        rule([NOT_TCP], Action::Direct, "only TCP is redirected"),
        rule([to(link_local_v6())], Action::Direct, "link-local cannot be relayed"),
    ];
    rules.extend(from_sidecar(policy));
    if redirect.is_enabled() {
        // Loopback by its number too: while lo is down the kernel does not count 127.0.0.0/8 as its own.
        rules.push(rule([to(loopback_v4())], Action::Direct, "loopback stays in the pod"));
        rules.push(rule([to(host(Ipv6Addr::LOCALHOST))], Action::Direct, "loopback stays in the pod"));
        rules.push(rule([Match::DestinationOwn(true)], Action::Direct, "a call to oneself stays in the pod"));
        rules.extend(excluded(exclude_ports, "exclude-outbound-ports"));
        rules.push(rule(
            [],
            Action::Goto(ChainName::OutboundRedirect),
            "the pod reaches others through the sidecar",
        ));
    }
    Chain { name: ChainName::Outbound, hook: Some(Hook::Output), rules }
}

/// The sidecar's own connections. They come before every exclusion, so that none can switch off the inbound listener for
/// calls to oneself.
fn from_sidecar(policy: &Policy) -> Vec<Rule> {
    let uid = || Match::Uid(policy.proxy_uid.get());
    if !policy.inbound.redirect.is_enabled() {
        return vec![rule([uid()], Action::Direct, "the sidecar's own")];
    }
    let hop = "the sidecar's inbound hop";
    let loopback = "the sidecar's own, over loopback";
    let to_oneself = "a call to oneself passes the inbound rules";
    let captured = Action::Goto(ChainName::InboundRedirect);
    vec![
        rule([uid(), to(host(Ipv4Addr::LOCALHOST))], Action::Direct, loopback),
        rule([uid(), to(host(Ipv6Addr::LOCALHOST))], Action::Direct, loopback),
        // Before the hop: who dials 127.0.0.6 or ::6 (Kuma's validator does) may be given that very address as a source.
        rule([uid(), to(loopback_v4())], captured, to_oneself),
        rule([uid(), to(host(HOP_SOURCE_V6))], captured, to_oneself),
        rule([uid(), from(host(HOP_SOURCE_V4))], Action::Direct, hop),
        rule([uid(), from(host(HOP_SOURCE_V6))], Action::Direct, hop),
        rule([uid(), Match::DestinationOwn(true)], captured, to_oneself),
        rule([uid()], Action::Direct, "the sidecar's own, to others"),
    ]
}

fn redirect(name: ChainName, port: u16, because: &'static str) -> Chain {
    let rules = vec![rule([Match::Protocol(Protocol::Tcp)], Action::Redirect(port), because)];
    Chain { name, hook: None, rules }
}

fn excluded<'a>(ports: &'a Ports, setting: &'static str) -> impl Iterator<Item = Rule> + 'a {
    ports.iter().map(move |range| rule([Match::DestinationPort(range.clone())], Action::Direct, setting))
}

fn rule(on: impl IntoIterator<Item = Match>, then: Action, because: impl Into<Cow<'static, str>>) -> Rule {
    Rule { on: on.into_iter().collect(), then, because: because.into() }
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
