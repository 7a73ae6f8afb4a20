// SPDX-License-Identifier: Apache-2.0
//! What all documents have in common: two spellings, a kind, a name, a mesh.
//!
//! ```text
//! Kubernetes: apiVersion, kind, mesh, metadata{name, namespace, labels}, spec{…}
//! Universal:  type, name, mesh, …
//! ```

use crate::context::Context;
use crate::kinds::dataplane::Dataplane;
use crate::kinds::mesh::Mesh;
use crate::kinds::mesh_access_log::MeshAccessLog;
use crate::kinds::mesh_tls::MeshTls;
use crate::kinds::mesh_traffic_permission::MeshTrafficPermission;
use crate::kinds::proxy_template::ProxyTemplate;
use crate::model::labels::Labels;
use crate::read::part::Part;
use crate::read::{At, Fields, Ignored, Problem, Problems, Read, describe};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// The mesh of a document that names none.
pub const DEFAULT_MESH: &str = "default";

/// The group and version of Kuma's documents in Kubernetes' spelling.
const API_VERSION: &str = "kuma.io/v1alpha1";

/// The label of a document that names its mesh.
const MESH_LABEL: &str = "kuma.io/mesh";

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its file.
    pub file: Arc<str>,
    /// From 1, in the file.
    pub number: usize,
    /// From 1, in a `kind: List`.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.number)?;
        self.item.map_or(Ok(()), |item| write!(f, ", item {item}"))
    }
}

/// A document that cannot be used, and one of the reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}: {problem}", if whose.is_empty() { String::new() } else { format!(" ({whose})") })]
pub struct DocumentError {
    /// Where it stands.
    pub place: Place,
    /// Kind and name, as far as they can be read.
    pub whose: String,
    /// What is wrong.
    pub problem: Problem,
}

/// A checked document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it stands.
    pub place: Place,
    /// The mesh that it belongs to; a Mesh belongs to itself.
    pub mesh: String,
    /// Its name.
    pub name: String,
    /// Where that stands.
    pub name_field: &'static str,
    /// Its namespace, in Kubernetes' spelling.
    pub namespace: Option<String>,
    /// Its labels; those that Kuma gives each document by itself are among them.
    pub labels: Labels,
    /// Whether it says itself which labels it has, if only that there is none.
    pub labelled: bool,
    /// What it says.
    pub spec: Spec,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// See [`Mesh`].
    Mesh(Mesh),
    /// See [`Dataplane`].
    Dataplane(Dataplane),
    /// See [`ProxyTemplate`].
    ProxyTemplate(ProxyTemplate),
    /// See [`MeshAccessLog`].
    MeshAccessLog(MeshAccessLog),
    /// See [`MeshTls`].
    MeshTls(MeshTls),
    /// See [`MeshTrafficPermission`].
    MeshTrafficPermission(MeshTrafficPermission),
    /// Something that is wrong, and has been told; the document is still there for what others say of it.
    Wrong(Kind),
}

/// A document of which not even kind, mesh and name are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Its kind, if known.
    pub kind: Option<Kind>,
    /// Its mesh, if known.
    pub mesh: Option<String>,
    /// Its name, if known.
    pub name: Option<String>,
}

impl Lost {
    /// Whether it may be this one, as far as is known.
    pub fn may_be(&self, kind: Kind, mesh: &str, name: &str) -> bool {
        self.kind.is_none_or(|known| known == kind)
            && self.mesh.as_ref().is_none_or(|known| known == mesh)
            // With a namespace, which is not known here.
            && self.name.as_ref().is_none_or(|known| name.starts_with(known.as_str()))
    }
}

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// See [`Mesh`].
    Mesh,
    /// See [`Dataplane`].
    Dataplane,
    /// See [`ProxyTemplate`].
    ProxyTemplate,
    /// See [`MeshAccessLog`].
    MeshAccessLog,
    /// See [`MeshTls`].
    MeshTls,
    /// See [`MeshTrafficPermission`].
    MeshTrafficPermission,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Mesh,
        Self::Dataplane,
        Self::ProxyTemplate,
        Self::MeshAccessLog,
        Self::MeshTls,
        Self::MeshTrafficPermission,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Dataplane => "Dataplane",
            Self::ProxyTemplate => "ProxyTemplate",
            Self::MeshAccessLog => "MeshAccessLog",
            Self::MeshTls => "MeshTLS",
            Self::MeshTrafficPermission => "MeshTrafficPermission",
        }
    }

    /// Whether the universal spelling has a `spec` too: Kuma's newer policies do.
    fn has_spec(self) -> bool {
        matches!(self, Self::MeshAccessLog | Self::MeshTls | Self::MeshTrafficPermission)
    }

    fn read(self, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
        let spec = match self {
            Self::Mesh => Mesh::read(value, at).map(Spec::Mesh),
            Self::Dataplane => Dataplane::read(value, at).map(Spec::Dataplane),
            Self::ProxyTemplate => ProxyTemplate::read(value, at).map(Spec::ProxyTemplate),
            Self::MeshAccessLog => MeshAccessLog::read(value, at).map(Spec::MeshAccessLog),
            Self::MeshTls => MeshTls::read(value, at).map(Spec::MeshTls),
            Self::MeshTrafficPermission => {
                MeshTrafficPermission::read(value, at).map(Spec::MeshTrafficPermission)
            }
        };
        let strange = at.take_strange();
        let part = Part::new(value, at.path(), &strange);
        match self {
            Self::Mesh => Mesh::check(&part, at),
            Self::Dataplane => Dataplane::check(&part, pod, at),
            Self::MeshAccessLog => MeshAccessLog::check(&part, at),
            Self::MeshTls => MeshTls::check(&part, at),
            Self::MeshTrafficPermission => MeshTrafficPermission::check(&part, at),
            // Its fields say nothing together.
            Self::ProxyTemplate => {}
        }
        spec
    }

    fn spec_schema(self) -> Value {
        match self {
            Self::Mesh => Mesh::schema(),
            Self::Dataplane => Dataplane::schema(),
            Self::ProxyTemplate => ProxyTemplate::schema(),
            Self::MeshAccessLog => MeshAccessLog::schema(),
            Self::MeshTls => MeshTls::schema(),
            Self::MeshTrafficPermission => MeshTrafficPermission::schema(),
        }
    }

    /// The JSON Schema of a document of this kind, in both spellings.
    pub fn schema(self) -> Value {
        let spec = self.spec_schema();
        let name = json!({"type": "string", "minLength": 1});
        let mut universal = if self.has_spec() {
            json!({"type": "object", "additionalProperties": false, "properties": {"spec": {"$ref": "#/$defs/spec"}}})
        } else {
            spec.clone()
        };
        universal["properties"]["type"] = json!({"const": self.name()});
        universal["properties"]["name"] = name.clone();
        for key in UNIVERSAL_BOOKKEEPING {
            universal["properties"][key] = json!(true);
        }
        universal["properties"]["labels"] = Labels::schema();
        if self != Self::Mesh {
            universal["properties"]["mesh"] = json!({"type": "string", "default": DEFAULT_MESH});
        }
        let mut required = vec![json!("type"), json!("name")];
        required.extend(universal["required"].as_array().cloned().unwrap_or_default());
        universal["required"] = required.into();
        let kubernetes = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["apiVersion", "kind", "metadata"],
            "properties": {
                "apiVersion": {"const": API_VERSION},
                "kind": {"const": self.name()},
                "mesh": {"type": "string", "default": DEFAULT_MESH},
                "metadata": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": name, "labels": Labels::schema()},
                },
                "spec": {"$ref": "#/$defs/spec"},
                "status": true,
            },
        });
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name(),
            "oneOf": [universal, kubernetes],
            "$defs": {"spec": spec},
        })
    }
}

impl Document {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.spec {
            Spec::Mesh(_) => Kind::Mesh,
            Spec::Dataplane(_) => Kind::Dataplane,
            Spec::ProxyTemplate(_) => Kind::ProxyTemplate,
            Spec::MeshAccessLog(_) => Kind::MeshAccessLog,
            Spec::MeshTls(_) => Kind::MeshTls,
            Spec::MeshTrafficPermission(_) => Kind::MeshTrafficPermission,
            Spec::Wrong(kind) => kind,
        }
    }

    /// Whether `name` names it: its name, in Kubernetes also `name.namespace`.
    pub fn is_named(&self, name: &str) -> bool {
        is_named(&self.name, self.namespace.as_deref(), name)
    }

    /// An error about it.
    pub fn error(&self, path: &str, found: impl Into<String>, allowed: impl Into<String>) -> DocumentError {
        DocumentError {
            place: self.place.clone(),
            whose: format!("{} {}", self.kind().name(), self.name),
            problem: Problem { path: path.into(), found: found.into(), allowed: allowed.into() },
        }
    }
}

/// What Kuma writes into a document beside its meaning.
const UNIVERSAL_BOOKKEEPING: [&str; 4] = ["creationTime", "modificationTime", "kri", "status"];

fn is_named(name: &str, namespace: Option<&str>, wanted: &str) -> bool {
    let rest = wanted.strip_prefix(name);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|rest| Some(rest) == namespace)
    })
}

/// What was read.
#[derive(Debug, Default)]
pub struct Found {
    /// Documents; those that are wrong are there as such.
    pub documents: Vec<Document>,
    /// Documents that are wrong from the beginning.
    pub lost: Vec<Lost>,
}

/// Reads what a document of a file says; a list, as `kubectl get -o yaml` and `kumactl get -o yaml` print it, holds several.
pub fn read_all(context: &Context, value: &Value, place: &Place, found: &mut Found) -> Vec<DocumentError> {
    let mut errors = Vec::new();
    let mut one = |value: &Value, place: Place| {
        let mut problems = Problems::default();
        let whose = read_one(context, value, &place, found, &mut At::root(&mut problems));
        errors.extend(problems.into_all().into_iter().map(|problem| DocumentError {
            place: place.clone(),
            whose: whose.clone(),
            problem,
        }));
    };
    // kubectl's lists have a kind, kumactl's have none.
    let list = value.get("kind").and_then(Value::as_str).unwrap_or("List").ends_with("List");
    match value.get("items").and_then(Value::as_array).filter(|_| list && value.get("type").is_none()) {
        Some(items) => {
            for (index, item) in items.iter().enumerate() {
                one(item, Place { item: Some(index + 1), ..place.clone() });
            }
        }
        None => one(value, place.clone()),
    }
    errors
}

/// Reads one, and says whose it is.
fn read_one(context: &Context, value: &Value, place: &Place, found: &mut Found, at: &mut At<'_>) -> String {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kubernetes = value.get("kind").is_some() || value.get("apiVersion").is_some();
    let key = if kubernetes { "kind" } else { "type" };
    let kind_name = value.get(key).and_then(Value::as_str);
    let name = text(if kubernetes { "/metadata/name" } else { "/name" });
    let whose = [kind_name, name].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let kind = kind_name.and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name));
    // The label is the newer policies' way; `mesh` the older documents'.
    let label = kubernetes.then(|| text("/metadata/labels/kuma.io~1mesh")).flatten();
    let mesh = match value.get("mesh").filter(|mesh| !mesh.is_null() && *mesh != "") {
        _ if kind == Some(Kind::Mesh) => name,
        Some(mesh) => mesh.as_str(),
        None => Some(label.unwrap_or(DEFAULT_MESH)),
    };
    let Some(kind) = kind else {
        match value.as_object() {
            None => at.problem(describe(value), "a mapping with type or kind"),
            Some(_) => at.field(key, |at| {
                let found = kind_name.map_or("nothing".into(), |kind| format!("{kind:?}"));
                at.problem(found, unknown_kind(kind_name));
            }),
        }
        found.lost.push(Lost { kind: None, mesh: mesh.map(Into::into), name: name.map(Into::into) });
        return whose;
    };
    let namespace = if kubernetes { text("/metadata/namespace") } else { None };
    let pod = (kind == Kind::Dataplane && mesh == Some(&context.mesh))
        .then(|| context.dataplane.as_deref().zip(name))
        .flatten()
        .filter(|(wanted, name)| is_named(name, namespace, wanted));
    let pod = pod.map(|_| context);
    let spec =
        if kubernetes { read_kubernetes(kind, value, pod, at) } else { read_universal(kind, value, pod, at) };
    let (Some(mesh), Some(name)) = (mesh, name) else {
        let (mesh, name) = (mesh.map(Into::into), name.map(Into::into));
        found.lost.push(Lost { kind: Some(kind), mesh, name });
        return whose;
    };
    let right = at.count() == 0;
    let own =
        labels(if kubernetes { &value["metadata"] } else { value }, &mut At::root(&mut Problems::default()));
    let labelled = own.is_some();
    let mut labels = own.unwrap_or_default();
    // What Kuma's control plane writes onto each document, for those that it has not seen.
    for (key, value) in
        [(MESH_LABEL, Some(mesh)), ("kuma.io/display-name", Some(name)), ("k8s.kuma.io/namespace", namespace)]
    {
        if let Some(value) = value {
            labels.0.entry(key.into()).or_insert_with(|| value.into());
        }
    }
    found.documents.push(Document {
        place: place.clone(),
        mesh: mesh.into(),
        name: name.into(),
        name_field: if kubernetes { "metadata.name" } else { "name" },
        namespace: namespace.map(Into::into),
        labels,
        labelled,
        spec: spec.filter(|_| right).unwrap_or(Spec::Wrong(kind)),
    });
    whose
}

/// The kinds that there are, and which of them does what somebody asks another one for.
fn unknown_kind(name: Option<&str>) -> String {
    let kinds = Kind::ALL.map(Kind::name).join(", ");
    let hint = match name.unwrap_or_default() {
        "TrafficLog" => {
            "connections are logged by a Mesh's logging.defaultBackend, or by a MeshAccessLog for some pods or services"
        }
        "TrafficPermission" => "who may call is what a MeshTrafficPermission says",
        "MeshProxyPatch" => "patches are a ProxyTemplate's conf.modifications",
        "Timeout" | "MeshTimeout" | "CircuitBreaker" | "MeshCircuitBreaker" => {
            "timeouts and limits are a ProxyTemplate's patches, or options as --idle-timeout"
        }
        "ConfigMap" => "a ConfigMap is mounted, and --resources names the folder",
        _ => return kinds,
    };
    format!("{kinds}; {hint}")
}

fn read_kubernetes(kind: Kind, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
    let mut fields = Fields::of(value, at)?;
    let version = fields.require::<String>(&["apiVersion"], at);
    if version.is_some_and(|version| version != API_VERSION) {
        at.field("apiVersion", |at| at.wrong::<()>(&value["apiVersion"], API_VERSION));
    }
    for key in ["kind", "metadata", "spec", "status"] {
        fields.take::<Ignored>(&[key], at);
    }
    fields.take::<String>(&["mesh"], at);
    at.field("metadata", |at| {
        name_of(&value["metadata"], at);
        labels(&value["metadata"], at);
    });
    fields.finish(at);
    let nothing = Value::Object(Map::new());
    let spec = value.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&nothing);
    at.field("spec", |at| kind.read(spec, pod, at))
}

fn read_universal(kind: Kind, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
    let Some(map) = value.as_object() else { return at.wrong(value, "a mapping") };
    name_of(value, at);
    if let Some(mesh) = map.get("mesh").filter(|mesh| !mesh.is_null()) {
        at.field("mesh", |at| String::read(mesh, at));
    }
    labels(value, at);
    if kind.has_spec() {
        let mut fields = Fields::of(value, at)?;
        for key in ["type", "name", "mesh", "labels", "spec"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            fields.take::<Ignored>(&[key], at);
        }
        fields.finish(at);
        let nothing = Value::Object(Map::new());
        let spec = map.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&nothing);
        at.field("spec", |at| kind.read(spec, pod, at))
    } else {
        let mut spec = map.clone();
        for key in ["type", "name", "mesh", "labels"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            spec.remove(key);
        }
        kind.read(&Value::Object(spec), pod, at)
    }
}

fn name_of(value: &Value, at: &mut At<'_>) {
    at.field("name", |at| match &value["name"] {
        Value::String(name) if !name.is_empty() => {}
        Value::Null => at.problem("nothing", "this field is required, and is text"),
        Value::String(_) => at.problem("an empty text", "a name"),
        other => {
            String::read(other, at);
        }
    });
}

/// The labels of a document that says which it has, if only that there is none.
fn labels(value: &Value, at: &mut At<'_>) -> Option<Labels> {
    let labels = value.get("labels").filter(|labels| !labels.is_null())?;
    at.field("labels", |at| Labels::read(labels, at))
}

#[cfg(test)]
mod tests;
