// SPDX-License-Identifier: Apache-2.0
//! Connections of the pod's processes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{
    NOT_TCP, NOT_UDP, TCP, UDP, from, hooked, link_local_v6, loopback_v4, opened_elsewhere, other_family,
    rule, to, to_port, to_ports, uid,
};
use crate::redirect::policy::{
    DNS_SERVER_PORT, DnsCapture, HOP_SOURCE_V4, HOP_SOURCE_V6, Outbound, Policy, Protocol, UidExclusion, host,
};
use crate::redirect::ruleset::{Action, Chain, ChainName, Family, Match, Point, Rule, Stage};

/// Beginning of the names that KubeVirt gives to a guest's bridge.
const KUBEVIRT: &str = "k6t";

pub(super) fn chain(policy: &Policy) -> Chain {
    let mut rules = other_family(policy.families);
    if policy.dns.capture != DnsCapture::Off {
        rules.push(rule([UDP, to_port(DNS_SERVER_PORT)], Action::Jump(ChainName::Dns), "redirect-dns"));
        rules.push(rule([TCP, to_port(DNS_SERVER_PORT)], Action::Jump(ChainName::Dns), "redirect-dns"));
    }
    rules.push(rule([NOT_TCP], Action::Direct, "only TCP is redirected"));
    let to_inbound = Action::Goto(ChainName::InboundRedirect);
    rules.extend(decisions(policy, to_inbound, Action::Goto(ChainName::OutboundRedirect)));
    hooked(ChainName::Outbound, Point::Output, Stage::Nat, rules)
}

/// Chain for connections that should have been redirected and were not.
///
/// A nat chain sees only a connection's first segment. Conntrack may still have an entry of the same addresses and ports,
/// whose owner gave up without a segment that says so (no answer for 120 s, no acknowledgement for 300 s). A new connection
/// then follows the old decision: of the sidecar, or of an excluded uid, past the sidecar. It is reset, and its successor is
/// decided anew.
pub(super) fn strays(policy: &Policy) -> Chain {
    let mut rules = other_family(policy.families);
    rules.extend(opened_elsewhere());
    rules.extend(decisions(policy, Action::Reset, Action::Reset).into_iter().map(|mut decision| {
        // Only TCP can be answered by a reset, and iptables wants to see it in the rule.
        if decision.then == Action::Reset && decision.on.first() != Some(&TCP) {
            decision.on.insert(0, TCP);
        }
        // What is left alone here needs no claim against other nat chains.
        if matches!(decision.then, Action::Keep(_)) {
            decision.then = Action::Direct;
        }
        decision
    }));
    hooked(ChainName::OutboundStrays, Point::Output, Stage::Filter, rules)
}

/// Rules that decide about a TCP connection of the pod: to the inbound or to the outbound listener, or direct.
fn decisions(policy: &Policy, to_inbound: Action, to_outbound: Action) -> Vec<Rule> {
    let Outbound {
        redirect,
        port: _,
        include_ports,
        exclude_ports,
        exclude_destinations,
        exclude_uids,
        udp: _,
    } = &policy.outbound;
    let mut rules = vec![rule([to(link_local_v6())], Action::Direct, "link-local cannot be relayed")];
    rules.extend(from_sidecar(policy, to_inbound));
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
        if include_ports.is_empty() {
            rules.extend(to_ports(exclude_ports, Action::Direct, "exclude-outbound-ports"));
            rules.push(rule([], to_outbound, "the pod reaches others through the sidecar"));
        } else {
            rules.extend(to_ports(include_ports, to_outbound, "include-outbound-ports"));
        }
    }
    rules
}

/// Rules for the sidecar's own connections. They come before every exclusion, so that no exclusion lets a pod's call to
/// itself bypass the inbound listener.
fn from_sidecar(policy: &Policy, captured: Action) -> Vec<Rule> {
    let uid = || uid(policy);
    if !policy.inbound.redirect.is_enabled() {
        return vec![rule([uid()], Action::Direct, "the sidecar's own")];
    }
    let hop = "the sidecar's inbound hop";
    let loopback = "the sidecar's own, over loopback";
    let to_oneself = "a call to oneself passes the inbound rules";
    vec![
        rule([uid(), to(host(Ipv4Addr::LOCALHOST))], Action::Direct, loopback),
        rule([uid(), to(host(Ipv6Addr::LOCALHOST))], Action::Direct, loopback),
        // Before the hop's rules: the kernel may choose 127.0.0.6 or ::6 also as the source of a connection to that address,
        // as Kuma's validator makes one.
        rule([uid(), to(loopback_v4())], captured, to_oneself),
        rule([uid(), to(host(HOP_SOURCE_V6))], captured, to_oneself),
        rule([TCP, uid(), from(host(HOP_SOURCE_V4))], hop_stays(policy, Family::V4), hop),
        rule([TCP, uid(), from(host(HOP_SOURCE_V6))], hop_stays(policy, Family::V6), hop),
        rule([uid(), Match::DestinationOwn(true)], captured, to_oneself),
        rule([uid()], Action::Direct, "the sidecar's own, to others"),
    ]
}

/// Action for the hop. The nat chains behind ours are kept from it: Docker's would send it to a container, where its source has
/// no route. KubeVirt's have a source for it, and the guest is the application.
fn hop_stays(policy: &Policy, family: Family) -> Action {
    let for_guest = policy.virtual_interfaces.iter().any(|interface| interface.name.starts_with(KUBEVIRT));
    if for_guest { Action::Direct } else { Action::Keep(family) }
}

/// Chain for UDP that bypasses the sidecar; captured DNS already has its loopback destination here.
pub(super) fn udp(policy: &Policy) -> Chain {
    let Outbound { exclude_destinations, exclude_uids, .. } = &policy.outbound;
    let mut rules = other_family(policy.families);
    rules.extend([
        rule([NOT_UDP], Action::Direct, "only UDP is rejected"),
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
pub(super) fn uid_exclusion(
    exclusion: &UidExclusion,
    protocol: Protocol,
    only: Option<u16>,
    then: Action,
) -> Vec<Rule> {
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
