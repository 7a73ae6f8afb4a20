// SPDX-License-Identifier: Apache-2.0
//! Batches of netlink messages that write, replace and restore our table.

use super::compile::compile;
use super::expression::{Expression, Verdict};
use super::table::{KernelHook, Snapshot, TABLE, comment};
use crate::netlink::{ACK, APPEND, Attributes, Batch, CREATE, EXCL};
use crate::redirect::owner::Owner;
use crate::redirect::ruleset::{ChainName, Ruleset};

/// `NFPROTO_UNSPEC`: asks for a dump of every family.
pub(super) const FAMILY_ANY: u8 = 0;
// `NFPROTO_INET`.
const FAMILY_INET: u8 = 1;
// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
pub(super) const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
pub(super) const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
pub(super) const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
pub(super) const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
pub(super) const NEW_GENERATION: u16 = SUBSYSTEM << 8 | 15;
pub(super) const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;
/// Deletes the old table at the beginning of a batch.
pub(super) struct Replace;

/// The batch that writes `rules` with the note of `owner`.
pub(super) fn create(rules: &Ruleset, owner: &Owner, replace: Option<Replace>) -> Batch {
    let mut batch = begin();
    if let Some(Replace) = replace {
        batch.message(DELETE_TABLE, 0, &nfgenmsg(), |a| a.text(1, TABLE));
    }
    batch.message(NEW_TABLE, CREATE | EXCL, &nfgenmsg(), |a| a.text(1, TABLE));
    for chain in &rules.chains {
        new_chain(&mut batch, chain.name.nftables(), chain.hook.map(KernelHook::from).as_ref());
    }
    new_chain(&mut batch, ChainName::About.nftables(), None);
    for chain in &rules.chains {
        for rule in &chain.rules {
            new_rule(&mut batch, 0, chain.name.nftables(), &[], |a| {
                a.nested(4, |list| compile(rule).iter().for_each(|expression| expression.encode(list)));
            });
        }
    }
    // The last rule asks for the answer: kernels before 6.10 refuse ACK on BATCH_END.
    new_rule(&mut batch, ACK, ChainName::About.nftables(), &comment(&owner.to_string()), |a| {
        a.nested(4, |list| Expression::Verdict(Verdict::Return).encode(list));
    });
    end(&mut batch);
    batch
}

/// The batch that replaces our table, if there is one, by a snapshot.
pub(super) fn restore(snapshot: &Snapshot) -> Batch {
    let mut batch = begin();
    // Created first, so that the deletion does not fail if there is no table.
    batch.message(NEW_TABLE, CREATE, &nfgenmsg(), |a| a.text(1, TABLE));
    batch.message(DELETE_TABLE, 0, &nfgenmsg(), |a| a.text(1, TABLE));
    batch.message(NEW_TABLE, CREATE | ACK, &nfgenmsg(), |a| a.text(1, TABLE));
    for chain in &snapshot.chains {
        new_chain(&mut batch, &chain.name, chain.hook.as_ref());
    }
    for chain in &snapshot.chains {
        for rule in &chain.rules {
            new_rule(&mut batch, 0, &chain.name, &rule.userdata, |a| a.bytes(4 | NESTED, &rule.raw));
        }
    }
    end(&mut batch);
    batch
}

/// `NLA_F_NESTED`, for a list of expressions that is written back as it was read.
const NESTED: u16 = 1 << 15;

fn new_chain(batch: &mut Batch, name: &str, hook: Option<&KernelHook>) {
    batch.message(NEW_CHAIN, CREATE, &nfgenmsg(), |a| {
        a.text(1, TABLE); // NFTA_CHAIN_TABLE
        a.text(3, name); // NFTA_CHAIN_NAME
        if let Some(KernelHook { number, priority, kind }) = hook {
            // NFTA_CHAIN_HOOK: number and priority
            a.nested(4, |hook| {
                hook.be32(1, *number);
                hook.bytes(2, &priority.to_be_bytes());
            });
            a.text(7, kind); // NFTA_CHAIN_TYPE
        }
    });
}

fn new_rule(
    batch: &mut Batch,
    flags: u16,
    chain: &str,
    userdata: &[u8],
    expressions: impl FnOnce(&mut Attributes<'_>),
) {
    batch.message(NEW_RULE, CREATE | APPEND | flags, &nfgenmsg(), |a| {
        a.text(1, TABLE); // NFTA_RULE_TABLE
        a.text(2, chain); // NFTA_RULE_CHAIN
        expressions(a); // NFTA_RULE_EXPRESSIONS
        if !userdata.is_empty() {
            a.bytes(7, userdata); // NFTA_RULE_USERDATA
        }
    });
}

pub(super) fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, &batch_nfgenmsg(), |_| {});
    batch
}

pub(super) fn end(batch: &mut Batch) {
    batch.message(BATCH_END, 0, &batch_nfgenmsg(), |_| {});
}

/// `struct nfgenmsg`: family, version 0, resource 0.
pub(super) fn nfgenmsg() -> [u8; 4] {
    [FAMILY_INET, 0, 0, 0]
}

/// `struct nfgenmsg` of the messages around a batch: the subsystem as the resource.
fn batch_nfgenmsg() -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;
    use crate::redirect::nftables::expression::decode_list;
    use crate::redirect::plan;
    use crate::redirect::policy::Policy;

    #[test]
    fn every_expression_is_decoded_as_it_was_encoded() {
        for rule in plan(&Policy::default()).chains.iter().flat_map(|chain| &chain.rules) {
            let mut batch = Batch::default();
            let wanted = compile(rule);
            batch.message(NEW_RULE, 0, &nfgenmsg(), |a| {
                a.nested(4, |list| wanted.iter().for_each(|expression| expression.encode(list)));
            });
            let (_, list) = attributes(&batch.bytes()[20..]).next().unwrap();
            assert_eq!(decode_list(list), wanted, "{rule}");
        }
    }
}
