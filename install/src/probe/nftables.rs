// SPDX-License-Identifier: Apache-2.0
//! Test of whether this kernel takes the plugin's rules, by writing such rules in one netlink transaction.
//!
//! Version numbers and module lists cannot tell: kernels are built without parts, and distributions backport parts.
//! Every message requests an acknowledgement, so a refusal names its part. Numbers come from
//! `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// One part that the plugin's rules need from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name in words.
    pub what: &'static str,
    /// Module that brings it, if it is not built in.
    pub module: &'static str,
    /// Build option of the kernel.
    pub option: &'static str,
}

/// Reasons why the trial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NftablesError {
    /// nf_tables does not exist, or this caller may not use it.
    #[error("netfilter's netlink socket: {}", .0.desc())]
    Socket(Errno),
    /// The kernel refused the whole transaction.
    #[error("nf_tables takes no transaction: {}", .0.desc())]
    Transaction(Errno),
    /// The kernel refused one part.
    #[error("the kernel refuses {}: {}", .0.what, .1.desc())]
    Part(Part, Errno),
    /// The answer is not an acknowledgement.
    #[error("nf_tables' answer cannot be read")]
    Garbled,
}

// === impl NftablesError ===

impl NftablesError {
    /// Returns true if the caller lacks a right, which says nothing about the kernel.
    pub(crate) fn is_about_the_caller(self) -> bool {
        matches!(self, Self::Socket(Errno::EPERM | Errno::EACCES) | Self::Transaction(Errno::EPERM))
    }
}

const TABLE: Part =
    Part { what: "a table for both IP families", module: "nf_tables", option: "CONFIG_NF_TABLES_INET" };
const NAT: Part =
    Part { what: "NAT for both IP families", module: "nft_chain_nat", option: "CONFIG_NFT_NAT" };
const REDIRECT: Part = Part { what: "`redirect`", module: "nft_redir", option: "CONFIG_NFT_REDIR" };
const FIB: Part = Part { what: "`fib daddr type`", module: "nft_fib_inet", option: "CONFIG_NFT_FIB_INET" };
const OWNER: Part = Part { what: "`meta skuid`", module: "nf_tables", option: "CONFIG_NF_TABLES" };

const STATUS: Part = Part { what: "`ct status`", module: "nft_ct", option: "CONFIG_NFT_CT" };
const RESET: Part =
    Part { what: "`reject with tcp reset`", module: "nft_reject_inet", option: "CONFIG_NFT_REJECT_INET" };
const DESTINATION: Part = Part { what: "`dnat`", module: "nft_nat", option: "CONFIG_NFT_NAT" };

/// The kernel answers within the `send` that asks, including module loads. This bounds a kernel that lost an answer.
const ANSWER_LIMIT_SECONDS: i64 = 2;
/// Ten acknowledgements are some 360 bytes; an error repeats the refused message, 200 more.
const ANSWER_BYTES: usize = 8 * 1024;

const NAME: &str = "culvert-doctor";
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_BYTES: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;

/// Priority of the plugin's chains: before rules of iptables-nft, which use −100.
const PRIORITY: i32 = -110;
/// Priority of the plugin's chain that resets.
const PRIORITY_OF_FILTER: i32 = -10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;

const NFT_REG_1: u32 = 1;
const NFT_REG_2: u32 = 2;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_META_SKUID: u32 = 10;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_FIB_F_DADDR: u32 = 2;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const RTN_LOCAL: u32 = 2;
const IPPROTO_TCP: u8 = 6;
const NFT_CT_STATUS: u32 = 2;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_NAT_DNAT: u32 = 1;
const NFPROTO_IPV4: u32 = 2;

/// Writes a table, three chains and six rules such as the plugin's into the calling thread's network namespace.
///
/// They stay there, so call it in a namespace that is about to go.
pub(crate) fn try_nat() -> Result<(), NftablesError> {
    let changes = changes();
    ask(&batch(&changes), &changes.map(|change| change.part))
}

fn ask(batch: &[u8], parts: &[Part]) -> Result<(), NftablesError> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .map_err(NftablesError::Socket)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_SECONDS))
        .map_err(NftablesError::Socket)?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), batch, &kernel, MsgFlags::empty()).map_err(NftablesError::Socket)?;

    let mut accepted = 0;
    let mut buffer = [0; ANSWER_BYTES];
    while accepted < parts.len() {
        let bytes = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // A wait with a limit ends so when the process is stopped and goes on.
            Err(Errno::EINTR) => continue,
            other => other.map_err(NftablesError::Socket)?,
        };
        accepted += read_answers(&buffer[..bytes], parts)?;
    }
    Ok(())
}

/// One message of the transaction.
struct Change {
    /// Part that a refusal of this message names.
    part: Part,
    kind: u16,
    flags: u16,
    attributes: Vec<u8>,
}

fn changes() -> [Change; 10] {
    let inbound = [fib_daddr_is_local(), l4proto_is_tcp(), redirect_to(15006)].concat();
    let outbound = [skuid_is_not(5678), l4proto_is_tcp(), redirect_to(15001)].concat();
    [
        Change { part: TABLE, kind: NFT_MSG_NEWTABLE, flags: NLM_F_CREATE, attributes: string(1, NAME) },
        nat_chain("in", NF_INET_PRE_ROUTING),
        nat_chain("out", NF_INET_LOCAL_OUT),
        // First alone, so that a refusal of a longer rule is about its match.
        rule(REDIRECT, "out", &redirect_to(15001)),
        rule(FIB, "in", &inbound),
        rule(OWNER, "out", &outbound),
        chain(TABLE, "strays", "filter", NF_INET_LOCAL_OUT, PRIORITY_OF_FILTER),
        rule(STATUS, "strays", &is_translated()),
        rule(RESET, "strays", &[l4proto_is_tcp(), reset()].concat()),
        rule(DESTINATION, "out", &to_its_own_destination()),
    ]
}

/// Builds the transaction: sequence number n is the n-th change, 0 is the transaction itself.
fn batch(changes: &[Change]) -> Vec<u8> {
    let edge = |kind| message(kind, NLM_F_REQUEST, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, &[]);
    let mut batch = edge(NFNL_MSG_BATCH_BEGIN);
    for (sequence, Change { part: _, kind, flags, attributes }) in (1..).zip(changes) {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        batch.extend(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, NFPROTO_INET, 0, attributes));
    }
    // Without NLM_F_ACK, which kernels before 6.10 refuse here.
    batch.extend(edge(NFNL_MSG_BATCH_END));
    batch
}

/// Counts the acknowledgements in one datagram; the first refusal ends it.
fn read_answers(mut datagram: &[u8], parts: &[Part]) -> Result<usize, NftablesError> {
    let mut accepted = 0;
    while !datagram.is_empty() {
        let length = read_u32(datagram, 0).ok_or(NftablesError::Garbled)? as usize;
        let kind = datagram.get(4..6).ok_or(NftablesError::Garbled)?;
        let sequence = read_u32(datagram, 8).ok_or(NftablesError::Garbled)? as usize;
        if kind != NLMSG_ERROR.to_ne_bytes() || length < NLMSG_HEADER_BYTES + 4 {
            return Err(NftablesError::Garbled);
        }
        let code = read_u32(datagram, NLMSG_HEADER_BYTES).ok_or(NftablesError::Garbled)?.cast_signed();
        match (code, sequence.checked_sub(1).map(|index| parts.get(index))) {
            (0, _) => accepted += 1,
            (code, None) => return Err(NftablesError::Transaction(Errno::from_raw(-code))),
            (code, Some(Some(part))) => return Err(NftablesError::Part(*part, Errno::from_raw(-code))),
            (_, Some(None)) => return Err(NftablesError::Garbled),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(accepted)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

// === what is written ===

fn nat_chain(name: &str, hook: u32) -> Change {
    chain(NAT, name, "nat", hook, PRIORITY)
}

fn chain(part: Part, name: &str, kind: &str, hook: u32, priority: i32) -> Change {
    let hook = [number(1, hook), number(2, priority.cast_unsigned())].concat();
    let attributes = [string(1, NAME), string(3, name), nested(4, &hook), string(7, kind)].concat();
    Change { part, kind: NFT_MSG_NEWCHAIN, flags: NLM_F_CREATE, attributes }
}

fn rule(part: Part, chain: &str, expressions: &[u8]) -> Change {
    let attributes = [string(1, NAME), string(2, chain), nested(4, expressions)].concat();
    Change { part, kind: NFT_MSG_NEWRULE, flags: NLM_F_CREATE | NLM_F_APPEND, attributes }
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    nested(1, &[string(1, name), nested(2, data)].concat())
}

fn meta_to_register_1(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, NFT_REG_1), number(2, key)].concat())
}

fn compare_register_1(operation: u32, value: &[u8]) -> Vec<u8> {
    let value = nested(3, &attribute(1, value));
    expression("cmp", &[number(1, NFT_REG_1), number(2, operation), value].concat())
}

fn l4proto_is_tcp() -> Vec<u8> {
    [meta_to_register_1(NFT_META_L4PROTO), compare_register_1(NFT_CMP_EQ, &[IPPROTO_TCP])].concat()
}

fn skuid_is_not(uid: u32) -> Vec<u8> {
    [meta_to_register_1(NFT_META_SKUID), compare_register_1(NFT_CMP_NEQ, &uid.to_ne_bytes())].concat()
}

fn fib_daddr_is_local() -> Vec<u8> {
    let data =
        [number(1, NFT_REG_1), number(2, NFT_FIB_RESULT_ADDRTYPE), number(3, NFTA_FIB_F_DADDR)].concat();
    [expression("fib", &data), compare_register_1(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes())].concat()
}

fn redirect_to(port: u16) -> Vec<u8> {
    let port = nested(2, &attribute(1, &port.to_be_bytes()));
    let load = expression("immediate", &[number(1, NFT_REG_2), port].concat());
    [load, expression("redir", &number(1, NFT_REG_2))].concat()
}

fn is_translated() -> Vec<u8> {
    let load = expression("ct", &[number(1, NFT_REG_1), number(2, NFT_CT_STATUS)].concat());
    [load, compare_register_1(NFT_CMP_NEQ, &0_u32.to_ne_bytes())].concat()
}

fn reset() -> Vec<u8> {
    expression("reject", &number(1, NFT_REJECT_TCP_RST))
}

fn to_its_own_destination() -> Vec<u8> {
    let at = [number(1, NFT_REG_1), number(2, NFT_PAYLOAD_NETWORK_HEADER), number(3, 16), number(4, 4)];
    let nat = [number(1, NFT_NAT_DNAT), number(2, NFPROTO_IPV4), number(3, NFT_REG_1)];
    [expression("payload", &at.concat()), expression("nat", &nat.concat())].concat()
}

// === netlink's wire format ===

/// Encodes `nlmsghdr` and `nfgenmsg`; the first in the machine's byte order, `resource` in the network's.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = length_u32(NLMSG_HEADER_BYTES + 4 + attributes.len());
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes()); // the port id: the kernel's own
    bytes.extend([family, 0]); // NFNETLINK_V0
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("the trial's attributes are some hundred bytes");
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("the trial's messages are some hundred bytes")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::namespace::{NamespaceError, in_namespace};
    use super::*;

    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(36_u32.to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; 16]); // the header of the message that is answered
        bytes
    }

    #[test]
    fn answers() {
        let parts = [TABLE, NAT];
        let enoent = -(Errno::ENOENT as i32);
        let eperm = -(Errno::EPERM as i32);
        for (name, datagram, expected) in [
            ("nothing", vec![], Ok(0)),
            ("both", [answer(1, 0), answer(2, 0)].concat(), Ok(2)),
            ("one", answer(1, 0), Ok(1)),
            (
                "second refused",
                [answer(1, 0), answer(2, enoent)].concat(),
                Err(NftablesError::Part(NAT, Errno::ENOENT)),
            ),
            ("transaction refused", answer(0, eperm), Err(NftablesError::Transaction(Errno::EPERM))),
            ("never asked", answer(3, enoent), Err(NftablesError::Garbled)),
            ("cut off", answer(1, 0)[..10].to_vec(), Err(NftablesError::Garbled)),
            (
                "too short to hold a code",
                [&4_u32.to_ne_bytes()[..], &[0; 32]].concat(),
                Err(NftablesError::Garbled),
            ),
        ] {
            assert_eq!(read_answers(&datagram, &parts), expected, "{name}");
        }
    }

    #[test]
    fn the_transaction_is_aligned_and_whole() {
        let batch = batch(&changes());
        let mut rest = &batch[..];
        let mut sequences = Vec::new();
        while !rest.is_empty() {
            let length = read_u32(rest, 0).unwrap() as usize;
            assert_eq!(length % 4, 0);
            sequences.push(read_u32(rest, 8).unwrap());
            rest = &rest[length..];
        }
        assert_eq!(sequences, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]);
    }

    /// With root the kernel names the missing part; without root nothing can be tried.
    #[test]
    fn a_part_that_the_kernel_lacks_is_named() {
        let answer = in_namespace(Duration::from_secs(60), || {
            let mut changes = changes();
            changes[4] = rule(FIB, "in", &expression("culvert-none", &[]));
            ask(&batch(&changes), &changes.map(|change| change.part))
        });
        match answer {
            Ok(refusal) => assert_eq!(refusal, Err(NftablesError::Part(FIB, Errno::ENOENT))),
            Err(error) => assert_eq!(error, NamespaceError::NeedsRoot),
        }
    }
}
