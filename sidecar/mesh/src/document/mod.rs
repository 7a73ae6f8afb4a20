// SPDX-License-Identifier: Apache-2.0
//! A document of any kind: two spellings, a kind, a name, a mesh.
//!
//! ```text
//! Kubernetes: apiVersion, kind, mesh, metadata{name, namespace, labels}, spec{…}
//! Universal:  type, name, mesh, …
//! ```

mod left_out;
mod reader;
mod schema;
mod spelling;
mod topology;

pub use left_out::{LeftOut, LeftOutCount};
pub(crate) use reader::{is_list, read_document};
pub(crate) use spelling::DEFAULT_MESH;

use crate::kinds::dataplane::Inbound;
use crate::kinds::services::ServiceStatus;
use crate::kinds::{Kind, Spec};
use crate::model::labels::Labels;
use crate::model::spiffe::SpiffeId;
use crate::model::tags::Tags;
use crate::read::{Problem, tree};
use crate::target::Target;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Label with the mesh of a document.
const MESH: &str = "kuma.io/mesh";
/// Label with the name that a document was written with.
const DISPLAY_NAME: &str = "kuma.io/display-name";
/// Annotation of a Dataplane in Kubernetes with the SPIFFE identity that its pod proves. culvert's controller writes it.
pub const SPIFFE_ID: &str = "culvert.dev/spiffe-id";
/// Label by which a policy is only tried.
const EFFECT: &str = "kuma.io/effect";
/// Label and tag with the zone of a document.
pub const ZONE: &str = "kuma.io/zone";
/// Label and tag with the workload of a Dataplane.
const WORKLOAD: &str = "kuma.io/workload";
/// Label with the namespace of a document.
const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Place of a document in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path of the file.
    pub file: Arc<str>,
    /// Number in the file, from 1.
    pub number: usize,
    /// Number in a `kind: List`, from 1.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.number)?;
        self.item.map_or(Ok(()), |item| write!(f, ", item {item}"))
    }
}

/// One problem of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}: {problem}", if whose.is_empty() { String::new() } else { format!(" ({whose})") })]
pub struct DocumentError {
    /// Place of the document.
    pub place: Place,
    /// Kind and name, as far as they can be read.
    pub whose: String,
    /// Field, found and allowed value.
    pub problem: Problem,
}

/// A document that was read and checked by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Place of the document.
    pub place: Place,
    /// Mesh of the document; a Mesh belongs to itself.
    pub mesh: String,
    /// Name, without the namespace.
    pub name: String,
    /// Path of the field with the name, which differs by spelling.
    pub name_field: &'static str,
    /// Namespace, in Kubernetes' spelling only.
    pub namespace: Option<String>,
    /// Labels. Those that Kuma gives each document by itself are among them, but not of another pod's Dataplane, so that all
    /// pods of a service share one set: [`label`](Self::label) has them for every document.
    pub labels: Arc<Labels>,
    /// True if the document has a field for labels, even an empty one.
    pub labelled: bool,
    /// Identity that the pod of a Dataplane proves, by the annotation [`SPIFFE_ID`] in Kubernetes' spelling.
    pub spiffe_id: Option<SpiffeId>,
    /// Addresses and names that a control plane wrote into the document of a service; `None` for other kinds.
    pub status: Option<Box<ServiceStatus>>,
    /// Contents of the document, by kind.
    pub spec: Spec,
}

/// A document whose kind, mesh or name cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Kind, if it can be read.
    pub kind: Option<Kind>,
    /// Mesh, if it can be read.
    pub mesh: Option<String>,
    /// Name, if it can be read.
    pub name: Option<String>,
}

impl Lost {
    /// Returns true if it may be the document with this kind, mesh and name, as far as they can be read.
    pub fn may_be(&self, kind: Kind, mesh: &str, name: &str) -> bool {
        self.kind.is_none_or(|known| known == kind)
            && self.mesh.as_ref().is_none_or(|known| known == mesh)
            // The wanted name may have a namespace behind it, and the document's is not known.
            && self.name.as_ref().is_none_or(|known| name.starts_with(known.as_str()))
    }
}

impl Document {
    /// Returns the kind, that of a wrong document too.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    /// Returns the name that it was written with: Kuma's control plane adds a hash to the name of one that it hands on.
    pub fn display_name(&self) -> &str {
        self.labels.get(DISPLAY_NAME).unwrap_or(&self.name)
    }

    /// Returns true if it is a policy on trial: Kuma shows what it would change, and nothing is changed.
    pub fn is_shadow(&self) -> bool {
        matches!(self.spec.target(), Target::Ref(_)) && self.labels.get(EFFECT) == Some("shadow")
    }

    /// Returns true if `name` is the document's: its name, in Kubernetes also `name.namespace`.
    pub fn is_named(&self, name: &str) -> bool {
        is_named(&self.name, self.namespace.as_deref(), name)
    }

    /// Returns a label of the document, also one that Kuma gives each document by itself.
    pub fn label(&self, key: &str) -> Option<&str> {
        let given = match key {
            MESH => Some(self.mesh.as_str()),
            DISPLAY_NAME => Some(self.name.as_str()),
            NAMESPACE => self.namespace.as_deref(),
            _ => None,
        };
        self.labels.get(key).or(given)
    }

    /// Returns true if the document has each of these labels.
    pub fn has_labels(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.label(key) == Some(value.as_str()))
    }

    /// Returns the addresses that a control plane gave a service.
    pub fn vips(&self) -> &[IpAddr] {
        self.status.as_ref().map_or(&[][..], |status| status.vips.as_slice())
    }

    /// Returns a label of the document or, where it has none, a tag of the Dataplane.
    pub fn label_or_tag(&self, key: &str) -> Option<&str> {
        let tag = || match &self.spec {
            Spec::Dataplane(dataplane) => {
                dataplane.tags().find_map(|tags| tags.0.get(key).map(String::as_str))
            }
            _ => None,
        };
        self.label(key).or_else(tag)
    }

    /// Returns the identifier of the workload that a Dataplane belongs to, as Kuma writes it into logs.
    pub fn workload(&self) -> Option<String> {
        let name = self.label_or_tag(WORKLOAD)?;
        let zone = self.label_or_tag(ZONE).unwrap_or_default();
        let namespace = self.label(NAMESPACE).unwrap_or_default();
        Some(format!("kri_wl_{}_{zone}_{namespace}_{name}_", self.mesh))
    }

    /// Returns an error about a field of the document.
    pub fn error(&self, path: &str, found: impl Into<String>, allowed: impl Into<String>) -> DocumentError {
        DocumentError {
            place: self.place.clone(),
            whose: format!("{} {}", self.kind().name(), self.name),
            problem: Problem { path: path.into(), found: found.into(), allowed: allowed.into() },
        }
    }
}

pub(crate) fn is_named(name: &str, namespace: Option<&str>, wanted: &str) -> bool {
    let rest = wanted.strip_prefix(name);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|rest| Some(rest) == namespace)
    })
}

/// The addresses of hosts by name. A name that was looked up and has no address has none in its list.
pub type HostAddresses = BTreeMap<Box<str>, Vec<IpAddr>>;

/// Documents that were read.
#[derive(Debug, Default)]
pub struct Found {
    /// Documents; a wrong one is there as [`Spec::Wrong`].
    pub documents: Vec<Document>,
    /// Documents whose kind, mesh or name cannot be read.
    pub lost: Vec<Lost>,
    /// Documents and fields that have no effect here.
    pub left_out: LeftOut,
    /// Addresses of hosts outside of the mesh, where they were looked up.
    pub addresses: HostAddresses,
    /// Tags of inbounds, each set once: the replicas of a service have the same.
    tags: HashSet<Arc<Tags>>,
    /// Labels of other pods' Dataplanes, each set once for the same reason.
    labels: HashSet<Arc<Labels>>,
    /// Bytes that new sets of `tags` and `labels` take since the last document.
    shared_memory: usize,
}

/// Bytes of a node of a mapping of text to text, and the entries that it holds. A full one becomes two half full ones.
const NODE: usize = 560;
const NODE_HOLDS: usize = 11;
/// Bytes that a plan takes for an inbound of another pod.
const MEMBER: usize = 200;
/// Share of the allocator in each text.
const EACH_TEXT: usize = 24;

/// Estimates the bytes of a mapping of text to text.
fn memory_of_map(map: &BTreeMap<String, String>) -> usize {
    let nodes = if map.len() <= NODE_HOLDS { 1 } else { map.len().div_ceil(NODE_HOLDS / 2) + 1 };
    let texts = map.iter().map(|(key, value)| key.len() + value.len() + 2 * EACH_TEXT).sum::<usize>();
    nodes * NODE + texts
}

impl Found {
    /// Returns the set of tags that stands for all equal ones.
    fn shared(&mut self, tags: &Arc<Tags>) -> Arc<Tags> {
        if let Some(there) = self.tags.get(tags) {
            return Arc::clone(there);
        }
        self.shared_memory += memory_of_map(&tags.0);
        self.tags.insert(Arc::clone(tags));
        Arc::clone(tags)
    }

    /// Returns the set of labels that stands for all equal ones.
    fn shared_labels(&mut self, labels: Labels) -> Arc<Labels> {
        if let Some(there) = self.labels.get(&labels) {
            return Arc::clone(there);
        }
        self.shared_memory += memory_of_map(&labels.0);
        let labels = Arc::new(labels);
        self.labels.insert(Arc::clone(&labels));
        labels
    }

    /// Adds what was found elsewhere.
    pub(crate) fn append(&mut self, other: &mut Self) {
        let Self { documents, lost, left_out, addresses: _, tags, labels, shared_memory } = other;
        self.documents.append(documents);
        self.lost.append(lost);
        self.left_out.append(left_out);
        self.tags.extend(tags.drain());
        self.labels.extend(labels.drain());
        self.shared_memory += *shared_memory;
    }

    /// Estimates the bytes that the last document takes, with the tags and labels that no document before it had. `value` is
    /// its tree.
    pub(crate) fn memory_of_last(&mut self, value: &Value) -> usize {
        let shared = std::mem::take(&mut self.shared_memory);
        let Some(document) = self.documents.last() else { return size_of::<Lost>() };
        let own = match &document.spec {
            Spec::Wrong(_) => 0,
            Spec::Dataplane(dataplane) if dataplane.networking.outbound.is_empty() => {
                dataplane.networking.inbound.len() * (size_of::<Inbound>() + MEMBER)
            }
            _ => tree::memory(value),
        };
        size_of::<Document>() + document.name.len() + document.mesh.len() + 2 * EACH_TEXT + own + shared
    }
}

#[cfg(test)]
mod tests;
