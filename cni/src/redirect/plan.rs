// SPDX-License-Identifier: Apache-2.0
//! `Policy → Ruleset`: one order of rules for all engines. Pure; golden files hold it.
//!
//! The rules follow the rows of the table "Where each connection lands" in ANNOTATIONS.md: the first row that matches decides.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::policy::{
    ClosedPorts, DNS_SERVER_PORT, Dns, DnsCapture, HOP_SOURCE_V4, HOP_SOURCE_V6, Inbound, IpFamilies,
    Outbound, OutboundUdp, Policy, Ports, Protocol, Toggle, UidExclusion, VirtualInterface, host,
};
use super::ruleset::{Action, Chain, ChainName, Family, Hook, Match, Point, Rule, Ruleset, Stage};

const TCP: Match = Match::Protocol(Protocol::Tcp);
const UDP: Match = Match::Protocol(Protocol::Udp);
const NOT_TCP: Match = Match::NotProtocol(Protocol::Tcp);

/// Plan the chains and rules for `policy`.
pub fn plan(policy: &Policy) -> Ruleset {
    let Policy { inbound: to_pod, outbound: to_others, dns, virtual_interfaces, .. } = policy;
    let inbound_redirected = to_pod.redirect.is_enabled();
    let outbound_redirected = to_others.redirect.is_enabled();
    let captures_dns = dns.capture != DnsCapture::Off;
    let mut chains = Vec::new();

    chains.extend(raw_inbound(policy));
    chains.extend(raw_outbound(policy));
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
        chains.push(dns_chain(policy));
    }
    let virtual_interfaces: &[VirtualInterface] = if outbound_redirected { virtual_interfaces } else { &[] };
    if !virtual_interfaces.is_empty() {
        chains.push(behind_interfaces(virtual_interfaces));
    }
    if inbound_redirected || !virtual_interfaces.is_empty() {
        chains.push(inbound(policy, !virtual_interfaces.is_empty()));
    }
    if inbound_redirected || outbound_redirected || captures_dns {
        chains.push(outbound(policy));
    }
    if to_others.udp == OutboundUdp::Reject {
        chains.push(outbound_udp(policy));
    }
    Ruleset { chains }
}

/// Chain before conntrack, from outside: answers to the sidecar's own DNS queries, see [`raw_outbound`].
fn raw_inbound(policy: &Policy) -> Option<Chain> {
    let mut rules = traced(policy.trace);
    if policy.dns.capture != DnsCapture::Off {
        rules.push(rule(
            [
                Match::FromLoopbackInterface(false),
                UDP,
                Match::SourcePort(DNS_SERVER_PORT),
                // A server may itself ask a DNS server in the pod, from its port 53: that query stays tracked.
                Match::NotDestinationPort(DNS_SERVER_PORT),
            ],
            Action::Untrack,
            "answers to the sidecar's DNS queries",
        ));
    }
    chain_if_any(ChainName::RawInbound, Point::Prerouting, Stage::Raw, rules)
}

/// Chain before conntrack, from the pod.
///
/// A captured query leaves an entry in conntrack for 30 s, which sends packets from that port to that server to the sidecar.
/// If the sidecar's own query gets the same port within that time, it would follow the entry, back to the sidecar. So the
/// sidecar's queries and the answers to them are not tracked.
fn raw_outbound(policy: &Policy) -> Option<Chain> {
    let Dns { capture, port } = &policy.dns;
    let mut rules = traced(policy.trace);
    if *capture != DnsCapture::Off {
        let queries = [
            uid(policy),
            UDP,
            to_port(DNS_SERVER_PORT),
            // The sidecar's DNS server may answer an application that asked from port 53; that answer must stay tracked.
            Match::NotSourcePort(port.get()),
        ];
        rules.push(rule(queries, Action::Untrack, "the sidecar's DNS queries"));
        let answers = [
            UDP,
            Match::SourcePort(DNS_SERVER_PORT),
            Match::NotDestinationPort(DNS_SERVER_PORT),
            // Answers to peers stay tracked: they belong to the peers' tracked queries.
            Match::DestinationOwn(true),
        ];
        rules.push(rule(answers, Action::Untrack, "answers of a DNS server in the pod"));
    }
    chain_if_any(ChainName::RawOutbound, Point::Output, Stage::Raw, rules)
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

fn inbound(policy: &Policy, has_virtual_interfaces: bool) -> Chain {
    let mut rules = other_family(policy.families);
    rules.extend([
        rule([Match::FromLoopbackInterface(true)], Action::Direct, "decided when it was sent"),
        rule([NOT_TCP], Action::Direct, "only TCP is redirected"),
        // The kernel drops packets from outside for 127.0.0.0/8 and ::1, but only after this hook: a redirect here would
        // rewrite the destination and give peers access to services on loopback.
        rule([to(loopback_v4())], Action::Direct, "forged: the kernel drops it"),
        rule([to(host(Ipv6Addr::LOCALHOST))], Action::Direct, "forged: the kernel drops it"),
        // To the kernel ::6 is an ordinary address, which it would deliver from any interface. The rule repeats the
        // conditions of the rules above it: iptables has no DROP in nat, so its engine writes this rule into mangle.
        rule(
            [Match::FromLoopbackInterface(false), TCP, to(host(HOP_SOURCE_V6))],
            Action::Drop,
            "forged: the hop's own address",
        ),
    ]);
    if has_virtual_interfaces {
        rules.push(rule([], Action::Jump(ChainName::VirtualInterfaces), "virtual-interfaces"));
    }
    if policy.inbound.redirect.is_enabled() {
        rules.extend(from_peers(&policy.inbound));
    }
    hooked(ChainName::Inbound, Point::Prerouting, Stage::Nat, rules)
}

/// Rules for TCP connections of peers to the pod.
fn from_peers(inbound: &Inbound) -> Vec<Rule> {
    let Inbound {
        redirect: _,
        port: _,
        status_port,
        include_ports,
        exclude_ports,
        kuma_ports,
        exclude_sources,
        closed_ports,
    } = inbound;
    let mut rules = vec![
        rule([Match::DestinationOwn(false)], Action::Direct, "forwarded traffic is not ours"),
        rule([TCP, to_port(status_port.get())], Action::Direct, "status-port"),
    ];
    rules.extend(to_ports(kuma_ports, Action::Direct, "ports of Kuma's proxy"));
    rules.extend(
        exclude_sources.iter().map(|net| rule([from(*net)], Action::Direct, "exclude-inbound-cidrs")),
    );
    if include_ports.is_empty() {
        rules.extend(to_ports(exclude_ports, Action::Direct, "exclude-inbound-ports"));
    }
    let captured = Action::Goto(ChainName::InboundRedirect);
    let listening = match closed_ports {
        ClosedPorts::Redirect => None,
        ClosedPorts::Refuse => Some(Match::Listening),
    };
    let because = match closed_ports {
        ClosedPorts::Redirect => "peers reach the pod through the sidecar",
        ClosedPorts::Refuse => "closed-ports: elsewhere the kernel refuses",
    };
    if include_ports.is_empty() {
        rules.push(rule(listening, captured, because));
    } else {
        let conditions = |range: &RangeInclusive<u16>| {
            [TCP, Match::DestinationPort(range.clone())].into_iter().chain(listening.clone())
        };
        rules.extend(
            include_ports.iter().map(|range| rule(conditions(range), captured, "include-inbound-ports")),
        );
    }
    rules
}

/// Chain for connections from behind a virtual interface; those to other networks count as the pod's own.
fn behind_interfaces(interfaces: &[VirtualInterface]) -> Chain {
    let arriving = |interface: &VirtualInterface| Match::Interface {
        name: interface.name.clone(),
        is_prefix: interface.is_prefix,
    };
    let inside = interfaces
        .iter()
        .map(|interface| rule([arriving(interface), to(interface.net)], Action::Back, "virtual-interfaces"));
    let outside = interfaces.iter().map(|interface| {
        let conditions = [arriving(interface), Match::Family(Family::of(&interface.net))];
        rule(conditions, Action::Goto(ChainName::OutboundRedirect), "virtual-interfaces")
    });
    let rules = inside.chain(outside).collect();
    Chain { name: ChainName::VirtualInterfaces, hook: None, rules }
}

fn outbound(policy: &Policy) -> Chain {
    let Outbound {
        redirect,
        port: _,
        include_ports,
        exclude_ports,
        exclude_destinations,
        exclude_uids,
        udp: _,
    } = &policy.outbound;
    let mut rules = other_family(policy.families);
    if policy.dns.capture != DnsCapture::Off {
        rules.push(rule([UDP, to_port(DNS_SERVER_PORT)], Action::Jump(ChainName::Dns), "redirect-dns"));
        rules.push(rule([TCP, to_port(DNS_SERVER_PORT)], Action::Jump(ChainName::Dns), "redirect-dns"));
    }
    rules.push(rule([NOT_TCP], Action::Direct, "only TCP is redirected"));
    rules.push(rule([to(link_local_v6())], Action::Direct, "link-local cannot be relayed"));
    rules.extend(from_sidecar(policy));
    if redirect.is_enabled() {
        // Loopback is matched by number too: while lo is down, 127.0.0.0/8 does not count as local.
        rules.push(rule([to(loopback_v4())], Action::Direct, "loopback stays in the pod"));
        rules.push(rule([to(host(Ipv6Addr::LOCALHOST))], Action::Direct, "loopback stays in the pod"));
        rules.push(rule([Match::DestinationOwn(true)], Action::Direct, "a call to oneself stays in the pod"));
        let to_excluded = |net: &IpNet| rule([to(*net)], Action::Direct, "exclude-outbound-cidrs");
        rules.extend(exclude_destinations.iter().map(to_excluded));
        rules.extend(
            exclude_uids
                .iter()
                .flat_map(|exclusion| uid_exclusion(exclusion, Protocol::Tcp, None, Action::Direct)),
        );
        let captured = Action::Goto(ChainName::OutboundRedirect);
        if include_ports.is_empty() {
            rules.extend(to_ports(exclude_ports, Action::Direct, "exclude-outbound-ports"));
            rules.push(rule([], captured, "the pod reaches others through the sidecar"));
        } else {
            rules.extend(to_ports(include_ports, captured, "include-outbound-ports"));
        }
    }
    hooked(ChainName::Outbound, Point::Output, Stage::Nat, rules)
}

/// Rules for the sidecar's own connections. They come before every exclusion, so that no exclusion lets a pod's call to
/// itself bypass the inbound listener.
fn from_sidecar(policy: &Policy) -> Vec<Rule> {
    let uid = || uid(policy);
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
        // Before the hop's rules: the kernel may choose 127.0.0.6 or ::6 also as the source of a connection to that address,
        // as Kuma's validator makes one.
        rule([uid(), to(loopback_v4())], captured, to_oneself),
        rule([uid(), to(host(HOP_SOURCE_V6))], captured, to_oneself),
        rule([uid(), from(host(HOP_SOURCE_V4))], Action::Direct, hop),
        rule([uid(), from(host(HOP_SOURCE_V6))], Action::Direct, hop),
        rule([uid(), Match::DestinationOwn(true)], captured, to_oneself),
        rule([uid()], Action::Direct, "the sidecar's own, to others"),
    ]
}

/// Chain for DNS queries over UDP and TCP, entered for port 53. Queries that are not captured continue in [`outbound`].
fn dns_chain(policy: &Policy) -> Chain {
    let Outbound { exclude_destinations, exclude_uids, .. } = &policy.outbound;
    let mut rules = vec![rule([uid(policy)], Action::Back, "the sidecar's own DNS goes out")];
    rules.extend(
        exclude_destinations.iter().map(|net| rule([to(*net)], Action::Back, "exclude-outbound-cidrs")),
    );
    let excluded = |protocol| {
        let names_dns = move |exclusion: &&UidExclusion| {
            exclusion.ports.is_empty() || exclusion.ports.contains(DNS_SERVER_PORT)
        };
        exclude_uids.iter().filter(names_dns).flat_map(move |exclusion| {
            uid_exclusion(exclusion, protocol, Some(DNS_SERVER_PORT), Action::Back)
        })
    };
    rules.extend(excluded(Protocol::Udp));
    rules.extend(excluded(Protocol::Tcp));
    let captured = Action::Goto(ChainName::DnsRedirect);
    match &policy.dns.capture {
        DnsCapture::Off => {}
        DnsCapture::All => rules.push(rule([], captured, "redirect-dns: all")),
        DnsCapture::Servers(servers) => {
            rules.extend(servers.iter().map(|server| rule([to(host(*server))], captured, "redirect-dns")));
        }
    }
    Chain { name: ChainName::Dns, hook: None, rules }
}

/// Chain for UDP that bypasses the sidecar; captured DNS already has its loopback destination here.
fn outbound_udp(policy: &Policy) -> Chain {
    let Outbound { exclude_destinations, exclude_uids, .. } = &policy.outbound;
    let mut rules = other_family(policy.families);
    rules.extend([
        rule([Match::NotProtocol(Protocol::Udp)], Action::Direct, "only UDP is rejected"),
        rule([Match::Reply], Action::Direct, "a service of the pod may answer its peers"),
        rule([uid(policy)], Action::Direct, "the sidecar's own"),
        rule([to(link_local_v6())], Action::Direct, "link-local is not ours"),
        rule([to(loopback_v4())], Action::Direct, "loopback stays in the pod"),
        rule([to(host(Ipv6Addr::LOCALHOST))], Action::Direct, "loopback stays in the pod"),
        rule([Match::DestinationOwn(true)], Action::Direct, "a call to oneself stays in the pod"),
    ]);
    rules.extend(
        exclude_destinations.iter().map(|net| rule([to(*net)], Action::Direct, "exclude-outbound-cidrs")),
    );
    rules.extend(
        exclude_uids
            .iter()
            .flat_map(|exclusion| uid_exclusion(exclusion, Protocol::Udp, None, Action::Direct)),
    );
    rules.push(rule([], Action::Reject, "outbound-udp: reject"));
    hooked(ChainName::OutboundUdp, Point::Output, Stage::Filter, rules)
}

/// Rules for `protocol` of one exclusion, one for each range of ports. With `only` the caller has checked that port already,
/// so one rule without ports is enough.
fn uid_exclusion(exclusion: &UidExclusion, protocol: Protocol, only: Option<u16>, then: Action) -> Vec<Rule> {
    let UidExclusion { protocols, ports, uids } = exclusion;
    let because = "exclude-outbound-ports-for-uids";
    if !protocols.contains(&protocol) {
        return Vec::new();
    }
    let conditions = [Match::Protocol(protocol), Match::Uid(uids.clone())];
    if ports.is_empty() || only.is_some() {
        return vec![rule(conditions, then, because)];
    }
    let with_port = |range: &RangeInclusive<u16>| {
        let conditions = conditions.clone().into_iter().chain([Match::DestinationPort(range.clone())]);
        rule(conditions, then, because)
    };
    ports.iter().map(with_port).collect()
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
