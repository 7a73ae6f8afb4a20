// SPDX-License-Identifier: Apache-2.0
//! The order in which a pod's annotations are looked for, and the decision by what is found.

use std::fmt::Display;

use super::decision::{Decided, Reason};
use super::settings::{Settings, SettingsError, decide_policy, parse_annotations};
use crate::metadata::{Annotations, PodRef};
use crate::protocol::{CniArgs, NetConf, OnUnknown};

/// An ADD or CHECK for which no decision could be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// A setting is wrong: CNI code 7.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The pod's annotations are not available, and `onUnknown` is `deny`: CNI code 11.
    #[error(
        "the pod's annotations are unknown and onUnknown is \"deny\": the runtime passes none (containerd from 1.5 and \
         CRI-O from 1.28 do, if the conflist entry has the capability io.kubernetes.cri.pod-annotations); {0}"
    )]
    Unknown(String),
}

/// A decision together with the annotations that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The decision, with its warnings and sources.
    pub decided: Decided,
    /// `None` where the decision did not need them, or they are not available.
    pub(crate) annotations: Option<Annotations>,
    /// True if the annotations came from the node agent rather than from the runtime.
    pub(crate) from_agent: bool,
}

/// Decide about the pod that `args` name; the first row that fits counts:
///
/// 1. its namespace is in `excludeNamespaces`: pass through;
/// 2. the runtime passes annotations, even `null` or `{}`: they decide;
/// 3. `ask` returns those of the pod, from the node agent: they decide;
/// 4. otherwise `onUnknown` decides.
pub fn decide<E: Display>(
    conf: &NetConf<'_>,
    args: &CniArgs,
    ask: impl FnOnce(&PodRef) -> Result<Annotations, E>,
) -> Result<Resolved, DecisionError> {
    let namespace = args.pod_namespace.as_deref();
    let without = |decided| Resolved { decided, annotations: None, from_agent: false };
    if namespace.is_some_and(|namespace| conf.exclude_namespaces.iter().any(|excluded| excluded == namespace))
    {
        return Ok(without(Decided::pass_through(Reason::NamespaceExcluded)));
    }
    let defaults = Settings::of_node(conf.redirect, &conf.locked)?;
    let (annotations, from_agent) = match (&conf.annotations, args.pod()) {
        (Some(raw), _) => (Ok(parse_annotations(*raw)?), false),
        (None, Some(pod)) => (ask(&pod).map_err(|error| error.to_string()), true),
        (None, None) => (Err("the runtime names no pod to ask the node agent for".to_owned()), false),
    };
    match (annotations, conf.on_unknown) {
        (Ok(annotations), _) => {
            let decided = decide_policy(&annotations, &defaults)?;
            Ok(Resolved { decided, annotations: Some(annotations), from_agent })
        }
        (Err(why), OnUnknown::Allow) => {
            let mut decided = Decided::pass_through(Reason::Unknown);
            decided.warnings.push(format!(
                "the runtime passed no annotations, so it is not known whether this pod is onboarded; {why}"
            ));
            Ok(without(decided))
        }
        (Err(why), OnUnknown::Deny) => Err(DecisionError::Unknown(why)),
    }
}
