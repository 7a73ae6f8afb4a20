// SPDX-License-Identifier: Apache-2.0
//! The routes that do not decide about an outbound, for a plan that is made to be explained.

use super::Routes;
use crate::plan::compile::limits::{Entry, entries_to};
use crate::plan::compile::services::Destination;
use crate::plan::decisions::Claim;
use culvert_mesh::kinds::routes::{BackendRef, RouteConf};

impl Routes<'_> {
    /// Returns what MeshTCPRoutes about a destination say in vain, the next one first.
    pub(in crate::plan::compile) fn lost(&self, own: &Destination) -> Vec<Claim> {
        self.services.with_called(own, |called| {
            let lost = entries_to(&self.tcp, called).into_iter().skip(1);
            let claim = |Entry { document, index, conf }: Entry<'_, RouteConf>| {
                Claim::of(words(&conf.backends), document, &format!("spec.to[{index}]"))
            };
            lost.map(claim).collect()
        })
    }
}

/// Returns the backends of a route as a claim has them.
fn words(backends: &[BackendRef]) -> String {
    let one = |backend: &BackendRef| {
        let labels = || {
            let labels = backend.labels.iter().flat_map(|labels| &labels.0);
            labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        };
        format!("weight {} to {}", backend.weight(), backend.name.clone().unwrap_or_else(labels))
    };
    if backends.is_empty() {
        return "the destination itself".into();
    }
    backends.iter().map(one).collect::<Vec<_>>().join(", ")
}
