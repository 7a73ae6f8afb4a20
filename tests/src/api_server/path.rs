// SPDX-License-Identifier: Apache-2.0
//! Paths and queries of Kubernetes' API.

use std::collections::BTreeMap;

/// A collection of objects, as `apps/v1/daemonsets`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resource {
    /// Empty for the core group.
    pub(super) group: String,
    pub(super) version: String,
    /// The plural in lower case.
    pub(super) name: String,
}

impl Resource {
    pub(super) fn new(api_version: &str, name: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: group.to_owned(), version: version.to_owned(), name: name.to_owned() }
    }

    /// `v1`, or `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods`, or `daemonsets.apps`, as messages name it.
    pub(super) fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.name.clone(),
            group => format!("{}.{group}", self.name),
        }
    }

    pub(super) fn is(&self, group: &str, name: &str) -> bool {
        self.group == group && self.name == name
    }
}

/// A collection in all namespaces or one, an object in it, or a part of that object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    /// `status`
    pub(super) part: Option<String>,
}

impl Place {
    /// Reads a path without its query; `None` where it is no place for objects.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (api_version, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let is_core = api_version == "v1";
        let (namespace, rest) = match rest {
            // Namespaces are objects themselves, and these two are parts of one.
            ["namespaces", _, "status" | "finalize"] if is_core => (None, rest),
            ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some(*namespace), inner),
            _ => (None, rest),
        };
        let (name, object, part) = match rest {
            [name] => (name, None, None),
            [name, object] => (name, Some(object), None),
            [name, object, part] => (name, Some(object), Some(part)),
            _ => return None,
        };
        Some(Self {
            resource: Resource::new(&api_version, name),
            namespace: namespace.map(str::to_owned),
            name: object.map(|object| (*object).to_owned()),
            part: part.map(|part| (*part).to_owned()),
        })
    }

    /// Namespace and name of the object; the namespace is empty for an object of the cluster.
    pub(super) fn key(&self) -> (String, String) {
        (self.namespace.clone().unwrap_or_default(), self.name.clone().unwrap_or_default())
    }

    pub(super) fn is_part(&self, part: &str) -> bool {
        self.part.as_deref() == Some(part)
    }
}

/// The query of a path.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(key, value)| (decoded(key), decoded(value))).collect())
    }

    /// The value, unless it is absent or empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.get(key).and_then(|value| value.parse().ok())
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }
}

/// Undoes the encoding of URLs; what is none stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, number.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
