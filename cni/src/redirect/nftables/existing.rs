// SPDX-License-Identifier: Apache-2.0
//! The chains of all programs in a network namespace, as far as others have to know of them.

use nix::sys::socket::SockProtocol;

use super::batch::{FAMILY_ANY, GET_CHAIN, NEW_CHAIN};
use super::table::{HOOK_OUTPUT, HOOK_PREROUTING};
use crate::netlink::{Batch, DUMP, NetlinkError, Socket, attribute, be32, text};

/// A chain of any program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    /// `ip`, `ip6`, `inet`, or another family in short.
    pub(crate) family: &'static str,
    /// Name of its table.
    pub(crate) table: String,
    /// Name of the chain in it.
    pub(crate) name: String,
    /// `nat` or `filter`; empty without a hook.
    pub(crate) kind: String,
    /// True if it is hooked in where destinations are translated.
    pub(crate) translates_destinations: bool,
    /// Number of its rules; without a hook also of those that lead to it.
    pub(crate) rules: u32,
    /// True if a packet without a verdict is dropped there.
    pub(crate) drops_by_default: bool,
}

/// List the chains of every family, iptables-nft included.
pub(crate) fn existing() -> Result<Vec<Existing>, NetlinkError> {
    let mut request = Batch::default();
    request.message(GET_CHAIN, DUMP, &[FAMILY_ANY, 0, 0, 0], |_| {});
    let chains = Socket::open(SockProtocol::NetlinkNetFilter)?.dump(&request)?;
    Ok(chains.iter().filter(|(kind, _)| *kind == NEW_CHAIN).filter_map(|(_, body)| chain(body)).collect())
}

fn chain(body: &[u8]) -> Option<Existing> {
    let (fixed, attributes) = body.split_at_checked(4)?;
    let family = match fixed[0] {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => "other",
    };
    let word = |kind: u16| attribute(attributes, kind).and_then(text).unwrap_or_default().to_owned();
    let number = |kind: u16| attribute(attributes, kind).and_then(be32);
    // NFTA_CHAIN_HOOK → NFTA_HOOK_HOOKNUM
    let hook = attribute(attributes, 4).and_then(|hook| attribute(hook, 1)).and_then(be32);
    Some(Existing {
        family,
        table: word(1), // NFTA_CHAIN_TABLE
        name: word(3),  // NFTA_CHAIN_NAME
        kind: word(7),  // NFTA_CHAIN_TYPE
        translates_destinations: matches!(hook, Some(HOOK_PREROUTING | HOOK_OUTPUT)),
        rules: number(6).unwrap_or_default(), // NFTA_CHAIN_USE
        // NFTA_CHAIN_POLICY: NF_DROP
        drops_by_default: hook.is_some() && number(5) == Some(0),
    })
}
