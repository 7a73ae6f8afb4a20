// SPDX-License-Identifier: Apache-2.0
//! Tags of workloads.

use std::collections::BTreeMap;

/// Tags of a workload, or those that a selector asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags(pub BTreeMap<String, String>);

/// The tag that names the service.
pub const SERVICE: &str = "kuma.io/service";

impl Tags {
    /// The service's name.
    pub fn service(&self) -> Option<&str> {
        self.0.get(SERVICE).map(String::as_str)
    }

    /// Whether `tags` have each of ours; `*` takes any value.
    pub fn select(&self, tags: &Self) -> bool {
        self.0.iter().all(|(key, value)| tags.0.get(key).is_some_and(|has| value == "*" || has == value))
    }
}
