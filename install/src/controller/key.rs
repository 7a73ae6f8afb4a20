// SPDX-License-Identifier: Apache-2.0
//! Namespace and name of an object.

use std::fmt;
use std::sync::Arc;

use kube::core::ObjectMeta;

/// Namespace and name of an object, in one text: thousands of places hold one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Arc<str>);

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// Key of an object. One without a namespace has an empty one.
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self::new(&text(&metadata.namespace), &text(&metadata.name))
    }

    fn parts(&self) -> (&str, &str) {
        // Neither a namespace nor a name has a slash.
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.parts().0
    }

    pub(crate) fn name(&self) -> &str {
        self.parts().1
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
