// SPDX-License-Identifier: Apache-2.0
//! What should become of a pod: its annotations and the node's defaults → a [`Decision`]. Pure.

mod grammar;
mod kuma;
mod settings;

pub use settings::{Decided, Settings, SettingsError, decide_policy, names};

use std::collections::BTreeMap;

use crate::protocol::{CniArgs, NetConf, OnUnknown};
use crate::redirect::policy::Policy;

/// The annotations of a pod, by their full names.
pub type Annotations = BTreeMap<String, String>;

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: prevResult goes through untouched.
    PassThrough(Reason),
    /// Redirect its traffic.
    Redirect(Box<Policy>),
}

/// Why a pod goes through untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its namespace is in `excludeNamespaces`.
    NamespaceExcluded,
    /// No annotation onboards it.
    NotOnboarded,
    /// `culvert.dev/redirect: disabled`.
    Disabled,
    /// Nobody knows its annotations, and `onUnknown` is `allow`.
    Unknown,
}

impl Reason {
    /// The reason in words, for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NamespaceExcluded => "namespace excluded",
            Self::NotOnboarded => "not onboarded",
            Self::Disabled => "redirect disabled",
            Self::Unknown => "annotations unknown, onUnknown is allow",
        }
    }
}

/// Why no decision could be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// A setting is wrong: CNI code 7.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Nobody knows the pod's annotations, and `onUnknown` is `deny`: CNI code 11.
    #[error(
        "the pod's annotations are unknown and onUnknown is \"deny\": the runtime passes none (containerd from 1.5 and \
         CRI-O from 1.28 do, if the conflist entry has the capability io.kubernetes.cri.pod-annotations)"
    )]
    Unknown,
}

/// Decide by `conf` and `args`, in the order of contract §3: the first that fits.
pub fn decide(conf: &NetConf<'_>, args: &CniArgs) -> Result<Decided, DecisionError> {
    let namespace = args.pod_namespace.as_deref();
    if namespace.is_some_and(|namespace| conf.exclude_namespaces.iter().any(|excluded| excluded == namespace))
    {
        return Ok(passed(Reason::NamespaceExcluded));
    }
    let defaults = Settings::of_node(conf.redirect, &conf.locked)?;
    match &conf.annotations {
        Some(raw) => Ok(decide_policy(&settings::parse_annotations(*raw)?, &defaults)?),
        None => match conf.on_unknown {
            OnUnknown::Allow => Ok(passed(Reason::Unknown)),
            OnUnknown::Deny => Err(DecisionError::Unknown),
        },
    }
}

const fn passed(reason: Reason) -> Decided {
    Decided { decision: Decision::PassThrough(reason), warnings: Vec::new(), sources: BTreeMap::new() }
}
