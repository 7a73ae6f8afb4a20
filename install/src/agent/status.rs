// SPDX-License-Identifier: Apache-2.0
//! The state of each pod of this node, as the agent keeps it and `culvert-install status` shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The most pods in one answer: some 600 KiB of JSON.
const MAX_ROWS: usize = 2000;
/// The longest reason, in characters.
const MAX_REASON: usize = 300;

/// The state of a node's pods, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatus {
    /// The node's name in Kubernetes, where the agent knows it.
    pub node: Option<String>,
    /// True in the answer of an agent; false where the command checked the pods itself.
    pub agent: bool,
    /// The source of the list of pods.
    pub listed_by: Option<String>,
    /// The reason why the list may be incomplete.
    pub problem: Option<String>,
    /// The reason why the API server's data is old or missing.
    pub api_server: Option<String>,
    pub pods: Vec<PodRow>,
    /// Number of pods beyond [`MAX_ROWS`].
    pub left_out: usize,
}

/// The state of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodRow {
    pub pod: String,
    /// The runtime's id of its sandbox.
    pub sandbox: String,
    pub onboarded: Onboarded,
    /// The engine that wrote the rules.
    pub engine: Option<String>,
    pub state: RedirectState,
    /// Time of the last check, by RFC 3339.
    pub verified: Option<String>,
    /// Repairs since the agent's start.
    pub repairs: u32,
    /// The reason of the state.
    pub reason: String,
    /// NAT rules and drop policies of other programs in the pod, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
}

/// The pod's own wish to be redirected, by its annotations or the node's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Onboarded {
    Yes,
    No,
    Unknown,
}

/// The state of a pod's redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RedirectState {
    /// The rules match the policy.
    Redirected,
    /// The rules are missing, differ, or were written for another.
    Damaged,
    /// The rules match the policy, and the sandbox's packets bypass them.
    Bypassed,
    /// There are no rules, as desired.
    Direct,
    /// The rules could not be read, or were not checked yet.
    Unknown,
}

impl Onboarded {
    /// Returns the word for a table.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

impl RedirectState {
    /// Returns the word for a table.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Damaged => "damaged",
            Self::Bypassed => "bypassed",
            Self::Direct => "direct",
            Self::Unknown => "unknown",
        }
    }
}

/// Suffix of the reason of a pod that was not checked so far.
pub(crate) const NOT_YET: &str = "not verified yet";

impl PodRow {
    /// Returns true where the operator should act.
    pub(crate) const fn needs_attention(&self) -> bool {
        match self.onboarded {
            Onboarded::Yes => !matches!(self.state, RedirectState::Redirected),
            Onboarded::No => false,
            Onboarded::Unknown => true,
        }
    }

    /// Returns true for an onboarded pod whose check found damage or failed.
    pub(crate) fn is_ill(&self) -> bool {
        self.onboarded == Onboarded::Yes && self.needs_attention() && !self.reason.ends_with(NOT_YET)
    }
}

/// The rows of all pods. `verify` writes them, `socket` reads them.
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

    /// Notes a new list of pods by its source and its problem, and drops the rows of pods that `is_there` does not know.
    pub(crate) fn listed(&self, listed_by: String, problem: Option<String>, is_there: impl Fn(&str) -> bool) {
        let mut kept = self.kept();
        kept.rows.retain(|id, _| is_there(id));
        (kept.listed_by, kept.problem) = (Some(listed_by), problem);
    }

    /// Sets the row of a sandbox, with its reason cut to [`MAX_REASON`].
    pub(crate) fn set(&self, mut row: PodRow) {
        if let Some((end, _)) = row.reason.char_indices().nth(MAX_REASON) {
            row.reason.truncate(end);
            row.reason.push('…');
        }
        self.kept().rows.insert(row.sandbox.clone(), row);
    }

    /// Copies the rows, at most [`MAX_ROWS`].
    pub(crate) fn status(&self) -> NodeStatus {
        let kept = self.kept();
        let mut pods: Vec<PodRow> = kept.rows.values().cloned().collect();
        // Pods that need attention come first, so that none of them is left out before a healthy one.
        pods.sort_by(|a, b| (!a.needs_attention(), &a.pod).cmp(&(!b.needs_attention(), &b.pod)));
        let left_out = pods.len().saturating_sub(MAX_ROWS);
        pods.truncate(MAX_ROWS);
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        let Kept { listed_by, problem, .. } = &*kept;
        let (listed_by, problem) = (listed_by.clone(), problem.clone());
        NodeStatus { agent: true, listed_by, problem, pods, left_out, ..NodeStatus::default() }
    }
}
