// SPDX-License-Identifier: Apache-2.0
//! Connections that peers open.

use std::net::Ipv6Addr;
use std::ops::RangeInclusive;

use super::{
    NOT_TCP, TCP, from, hooked, loopback_v4, opened_elsewhere, other_family, rule, to, to_port, to_ports,
};
use crate::redirect::policy::{ClosedPorts, HOP_SOURCE_V6, Inbound, Policy, VirtualInterface, host};
use crate::redirect::ruleset::{Action, Chain, ChainName, Family, Match, Point, Rule, Stage};

pub(super) fn chain(policy: &Policy, has_virtual_interfaces: bool) -> Chain {
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
        let captured = Action::Goto(ChainName::InboundRedirect);
        let closed = "closed-ports: elsewhere the kernel refuses";
        rules.extend(not_captured(&policy.inbound));
        match policy.inbound.closed_ports {
            ClosedPorts::Redirect => {
                rules.extend(included(
                    &policy.inbound,
                    &[],
                    captured,
                    "peers reach the pod through the sidecar",
                ));
            }
            ClosedPorts::Refuse => {
                rules.extend(included(&policy.inbound, &[Match::Listening], captured, closed));
                // Without this, a nat chain behind ours could still give the connection to an application.
                for family in [Family::V4, Family::V6] {
                    let kept = Action::Keep(family);
                    rules.extend(included(&policy.inbound, &[Match::Family(family)], kept, closed));
                }
            }
        }
    }
    hooked(ChainName::Inbound, Point::Prerouting, Stage::Nat, rules)
}

/// Chain for connections to a port that `closed-ports: refuse` did not redirect. Most are refused by the kernel anyway; but
/// an application may begin to listen between the two chains.
pub(super) fn strays(policy: &Policy) -> Chain {
    let closed = "closed-ports: what is not redirected reaches nothing";
    let mut rules = other_family(policy.families);
    rules.push(rule([Match::FromLoopbackInterface(true)], Action::Direct, "decided when it was sent"));
    rules.extend(opened_elsewhere());
    rules.extend(not_captured(&policy.inbound));
    rules.extend(included(&policy.inbound, &[TCP], Action::Reset, closed));
    hooked(ChainName::InboundStrays, Point::Input, Stage::Filter, rules)
}

/// Rules for TCP connections of peers that are never redirected.
fn not_captured(inbound: &Inbound) -> Vec<Rule> {
    let Inbound {
        redirect: _,
        port: _,
        status_port,
        include_ports,
        exclude_ports,
        kuma_ports,
        exclude_sources,
        closed_ports: _,
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
    rules
}

/// Rules for those that are, where all of `on` hold.
fn included(inbound: &Inbound, on: &[Match], then: Action, because: &'static str) -> Vec<Rule> {
    if inbound.include_ports.is_empty() {
        return vec![rule(on.iter().cloned(), then, because)];
    }
    let conditions = |range: &RangeInclusive<u16>| {
        let to_port = [TCP, Match::DestinationPort(range.clone())];
        to_port.into_iter().chain(on.iter().filter(|on| **on != TCP).cloned())
    };
    inbound.include_ports.iter().map(|range| rule(conditions(range), then, "include-inbound-ports")).collect()
}

/// Chain for connections from behind a virtual interface; those to other networks count as the pod's own.
pub(super) fn behind_interfaces(interfaces: &[VirtualInterface]) -> Chain {
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
