// SPDX-License-Identifier: Apache-2.0
//! The agent's metrics. Every label takes one of a few values.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::system::openmetrics::openmetrics;

/// Upper bounds of an ADD's duration in seconds: nftables takes 2 ms, iptables some 20 ms, and the plugin gives up after 5 s.
const ADD_SECONDS: [f64; 11] = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0, 5.0];

/// All metrics of the agent. Every task writes them; `/metrics` reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// `culvert_agent_installs_total`: attempts to place the plugin's binary.
    pub installs: Family<InstallLabels, Counter>,
    /// `culvert_agent_entry_present`: 1 while our entry is effective in the file that the runtime uses.
    pub entry_present: Gauge,
    /// `culvert_agent_entry_writes_total`: writes of our entry.
    pub entry_writes: Counter,
    /// `culvert_agent_fights_total`: removals of our entry by another program.
    pub fights: Counter,
    /// `culvert_agent_pods_verified_total`: checks of a pod's rules, by result.
    pub verified: Family<VerifiedLabels, Counter>,
    /// `culvert_agent_pods_repaired_total`: repairs of a pod's rules.
    pub repaired: Counter,
    /// `culvert_cni_adds_total`: the plugin's ADDs, by its reports.
    pub adds: Family<AddLabels, Counter>,
    /// `culvert_cni_add_seconds`: duration of those ADDs.
    pub add_seconds: Histogram,
}

/// Result of an attempt to place the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Install {
    /// It was written, or replaced another.
    Placed,
    /// It could not be written, or does not work on this node.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InstallLabels {
    pub result: Install,
}

/// Result of a check of a pod's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Verified {
    /// The rules match the policy.
    Well,
    /// The rules do not match the policy.
    Damaged,
    /// The rules could not be read.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct VerifiedLabels {
    pub result: Verified,
}

/// Result of an ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Add {
    /// The pod is redirected.
    Redirected,
    /// The pod is not redirected, as its annotations say.
    PassedThrough,
    /// The pod is not redirected, since its annotations are unknown and `onUnknown` is `allow`.
    Unknown,
    /// The runtime got an error.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AddLabels {
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
            "Attempts to place the plugin's binary in the node's folder",
            installs.clone(),
        );
        registry.register(
            "culvert_agent_entry_present",
            "1 while the plugin's entry is effective in the file that the runtime uses",
            entry_present.clone(),
        );
        registry.register("culvert_agent_entry_writes", "Writes of the plugin's entry", entry_writes.clone());
        registry.register(
            "culvert_agent_fights",
            "Removals of the plugin's entry by another program",
            fights.clone(),
        );
        registry.register("culvert_agent_pods_verified", "Checks of a pod's rules", verified.clone());
        registry.register("culvert_agent_pods_repaired", "Repairs of a pod's rules", repaired.clone());
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
    /// Encodes all metrics in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        openmetrics(&self.registry)
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
