// SPDX-License-Identifier: Apache-2.0
//! A pod as the decision reads it: its shape is checked once, here.

use serde_json::{Map, Value};

use super::{Names, Namespace, Refusal, SIDECAR, Skipped};

/// The two lists of containers that an admission can change.
pub(super) const LISTS: [&str; 2] = ["initContainers", "containers"];
/// Containers of other meshes' sidecars, which redirect too.
const OTHERS: [&str; 4] = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"];
/// Namespaces of the cluster itself. A pod there that waits for a sidecar can keep the network from coming up.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Annotation of the copy of a pod that a kubelet made from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod, or the template of one.
#[derive(Debug)]
pub(super) struct Pod<'a> {
    pub labels: Names,
    pub annotations: Names,
    /// True if there are annotations to add to.
    pub has_annotations: bool,
    pub has_metadata: bool,
    pub spec: &'a Map<String, Value>,
    /// Init containers and containers, in the order of [`LISTS`].
    pub lists: [&'a [Value]; 2],
    namespace: Option<&'a str>,
}

/// A container's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Name of its list.
    pub list: &'static str,
    pub index: usize,
    pub container: &'a Value,
}

impl Place<'_> {
    pub(super) fn path(&self) -> String {
        format!("/spec/{}/{}", self.list, self.index)
    }

    /// Name of the container, empty if it has none.
    pub(super) fn name(&self) -> &str {
        self.container["name"].as_str().unwrap_or_default()
    }
}

impl<'a> Pod<'a> {
    pub(super) fn read(pod: &'a Value) -> Result<Self, Refusal> {
        let metadata = object(&pod["metadata"], "metadata")?;
        let spec = object(&pod["spec"], "spec")?.ok_or_else(|| Refusal::of("spec is missing"))?;
        let of = |key: &str| names(metadata.and_then(|metadata| metadata.get(key)), key);
        let lists = [list(spec, LISTS[0])?, list(spec, LISTS[1])?];
        if lists[1].is_empty() {
            return Err(Refusal::of("spec.containers is empty"));
        }
        let annotations = metadata.and_then(|metadata| metadata.get("annotations"));
        Ok(Self {
            labels: of("labels")?,
            annotations: of("annotations")?,
            has_annotations: annotations.is_some_and(Value::is_object),
            has_metadata: metadata.is_some(),
            spec,
            lists,
            namespace: metadata.and_then(|metadata| metadata.get("namespace")).and_then(Value::as_str),
        })
    }

    /// Every container, the sidecar's included.
    pub(super) fn all(&self) -> impl Iterator<Item = Place<'a>> {
        let lists = self.lists;
        LISTS.into_iter().zip(lists).flat_map(|(list, containers)| {
            containers.iter().enumerate().map(move |(index, container)| Place { list, index, container })
        })
    }

    /// Containers of the pod's author.
    pub(super) fn applications(&self) -> impl Iterator<Item = Place<'a>> {
        self.all().filter(|place| place.name() != SIDECAR)
    }

    /// The sidecar's container.
    pub(super) fn sidecar(&self) -> Option<Place<'a>> {
        self.all().find(|place| place.name() == SIDECAR)
    }

    /// The uid that a container is told to run as. Without one it is its image's.
    pub(super) fn uid_of(&self, place: &Place<'_>) -> Option<u32> {
        let of = |context: Option<&Value>| context?.get("runAsUser")?.as_u64()?.try_into().ok();
        of(place.container.get("securityContext")).or_else(|| of(self.spec.get("securityContext")))
    }

    /// The reason why this is no pod of a user's, or none that may have a sidecar.
    pub(super) fn is_left_out(&self, namespace: &Namespace, excluded: &[String]) -> Option<Skipped> {
        let name = self.namespace.or(namespace.name.as_deref()).unwrap_or_default();
        if SYSTEM.contains(&name) {
            return Some(Skipped::System(name.to_owned()));
        }
        if excluded.iter().any(|excluded| excluded == name) {
            return Some(Skipped::Excluded(name.to_owned()));
        }
        self.annotations.contains_key(MIRROR).then_some(Skipped::Mirror)
    }

    /// The reason why a sidecar would do nothing, or harm.
    pub(super) fn cannot_have_one(&self) -> Option<Skipped> {
        let text = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            rest.iter().try_fold(self.spec.get(*first)?, |value, key| value.get(*key))?.as_str()
        };
        if self.spec.get("hostNetwork") == Some(&Value::Bool(true)) {
            return Some(Skipped::HostNetwork);
        }
        let system = text(&["os", "name"]).or_else(|| text(&["nodeSelector", "kubernetes.io/os"]));
        if system == Some("windows") {
            return Some(Skipped::Windows);
        }
        let other = self.all().find(|place| OTHERS.contains(&place.name()))?;
        Some(Skipped::OtherMesh(other.name().to_owned()))
    }
}

/// An object, or nothing where it is absent or null.
fn object<'a>(value: &'a Value, name: &str) -> Result<Option<&'a Map<String, Value>>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Object(map) => Ok(Some(map)),
        _ => Err(Refusal::of(format!("{name} is no object"))),
    }
}

fn list<'a>(spec: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Refusal> {
    match spec.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) if list.iter().all(Value::is_object) => Ok(list),
        Some(_) => Err(Refusal::of(format!("spec.{name} is no list of containers"))),
    }
}

fn names(value: Option<&Value>, name: &str) -> Result<Names, Refusal> {
    let Some(map) = object(value.unwrap_or(&Value::Null), &format!("metadata.{name}"))? else {
        return Ok(Names::new());
    };
    map.iter()
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            // As the API server reads it.
            Value::Null => Ok((key.clone(), String::new())),
            other => Err(Refusal::of(format!(
                "metadata.{name}: {key:?} is {other}, which is no text: put it in quotes"
            ))),
        })
        .collect()
}
