// SPDX-License-Identifier: Apache-2.0
//! The outcome of a decision about a pod.

use std::collections::BTreeMap;

use crate::redirect::policy::Policy;

/// The plugin's choice for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No rules: prevResult goes through untouched.
    PassThrough(Reason),
    /// Redirect the pod's traffic by this policy.
    Redirect(Box<Policy>),
}

/// The cause of a [`Decision::PassThrough`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The pod's namespace is in `excludeNamespaces`.
    NamespaceExcluded,
    /// No annotation onboards the pod.
    NotOnboarded,
    /// The pod has `culvert.dev/redirect: disabled`.
    Disabled,
    /// Neither the runtime nor the agent has its annotations, and `onUnknown` is `allow`.
    Unknown,
}

impl Reason {
    /// Text for the log and for the agent's report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NamespaceExcluded => "namespace excluded",
            Self::NotOnboarded => "not onboarded",
            Self::Disabled => "redirect disabled",
            Self::Unknown => "annotations unknown, onUnknown is allow",
        }
    }
}

/// A decision, with what an operator should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Pass through, or redirect by a policy.
    pub decision: Decision,
    /// Settings whose effect may surprise the author of the annotations.
    pub warnings: Vec<String>,
    /// Origin of each setting that is not culvert's default, by its name behind `culvert.dev/`.
    pub sources: BTreeMap<&'static str, String>,
}

impl Decided {
    pub(super) const fn pass_through(reason: Reason) -> Self {
        Self { decision: Decision::PassThrough(reason), warnings: Vec::new(), sources: BTreeMap::new() }
    }
}
