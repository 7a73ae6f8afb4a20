// SPDX-License-Identifier: Apache-2.0
//! The services that the connections of an outbound go to: its own, or those of a route.
//!
//! | documents about the pod | the connections of an outbound go to |
//! |---|---|
//! | MeshTCPRoutes | the backends of the entry that decides about the outbound's service; without one, its own service |
//! | TrafficRoutes alone | the service or split of the most specific one; without one, its own service |
//! | none | its own service |
//!
//! As in Kuma one MeshTCPRoute about the pod puts all TrafficRoutes out of force.

mod reasons;

use crate::plan::compile::limits::{Entry, ForCalls, entries_to, for_calls, older_policy};
use crate::plan::compile::services::{Destination, Services};
use crate::plan::decisions::place;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::FromSpec;
use culvert_mesh::kinds::dataplane::{Outbound, ReachableKind};
use culvert_mesh::kinds::destination::{ToKind, ToRef};
use culvert_mesh::kinds::older::{OlderPolicy, OlderShare, TrafficRoute, fit};
use culvert_mesh::kinds::routes::{BackendRef, MeshTcpRoute};
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::Subject;

/// The services that calls go to.
pub(super) struct Routed {
    /// The services, each with its weight. Never empty.
    pub(super) shares: Vec<(u32, Destination)>,
    /// The route that says them, if any: kind, name, place and field.
    pub(super) by: Option<String>,
}

/// The routes of the pod's calls.
pub(super) struct Routes<'a> {
    services: &'a Services<'a>,
    pod: Subject<'a>,
    tcp: Vec<ForCalls<'a, MeshTcpRoute>>,
    /// TrafficRoutes; empty where MeshTCPRoutes put them out of force.
    older: Vec<&'a Document>,
}

/// Returns a line for each TrafficRoute about the pod that says more than takes effect.
fn warnings(routes: &[&Document], replaced: Option<&str>) -> Vec<String> {
    let line = |document: &&Document| {
        let name = &document.name;
        if let Some(by) = replaced {
            return Some(format!("TrafficRoute {name} is not in force: MeshTCPRoute {by} is about this pod"));
        }
        let fields = TrafficRoute::from_spec(&document.spec)?.passed_over();
        (!fields.is_empty()).then(|| {
            let fields = fields.join(", ");
            format!("TrafficRoute {name}: passed over, as the sidecar does nothing by it: {fields}")
        })
    };
    routes.iter().filter_map(line).collect()
}

impl<'a> Routes<'a> {
    /// Collects the routes of the pod's calls.
    pub(super) fn new(
        ours: &[&'a Document],
        pod: Subject<'a>,
        services: &'a Services<'a>,
        notes: &mut Vec<String>,
    ) -> Self {
        let tcp = for_calls::<MeshTcpRoute>(ours, &pod);
        let about = |one: &&Document| {
            TrafficRoute::from_spec(&one.spec).is_some_and(|route| fit(&route.sources, pod.tags).is_some())
        };
        let traffic: Vec<&Document> =
            ours.iter().copied().filter(|_| pod.pod.is_some()).filter(about).collect();
        let replaced = tcp.first().map(|first| first.one.document.name.as_str());
        notes.extend(warnings(&traffic, replaced));
        let older = if tcp.is_empty() { traffic } else { Vec::new() };
        Self { services, pod, tcp, older }
    }

    /// Returns the service that an outbound of the pod's Dataplane names.
    pub(super) fn own(&self, document: &Document, outbound: &Outbound) -> Destination {
        let Some(reference) = &outbound.backend_ref else { return self.services.of_outbound(&outbound.tags) };
        let kind = match reference.kind {
            ReachableKind::MeshService => ToKind::MeshService,
            ReachableKind::MeshExternalService => ToKind::MeshExternalService,
            ReachableKind::MeshMultiZoneService => ToKind::MeshMultiZoneService,
        };
        let to = ToRef {
            kind,
            name: reference.name.clone(),
            namespace: None,
            labels: reference.labels.clone(),
            section_name: None,
        };
        let port = reference.port.map(|port| port.0.to_string());
        self.services.resolve(&to, port.as_deref(), &Tags::default(), document.namespace.as_deref())
    }

    /// Returns the services that calls to a destination go to: its own, or those of a route.
    pub(super) fn of(&self, own: &Destination) -> Routed {
        let itself = || Routed { shares: vec![(1, own.clone())], by: None };
        self.services.with_called(own, |called| {
            if let Some(&Entry { document, conf, index }) = entries_to(&self.tcp, called).first() {
                let backends = conf.backends.iter().filter(|backend| backend.weight() != 0);
                let backend = |backend: &BackendRef| (backend.weight(), self.backend(document, backend));
                let shares: Vec<_> = backends.map(backend).collect();
                return if shares.is_empty() {
                    itself()
                } else {
                    Routed { shares, by: Some(place(document, &format!("spec.to[{index}]"))) }
                };
            }
            // As in Kuma they are about calls to tags.
            let held = older_policy::<TrafficRoute>(&self.older, self.pod.tags, called);
            let Some(((document, route), tags)) = held.zip(own.tags()) else { return itself() };
            let share = |share: OlderShare| (share.weight, self.of_tags((own, &tags), &share.destination));
            let shares = route.conf().into_iter().filter(|share| share.weight != 0).map(share);
            Routed { shares: shares.collect(), by: Some(place(document, "conf")) }
        })
    }

    /// Returns the service of a route's backend.
    fn backend(&self, route: &Document, backend: &BackendRef) -> Destination {
        let section = backend.section();
        let namespace = route.namespace.as_deref();
        self.services.resolve(&backend.service(), section.as_deref(), &backend.tags, namespace)
    }

    /// Returns the service of a TrafficRoute's destination. As in Kuma it has the outbound's tags where it says none of its
    /// own, or "*".
    fn of_tags(&self, (own, tags): (&Destination, &Tags), wanted: &Tags) -> Destination {
        let said = wanted.0.iter().filter(|(_, value)| *value != "*");
        let said = said.map(|(key, value)| (key.clone(), value.clone()));
        let all = Tags(tags.0.clone().into_iter().chain(said).collect());
        if all == *tags {
            return own.clone();
        }
        self.services.of_tags(all)
    }
}

#[cfg(test)]
mod tests;
