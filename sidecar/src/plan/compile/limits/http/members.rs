// SPDX-License-Identifier: Apache-2.0
//! Callers of a pod, as documents name them, and the addresses from which they call.

use crate::plan::listener::http::Callers;
use crate::plan::tls::permissions::Who;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::model::tags::{SERVICE, Tags};
use std::net::IpAddr;

/// Kinds that say rules of some callers' requests.
const KINDS: [Kind; 3] = [Kind::MeshFaultInjection, Kind::FaultInjection, Kind::RateLimit];

/// Pods of the mesh that may call, by their addresses and tags.
#[derive(Debug, Default)]
pub(in crate::plan::compile::limits) struct Members<'a>(Vec<(IpAddr, &'a Tags)>);

// === impl Members ===

impl<'a> Members<'a> {
    /// Finds the pods, where documents say rules by callers: only then these are told apart by addresses.
    pub(in crate::plan::compile::limits) fn find(ours: &[&'a Document]) -> Self {
        if !ours.iter().any(|one| KINDS.contains(&one.kind())) {
            return Self::default();
        }
        let pods = ours.iter().filter_map(|one| match &one.spec {
            Spec::Dataplane(pod) => Some(pod),
            _ => None,
        });
        let lines = pods.flat_map(|pod| {
            let ip = pod.networking.address.ip().to_canonical();
            pod.tags().map(move |tags| (ip, tags))
        });
        Self(lines.collect())
    }

    pub(super) fn callers(&self, who: Vec<Who>) -> Callers {
        let fits =
            |tags: &Tags| who.iter().any(|who| matches!(who, Who::Tags(wanted) if wanted.select(tags)));
        let addresses = match who.contains(&Who::Everyone) {
            true => Vec::new(),
            false => self.0.iter().filter(|(_, tags)| fits(tags)).map(|(ip, _)| *ip).collect(),
        };
        Callers { who, addresses: addresses.into_iter().collect() }
    }
}

/// Returns the callers with some tags.
pub(super) fn tagged(tags: &Tags) -> Who {
    let all = tags.0.iter().all(|(key, value)| key == SERVICE && value == "*");
    if all { Who::Everyone } else { Who::Tags(tags.clone()) }
}
