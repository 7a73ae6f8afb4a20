// SPDX-License-Identifier: Apache-2.0
//! The nftables engine: one netlink transaction for both families, without a program, in table `inet culvert`.
//!
//! ADD creates with `CREATE | EXCL`. A batch that deletes anything makes the end of the process wait some 15 ms for the
//! kernel, so the table is only replaced if the installed rules differ from the plan.

mod batch;
mod compile;
mod existing;
mod expression;
mod table;
mod text;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use self::batch::{
    DELETE_TABLE, FAMILY_ANY, GET_CHAIN, GET_GENERATION, GET_RULE, GET_TABLE, NEW_CHAIN, NEW_GENERATION,
    NEW_RULE, Replace, begin, create, end, nfgenmsg, restore,
};
pub(crate) use self::existing::{Existing, existing};
use self::expression::decode_list;
use self::table::{KernelChain, KernelHook, KernelRule};
pub(crate) use self::table::{Snapshot, TABLE, difference};
pub use self::text::text as script;
use super::owner::Owner;
use super::ruleset::Ruleset;
use crate::netlink::{ACK, Batch, DUMP, NetlinkError, Socket, attribute, be32, text};

/// The change that [`apply`] made, for [`undo`].
#[derive(Debug)]
pub(crate) enum TableChange {
    /// No table of culvert was there.
    Created,
    /// The same rules were there already.
    Unchanged,
    /// Other rules were there, kept in the snapshot.
    Replaced(Snapshot),
}

/// Write `rules` into the kernel for `owner`.
pub(crate) fn apply(rules: &Ruleset, owner: &Owner) -> Result<TableChange, NetlinkError> {
    match transact(&create(rules, owner, None)) {
        Ok(()) => Ok(TableChange::Created),
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            let found = read()?.ok_or(error)?;
            // Only the container is compared: the pod's second network (Multus) finds the rules of the first.
            let same_pod = found.owner().is_some_and(|found| found.container == owner.container);
            if same_pod && difference(rules, &found).is_empty() {
                return Ok(TableChange::Unchanged);
            }
            transact(&create(rules, owner, Some(Replace)))?;
            Ok(TableChange::Replaced(found))
        }
        Err(error @ NetlinkError::Refused { .. }) => Err(error),
        // The answer was lost, but perhaps not the batch: it succeeded if the table has our note and the rules.
        Err(error) => match read() {
            Ok(Some(found))
                if found.owner().as_ref() == Some(owner) && difference(rules, &found).is_empty() =>
            {
                Ok(TableChange::Created)
            }
            _ => Err(error),
        },
    }
}

/// Undo the change of [`apply`].
pub(crate) fn undo(applied: &TableChange) -> Result<(), NetlinkError> {
    match applied {
        TableChange::Unchanged => Ok(()),
        TableChange::Created => delete(),
        TableChange::Replaced(snapshot) => transact(&restore(snapshot)),
    }
}

/// Test that nf_tables answers in this kernel. Asks for one table by name, which is cheap on hosts with many tables.
pub(crate) fn probe() -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    batch.message(GET_TABLE, ACK, &nfgenmsg(), |a| a.text(1, TABLE));
    match transact(&batch) {
        // Without the subsystem the kernel answers EINVAL.
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Read the number that the kernel increases with each change of nf_tables in this network namespace, iptables-nft included.
/// While it is the same, the rules are the same. Takes 20 µs, a tenth of reading the table.
pub fn generation() -> Result<Option<u32>, NetlinkError> {
    let mut request = Batch::default();
    request.message(GET_GENERATION, ACK, &[FAMILY_ANY, 0, 0, 0], |_| {});
    let answer = Socket::open(SockProtocol::NetlinkNetFilter)?.dump(&request)?;
    let number = |body: &[u8]| attribute(body.get(4..)?, 1).and_then(be32); // NFTA_GEN_ID
    Ok(answer.iter().find(|(kind, _)| *kind == NEW_GENERATION).and_then(|(_, body)| number(body)))
}

/// Returns true if a chain of any family has a name with this prefix; rules of iptables-nft are in nf_tables too.
pub(crate) fn has_chain(prefix: &str) -> Result<bool, NetlinkError> {
    Ok(existing()?.iter().any(|chain| chain.name.starts_with(prefix)))
}

/// Delete table `inet culvert` of any owner; no table is no error.
pub fn delete() -> Result<(), NetlinkError> {
    let mut batch = begin();
    batch.message(DELETE_TABLE, ACK, &nfgenmsg(), |a| a.text(1, TABLE));
    end(&mut batch);
    match transact(&batch) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Send each batch on a socket of its own: after an error, answers to the rest of the batch may still be queued.
fn transact(batch: &Batch) -> Result<(), NetlinkError> {
    Socket::open(SockProtocol::NetlinkNetFilter)?.transact(batch)
}

/// Read our table; `None` if there is none.
pub(crate) fn read() -> Result<Option<Snapshot>, NetlinkError> {
    let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let mut chains: Vec<KernelChain> = Vec::new();
    let mut request = Batch::default();
    request.message(GET_CHAIN, DUMP, &nfgenmsg(), |_| {});
    for (kind, body) in socket.dump(&request)? {
        let attributes = body.get(4..).unwrap_or_default();
        if kind == NEW_CHAIN && attribute(attributes, 1).and_then(text) == Some(TABLE) {
            let hook = attribute(attributes, 4).and_then(|hook| {
                Some(KernelHook {
                    number: attribute(hook, 1).and_then(be32)?,
                    priority: attribute(hook, 2).and_then(be32)?.cast_signed(),
                    kind: attribute(attributes, 7).and_then(text)?.to_owned(),
                })
            });
            let name = attribute(attributes, 3).and_then(text).unwrap_or_default().to_owned();
            chains.push(KernelChain { name, hook, rules: Vec::new() });
        }
    }
    if chains.is_empty() {
        return Ok(None);
    }
    let mut request = Batch::default();
    request.message(GET_RULE, DUMP, &nfgenmsg(), |a| a.text(1, TABLE));
    for (kind, body) in socket.dump(&request)? {
        let attributes = body.get(4..).unwrap_or_default();
        if kind != NEW_RULE || attribute(attributes, 1).and_then(text) != Some(TABLE) {
            continue;
        }
        let chain = attribute(attributes, 2).and_then(text);
        if let Some(chain) = chains.iter_mut().find(|known| Some(known.name.as_str()) == chain) {
            let raw = attribute(attributes, 4).unwrap_or_default();
            chain.rules.push(KernelRule {
                expressions: decode_list(raw),
                userdata: attribute(attributes, 7).unwrap_or_default().to_vec(),
                raw: raw.to_vec(),
            });
        }
    }
    Ok(Some(Snapshot { chains }))
}
