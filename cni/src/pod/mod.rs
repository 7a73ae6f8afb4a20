// SPDX-License-Identifier: Apache-2.0
//! What should become of a pod: its annotations and the node's defaults → a [`Decision`]. Pure.

mod grammar;
mod kuma;
mod settings;

pub use settings::{Decided, Settings, SettingsError, concerns_us, decide_policy, names};

use std::collections::BTreeMap;

use crate::agent::PodRef;
use crate::agent::client::AskError;
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
         CRI-O from 1.28 do, if the conflist entry has the capability io.kubernetes.cri.pod-annotations); {0}"
    )]
    Unknown(String),
}

/// A decision, and the annotations that it was made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The decision.
    pub decided: Decided,
    /// The annotations; none where the decision did not need them, or nobody knows them.
    pub annotations: Option<Annotations>,
    /// Whether they came from the node agent.
    pub from_agent: bool,
}

/// Decide by `conf` and `args`, in the order of contract §3: the first that fits. Where the runtime passes no annotations,
/// `ask` is asked for those of the pod.
pub fn decide(
    conf: &NetConf<'_>,
    args: &CniArgs,
    ask: impl FnOnce(&PodRef) -> Result<Annotations, AskError>,
) -> Result<Considered, DecisionError> {
    let namespace = args.pod_namespace.as_deref();
    let without = |decided| Considered { decided, annotations: None, from_agent: false };
    if namespace.is_some_and(|namespace| conf.exclude_namespaces.iter().any(|excluded| excluded == namespace))
    {
        return Ok(without(passed(Reason::NamespaceExcluded)));
    }
    let defaults = Settings::of_node(conf.redirect, &conf.locked)?;
    let (annotations, from_agent) = match (&conf.annotations, args.pod()) {
        (Some(raw), _) => (Ok(settings::parse_annotations(*raw)?), false),
        (None, Some(pod)) => (ask(&pod).map_err(|error| error.to_string()), true),
        (None, None) => (Err("the runtime names no pod to ask the node agent for".to_owned()), false),
    };
    match (annotations, conf.on_unknown) {
        (Ok(annotations), _) => {
            let decided = decide_policy(&annotations, &defaults)?;
            Ok(Considered { decided, annotations: Some(annotations), from_agent })
        }
        (Err(why), OnUnknown::Allow) => {
            let mut decided = passed(Reason::Unknown);
            decided.warnings.push(format!(
                "the runtime passed no annotations: nobody knows whether this pod is onboarded; {why}"
            ));
            Ok(without(decided))
        }
        (Err(why), OnUnknown::Deny) => Err(DecisionError::Unknown(why)),
    }
}

const fn passed(reason: Reason) -> Decided {
    Decided { decision: Decision::PassThrough(reason), warnings: Vec::new(), sources: BTreeMap::new() }
}
