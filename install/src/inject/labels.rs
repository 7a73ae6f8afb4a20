// SPDX-License-Identifier: Apache-2.0
//! The labels that ask for a sidecar. The pod's count before its namespace's, and culvert's before Kuma's.

use std::fmt;

use super::pod::Pod;
use super::{Names, Namespace, Refusal};

/// Kuma's label beside culvert's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KumaLabel {
    /// It counts as culvert's own does.
    On,
    /// It is Kuma's, whose injector reads it in this cluster, and counts for nothing here.
    Off,
}

/// A label, and its values for yes and no.
struct Label {
    name: &'static str,
    yes: &'static [&'static str],
    no: &'static [&'static str],
}

/// culvert's own, and Kuma's, which accepts `true` and `false` too.
const LABELS: [Label; 2] = [
    Label { name: "culvert.dev/inject", yes: &["enabled"], no: &["disabled"] },
    Label { name: "kuma.io/sidecar-injection", yes: &["enabled", "true"], no: &["disabled", "false"] },
];

impl KumaLabel {
    /// Labels that count.
    fn labels(self) -> &'static [Label] {
        match self {
            Self::On => &LABELS,
            Self::Off => &LABELS[..1],
        }
    }
}

const POD: &str = "pod";
const NAMESPACE: &str = "namespace";

/// The label that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub enabled: bool,
    /// [`POD`] or [`NAMESPACE`].
    whose: &'static str,
    name: &'static str,
    value: String,
}

impl Asked {
    pub(super) fn is_by_namespace(&self) -> bool {
        self.whose == NAMESPACE
    }
}

/// Returns true for the name of such a label, of Kuma's too where it counts for nothing.
pub(super) fn is_one(name: &str) -> bool {
    LABELS.iter().any(|label| label.name == name)
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whose, name, value, .. } = self;
        write!(f, "label {name}: {value} of the {whose}")
    }
}

/// Finds the label that decides. All labels of the pod must have a value that means something; those of the namespace
/// where the pod has none.
pub(super) fn asked(pod: &Pod<'_>, namespace: &Namespace, kuma: KumaLabel) -> Result<Option<Asked>, Refusal> {
    let known = kuma.labels();
    no_annotation(known, POD, &pod.annotations)?;
    if let Some(asked) = of(known, POD, &pod.labels)? {
        return Ok(Some(asked));
    }
    no_annotation(known, NAMESPACE, &namespace.annotations)?;
    of(known, NAMESPACE, &namespace.labels)
}

/// Refuses a label that is written as an annotation: it would count for nothing.
fn no_annotation(known: &[Label], whose: &'static str, annotations: &Names) -> Result<(), Refusal> {
    let found = known.iter().find(|label| annotations.contains_key(label.name));
    found.map_or(Ok(()), |Label { name, .. }| {
        Err(Refusal::of(format!(
            "annotation {name} of the {whose}: it is a label, on the pod or its namespace"
        )))
    })
}

fn of(known: &[Label], whose: &'static str, labels: &Names) -> Result<Option<Asked>, Refusal> {
    let mut refusal = Refusal::default();
    let mut first = None;
    for Label { name, yes, no } in known {
        let Some(value) = labels.get(*name) else { continue };
        let enabled = yes.contains(&value.as_str());
        if !enabled && !no.contains(&value.as_str()) {
            let allowed: Vec<_> = yes.iter().chain(*no).copied().collect();
            refusal.0.push(format!(
                "label {name} of the {whose} must be {}: it is {value:?}",
                allowed.join(" or ")
            ));
        }
        first = first.or(Some(Asked { enabled, whose, name, value: value.clone() }));
    }
    refusal.check()?;
    Ok(first)
}
