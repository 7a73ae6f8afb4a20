// SPDX-License-Identifier: Apache-2.0
//! Rules of other programs in a pod that meet redirected connections: NAT of destinations, and filters that drop by default.
//!
//! Such NAT does not see a redirected connection, and such a filter sees the sidecar's port in place of the original one. They
//! are named for people; nothing is changed.

use super::engine;
use super::iptables;
use super::nftables::{self, Existing};

/// Chains that are named one by one.
const MAX_NAMED: usize = 8;

/// Name the NAT chains and drop policies of other programs in this thread's network namespace, a line each.
///
/// Best effort: what cannot be read is left out. Costs one request of netlink; a program runs only where a table of
/// iptables-legacy is loaded.
pub fn others() -> Vec<String> {
    let mut lines = of_nftables(&nftables::existing().unwrap_or_default());
    if engine::has_legacy_tables() {
        lines.extend(iptables::others_of_legacy());
    }
    let more = lines.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        lines.truncate(MAX_NAMED);
        lines.push(format!("{more} more"));
    }
    lines
}

fn of_nftables(chains: &[Existing]) -> Vec<String> {
    let mut lines = Vec::new();
    for chain in chains.iter().filter(|chain| chain.table != nftables::TABLE) {
        let Existing { family, table, name, kind, rules, drops_by_default, .. } = chain;
        // In the tables of iptables-nft culvert has a rule of its own, which leads into a chain of its own.
        let own = |other: &&Existing| {
            (other.family, &other.table) == (chain.family, table)
                && iptables::hooked_into(&other.name) == Some(name.as_str())
        };
        let rules = (*rules as usize).saturating_sub(chains.iter().filter(own).count());
        if kind == "nat" && chain.translates_destinations && rules > 0 {
            let s = if rules == 1 { "" } else { "s" };
            lines.push(format!("NAT in table {family} {table}, chain {name}: {rules} rule{s}"));
        }
        if *drops_by_default {
            lines.push(format!("drop as policy of table {family} {table}, chain {name}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(table: &str, name: &str, translates_destinations: bool, rules: u32) -> Existing {
        let (table, name, kind) = (table.to_owned(), name.to_owned(), "nat".to_owned());
        Existing { family: "ip", table, name, kind, translates_destinations, rules, drops_by_default: false }
    }

    #[test]
    fn only_rules_of_others_are_named() {
        let filter = Existing {
            kind: "filter".to_owned(),
            translates_destinations: false,
            drops_by_default: true,
            ..nat("filter", "INPUT", false, 0)
        };
        let chain = |name: &str| Existing { kind: String::new(), ..nat("nat", name, false, 5) };
        let found = [
            nat("culvert", "inbound", true, 9),
            nat("nat", "PREROUTING", true, 3),
            chain("CULVERT_INBOUND"),
            nat("nat", "OUTPUT", true, 1),
            chain("CULVERT_OUTBOUND"),
            nat("nat", "POSTROUTING", false, 7),
            filter,
        ];
        assert_eq!(
            of_nftables(&found),
            [
                "NAT in table ip nat, chain PREROUTING: 2 rules",
                "drop as policy of table ip filter, chain INPUT"
            ]
        );
    }
}
