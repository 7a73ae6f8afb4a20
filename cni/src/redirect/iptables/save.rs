// SPDX-License-Identifier: Apache-2.0
//! `iptables-save → Rendered`: culvert's lines in the program's output, and their difference from a plan. Pure.

use std::collections::HashMap;

use super::render::{Lines, PREFIX, Rendered, Table};
use crate::redirect::owner::Owner;
use crate::redirect::ruleset::Family;

/// Parse culvert's lines in the output of `iptables-save`; all other lines are left out.
pub(crate) fn parse(saved: &str) -> Rendered {
    let mut tables = Rendered::new();
    let mut current = None;
    for line in saved.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix('*') {
            current = Table::ALL.into_iter().find(|table| table.name() == name);
            continue;
        }
        let Some(table) = current else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if name.starts_with(PREFIX) {
                tables.entry(table).or_default().chains.push(name.to_owned());
            }
        } else if let Some(appended) = line.strip_prefix("-A ") {
            if appended.starts_with(PREFIX) {
                tables.entry(table).or_default().rules.push(line.to_owned());
            } else if target(appended).is_some_and(|target| target.starts_with(PREFIX)) {
                tables.entry(table).or_default().hooks.push(line.to_owned());
            }
        }
    }
    tables
}

/// Name NAT rules and drop policies of other programs in the output of `iptables-save`, a line each.
pub(crate) fn others(family: Family, saved: &str) -> Vec<String> {
    let program = match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    };
    let mut lines = Vec::new();
    let mut table = "";
    for line in saved.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            if let (Some(chain), Some("DROP")) = (words.next(), words.next()) {
                lines.push(format!("drop as policy of {program}, table {table}, chain {chain}"));
            }
        }
    }
    let nat = saved.lines().skip_while(|line| *line != "*nat").take_while(|line| *line != "COMMIT");
    for chain in ["PREROUTING", "OUTPUT"] {
        let is_others = |line: &&str| {
            line.strip_prefix("-A ").is_some_and(|rule| {
                rule.split(' ').next() == Some(chain)
                    && !target(rule).is_some_and(|target| target.starts_with(PREFIX))
            })
        };
        let rules = nat.clone().filter(is_others).count();
        if rules > 0 {
            let s = if rules == 1 { "" } else { "s" };
            lines.push(format!("NAT in {program}, chain {chain}: {rules} rule{s}"));
        }
    }
    lines
}

/// Find the owner's note in the rules.
pub(crate) fn owner(tables: &Rendered) -> Option<Owner> {
    let note = |line: &String| {
        line.split_once("--comment \"")?.1.split_once('"').and_then(|(note, _)| Owner::parse(note))
    };
    tables.get(&Table::Nat)?.rules.iter().find_map(note)
}

/// Compare `found` with `wanted`; one line for each difference. The note is not compared.
pub(crate) fn difference(wanted: &Rendered, found: &Rendered) -> Vec<String> {
    let mut lines = Vec::new();
    let none = Lines::default();
    for table in Table::ALL {
        let name = table.name();
        let (wanted, found) = (wanted.get(&table).unwrap_or(&none), found.get(&table).unwrap_or(&none));
        for chain in wanted.chains.iter().filter(|chain| !found.chains.contains(chain)) {
            lines.push(format!("table {name}: chain {chain} is missing"));
        }
        for chain in found.chains.iter().filter(|chain| !wanted.chains.contains(chain)) {
            lines.push(format!("table {name}: chain {chain} is not ours"));
        }
        for hook in &wanted.hooks {
            match found.hooks.iter().filter(|line| parts(line) == parts(hook)).count() {
                0 => lines.push(format!("table {name}: missing: {hook}")),
                1 => {}
                _ => lines.push(format!("table {name}: more than once: {hook}")),
            }
        }
        for hook in
            found.hooks.iter().filter(|line| !wanted.hooks.iter().any(|hook| parts(hook) == parts(line)))
        {
            lines.push(format!("table {name}: not ours: {hook}"));
        }
        let about = |line: &&String| !line.starts_with("-A CULVERT_ABOUT ");
        let mut found_rules = found.rules.iter().filter(about);
        // The order within a chain matters, and iptables-save keeps it; it prints chains in an order of its own.
        let order = chain_order(&found.rules);
        let mut by_chain: Vec<&String> = wanted.rules.iter().filter(about).collect();
        by_chain.sort_by_key(|line| order.get(chain_of(line)));
        for rule in by_chain {
            match found_rules.next() {
                Some(installed) if installed == rule || parts(installed) == parts(rule) => {}
                Some(installed) => {
                    lines.push(format!("table {name}: {rule}: found instead: {installed}"));
                    break;
                }
                None => lines.push(format!("table {name}: missing: {rule}")),
            }
        }
        lines.extend(found_rules.map(|rule| format!("table {name}: not ours: {rule}")));
    }
    lines
}

/// Returns the place of each chain among the chains of `lines`, found once: to search the lines for each rule's chain took
/// three quarters of an ADD with 1,000 ports.
fn chain_order(lines: &[String]) -> HashMap<&str, usize> {
    let mut order = HashMap::new();
    for line in lines {
        let next = order.len();
        order.entry(chain_of(line)).or_insert(next);
    }
    order
}

fn chain_of(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

/// Split a line into its options, sorted, since versions of iptables print matches in different orders. `-m NAME` is left
/// out: it only loads a match.
fn parts(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut words = line.split(' ').peekable();
    let mut negated = "";
    while let Some(word) = words.next() {
        match word {
            "!" => negated = "! ",
            "-m" => {
                words.next();
            }
            option if option.starts_with('-') => {
                let mut part = format!("{negated}{option}");
                while let Some(value) = words.next_if(|next| !next.starts_with('-') && *next != "!") {
                    part.push(' ');
                    part.push_str(value);
                }
                parts.push(part);
                negated = "";
            }
            other => parts.push(other.to_owned()),
        }
    }
    parts.sort();
    parts
}

fn target(line: &str) -> Option<&str> {
    let mut words = line.split(' ').skip_while(|word| *word != "-j" && *word != "-g");
    words.nth(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::time::ClockId;

    use super::*;

    /// Two chains of `count` rules each, one chain in each of two orders of printing.
    fn tables(count: u32, chains: [&str; 2]) -> Rendered {
        let rules = chains.iter().flat_map(|chain| {
            (0..count).map(move |port| format!("-A {chain} -p tcp -m tcp --dport {port} -j RETURN"))
        });
        let lines =
            Lines { chains: chains.map(str::to_owned).into(), hooks: Vec::new(), rules: rules.collect() };
        Rendered::from([(Table::Nat, lines)])
    }

    /// Returns the time that this thread has had of a processor: unlike the time of day, the same beside other work.
    fn processor_time() -> Duration {
        ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap().into()
    }

    #[test]
    fn the_comparison_of_a_long_list_takes_as_long_as_the_list_is() {
        let time_of = |count| {
            let wanted = tables(count, ["CULVERT_INBOUND", "CULVERT_OUTBOUND"]);
            let found = tables(count, ["CULVERT_OUTBOUND", "CULVERT_INBOUND"]);
            let before = processor_time();
            assert_eq!(difference(&wanted, &found), Vec::<String>::new());
            processor_time() - before
        };
        // Eight times the rules are 8 times the work, and 64 times if each rule searches all of them.
        let (short, long) = (time_of(500), time_of(4_000));
        assert!(long < 24 * short, "500 rules took {short:?}, 4,000 took {long:?}");
    }

    #[test]
    fn the_order_counts_within_a_chain_only() {
        let wanted = tables(2, ["CULVERT_INBOUND", "CULVERT_OUTBOUND"]);
        let mut found = tables(2, ["CULVERT_OUTBOUND", "CULVERT_INBOUND"]);
        assert_eq!(difference(&wanted, &found), Vec::<String>::new());
        found.get_mut(&Table::Nat).unwrap().rules.swap(0, 1);
        assert_eq!(difference(&wanted, &found).len(), 4);
    }
}
