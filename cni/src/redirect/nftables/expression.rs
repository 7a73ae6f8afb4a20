// SPDX-License-Identifier: Apache-2.0
//! Expressions of nf_tables, encoded to and decoded from netlink.
//!
//! Only expressions that every kernel since 5.2 has. Numbers: linux/netfilter/nf_tables.h.

use crate::netlink::{Attributes, attribute, attributes, be32, text};

/// `NFT_REG_1`: the only register in use.
const REGISTER: u32 = 1;
// `NFT_REG_VERDICT`.
const REGISTER_VERDICT: u32 = 0;

// `NFTA_LIST_ELEM`.
pub(crate) const LIST_ELEMENT: u16 = 1;

/// A property of the packet that `meta` loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Meta {
    /// Index of the interface that the packet arrived on; host byte order.
    InputInterface = 4,
    /// Name of that interface, 16 bytes with zeros at the end.
    InputName = 6,
    /// Uid of the sending process; host byte order.
    SocketUid = 10,
    /// Address family, one byte.
    Family = 15,
    /// Transport protocol, one byte.
    Transport = 16,
}

/// The operator of `cmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// The header from which a payload's offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Base {
    /// IP header.
    Network = 1,
    /// TCP or UDP header.
    Transport = 2,
}

/// The end of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `NF_DROP`.
    Drop,
    /// `NFT_RETURN`.
    Return,
    /// `NFT_JUMP` to a chain.
    Jump(String),
    /// `NFT_GOTO` to a chain.
    Goto(String),
}

/// One expression; loads and comparisons use [`REGISTER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Load a property of the packet.
    Meta(Meta),
    /// Load bytes of a header.
    Payload { base: Base, offset: u32, length: u32 },
    /// Clear the bits outside the mask.
    Mask(Vec<u8>),
    /// Continue if the comparison of register and bytes holds.
    Compare(Compare, Vec<u8>),
    /// Continue if the register is between the two, ends included; compares bytes, so numbers are in network order.
    Range(Vec<u8>, Vec<u8>),
    /// Load the type of the route to the destination (`RTN_…`), host byte order.
    DestinationRouteType,
    /// Load the `transparent` flag of the socket that the packet would reach; ends the rule if there is no socket.
    Socket,
    /// Load conntrack's state of the packet as bits, host byte order.
    ConntrackState,
    /// Load conntrack's status of the connection as bits (`IPS_…`), host byte order; ends the rule if it is not tracked.
    ConntrackStatus,
    /// Load conntrack's direction of the packet, one byte; ends the rule if the packet is not tracked.
    ConntrackDirection,
    /// Convert the 32-bit number in the register from host to network byte order, for a range.
    ToNetworkOrder,
    /// Load constant bytes.
    Load(Vec<u8>),
    /// Mark the packet for `nft monitor trace` if the register is not 0.
    Trace,
    /// Let conntrack look the packet up in the zone in the register, in its original direction.
    SetOriginalZone,
    /// Answer by ICMP's "port unreachable" of the packet's family.
    Reject,
    /// Answer by a TCP reset.
    Reset,
    /// Redirect to the port in the register.
    Redirect,
    /// Translate the destination to the address in the register, of this family.
    TranslateDestination(u8),
    /// End the rule with a verdict.
    Verdict(Verdict),
    /// An expression that no rule of culvert has, by its name.
    Foreign(String),
}

impl Expression {
    /// Append the expression to a rule's list.
    pub(crate) fn encode(&self, list: &mut Attributes<'_>) {
        list.nested(LIST_ELEMENT, |element| {
            let mut expression = |name: &str, data: &dyn Fn(&mut Attributes<'_>)| {
                element.text(1, name); // NFTA_EXPR_NAME
                element.nested(2, |a| data(a)); // NFTA_EXPR_DATA
            };
            match self {
                Self::Meta(key) => expression("meta", &|a| {
                    a.be32(1, REGISTER); // NFTA_META_DREG
                    a.be32(2, *key as u32); // NFTA_META_KEY
                }),
                Self::Payload { base, offset, length } => expression("payload", &|a| {
                    a.be32(1, REGISTER); // NFTA_PAYLOAD_DREG
                    a.be32(2, *base as u32); // NFTA_PAYLOAD_BASE
                    a.be32(3, *offset); // NFTA_PAYLOAD_OFFSET
                    a.be32(4, *length); // NFTA_PAYLOAD_LEN
                }),
                Self::Mask(mask) => expression("bitwise", &|a| {
                    a.be32(1, REGISTER); // NFTA_BITWISE_SREG
                    a.be32(2, REGISTER); // NFTA_BITWISE_DREG
                    a.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX)); // NFTA_BITWISE_LEN
                    value(a, 4, mask); // NFTA_BITWISE_MASK
                    value(a, 5, &vec![0; mask.len()]); // NFTA_BITWISE_XOR
                }),
                Self::Compare(how, bytes) => expression("cmp", &|a| {
                    a.be32(1, REGISTER); // NFTA_CMP_SREG
                    a.be32(2, *how as u32); // NFTA_CMP_OP
                    value(a, 3, bytes); // NFTA_CMP_DATA
                }),
                Self::Range(first, last) => expression("range", &|a| {
                    a.be32(1, REGISTER); // NFTA_RANGE_SREG
                    a.be32(2, 0); // NFTA_RANGE_OP: NFT_RANGE_EQ
                    value(a, 3, first); // NFTA_RANGE_FROM_DATA
                    value(a, 4, last); // NFTA_RANGE_TO_DATA
                }),
                Self::DestinationRouteType => expression("fib", &|a| {
                    a.be32(1, REGISTER); // NFTA_FIB_DREG
                    a.be32(2, FIB_RESULT_ADDRTYPE); // NFTA_FIB_RESULT
                    a.be32(3, FIB_FLAG_DADDR); // NFTA_FIB_FLAGS
                }),
                Self::Socket => expression("socket", &|a| {
                    a.be32(1, SOCKET_TRANSPARENT); // NFTA_SOCKET_KEY
                    a.be32(2, REGISTER); // NFTA_SOCKET_DREG
                }),
                Self::ConntrackState => expression("ct", &|a| {
                    a.be32(1, REGISTER); // NFTA_CT_DREG
                    a.be32(2, CT_STATE); // NFTA_CT_KEY
                }),
                Self::ConntrackStatus => expression("ct", &|a| {
                    a.be32(1, REGISTER); // NFTA_CT_DREG
                    a.be32(2, CT_STATUS); // NFTA_CT_KEY
                }),
                Self::ConntrackDirection => expression("ct", &|a| {
                    a.be32(1, REGISTER); // NFTA_CT_DREG
                    a.be32(2, CT_DIRECTION); // NFTA_CT_KEY
                }),
                Self::ToNetworkOrder => expression("byteorder", &|a| {
                    a.be32(1, REGISTER); // NFTA_BYTEORDER_SREG
                    a.be32(2, REGISTER); // NFTA_BYTEORDER_DREG
                    a.be32(3, BYTEORDER_HTON); // NFTA_BYTEORDER_OP
                    a.be32(4, 4); // NFTA_BYTEORDER_LEN
                    a.be32(5, 4); // NFTA_BYTEORDER_SIZE
                }),
                Self::Trace => expression("meta", &|a| {
                    a.be32(2, META_NFTRACE); // NFTA_META_KEY
                    a.be32(3, REGISTER); // NFTA_META_SREG
                }),
                Self::SetOriginalZone => expression("ct", &|a| {
                    a.be32(2, CT_ZONE); // NFTA_CT_KEY
                    a.bytes(3, &[CT_ORIGINAL]); // NFTA_CT_DIRECTION
                    a.be32(4, REGISTER); // NFTA_CT_SREG
                }),
                Self::Reject => expression("reject", &|a| {
                    a.be32(1, REJECT_ICMPX); // NFTA_REJECT_TYPE
                    a.bytes(2, &[REJECT_PORT_UNREACHABLE]); // NFTA_REJECT_ICMP_CODE
                }),
                Self::Reset => expression("reject", &|a| a.be32(1, REJECT_TCP_RESET)), // NFTA_REJECT_TYPE
                Self::Load(bytes) => expression("immediate", &|a| {
                    a.be32(1, REGISTER); // NFTA_IMMEDIATE_DREG
                    value(a, 2, bytes); // NFTA_IMMEDIATE_DATA
                }),
                Self::Redirect => expression("redir", &|a| a.be32(1, REGISTER)), // NFTA_REDIR_REG_PROTO_MIN
                Self::TranslateDestination(family) => expression("nat", &|a| {
                    a.be32(1, NAT_DESTINATION); // NFTA_NAT_TYPE
                    a.be32(2, u32::from(*family)); // NFTA_NAT_FAMILY
                    a.be32(3, REGISTER); // NFTA_NAT_REG_ADDR_MIN
                }),
                Self::Verdict(verdict) => expression("immediate", &|a| {
                    a.be32(1, REGISTER_VERDICT); // NFTA_IMMEDIATE_DREG
                    a.nested(2, |data| {
                        // NFTA_IMMEDIATE_DATA → NFTA_DATA_VERDICT
                        data.nested(2, |v| {
                            let (code, chain) = match verdict {
                                Verdict::Drop => (NF_DROP, None),
                                Verdict::Return => (NFT_RETURN, None),
                                Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
                                Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
                            };
                            v.bytes(1, &code.to_be_bytes()); // NFTA_VERDICT_CODE
                            if let Some(chain) = chain {
                                v.text(2, chain); // NFTA_VERDICT_CHAIN
                            }
                        });
                    });
                }),
                Self::Foreign(name) => expression(name, &|_| {}),
            }
        });
    }

    /// Parse an element of a rule's list; an expression that [`Self::encode`] does not write is [`Self::Foreign`].
    pub(crate) fn decode(element: &[u8]) -> Self {
        let name = attribute(element, 1).and_then(text).unwrap_or("unreadable");
        let data = attribute(element, 2).unwrap_or_default();
        decode_known(name, data).unwrap_or_else(|| Self::Foreign(name.to_owned()))
    }
}

// `NFT_FIB_RESULT_ADDRTYPE`.
const FIB_RESULT_ADDRTYPE: u32 = 3;
// `NFTA_FIB_F_DADDR`.
const FIB_FLAG_DADDR: u32 = 2;
// `NFT_SOCKET_TRANSPARENT`.
const SOCKET_TRANSPARENT: u32 = 0;
// `NFT_CT_STATE`.
const CT_STATE: u32 = 0;
// `NFT_CT_DIRECTION`.
const CT_DIRECTION: u32 = 1;
// `NFT_CT_STATUS`.
const CT_STATUS: u32 = 2;
// `NFT_CT_ZONE`.
const CT_ZONE: u32 = 17;
// `IP_CT_DIR_ORIGINAL`.
const CT_ORIGINAL: u8 = 0;
// `NFT_NAT_DNAT`.
const NAT_DESTINATION: u32 = 1;
// `NFT_BYTEORDER_HTON`.
const BYTEORDER_HTON: u32 = 1;
// `NFT_META_NFTRACE`.
const META_NFTRACE: u32 = 12;
// `NFT_REJECT_TCP_RST`.
const REJECT_TCP_RESET: u32 = 1;
// `NFT_REJECT_ICMPX_UNREACH`.
const REJECT_ICMPX: u32 = 2;
// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const REJECT_PORT_UNREACHABLE: u8 = 1;
const NF_DROP: i32 = 0;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

fn decode_known(name: &str, data: &[u8]) -> Option<Expression> {
    let number = |kind: u16| attribute(data, kind).and_then(be32);
    let bytes = |kind: u16| attribute(data, kind).and_then(|nested| attribute(nested, 1)).map(<[u8]>::to_vec);
    let in_register = |kind: u16| (number(kind) == Some(REGISTER)).then_some(());
    match name {
        "meta" if number(2) == Some(META_NFTRACE) => {
            in_register(3)?;
            Some(Expression::Trace)
        }
        "meta" => {
            in_register(1)?;
            let known =
                [Meta::InputInterface, Meta::InputName, Meta::SocketUid, Meta::Family, Meta::Transport];
            known.into_iter().find(|key| Some(*key as u32) == number(2)).map(Expression::Meta)
        }
        "payload" => {
            in_register(1)?;
            let base =
                [Base::Network, Base::Transport].into_iter().find(|base| Some(*base as u32) == number(2))?;
            Some(Expression::Payload { base, offset: number(3)?, length: number(4)? })
        }
        "bitwise" => {
            in_register(1)?;
            in_register(2)?;
            let no_xor = bytes(5)?.iter().all(|byte| *byte == 0);
            // NFTA_BITWISE_OP exists from kernel 5.6 on; 0 is mask and xor.
            (no_xor && number(6).unwrap_or(0) == 0).then_some(())?;
            bytes(4).map(Expression::Mask)
        }
        "cmp" => {
            in_register(1)?;
            let known = [Compare::Equal, Compare::NotEqual];
            let how = known.into_iter().find(|how| Some(*how as u32) == number(2))?;
            bytes(3).map(|bytes| Expression::Compare(how, bytes))
        }
        "range" => {
            in_register(1)?;
            (number(2)? == 0)
                .then(|| bytes(3).zip(bytes(4)))?
                .map(|(first, last)| Expression::Range(first, last))
        }
        "fib" => {
            in_register(1)?;
            let ours = number(2) == Some(FIB_RESULT_ADDRTYPE) && number(3) == Some(FIB_FLAG_DADDR);
            ours.then_some(Expression::DestinationRouteType)
        }
        "socket" => {
            in_register(2)?;
            (number(1) == Some(SOCKET_TRANSPARENT)).then_some(Expression::Socket)
        }
        "ct" if number(2) == Some(CT_ZONE) => {
            in_register(4)?;
            (attribute(data, 3) == Some(&[CT_ORIGINAL])).then_some(Expression::SetOriginalZone)
        }
        "ct" => {
            in_register(1)?;
            match number(2) {
                Some(CT_STATE) => Some(Expression::ConntrackState),
                Some(CT_STATUS) => Some(Expression::ConntrackStatus),
                Some(CT_DIRECTION) => Some(Expression::ConntrackDirection),
                _ => None,
            }
        }
        "byteorder" => {
            in_register(1)?;
            in_register(2)?;
            let ours = number(3) == Some(BYTEORDER_HTON) && number(4) == Some(4) && number(5) == Some(4);
            ours.then_some(Expression::ToNetworkOrder)
        }
        "reject" if number(1) == Some(REJECT_TCP_RESET) => Some(Expression::Reset),
        "nat" => {
            in_register(3)?;
            // The kernel repeats the register as the range's end, and sets NF_NAT_RANGE_MAP_IPS.
            let one_address = number(4).is_none_or(|register| register == REGISTER);
            let no_port = number(5).is_none();
            let family = number(2).and_then(|family| u8::try_from(family).ok())?;
            let ours = number(1) == Some(NAT_DESTINATION) && one_address && no_port;
            ours.then_some(Expression::TranslateDestination(family))
        }
        "reject" => {
            let ours =
                number(1) == Some(REJECT_ICMPX) && attribute(data, 2) == Some(&[REJECT_PORT_UNREACHABLE]);
            ours.then_some(Expression::Reject)
        }
        "redir" => {
            in_register(1)?;
            // The kernel repeats the register as the range's end, and sets NF_NAT_RANGE_PROTO_SPECIFIED.
            let one_port = number(2).is_none_or(|register| register == REGISTER);
            one_port.then_some(Expression::Redirect)
        }
        "immediate" if number(1) == Some(REGISTER) => bytes(2).map(Expression::Load),
        "immediate" if number(1) == Some(REGISTER_VERDICT) => {
            let verdict = attribute(data, 2).and_then(|nested| attribute(nested, 2))?;
            let code = attribute(verdict, 1)?.try_into().ok().map(i32::from_be_bytes)?;
            let chain = attribute(verdict, 2).and_then(text);
            match (code, chain) {
                (NF_DROP, None) => Some(Verdict::Drop),
                (NFT_RETURN, None) => Some(Verdict::Return),
                (NFT_JUMP, Some(chain)) => Some(Verdict::Jump(chain.to_owned())),
                (NFT_GOTO, Some(chain)) => Some(Verdict::Goto(chain.to_owned())),
                _ => None,
            }
            .map(Expression::Verdict)
        }
        _ => None,
    }
}

/// Parse the expressions in a rule's `NFTA_RULE_EXPRESSIONS`.
pub(crate) fn decode_list(list: &[u8]) -> Vec<Expression> {
    attributes(list).map(|(_, element)| Expression::decode(element)).collect()
}

fn value(attributes: &mut Attributes<'_>, kind: u16, bytes: &[u8]) {
    attributes.nested(kind, |data| data.bytes(1, bytes)); // NFTA_DATA_VALUE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_decoded_as_foreign_without_a_panic() {
        for bytes in [&[][..], &[1], &[4, 0, 1, 0], &[255; 64], &[8, 0, 1, 128, 4, 0, 1, 0]] {
            for expression in decode_list(bytes) {
                assert!(matches!(expression, Expression::Foreign(_)), "{bytes:?}");
            }
        }
    }
}
