// SPDX-License-Identifier: Apache-2.0
//! The nftables engine: one netlink transaction for both families, no program executed, table `inet culvert`.
//!
//! ADD creates with `CREATE | EXCL`: a batch that deletes anything makes the end of the process wait some 15 ms for the
//! kernel, so the table is only replaced where what is installed differs from the plan.

mod compile;
mod expression;
mod text;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use self::compile::compile;
use self::expression::{Expression, Verdict, decode_list};
pub use self::text::text as script;
use super::owner::Owner;
use super::ruleset::{ChainName, Hook, Point, Ruleset, Stage};
use crate::netlink::{
    ACK, APPEND, Attributes, Batch, CREATE, DUMP, EXCL, NetlinkError, Socket, attribute, be32, text,
};

/// Our table's name; its family is `inet`, so each rule holds for IPv4 and IPv6.
pub const TABLE: &str = "culvert";
/// How far before the usual priority of their stage our chains stand: before those of iptables-nft and of others.
const AHEAD: i32 = 10;

/// `NFPROTO_UNSPEC`: a dump of every family.
const FAMILY_ANY: u8 = 0;
/// `NFPROTO_INET`.
const FAMILY_INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const NEW_GENERATION: u16 = SUBSYSTEM << 8 | 15;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`.
const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
/// A comment in the format of nft's own userdata, so that `nft list` shows it: `NFTNL_UDATA_RULE_COMMENT`.
const USERDATA_COMMENT: u8 = 0;

/// A rule as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KernelRule {
    expressions: Vec<Expression>,
    userdata: Vec<u8>,
    /// `NFTA_RULE_EXPRESSIONS` as it was dumped, so that the rule can be put back.
    raw: Vec<u8>,
}

/// How a base chain is hooked in, in the kernel's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KernelHook {
    /// `NF_INET_…`.
    number: u32,
    /// Lower ones come first.
    priority: i32,
    /// The chain's type.
    kind: String,
}

impl From<Hook> for KernelHook {
    fn from(hook: Hook) -> Self {
        let number = match hook.at {
            Point::Prerouting => HOOK_PREROUTING,
            Point::Output => HOOK_OUTPUT,
        };
        // The usual priorities: NF_IP_PRI_RAW, _MANGLE, _NAT_DST, _FILTER of linux/netfilter_ipv4.h.
        let (kind, usual) = match hook.stage {
            Stage::Raw => ("filter", -300),
            Stage::Mangle => ("filter", -150),
            Stage::Nat => ("nat", -100),
            Stage::Filter => ("filter", 0),
        };
        Self { number, priority: usual - AHEAD, kind: kind.to_owned() }
    }
}

/// A chain as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KernelChain {
    name: String,
    hook: Option<KernelHook>,
    rules: Vec<KernelRule>,
}

/// Our table as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    chains: Vec<KernelChain>,
}

/// What [`apply`] did, and what it takes to undo it.
#[derive(Debug)]
pub enum Applied {
    /// There was no table of ours.
    Created,
    /// The same rules were there already.
    Unchanged,
    /// Other rules were there.
    Replaced(Snapshot),
}

/// Put `rules` into the kernel for `owner`.
pub fn apply(rules: &Ruleset, owner: &Owner) -> Result<Applied, NetlinkError> {
    match transact(&create(rules, owner, None)) {
        Ok(()) => Ok(Applied::Created),
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            let found = read()?.ok_or(error)?;
            // The interface does not count: the pod's second network (Multus) finds the rules of the first.
            let same_pod = found.owner().is_some_and(|found| found.container == owner.container);
            if same_pod && difference(rules, &found).is_empty() {
                return Ok(Applied::Unchanged);
            }
            transact(&create(rules, owner, Some(Replace)))?;
            Ok(Applied::Replaced(found))
        }
        Err(error @ NetlinkError::Refused { .. }) => Err(error),
        // The answer was lost, not the batch, perhaps: it is done where the table is ours and holds the rules.
        Err(error) => match read() {
            Ok(Some(found))
                if found.owner().as_ref() == Some(owner) && difference(rules, &found).is_empty() =>
            {
                Ok(Applied::Created)
            }
            _ => Err(error),
        },
    }
}

/// Take back what [`apply`] did.
pub fn undo(applied: &Applied) -> Result<(), NetlinkError> {
    match applied {
        Applied::Unchanged => Ok(()),
        Applied::Created => delete(),
        Applied::Replaced(snapshot) => transact(&restore(snapshot)),
    }
}

/// Whether nf_tables answers in this kernel; asks for our table by name, so it is cheap on hosts with many others.
pub fn probe() -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    batch.message(GET_TABLE, ACK, &nfgenmsg(), |a| a.text(1, TABLE));
    match transact(&batch) {
        // Without the subsystem the kernel answers EINVAL.
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// A number that the kernel counts up with each change of any rule of nf_tables in this network namespace, also by
/// iptables-nft: as long as it stays, so do the rules. 20 µs, where reading our table takes ten times that.
pub fn generation() -> Result<Option<u32>, NetlinkError> {
    let mut request = Batch::default();
    request.message(GET_GENERATION, ACK, &[FAMILY_ANY, 0, 0, 0], |_| {});
    let answer = Socket::open(SockProtocol::NetlinkNetFilter)?.dump(&request)?;
    let number = |body: &[u8]| attribute(body.get(4..)?, 1).and_then(be32); // NFTA_GEN_ID
    Ok(answer.iter().find(|(kind, _)| *kind == NEW_GENERATION).and_then(|(_, body)| number(body)))
}

/// Whether a chain of any family has a name that begins so: iptables-nft's rules are nf_tables' too.
pub fn has_chain(prefix: &str) -> Result<bool, NetlinkError> {
    let mut request = Batch::default();
    request.message(GET_CHAIN, DUMP, &[FAMILY_ANY, 0, 0, 0], |_| {});
    let chains = Socket::open(SockProtocol::NetlinkNetFilter)?.dump(&request)?;
    let name = |body: &[u8]| attribute(body.get(4..)?, 3).and_then(text).map(|name| name.starts_with(prefix));
    Ok(chains.iter().any(|(kind, body)| *kind == NEW_CHAIN && name(body) == Some(true)))
}

/// Delete our table, whosever it is; no table is fine.
pub fn delete() -> Result<(), NetlinkError> {
    let mut batch = begin();
    batch.message(DELETE_TABLE, ACK, &nfgenmsg(), |a| a.text(1, TABLE));
    end(&mut batch);
    match transact(&batch) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// In what the kernel's state differs from the plan, a line each; none if it does not.
pub fn difference(rules: &Ruleset, found: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for chain in &rules.chains {
        let name = chain.name.nftables();
        let Some(installed) = found.chains.iter().find(|installed| installed.name == name) else {
            lines.push(format!("chain {name} is missing"));
            continue;
        };
        if installed.hook != chain.hook.map(KernelHook::from) {
            lines.push(format!("chain {name} is hooked in elsewhere: {:?}", installed.hook));
        }
        for (index, rule) in chain.rules.iter().enumerate() {
            match installed.rules.get(index) {
                None => lines.push(format!("chain {name}, rule {}: missing: {rule}", index + 1)),
                Some(kernel) if kernel.expressions != compile(rule) => {
                    lines.push(format!("chain {name}, rule {}: is another than: {rule}", index + 1));
                }
                Some(_) => {}
            }
        }
        for index in chain.rules.len()..installed.rules.len() {
            lines.push(format!("chain {name}, rule {}: not ours", index + 1));
        }
    }
    let planned = |name: &str| {
        name == ChainName::About.nftables() || rules.chains.iter().any(|chain| chain.name.nftables() == name)
    };
    for stranger in found.chains.iter().filter(|chain| !planned(&chain.name)) {
        lines.push(format!("chain {} is not ours", stranger.name));
    }
    lines
}

impl Snapshot {
    /// Whose rules these are, by the note in them.
    pub fn owner(&self) -> Option<Owner> {
        let about = self.chains.iter().find(|chain| chain.name == ChainName::About.nftables())?;
        about.rules.first().and_then(|rule| comment_of(&rule.userdata)).and_then(Owner::parse)
    }
}

/// In a batch: delete the old table first.
struct Replace;

fn create(rules: &Ruleset, owner: &Owner, replace: Option<Replace>) -> Batch {
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
    // The last rule asks for the answer: on BATCH_END kernels before 6.10 refuse that.
    new_rule(&mut batch, ACK, ChainName::About.nftables(), &comment(&owner.to_string()), |a| {
        a.nested(4, |list| Expression::Verdict(Verdict::Return).encode(list));
    });
    end(&mut batch);
    batch
}

/// The batch that puts a snapshot back in place of whatever is there.
fn restore(snapshot: &Snapshot) -> Batch {
    let mut batch = begin();
    // Creating before deleting makes the deletion work whether or not there is a table.
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

/// `NLA_F_NESTED`, for a list that is written as it was read.
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

/// Each batch on a socket of its own: behind a refusal answers to the rest of the batch may still be queued.
fn transact(batch: &Batch) -> Result<(), NetlinkError> {
    Socket::open(SockProtocol::NetlinkNetFilter)?.transact(batch)
}

/// Read our table; `None` if there is none.
pub fn read() -> Result<Option<Snapshot>, NetlinkError> {
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

fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, &batch_nfgenmsg(), |_| {});
    batch
}

fn end(batch: &mut Batch) {
    batch.message(BATCH_END, 0, &batch_nfgenmsg(), |_| {});
}

/// `struct nfgenmsg`: family, version 0, resource 0.
fn nfgenmsg() -> [u8; 4] {
    [FAMILY_INET, 0, 0, 0]
}

/// The same around a batch: the subsystem as the resource.
fn batch_nfgenmsg() -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

/// `text` as a comment in nft's userdata format: type, length, zero-terminated text.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![USERDATA_COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

fn comment_of(userdata: &[u8]) -> Option<&str> {
    let (&[kind, length], rest) = userdata.split_first_chunk()?;
    (kind == USERDATA_COMMENT).then(|| rest.get(..usize::from(length)).and_then(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;
    use crate::redirect::plan;
    use crate::redirect::policy::Policy;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for id in ["a", &"f".repeat(64), &"x".repeat(300)] {
            let owner = Owner::new(id, "eth0");
            assert_eq!(comment_of(&comment(&owner.to_string())).and_then(Owner::parse), Some(owner), "{id}");
        }
        assert_eq!(comment_of(&[]), None);
        assert_eq!(comment_of(&[0, 200, b'x']), None);
    }

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

    #[test]
    fn garbage_is_foreign_and_no_panic() {
        for bytes in [&[][..], &[1], &[4, 0, 1, 0], &[255; 64], &[8, 0, 1, 128, 4, 0, 1, 0]] {
            for expression in decode_list(bytes) {
                assert!(matches!(expression, Expression::Foreign(_)), "{bytes:?}");
            }
        }
    }
}
