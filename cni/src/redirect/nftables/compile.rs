// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → nf_tables`: each rule of the plan as expressions. Pure.

use ipnet::IpNet;

use super::expression::{Base, Compare, Expression, Meta, Verdict};
use crate::redirect::ruleset::{Action, Match, Protocol, Rule};

/// `LOOPBACK_IFINDEX` of the kernel's net/flow.h: `lo` is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `RTN_LOCAL` of linux/rtnetlink.h.
const ROUTE_LOCAL: u32 = 2;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6` of linux/netfilter.h.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The expressions of one rule.
pub fn compile(rule: &Rule) -> Vec<Expression> {
    let mut expressions = Vec::with_capacity(8);
    for condition in &rule.on {
        condition_expressions(condition, &mut expressions);
    }
    match rule.then {
        Action::Direct => expressions.push(Expression::Verdict(Verdict::Return)),
        Action::Drop => expressions.push(Expression::Verdict(Verdict::Drop)),
        Action::Goto(chain) => {
            expressions.push(Expression::Verdict(Verdict::Goto(chain.nftables().to_owned())));
        }
        Action::Redirect(port) => {
            expressions.extend([Expression::Load(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
    }
    expressions
}

fn condition_expressions(condition: &Match, out: &mut Vec<Expression>) {
    match condition {
        Match::Protocol(protocol) => out.extend(transport(Compare::Equal, *protocol)),
        Match::NotProtocol(protocol) => out.extend(transport(Compare::NotEqual, *protocol)),
        Match::FromLoopbackInterface => out.extend([
            Expression::Meta(Meta::InputInterface),
            Expression::Compare(Compare::Equal, LOOPBACK_INDEX.to_ne_bytes().to_vec()),
        ]),
        Match::DestinationOwn(own) => {
            let how = if *own { Compare::Equal } else { Compare::NotEqual };
            let local = ROUTE_LOCAL.to_ne_bytes().to_vec();
            out.extend([Expression::DestinationRouteType, Expression::Compare(how, local)]);
        }
        Match::Destination(net) => address(net, AddressOffsets { v4: 16, v6: 24 }, out),
        Match::Source(net) => address(net, AddressOffsets { v4: 12, v6: 8 }, out),
        Match::DestinationPort(range) => {
            out.push(Expression::Payload { base: Base::Transport, offset: 2, length: 2 });
            let (first, last) = (range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec());
            out.push(if first == last {
                Expression::Compare(Compare::Equal, first)
            } else {
                Expression::Range(first, last)
            });
        }
        Match::Uid(uid) => out.extend([
            Expression::Meta(Meta::SocketUid),
            Expression::Compare(Compare::Equal, uid.to_ne_bytes().to_vec()),
        ]),
    }
}

fn transport(how: Compare, protocol: Protocol) -> [Expression; 2] {
    let number = match protocol {
        Protocol::Tcp => TCP,
    };
    [Expression::Meta(Meta::Transport), Expression::Compare(how, vec![number])]
}

/// Where an address begins in the header of each family.
struct AddressOffsets {
    v4: u32,
    v6: u32,
}

fn address(net: &IpNet, at: AddressOffsets, out: &mut Vec<Expression>) {
    let (family, offset, network, mask) = match net {
        IpNet::V4(net) => {
            (FAMILY_V4, at.v4, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
        IpNet::V6(net) => {
            (FAMILY_V6, at.v6, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
    };
    out.push(Expression::Meta(Meta::Family));
    out.push(Expression::Compare(Compare::Equal, vec![family]));
    if net.prefix_len() == 0 {
        return; // every address of the family
    }
    let length = if family == FAMILY_V4 { 4 } else { 16 };
    out.push(Expression::Payload { base: Base::Network, offset, length });
    if net.prefix_len() < net.max_prefix_len() {
        out.push(Expression::Mask(mask));
    }
    out.push(Expression::Compare(Compare::Equal, network));
}
