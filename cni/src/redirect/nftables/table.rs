// SPDX-License-Identifier: Apache-2.0
//! Table `inet culvert` as the kernel holds it, its owner's note, and its difference from a plan. Pure.

use super::compile::compile;
use super::expression::Expression;
use crate::netlink::text;
use crate::redirect::owner::Owner;
use crate::redirect::ruleset::{ChainName, Hook, Point, Ruleset, Stage};

/// Name of our table; its family is `inet`, so each rule holds for IPv4 and IPv6.
pub(crate) const TABLE: &str = "culvert";
/// Distance of our chains' priority from the usual one of their stage: they come before those of iptables-nft.
const AHEAD: i32 = 10;

// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN` and `NF_INET_LOCAL_OUT`.
pub(super) const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
pub(super) const HOOK_OUTPUT: u32 = 3;
/// `NFTNL_UDATA_RULE_COMMENT`: nft's own format of a comment, which `nft list` shows.
const USERDATA_COMMENT: u8 = 0;

/// A rule as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRule {
    pub(super) expressions: Vec<Expression>,
    pub(super) userdata: Vec<u8>,
    /// `NFTA_RULE_EXPRESSIONS` as dumped, for putting the rule back byte by byte.
    pub(super) raw: Vec<u8>,
}

/// The hook of a base chain, in the kernel's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelHook {
    /// `NF_INET_…`.
    pub(super) number: u32,
    /// Chains of lower priority come first.
    pub(super) priority: i32,
    /// `filter` or `nat`.
    pub(super) kind: String,
}

impl From<Hook> for KernelHook {
    fn from(hook: Hook) -> Self {
        let number = match hook.at {
            Point::Prerouting => HOOK_PREROUTING,
            Point::Input => HOOK_INPUT,
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
pub(super) struct KernelChain {
    pub(super) name: String,
    pub(super) hook: Option<KernelHook>,
    pub(super) rules: Vec<KernelRule>,
}

/// Table `inet culvert` as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(super) chains: Vec<KernelChain>,
}

impl Snapshot {
    /// Returns the attachment that the rules were written for, by the note in them.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let about = self.chains.iter().find(|chain| chain.name == ChainName::About.nftables())?;
        about.rules.first().and_then(|rule| comment_of(&rule.userdata)).and_then(Owner::parse)
    }
}

/// Compare the kernel's table with the plan; one line for each difference.
pub(crate) fn difference(rules: &Ruleset, found: &Snapshot) -> Vec<String> {
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

/// Encode `text` as a comment in nft's userdata format: type, length, zero-terminated text.
pub(super) fn comment(text: &str) -> Vec<u8> {
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

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for id in ["a", &"f".repeat(64), &"x".repeat(300)] {
            let owner = Owner::new(id, "eth0");
            assert_eq!(comment_of(&comment(&owner.to_string())).and_then(Owner::parse), Some(owner), "{id}");
        }
        assert_eq!(comment_of(&[]), None);
        assert_eq!(comment_of(&[0, 200, b'x']), None);
    }
}
