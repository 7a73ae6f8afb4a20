// SPDX-License-Identifier: Apache-2.0
//! What all documents have in common: two spellings, a kind, a name, a mesh.
//!
//! ```text
//! Kubernetes: apiVersion, kind, mesh, metadata{name, namespace, labels}, spec{…}
//! Universal:  type, name, mesh, …
//! ```

use super::dataplane::Dataplane;
use super::mesh::Mesh;
use super::mesh_access_log::MeshAccessLog;
use super::mesh_tls::MeshTls;
use super::mesh_traffic_permission::MeshTrafficPermission;
use super::proxy_template::ProxyTemplate;
use super::read::{At, Fields, Ignored, Labels, Problem, Read, describe};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// The mesh of a document that names none.
pub const DEFAULT_MESH: &str = "default";

/// The group and version of Kuma's documents in Kubernetes' spelling.
const API_VERSION: &str = "kuma.io/v1alpha1";

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

    fn read(self, value: &Value, at: &mut At<'_>) -> Option<Spec> {
        match self {
            Self::Mesh => Mesh::read(value, at).inspect(|spec| spec.check(at)).map(Spec::Mesh),
            Self::Dataplane => Dataplane::read(value, at).inspect(|spec| spec.check(at)).map(Spec::Dataplane),
            Self::ProxyTemplate => {
                ProxyTemplate::read(value, at).inspect(|spec| spec.check(at)).map(Spec::ProxyTemplate)
            }
            Self::MeshAccessLog => {
                MeshAccessLog::read(value, at).inspect(|spec| spec.check(at)).map(Spec::MeshAccessLog)
            }
            Self::MeshTls => MeshTls::read(value, at).inspect(|spec| spec.check(at)).map(Spec::MeshTls),
            Self::MeshTrafficPermission => MeshTrafficPermission::read(value, at)
                .inspect(|spec| spec.check(at))
                .map(Spec::MeshTrafficPermission),
        }
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
        }
    }

    /// Whether `name` names it: its name, in Kubernetes also `name.namespace`.
    pub fn is_named(&self, name: &str) -> bool {
        let with_namespace = || {
            let namespace = self.namespace.as_deref()?;
            name.strip_prefix(&self.name)?.strip_prefix('.').map(|rest| rest == namespace)
        };
        self.name == name || with_namespace() == Some(true)
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

/// Reads what a document of a file says; a `kind: List`, as `kubectl get -o yaml` prints it, holds several.
pub fn read_all(value: &Value, place: &Place) -> (Vec<Document>, Vec<DocumentError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut one = |value: &Value, place: Place| match read_one(value, &place) {
        Ok(document) => documents.push(document),
        Err((whose, problems)) => errors.extend(problems.into_iter().map(|problem| DocumentError {
            place: place.clone(),
            whose: whose.clone(),
            problem,
        })),
    };
    match (value.get("kind").and_then(Value::as_str), value.get("items").and_then(Value::as_array)) {
        (Some(kind), Some(items)) if kind.ends_with("List") => {
            for (index, item) in items.iter().enumerate() {
                one(item, Place { item: Some(index + 1), ..place.clone() });
            }
        }
        _ => one(value, place.clone()),
    }
    (documents, errors)
}

fn read_one(value: &Value, place: &Place) -> Result<Document, (String, Vec<Problem>)> {
    let mut problems = Vec::new();
    let mut at = At::root(&mut problems);
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let kubernetes = value.get("kind").is_some() || value.get("apiVersion").is_some();
    let kind_name = text(if kubernetes { "kind" } else { "type" });
    let name =
        if kubernetes { value.pointer("/metadata/name").and_then(Value::as_str) } else { text("name") };
    let whose = [kind_name, name].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let Some(kind) = kind_name.and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name)) else {
        let kinds = Kind::ALL.map(Kind::name).join(", ");
        match value.as_object() {
            None => at.problem(describe(value), "a mapping with type or kind"),
            Some(_) => at.field(if kubernetes { "kind" } else { "type" }, |at| {
                at.problem(kind_name.map_or("nothing".into(), |kind| format!("{kind:?}")), kinds);
            }),
        }
        return Err((whose, problems));
    };
    let document =
        if kubernetes { read_kubernetes(kind, value, &mut at) } else { read_universal(kind, value, &mut at) };
    match document {
        Some(document) if problems.is_empty() => Ok(Document { place: place.clone(), ..document }),
        _ => Err((whose, problems)),
    }
}

fn read_kubernetes(kind: Kind, value: &Value, at: &mut At<'_>) -> Option<Document> {
    let mut fields = Fields::of(value, at)?;
    let version = fields.require::<String>(&["apiVersion"], at);
    if version.is_some_and(|version| version != API_VERSION) {
        at.field("apiVersion", |at| at.wrong::<()>(&value["apiVersion"], API_VERSION));
    }
    fields.take::<String>(&["kind"], at);
    let mesh = fields.take::<String>(&["mesh"], at);
    fields.take::<Ignored>(&["status"], at);
    let metadata = &value["metadata"];
    fields.take::<Ignored>(&["metadata"], at);
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    if name.is_none() {
        at.field("metadata", |at| at.field("name", |at| at.problem("nothing", "this field is required")));
    }
    let labels = at.field("metadata", |at| labels(metadata.get("labels"), at));
    fields.take::<Ignored>(&["spec"], at);
    let nothing = Value::Object(Map::new());
    let spec = value.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&nothing);
    let spec = at.field("spec", |at| kind.read(spec, at));
    fields.finish(at);
    let namespace = metadata.get("namespace").and_then(Value::as_str).map(str::to_owned);
    // The label is the newer policies' way; `mesh` the older documents'.
    let mesh = mesh.or_else(|| labels.as_ref()?.get(MESH_LABEL).map(str::to_owned));
    finish(kind, name, mesh, namespace, labels, spec)
}

const MESH_LABEL: &str = "kuma.io/mesh";

fn labels(value: Option<&Value>, at: &mut At<'_>) -> Option<Labels> {
    let value = value.filter(|value| !value.is_null())?;
    at.field("labels", |at| Labels::read(value, at))
}

fn read_universal(kind: Kind, value: &Value, at: &mut At<'_>) -> Option<Document> {
    let Some(map) = value.as_object() else { return at.wrong(value, "a mapping") };
    let name = map.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    if name.is_none() {
        at.field("name", |at| at.problem("nothing", "this field is required, and is text"));
    }
    let mesh = map.get("mesh").and_then(|mesh| at.field("mesh", |at| String::read(mesh, at)));
    let labels = labels(map.get("labels"), at);
    let spec = if kind.has_spec() {
        let mut fields = Fields::of(value, at)?;
        for key in ["type", "name", "mesh", "labels", "spec"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            fields.take::<Ignored>(&[key], at);
        }
        fields.finish(at);
        let nothing = Value::Object(Map::new());
        at.field("spec", |at| kind.read(map.get("spec").unwrap_or(&nothing), at))
    } else {
        let mut spec = map.clone();
        for key in ["type", "name", "mesh", "labels"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            spec.remove(key);
        }
        kind.read(&Value::Object(spec), at)
    };
    finish(kind, name, mesh, None, labels, spec)
}

fn finish(
    kind: Kind,
    name: Option<&str>,
    mesh: Option<String>,
    namespace: Option<String>,
    labels: Option<Labels>,
    spec: Option<Spec>,
) -> Option<Document> {
    let name = name?.to_owned();
    let mesh = match kind {
        Kind::Mesh => name.clone(),
        _ => mesh.unwrap_or_else(|| DEFAULT_MESH.into()),
    };
    let (labelled, mut labels) = (labels.is_some(), labels.unwrap_or_default());
    // What Kuma's control plane writes onto each document, for those that it has not seen.
    for (key, value) in [
        (MESH_LABEL, Some(&mesh)),
        ("kuma.io/display-name", Some(&name)),
        ("k8s.kuma.io/namespace", namespace.as_ref()),
    ] {
        if let Some(value) = value {
            labels.0.entry(key.into()).or_insert_with(|| value.clone());
        }
    }
    let place = Place { file: "".into(), number: 0, item: None };
    Some(Document { place, mesh, name, namespace, labels, labelled, spec: spec? })
}
