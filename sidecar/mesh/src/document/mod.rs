// SPDX-License-Identifier: Apache-2.0
//! What all documents have in common: two spellings, a kind, a name, a mesh.
//!
//! ```text
//! Kubernetes: apiVersion, kind, mesh, metadata{name, namespace, labels}, spec{…}
//! Universal:  type, name, mesh, …
//! ```

mod reader;
mod schema;
mod spelling;

pub(crate) use reader::read_all;

use crate::kinds::{Kind, Spec};
use crate::model::labels::Labels;
use crate::read::Problem;
use std::fmt;
use std::sync::Arc;

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

impl Document {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
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

#[cfg(test)]
mod tests;
