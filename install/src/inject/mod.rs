// SPDX-License-Identifier: Apache-2.0
//! The decision about a pod's sidecar, and the operations that put it in. Pure.
//!
//! ```text
//! pod, namespace, settings ──labels, what it is──▶ Skipped
//!                          ──what is wrong───────▶ Refused
//!                          ──probes, uid, resources, template──▶ Injected(operations)
//! ```
//! A second call for the same pod has no operations, unless another program changed the pod in between: then the sidecar
//! goes back to its place, and probes of new containers are rewritten. Nothing that changes over time goes into the pod.

mod again;
mod control;
mod identity;
mod labels;
mod options;
mod patch;
mod pod;
mod probes;
mod resources;
mod sidecar;
#[cfg(test)]
mod tests;
mod uid;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use culvert_cni::pod::Settings as NodeSettings;
use serde_json::Value;

pub(crate) use self::control::Control;
pub(crate) use self::identity::{
    FOLDER as IDENTITY_FOLDER, Identity, SIGNER, TRUST_BUNDLE, VOLUME as IDENTITY_VOLUME,
};
pub(crate) use self::labels::KumaLabel;
pub(crate) use self::patch::{Operation, apply};

/// Name of the sidecar's container.
pub(crate) const SIDECAR: &str = "culvert-sidecar";
/// Annotation with the decision, in words.
pub(crate) const DECISION: &str = "inject.culvert.dev/decision";

/// Labels and annotations by name.
pub(crate) type Names = BTreeMap<String, String>;

/// The pod's namespace, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its name, where it is known: the pod of a template has none.
    pub name: Option<String>,
    pub labels: Names,
    pub annotations: Names,
}

/// Settings of the injector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Image with the sidecar.
    pub image: String,
    /// Shape of the sidecar where no annotation chooses one.
    pub shape: Shape,
    /// Namespaces whose pods get no sidecar, besides the cluster's own.
    pub excluded: Vec<String>,
    /// Kuma's label counts, or is left to Kuma.
    pub kuma_label: KumaLabel,
    /// Defaults of the nodes, and what is locked there.
    pub node: NodeSettings,
    /// The controller that tells sidecars about the mesh, where there is one.
    pub control: Option<Control>,
}

/// Shape of a sidecar's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An init container that keeps running, from Kubernetes 1.29 on.
    Native,
    /// A container beside the application's, started and ended by hooks.
    Plain,
}

/// The outcome for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The pod has a sidecar once the operations are applied.
    Injected(Injected),
    /// The pod stays as it is.
    Skipped(Skipped),
    /// The pod must not be created like this.
    Refused(Refusal),
}

/// A pod with a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Injected {
    /// Changes of the pod, in their order; none where the pod is as it should be.
    pub operations: Vec<Operation>,
    /// True if the sidecar is new; false for one from an earlier call.
    pub is_first: bool,
    /// The decision in words, as in its annotation.
    pub words: String,
    /// Facts that the pod's author should know.
    pub notes: Vec<String>,
}

/// Reasons for a pod without a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Skipped {
    #[error("neither the pod nor its namespace has the label culvert.dev/inject: enabled")]
    NotAsked,
    #[error("{0}")]
    Disabled(labels::Asked),
    #[error("namespace {0}: the cluster's own pods get no sidecar")]
    System(String),
    #[error("namespace {0} is excluded")]
    Excluded(String),
    #[error("the kubelet made it from a file of its node, and its copy in the cluster changes nothing")]
    Mirror,
    #[error("hostNetwork: its connections are the node's, which are never redirected")]
    HostNetwork,
    #[error("a pod for Windows: the redirect needs Linux")]
    Windows,
    #[error("container {0}: it has the sidecar of another mesh")]
    OtherMesh(String),
    #[error("container {SIDECAR}: it has a sidecar already, not put in by the injector")]
    Present,
}

impl Skipped {
    /// True where the labels of the namespace made it so: others may be on their way.
    pub(crate) fn is_by_namespace(&self) -> bool {
        match self {
            Self::NotAsked => true,
            Self::Disabled(asked) => asked.is_by_namespace(),
            _ => false,
        }
    }

    /// True where a sidecar was asked for, so that its author will ask where it is.
    pub(crate) const fn is_a_surprise(&self) -> bool {
        matches!(self, Self::HostNetwork | Self::Windows | Self::OtherMesh(_) | Self::Present)
    }
}

/// Returns true for labels and annotations of a namespace that a decision reads.
pub(crate) fn concerns_namespace(name: &str) -> bool {
    labels::is_one(name) || options::is_one(name) || name == uid::OPENSHIFT
}

/// Reasons why a pod must not be created like this, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal(pub Vec<String>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Refusal {
    fn of(words: impl Into<String>) -> Self {
        Self(vec![words.into()])
    }

    /// Returns a value, or keeps its error and goes on.
    fn note<T: Default>(&mut self, result: Result<T, Self>) -> T {
        result.unwrap_or_else(|Self(words)| {
            self.0.extend(words);
            T::default()
        })
    }

    fn check(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// Decides about a pod, or the template of one.
pub(crate) fn decide(pod: &Value, namespace: &Namespace, settings: &Settings) -> Decision {
    decided(pod, namespace, settings).unwrap_or_else(Decision::Refused)
}

fn decided(pod: &Value, namespace: &Namespace, settings: &Settings) -> Result<Decision, Refusal> {
    let pod = pod::Pod::read(pod)?;
    if let Some(skipped) = pod.is_left_out(namespace, &settings.excluded) {
        return Ok(Decision::Skipped(skipped));
    }
    let asked = match labels::asked(&pod, namespace, settings.kuma_label)? {
        None => return Ok(Decision::Skipped(Skipped::NotAsked)),
        Some(asked) if !asked.enabled => return Ok(Decision::Skipped(Skipped::Disabled(asked))),
        Some(asked) => asked,
    };
    if let Some(skipped) = pod.cannot_have_one() {
        return Ok(Decision::Skipped(skipped));
    }
    match pod.sidecar() {
        None => write::first(&pod, namespace, settings, &asked),
        Some(place) if pod.annotations.contains_key(DECISION) => {
            again::again(&pod, place, namespace, &settings.node)
        }
        Some(_) => return Ok(Decision::Skipped(Skipped::Present)),
    }
    .map(Decision::Injected)
}
