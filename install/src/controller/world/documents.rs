// SPDX-License-Identifier: Apache-2.0
//! Mesh documents of the cluster, each with the last version that could be read. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use culvert_mesh::context::Context;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::load::Loaded;
use serde_json::{Map, Value, json};

use super::super::key::Key;

/// Mesh of a document that names none.
pub(crate) const DEFAULT_MESH: &str = "default";
/// Condition of a document that says whether it was read.
pub(crate) const ACCEPTED: &str = "Accepted";
/// Condition of a permission by tags that says whether it holds for whole accounts.
pub(crate) const BY_ACCOUNT: &str = "AppliesByAccount";
/// Keys under `metadata` that say something to a sidecar.
const METADATA: [&str; 3] = ["name", "namespace", "labels"];

/// A mesh document as the cluster has it.
#[derive(Debug, Clone)]
pub(crate) struct MeshDocument {
    /// Its place in the list of kinds.
    pub kind: usize,
    /// Namespace and name.
    pub key: Key,
    /// Unique among all objects that ever had the name.
    pub uid: Box<str>,
    /// Generation that the API server gave this content.
    pub generation: i64,
    /// Conditions of its status, as far as they are ours.
    pub told: Told,
    /// Result of reading it.
    pub read: Result<Good, Refused>,
}

/// Conditions of a document's status, as far as they are ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// `Accepted`, without its words: they follow from the content.
    pub accepted: Option<Stated>,
    /// `AppliesByAccount`.
    pub by_account: Option<Stated>,
}

/// A condition as a status has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stated {
    /// True if its status is `True`.
    pub holds: bool,
    /// Generation that it is about.
    pub generation: i64,
    /// Time since which it holds, or does not.
    pub since: Box<str>,
    /// Words.
    pub message: Box<str>,
}

impl Told {
    fn read(object: &Value) -> Self {
        let conditions = object["status"]["conditions"].as_array();
        let one = |kind: &str| conditions?.iter().find(|one| one["type"] == kind).and_then(Stated::read);
        let accepted = one(ACCEPTED).map(|stated| Stated { message: Box::default(), ..stated });
        Self { accepted, by_account: one(BY_ACCOUNT) }
    }
}

impl Stated {
    fn read(condition: &Value) -> Option<Self> {
        let text = |name: &str| condition[name].as_str().unwrap_or_default().into();
        Some(Self {
            holds: condition["status"] == "True",
            generation: condition["observedGeneration"].as_i64()?,
            since: text("lastTransitionTime"),
            message: text("message"),
        })
    }
}

/// A document that was read.
#[derive(Debug, Clone)]
pub(crate) struct Good {
    /// The document as JSON, without what only the API server needs.
    pub text: Arc<str>,
    /// The same, read.
    pub document: Arc<Document>,
}

/// Errors of a document, in the words of `culvert-sidecar validate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub Vec<String>);

impl MeshDocument {
    /// Reads an object of the API server.
    pub(crate) fn read(kind: usize, key: Key, generation: i64, object: &Value) -> Self {
        let text = pruned(object).to_string();
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().into();
        Self { kind, key, uid, generation, told: Told::read(object), read: read(&text, kind) }
    }
}

/// Name of a document on the stream: kind, namespace where it has one, and name.
fn name_of(kind: usize, key: &Key) -> String {
    let kind = Kind::ALL.get(kind).map_or("", |kind| kind.name());
    match key.namespace() {
        "" => format!("{kind}/{}", key.name()),
        namespace => format!("{kind}/{namespace}/{}", key.name()),
    }
}

/// Keeps what a sidecar reads: managed fields alone can be longer than the document.
fn pruned(object: &Value) -> Value {
    let Some(object) = object.as_object() else { return Value::Null };
    let mut kept: Map<String, Value> = object.clone();
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        let of = |key: &&str| metadata.get(*key).map(|value| ((*key).to_owned(), value.clone()));
        kept.insert("metadata".to_owned(), METADATA.iter().filter_map(of).collect::<Map<_, _>>().into());
    }
    kept.remove("status");
    kept.into()
}

/// Reads one document as a sidecar of its mesh does.
pub(crate) fn read(text: &str, kind: usize) -> Result<Good, Refused> {
    let context = Context { mesh: DEFAULT_MESH.to_owned(), ..Context::default() };
    let mut loaded = Loaded::default();
    loaded.add(&context, text, Path::new("the cluster"));
    let mut words: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    if loaded.more > 0 {
        words.push(format!("and {} more errors", loaded.more));
    }
    let document = loaded.found.documents.pop().filter(|document| !matches!(document.spec, Spec::Wrong(_)));
    match document {
        Some(document) if words.is_empty() => Ok(Good { text: text.into(), document: Arc::new(document) }),
        _ => {
            if words.is_empty() {
                let kind = Kind::ALL.get(kind).map_or("", |kind| kind.name());
                words.push(format!("found no {kind}; allowed: a document of this kind"));
            }
            Err(Refused(words))
        }
    }
}

/// Returns true for a permission that chooses callers by their tags.
pub(crate) fn names_callers(spec: &Spec) -> bool {
    match spec {
        Spec::MeshTrafficPermission(permission) => !permission.from.is_empty(),
        Spec::TrafficPermission(_) => true,
        _ => false,
    }
}

/// A document, and what holds of it.
#[derive(Debug)]
struct Entry {
    /// As the cluster has it.
    current: MeshDocument,
    /// The last content that could be read; that of `current`, or an older one where that is refused.
    good: Option<Good>,
}

/// The mesh documents by kind and key.
#[derive(Debug)]
pub(crate) struct Documents {
    all: Vec<BTreeMap<Key, Entry>>,
}

impl Default for Documents {
    fn default() -> Self {
        Self { all: Kind::ALL.iter().map(|_| BTreeMap::new()).collect() }
    }
}

impl Documents {
    /// Takes a document in. False if nothing that holds differs by it.
    pub(super) fn put(&mut self, document: MeshDocument) -> bool {
        let Some(of_kind) = self.all.get_mut(document.kind) else { return false };
        let old = of_kind.remove(&document.key).and_then(|entry| entry.good);
        // An invalid change leaves the last good content in force.
        let good = document.read.as_ref().ok().cloned().or_else(|| old.clone());
        let text = |good: &Option<Good>| good.as_ref().map(|good| Arc::clone(&good.text));
        let differs = text(&good) != text(&old);
        of_kind.insert(document.key.clone(), Entry { current: document, good });
        differs
    }

    /// Forgets a document. False if nothing that holds differs by it.
    pub(super) fn remove(&mut self, kind: usize, key: &Key) -> bool {
        let old = self.all.get_mut(kind).and_then(|of_kind| of_kind.remove(key));
        old.is_some_and(|entry| entry.good.is_some())
    }

    /// Returns true if a permission chooses callers by something else than their identity.
    pub(crate) fn name_callers(&self) -> bool {
        const KINDS: [Kind; 2] = [Kind::MeshTrafficPermission, Kind::TrafficPermission];
        let of_kind = self.all.iter().zip(Kind::ALL).filter(|(_, kind)| KINDS.contains(kind));
        let permissions = of_kind.flat_map(|(of_kind, _)| of_kind.values());
        permissions.filter_map(|entry| entry.good.as_ref()).any(|good| names_callers(&good.document.spec))
    }

    pub(super) fn keys(&self, kind: usize) -> impl Iterator<Item = Key> {
        self.all.get(kind).into_iter().flat_map(|of_kind| of_kind.keys().cloned())
    }

    /// Every document as the cluster has it.
    pub(crate) fn current(&self) -> impl Iterator<Item = &MeshDocument> {
        self.all.iter().flat_map(|of_kind| of_kind.values().map(|entry| &entry.current))
    }

    /// Documents that hold in a mesh, with their names on the stream. Those of a kind that belongs to every mesh are among them.
    pub(crate) fn of_mesh<'a>(&'a self, mesh: &'a str) -> impl Iterator<Item = (String, &'a Good)> {
        self.all.iter().enumerate().flat_map(move |(kind, of_kind)| {
            let good = of_kind.iter().filter_map(|(key, entry)| Some((key, entry.good.as_ref()?)));
            good.filter(move |(_, good)| good.document.mesh == mesh)
                .map(move |(key, good)| (name_of(kind, key), good))
        })
    }

    /// Every Mesh, a document each, in YAML's notation of many.
    pub(crate) fn meshes(&self) -> String {
        let kind = Kind::ALL.iter().position(|kind| *kind == Kind::Mesh);
        let good = kind.and_then(|kind| self.all.get(kind)).into_iter().flatten();
        good.filter_map(|(_, entry)| entry.good.as_ref())
            .map(|good| format!("---\n{}\n", good.text))
            .collect()
    }

    /// The Mesh of this name.
    pub(crate) fn mesh(&self, name: &str) -> Option<&Good> {
        let kind = Kind::ALL.iter().position(|kind| *kind == Kind::Mesh)?;
        self.all.get(kind)?.get(&Key::new("", name))?.good.as_ref()
    }
}

/// The mesh that a cluster without one gets: members call each other by TLS, and others are let in still.
pub(crate) fn first_mesh() -> Value {
    json!({
        "apiVersion": "kuma.io/v1alpha1",
        "kind": "Mesh",
        "metadata": { "name": DEFAULT_MESH },
        "spec": {
            "mtls": {
                "enabledBackend": "culvert",
                "backends": [{ "name": "culvert", "type": "builtin", "mode": "PERMISSIVE" }],
            },
        },
    })
}
