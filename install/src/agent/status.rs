// SPDX-License-Identifier: Apache-2.0
//! How each pod of this node is, as the agent keeps it and `culvert-install status` shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The most pods in one answer: some 600 KiB of JSON.
const MAX_ROWS: usize = 2000;
/// The longest reason, in characters.
const MAX_REASON: usize = 300;

/// Every pod of a node, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatus {
    /// The node's name in Kubernetes, where the agent was told it.
    pub node: Option<String>,
    /// Whether an agent runs here; else this is what `status` saw for itself.
    pub agent: bool,
    /// Where pods were listed.
    pub listed_by: Option<String>,
    /// Why the list may be incomplete.
    pub problem: Option<String>,
    /// Why the API server's word is old or missing.
    pub api_server: Option<String>,
    /// The pods.
    pub pods: Vec<PodRow>,
    /// Pods that found no room here.
    pub left_out: usize,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodRow {
    /// `namespace/name`.
    pub pod: String,
    /// The runtime's id of its sandbox.
    pub sandbox: String,
    /// Whether it asked to be redirected.
    pub onboarded: Onboarded,
    /// Who wrote its rules.
    pub engine: Option<String>,
    /// How its redirect is.
    pub state: RedirectState,
    /// When that was looked at last.
    pub verified: Option<String>,
    /// How often its redirect was put right since the agent began.
    pub repairs: u32,
    /// Why it is so.
    pub reason: String,
}

/// Whether a pod asked to be redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Onboarded {
    /// It did.
    Yes,
    /// It did not.
    No,
    /// Nobody knows.
    Unknown,
}

/// How a pod's redirect is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RedirectState {
    /// As it should be.
    Redirected,
    /// Not there or not as it should be, or somebody else's.
    Damaged,
    /// It has none and should have none.
    Direct,
    /// It could not be looked at, or has not been yet.
    Unknown,
}

impl Onboarded {
    /// The word for a table.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

impl RedirectState {
    /// The word for a table.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Damaged => "damaged",
            Self::Direct => "direct",
            Self::Unknown => "unknown",
        }
    }
}

/// What ends the reason of a pod that nobody looked at so far.
pub(crate) const NOT_YET: &str = "not verified yet";

impl PodRow {
    /// Whether somebody should look.
    pub(crate) const fn needs_attention(&self) -> bool {
        match self.onboarded {
            Onboarded::Yes => !matches!(self.state, RedirectState::Redirected),
            Onboarded::No => false,
            Onboarded::Unknown => true,
        }
    }

    /// Whether it was looked at, and is not as it should be, or could not be told.
    pub(crate) fn is_ill(&self) -> bool {
        self.onboarded == Onboarded::Yes && self.needs_attention() && !self.reason.ends_with(NOT_YET)
    }
}

/// What the agent keeps of each pod.
#[derive(Debug, Default)]
pub(crate) struct PodTable(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    rows: BTreeMap<String, PodRow>,
    listed_by: Option<String>,
    problem: Option<String>,
}

impl PodTable {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list was made by `listed_by`, or could not be; only rows that `is_there` says stay.
    pub(crate) fn listed(&self, listed_by: String, problem: Option<String>, is_there: impl Fn(&str) -> bool) {
        let mut kept = self.kept();
        kept.rows.retain(|id, _| is_there(id));
        (kept.listed_by, kept.problem) = (Some(listed_by), problem);
    }

    /// Sets the row of a sandbox.
    pub(crate) fn set(&self, mut row: PodRow) {
        if let Some((end, _)) = row.reason.char_indices().nth(MAX_REASON) {
            row.reason.truncate(end);
            row.reason.push('…');
        }
        self.kept().rows.insert(row.sandbox.clone(), row);
    }

    /// All of it.
    pub(crate) fn status(&self) -> NodeStatus {
        let kept = self.kept();
        let mut pods: Vec<PodRow> = kept.rows.values().cloned().collect();
        // Those that need attention come first into what there is room for.
        pods.sort_by(|a, b| (!a.needs_attention(), &a.pod).cmp(&(!b.needs_attention(), &b.pod)));
        let left_out = pods.len().saturating_sub(MAX_ROWS);
        pods.truncate(MAX_ROWS);
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        let Kept { listed_by, problem, .. } = &*kept;
        let (listed_by, problem) = (listed_by.clone(), problem.clone());
        NodeStatus { agent: true, listed_by, problem, pods, left_out, ..NodeStatus::default() }
    }
}
