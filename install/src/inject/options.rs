// SPDX-License-Identifier: Apache-2.0
//! Annotations for the injector itself: the pod's count before its namespace's, an empty one takes the namespace's away.

use super::pod::Pod;
use super::{Namespace, Refusal, Shape};

/// Prefix of these annotations. The plugin ignores them.
const PREFIX: &str = "inject.culvert.dev/";
const SHAPE: &str = "sidecar";
const DOCUMENTS: &str = "mesh-documents";
const DATAPLANE: &str = "dataplane";
const IDENTITY: &str = "identity-volume";
const TRUST_DOMAIN: &str = "trust-domain";
/// Longest trust domain that the sidecar takes, in bytes.
const LONGEST_TRUST_DOMAIN: usize = 255;
/// Resources, by the annotation and the place in `resources`.
pub(super) const RESOURCES: [(&str, &str, &str); 4] = [
    ("cpu-request", "requests", "cpu"),
    ("memory-request", "requests", "memory"),
    ("cpu-limit", "limits", "cpu"),
    ("memory-limit", "limits", "memory"),
];
/// Names that the pod may have besides those of [`RESOURCES`]. The last is written by the injector.
const NAMES: [&str; 6] = [SHAPE, DOCUMENTS, DATAPLANE, IDENTITY, TRUST_DOMAIN, "decision"];

/// Returns true for the name of such an annotation.
pub(super) fn is_one(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Annotations of a pod over those of its namespace.
pub(super) struct Options<'a> {
    pod: &'a Pod<'a>,
    namespace: &'a Namespace,
}

impl<'a> Options<'a> {
    /// Checks the names of the annotations: a misspelt one must not pass in silence.
    pub(super) fn read(pod: &'a Pod<'a>, namespace: &'a Namespace) -> Result<Self, Refusal> {
        let known = || NAMES.into_iter().chain(RESOURCES.iter().map(|(name, ..)| *name));
        let mut refusal = Refusal::default();
        let annotations = pod.annotations.keys().chain(namespace.annotations.keys());
        for name in annotations.filter_map(|name| name.strip_prefix(PREFIX)) {
            if !known().any(|known| known == name) {
                let known: Vec<_> = known().collect();
                refusal.0.push(format!("annotation {PREFIX}{name} is none of {}", known.join(", ")));
            }
        }
        refusal.check()?;
        Ok(Self { pod, namespace })
    }

    /// The value of an annotation; an empty one of the pod is `Some("")`.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let name = format!("{PREFIX}{name}");
        let Self { pod, namespace } = self;
        pod.annotations.get(&name).or_else(|| namespace.annotations.get(&name)).map(String::as_str)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(super) fn shape(&self, default: Shape) -> Result<Shape, Refusal> {
        match self.text(SHAPE) {
            None => Ok(default),
            Some("native") => Ok(Shape::Native),
            Some("plain") => Ok(Shape::Plain),
            Some(other) => Err(Self::wrong(SHAPE, "native or plain", other)),
        }
    }

    /// True if the sidecar reads the documents of its namespace. Without documents there is neither a Dataplane nor an
    /// identity, so both ask for them; a controller writes them for all.
    pub(super) fn documents(&self, controlled: bool) -> Result<bool, Refusal> {
        match self.text(DOCUMENTS) {
            None => Ok(controlled || self.text(DATAPLANE).is_some() || self.text(IDENTITY).is_some()),
            Some("enabled") => Ok(true),
            Some("disabled") => {
                match [DATAPLANE, IDENTITY].into_iter().find(|name| self.text(name).is_some()) {
                    None => Ok(false),
                    Some(name) => Err(Refusal::of(format!(
                        "annotation {PREFIX}{DOCUMENTS} is disabled, and {PREFIX}{name} needs documents: an empty value takes a \
                     namespace's default away"
                    ))),
                }
            }
            Some(other) => Err(Self::wrong(DOCUMENTS, "enabled or disabled", other)),
        }
    }

    /// The name of a Dataplane. A container's arguments are no place for a dollar: Kubernetes expands it.
    pub(super) fn dataplane(&self) -> Result<Option<&'a str>, Refusal> {
        match self.text(DATAPLANE) {
            Some(name) if name.contains('$') => Err(Self::wrong(DATAPLANE, "a name without $", name)),
            name => Ok(name),
        }
    }

    /// The trust domain, by the sidecar's own rule.
    pub(super) fn trust_domain(&self) -> Result<Option<&'a str>, Refusal> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        match self.text(TRUST_DOMAIN) {
            Some(name) if name.len() > LONGEST_TRUST_DOMAIN || !name.bytes().all(fits) => Err(Self::wrong(
                TRUST_DOMAIN,
                "lower-case letters, digits, dots, dashes and underscores",
                name,
            )),
            name => Ok(name),
        }
    }

    /// The volume of the pod with its identity.
    pub(super) fn identity(&self) -> Result<Option<&'a str>, Refusal> {
        let Some(name) = self.text(IDENTITY) else { return Ok(None) };
        let is_there = has_volume(self.pod, name);
        is_there.then_some(Some(name)).ok_or_else(|| Self::wrong(IDENTITY, "a volume of the pod", name))
    }

    /// The refusal of a pod without such a volume, where nothing else gives it an identity.
    pub(super) fn no_identity() -> Refusal {
        Refusal::of(format!(
            "annotation {PREFIX}{IDENTITY} must name the pod's volume with its identity: the cluster's identities are in volumes"
        ))
    }

    pub(super) fn wrong(name: &str, allowed: &str, value: &str) -> Refusal {
        Refusal::of(format!("annotation {PREFIX}{name} must be {allowed}: it is {value:?}"))
    }
}

/// True if the pod has a volume of that name.
pub(super) fn has_volume(pod: &Pod<'_>, name: &str) -> bool {
    let volumes = pod.spec.get("volumes").and_then(serde_json::Value::as_array);
    volumes.is_some_and(|volumes| volumes.iter().any(|volume| volume["name"] == name))
}
