// SPDX-License-Identifier: Apache-2.0
//! Tags of workloads, and of selectors that choose by them.

use std::collections::BTreeMap;

/// Tags of a workload, or those that a selector asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags(pub BTreeMap<String, String>);

/// Tag with the name of the service.
pub const SERVICE: &str = "kuma.io/service";

impl Tags {
    /// Returns the name of the service.
    pub fn service(&self) -> Option<&str> {
        self.0.get(SERVICE).map(String::as_str)
    }

    /// Returns true if `tags` have each of these tags; `*` takes any value.
    pub fn select(&self, tags: &Self) -> bool {
        self.0.iter().all(|(key, value)| tags.0.get(key).is_some_and(|has| value == "*" || has == value))
    }
}
