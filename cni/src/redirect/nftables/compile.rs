// SPDX-License-Identifier: Apache-2.0
//! `Ruleset → nf_tables`: each rule of the plan as expressions. Pure.

use ipnet::IpNet;

use super::expression::{Base, Compare, Expression, Meta, Verdict};
use crate::redirect::policy::Protocol;
use crate::redirect::ruleset::{Action, Family, Match, Rule, ZONE};

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
// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const CT_TRANSLATED: u32 = 1 << 5;
// Flags of TCP in byte 13 of its header: FIN, SYN, RST and ACK.
const FLAGS: u8 = 0x17;
const FLAG_SYN: u8 = 0x02;
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
        Action::Reset => expressions.push(Expression::Reset),
        Action::Keep(family) => {
            let (offset, length, number) = match family {
                Family::V4 => (DESTINATION.v4, 4, FAMILY_V4),
                Family::V6 => (DESTINATION.v6, 16, FAMILY_V6),
            };
            expressions.push(Expression::Payload { base: Base::Network, offset, length });
            expressions.push(Expression::TranslateDestination(number));
        }
        Action::Zone => {
            expressions.extend([Expression::Load(ZONE.to_ne_bytes().to_vec()), Expression::SetOriginalZone]);
        }
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
        Match::Destination(net) => address(net, DESTINATION, out),
        Match::Source(net) => address(net, AddressOffsets { v4: 12, v6: 8 }, out),
        Match::DestinationPort(range) => {
            out.push(port());
            out.push(between(range.start().to_be_bytes().to_vec(), range.end().to_be_bytes().to_vec()));
        }
        Match::NotDestinationPort(number) => {
            out.extend([port(), Expression::Compare(Compare::NotEqual, number.to_be_bytes().to_vec())]);
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
        Match::NotOpening => out.extend([
            Expression::Payload { base: Base::Transport, offset: 13, length: 1 },
            Expression::Mask(vec![FLAGS]),
            Expression::Compare(Compare::NotEqual, vec![FLAG_SYN]),
        ]),
        Match::Translated => out.extend([
            Expression::ConntrackStatus,
            Expression::Mask(CT_TRANSLATED.to_ne_bytes().to_vec()),
            Expression::Compare(Compare::NotEqual, vec![0; 4]),
        ]),
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

/// Load the destination port, which TCP and UDP have at the same place.
const fn port() -> Expression {
    Expression::Payload { base: Base::Transport, offset: 2, length: 2 }
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

/// Offsets of the destination.
const DESTINATION: AddressOffsets = AddressOffsets { v4: 16, v6: 24 };

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
