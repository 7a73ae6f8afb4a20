// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → nf_tables`: each rule of the plan as expressions. Pure.

use ipnet::IpNet;

use super::expression::{Base, Compare, Expression, Meta, Verdict};
use crate::redirect::policy::Protocol;
use crate::redirect::ruleset::{Action, Family, Match, Rule};

/// `LOOPBACK_IFINDEX` of the kernel's net/flow.h: `lo` is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
// `RTN_LOCAL` of linux/rtnetlink.h.
const ROUTE_LOCAL: u32 = 2;
// `NFPROTO_IPV4` and `NFPROTO_IPV6` of linux/netfilter.h.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
// `IPPROTO_TCP` and `IPPROTO_UDP`.
const TCP: u8 = 6;
const UDP: u8 = 17;
// `IFNAMSIZ` of linux/if.h.
const INTERFACE_NAME: usize = 16;
// `IP_CT_DIR_REPLY`.
const CT_REPLY: u8 = 1;
// `NF_CT_STATE_INVALID_BIT`.
const CT_INVALID: u32 = 1;

/// Compile one rule into expressions.
pub(crate) fn compile(rule: &Rule) -> Vec<Expression> {
    let mut expressions = Vec::with_capacity(8);
    for condition in &rule.on {
        condition_expressions(condition, &mut expressions);
    }
    let verdict = |verdict| [Expression::Verdict(verdict)];
    match rule.then {
        Action::Direct | Action::Back => expressions.extend(verdict(Verdict::Return)),
        Action::Drop => expressions.extend(verdict(Verdict::Drop)),
        Action::Reject => expressions.push(Expression::Reject),
        Action::Untrack => expressions.push(Expression::Untrack),
        Action::Trace => expressions.extend([Expression::Load(vec![1]), Expression::Trace]),
        Action::Jump(chain) => expressions.extend(verdict(Verdict::Jump(chain.nftables().to_owned()))),
        Action::Goto(chain) => expressions.extend(verdict(Verdict::Goto(chain.nftables().to_owned()))),
        Action::Redirect(port) => {
            expressions.extend([Expression::Load(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
    }
    expressions
}

fn condition_expressions(condition: &Match, out: &mut Vec<Expression>) {
    match condition {
        Match::Family(Family::V4) => out.extend(family(FAMILY_V4)),
        Match::Family(Family::V6) => out.extend(family(FAMILY_V6)),
        Match::Protocol(protocol) => out.extend(transport(Compare::Equal, *protocol)),
        Match::NotProtocol(protocol) => out.extend(transport(Compare::NotEqual, *protocol)),
        Match::FromLoopbackInterface(from) => out.extend([
            Expression::Meta(Meta::InputInterface),
            Expression::Compare(equal_if(*from), LOOPBACK_INDEX.to_ne_bytes().to_vec()),
        ]),
        Match::Interface { name, is_prefix } => {
            let mut bytes = name.as_bytes().to_vec();
            if !is_prefix {
                bytes.resize(INTERFACE_NAME, 0);
            }
            out.extend([Expression::Meta(Meta::InputName), Expression::Compare(Compare::Equal, bytes)]);
        }
        Match::DestinationOwn(own) => {
            let local = ROUTE_LOCAL.to_ne_bytes().to_vec();
            out.extend([Expression::DestinationRouteType, Expression::Compare(equal_if(*own), local)]);
        }
        Match::Destination(net) => address(net, AddressOffsets { v4: 16, v6: 24 }, out),
        Match::Source(net) => address(net, AddressOffsets { v4: 12, v6: 8 }, out),
        Match::DestinationPort(range) => {
            out.push(port(2));
            out.push(between(range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec()));
        }
        Match::NotDestinationPort(number) => {
            out.extend([port(2), Expression::Compare(Compare::NotEqual, number.to_be_bytes().to_vec())]);
        }
        Match::SourcePort(number) => {
            out.extend([port(0), Expression::Compare(Compare::Equal, number.to_be_bytes().to_vec())]);
        }
        Match::NotSourcePort(number) => {
            out.extend([port(0), Expression::Compare(Compare::NotEqual, number.to_be_bytes().to_vec())]);
        }
        Match::Uid(range) => {
            out.push(Expression::Meta(Meta::SocketUid));
            if range.start() == range.end() {
                out.push(Expression::Compare(Compare::Equal, range.start().to_ne_bytes().to_vec()));
            } else {
                out.push(Expression::ToNetworkOrder);
                out.push(between(range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec()));
            }
        }
        Match::Listening => out.push(Expression::Socket),
        Match::Reply => {
            out.extend([Expression::ConntrackDirection, Expression::Compare(Compare::Equal, vec![CT_REPLY])])
        }
        Match::Invalid => out.extend([
            Expression::ConntrackState,
            Expression::Mask(CT_INVALID.to_ne_bytes().to_vec()),
            Expression::Compare(Compare::NotEqual, vec![0; 4]),
        ]),
    }
}

const fn equal_if(equal: bool) -> Compare {
    if equal { Compare::Equal } else { Compare::NotEqual }
}

fn family(number: u8) -> [Expression; 2] {
    [Expression::Meta(Meta::Family), Expression::Compare(Compare::Equal, vec![number])]
}

/// Load a port: the source port is at offset 0 of TCP and UDP alike, the destination port at 2.
const fn port(offset: u32) -> Expression {
    Expression::Payload { base: Base::Transport, offset, length: 2 }
}

fn between(first: Vec<u8>, last: Vec<u8>) -> Expression {
    if first == last { Expression::Compare(Compare::Equal, first) } else { Expression::Range(first, last) }
}

fn transport(how: Compare, protocol: Protocol) -> [Expression; 2] {
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    [Expression::Meta(Meta::Transport), Expression::Compare(how, vec![number])]
}

/// Offset of an address in the header of each family.
struct AddressOffsets {
    v4: u32,
    v6: u32,
}

fn address(net: &IpNet, at: AddressOffsets, out: &mut Vec<Expression>) {
    let (number, offset, network, mask) = match net {
        IpNet::V4(net) => {
            (FAMILY_V4, at.v4, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
        IpNet::V6(net) => {
            (FAMILY_V6, at.v6, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
    };
    out.extend(family(number));
    if net.prefix_len() == 0 {
        return; // every address of the family
    }
    let length = if number == FAMILY_V4 { 4 } else { 16 };
    out.push(Expression::Payload { base: Base::Network, offset, length });
    if net.prefix_len() < net.max_prefix_len() {
        out.push(Expression::Mask(mask));
    }
    out.push(Expression::Compare(Compare::Equal, network));
}
