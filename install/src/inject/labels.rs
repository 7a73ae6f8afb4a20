// SPDX-License-Identifier: Apache-2.0
//! The labels that ask for a sidecar. The pod's count before its namespace's, and culvert's before Kuma's.

use std::fmt;

use super::pod::Pod;
use super::{Names, Namespace, Refusal};

/// A label, and its values for yes and no.
struct Label {
    name: &'static str,
    yes: &'static [&'static str],
    no: &'static [&'static str],
}

/// Kuma's own accepts `true` and `false` too.
const LABELS: [Label; 2] = [
    Label { name: "culvert.dev/inject", yes: &["enabled"], no: &["disabled"] },
    Label { name: "kuma.io/sidecar-injection", yes: &["enabled", "true"], no: &["disabled", "false"] },
];

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

/// Returns true for the name of such a label.
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
pub(super) fn asked(pod: &Pod<'_>, namespace: &Namespace) -> Result<Option<Asked>, Refusal> {
    no_annotation(POD, &pod.annotations)?;
    if let Some(asked) = of(POD, &pod.labels)? {
        return Ok(Some(asked));
    }
    no_annotation(NAMESPACE, &namespace.annotations)?;
    of(NAMESPACE, &namespace.labels)
}

/// Refuses a label that is written as an annotation: it would count for nothing.
fn no_annotation(whose: &'static str, annotations: &Names) -> Result<(), Refusal> {
    let found = LABELS.iter().find(|label| annotations.contains_key(label.name));
    found.map_or(Ok(()), |Label { name, .. }| {
        Err(Refusal::of(format!(
            "annotation {name} of the {whose}: it is a label, on the pod or its namespace"
        )))
    })
}

fn of(whose: &'static str, labels: &Names) -> Result<Option<Asked>, Refusal> {
    let mut refusal = Refusal::default();
    let mut first = None;
    for Label { name, yes, no } in &LABELS {
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
