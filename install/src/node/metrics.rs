// SPDX-License-Identifier: Apache-2.0
//! What the agent counts. Every label is one of a few words.

use std::fmt::Write;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of an ADD's duration in seconds: it takes 2 ms, iptables some 20 ms, and 5 s at most.
const ADD_SECONDS: [f64; 11] = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0, 5.0];

/// The metrics, each registered under its name.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `culvert_agent_installs_total`: placings of the plugin's binary.
    pub installs: Family<InstallLabels, Counter>,
    /// `culvert_agent_entry_present`: 1 while our entry is effective in the file that the runtime uses.
    pub entry_present: Gauge,
    /// `culvert_agent_entry_writes_total`: our entry, put in or put right.
    pub entry_writes: Counter,
    /// `culvert_agent_fights_total`: our entry, taken out by somebody else.
    pub fights: Counter,
    /// `culvert_agent_pods_verified_total`: looks at a pod's rules, by what was found.
    pub verified: Family<VerifiedLabels, Counter>,
    /// `culvert_agent_pods_repaired_total`: pods put right.
    pub repaired: Counter,
    /// `culvert_cni_adds_total`: the plugin's ADDs, from its records.
    pub adds: Family<AddLabels, Counter>,
    /// `culvert_cni_add_seconds`: how long they took.
    pub add_seconds: Histogram,
}

/// What became of a placing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Install {
    /// Put there, or in place of another.
    Placed,
    /// It could not be put there, or would not work there.
    Refused,
}

/// Labels of `culvert_agent_installs_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InstallLabels {
    /// What became of it.
    pub result: Install,
}

/// What a look at a pod found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Verified {
    /// Its rules are as they should be.
    Well,
    /// They are not.
    Damaged,
    /// They could not be looked at.
    Unknown,
}

/// Labels of `culvert_agent_pods_verified_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerifiedLabels {
    /// What was found.
    pub result: Verified,
}

/// What an ADD did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Add {
    /// Redirected the pod.
    Redirected,
    /// Left it alone, as it should.
    PassedThrough,
    /// Left it alone, since nobody knew.
    Unknown,
    /// Failed.
    Failed,
}

/// Labels of `culvert_cni_adds_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AddLabels {
    /// What it did.
    pub result: Add,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (installs, entry_present) = (Family::default(), Gauge::default());
        let (entry_writes, fights, repaired) = (Counter::default(), Counter::default(), Counter::default());
        let (verified, adds) = (Family::default(), Family::default());
        let add_seconds = Histogram::new(ADD_SECONDS);
        registry.register(
            "culvert_agent_installs",
            "Placings of the plugin's binary in the node's folder",
            installs.clone(),
        );
        registry.register(
            "culvert_agent_entry_present",
            "1 while the plugin's entry is effective in the file that the runtime uses",
            entry_present.clone(),
        );
        registry.register(
            "culvert_agent_entry_writes",
            "Times that the entry was put in",
            entry_writes.clone(),
        );
        registry.register(
            "culvert_agent_fights",
            "Times that somebody else took the entry out",
            fights.clone(),
        );
        registry.register("culvert_agent_pods_verified", "Looks at a pod's rules", verified.clone());
        registry.register("culvert_agent_pods_repaired", "Pods whose rules were put right", repaired.clone());
        registry.register("culvert_cni_adds", "ADDs of the plugin", adds.clone());
        registry.register(
            "culvert_cni_add_seconds",
            "Seconds that the plugin's ADDs took",
            add_seconds.clone(),
        );
        Self {
            registry,
            installs,
            entry_present,
            entry_writes,
            fights,
            verified,
            repaired,
            adds,
            add_seconds,
        }
    }
}

impl Metrics {
    /// All of them in the format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        if encode(&mut out, &self.registry).is_err() {
            let _ = writeln!(out, "# EOF");
        }
        out
    }
}

impl From<Install> for InstallLabels {
    fn from(result: Install) -> Self {
        Self { result }
    }
}

impl From<Verified> for VerifiedLabels {
    fn from(result: Verified) -> Self {
        Self { result }
    }
}

impl From<Add> for AddLabels {
    fn from(result: Add) -> Self {
        Self { result }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// Each series as `name{label="value"} type`; the count of a histogram stands for its series.
    fn printed() -> BTreeSet<String> {
        let metrics = Metrics::default();
        // A family prints a series once it was counted.
        for result in [Install::Placed, Install::Refused] {
            drop(metrics.installs.get_or_create(&result.into()));
        }
        for result in [Verified::Well, Verified::Damaged, Verified::Unknown] {
            drop(metrics.verified.get_or_create(&result.into()));
        }
        for result in [Add::Redirected, Add::PassedThrough, Add::Unknown, Add::Failed] {
            drop(metrics.adds.get_or_create(&result.into()));
        }
        let text = metrics.text();
        let kind_of = |series: &str| {
            let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
            let of = |name: &str, kind: &str| match kind {
                "counter" => series == format!("{name}_total"),
                "histogram" => series == format!("{name}_count"),
                _ => series == name,
            };
            families.into_iter().find(|(name, kind)| of(name, kind)).map(|(_, kind)| kind.to_owned())
        };
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| {
                let (sample, _) = line.rsplit_once(' ')?;
                let name = sample.split('{').next()?;
                Some(format!("{} {}", sample.replace("_count", ""), kind_of(name)?))
            })
            .collect()
    }

    fn written(page: &str) -> BTreeSet<String> {
        let (_, section) = page.split_once("\n## Metrics\n").expect("the page has a section on metrics");
        let rows = section.lines().take_while(|line| !line.starts_with("## "));
        let rows =
            rows.filter_map(|line| line.strip_prefix("| `")).map(|row| row.split(" | ").collect::<Vec<_>>());
        rows.flat_map(|row| {
            let (name, kind) = (row[0].trim_end_matches('`'), row[1].to_owned());
            let words: Vec<_> = row[2].split('`').skip(1).step_by(2).collect();
            match *words {
                [] => vec![format!("{name} {kind}")],
                [label, ref values @ ..] => {
                    values.iter().map(|value| format!("{name}{{{label}=\"{value}\"}} {kind}")).collect()
                }
            }
        })
        .collect()
    }

    #[test]
    fn the_page_names_every_series_and_no_other() {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        assert_eq!(written(&page), printed());
    }
}
