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

mod names;
mod reasons;
mod resolve;

use crate::plan::compile::error::CompileError;
use crate::plan::compile::limits::{Entry, ForCalls, entries_to, for_calls, older_policy};
use crate::plan::compile::{cluster_name, dataplanes};
use crate::plan::decisions::{Claim, place};
use crate::plan::{EndpointPlan, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::FromSpec;
use culvert_mesh::kinds::dataplane::{Inbound, Networking, Outbound, ReachableKind};
use culvert_mesh::kinds::destination::{CalledService, ToKind, ToRef};
use culvert_mesh::kinds::older::{OlderPolicy, OlderShare, TrafficRoute, fit};
use culvert_mesh::kinds::routes::{BackendKind, BackendRef, MeshTcpRoute};
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select::{self, Subject};
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Kinds of services that no Dataplane offers.
const NOT_BUILT: &str =
    "MeshService or MeshServiceSubset; services outside of the mesh and of several zones are not built yet";

/// An outbound with the services that its connections go to.
pub(super) struct Routed {
    /// The service that the outbound names, by which policies choose it.
    pub(super) own: Destination,
    /// The services, each with its weight. Never empty.
    pub(super) shares: Vec<(u32, Destination)>,
    /// The route that says them, if any: kind, name, place and field.
    pub(super) by: Option<String>,
    /// The routes that say others, of a plan that is made to be explained.
    pub(super) lost: Vec<Claim>,
}

/// A service, or a part of it, that connections go to.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// Name of its cluster.
    pub(super) cluster: Arc<str>,
    /// Its `kuma.io/service`.
    pub(super) service: String,
    /// Tags of its inbounds, `kuma.io/service` among them.
    tags: Tags,
    /// Of these, the inbounds with this name or port.
    section: Option<String>,
    /// The addresses of these inbounds, where there is a section.
    only: HashSet<SocketAddr>,
}

impl Destination {
    /// Returns true for an inbound of the destination.
    pub(super) fn is_offered_by(&self, inbound: &Inbound) -> bool {
        self.tags.select(&inbound.tags)
            && self.section.as_deref().is_none_or(|section| select::is_section(inbound, section))
    }

    /// Returns true for an endpoint of the service that the destination has.
    pub(super) fn has(&self, endpoint: &EndpointPlan) -> bool {
        self.tags.select(&endpoint.member.tags)
            && (self.section.is_none() || self.only.contains(&endpoint.address))
    }
}

/// Routes of the pod, and what they are resolved by.
struct Routes<'a> {
    /// Name of the mesh.
    mesh: &'a str,
    /// The pod's zone, empty where it is not known.
    zone: String,
    ours: &'a [&'a Document],
    pod: &'a Subject<'a>,
    tcp: Vec<ForCalls<'a, MeshTcpRoute>>,
    /// TrafficRoutes; empty where MeshTCPRoutes put them out of force.
    older: Vec<&'a Document>,
    /// The services of the mesh, collected where a reference asks for one.
    services: OnceCell<BTreeSet<&'a str>>,
}

/// Returns the services that each outbound of the pod leads to, in the order of the outbounds.
pub(super) fn of_pod(
    plan: &mut Plan,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) -> Vec<Routed> {
    let Some((document, this)) = pod.pod else { return Vec::new() };
    let mesh = Arc::clone(&plan.mesh);
    let tcp = for_calls::<MeshTcpRoute>(ours, pod);
    let about = |one: &&Document| {
        TrafficRoute::from_spec(&one.spec).is_some_and(|route| fit(&route.sources, pod.tags).is_some())
    };
    let traffic: Vec<&Document> = ours.iter().copied().filter(about).collect();
    let replaced = tcp.first().map(|first| first.one.document.name.as_str());
    plan.warnings.extend(warnings(&traffic, replaced));
    let routes = Routes {
        mesh: &mesh,
        zone: plan.zone.as_deref().unwrap_or_default().to_owned(),
        ours,
        pod,
        older: if tcp.is_empty() { traffic } else { Vec::new() },
        tcp,
        services: OnceCell::new(),
    };
    let Networking { outbound, .. } = &this.networking;
    let routed = |(index, outbound): (usize, &Outbound)| {
        let own = routes.own((document, index), outbound, errors);
        let (shares, by) = routes.shares(outbound, &own, errors);
        let lost = if plan.decisions.are_kept() { routes.lost(&own) } else { Vec::new() };
        Routed { own, shares, by, lost }
    };
    outbound.iter().enumerate().map(routed).collect()
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
            format!("TrafficRoute {name}: passed over, as connections are forwarded as TCP: {fields}")
        })
    };
    routes.iter().filter_map(line).collect()
}

impl Routes<'_> {
    /// Returns the service that an outbound names.
    fn own(
        &self,
        (document, index): (&Document, usize),
        outbound: &Outbound,
        errors: &mut Vec<CompileError>,
    ) -> Destination {
        let Some(reference) = &outbound.backend_ref else {
            let service = outbound.tags.service().unwrap_or_default();
            let cluster = cluster_name(outbound, service).into();
            return self.destination(cluster, outbound.tags.clone(), None);
        };
        if reference.kind != ReachableKind::MeshService {
            let path = format!("networking.outbound[{index}].backendRef.kind");
            let found = "a service that no Dataplane offers";
            errors.push(document.error(&path, found, NOT_BUILT).into());
        }
        let to = ToRef {
            kind: ToKind::MeshService,
            name: reference.name.clone(),
            namespace: None,
            labels: reference.labels.clone(),
            section_name: None,
        };
        let port = reference.port.map(|port| port.0.to_string());
        self.resolve(&to, port, &Tags::default(), document.namespace.as_deref())
    }

    /// Returns the services that an outbound's connections go to.
    fn shares(
        &self,
        outbound: &Outbound,
        own: &Destination,
        errors: &mut Vec<CompileError>,
    ) -> (Vec<(u32, Destination)>, Option<String>) {
        let itself = || (vec![(1, own.clone())], None);
        let has_inbound = |section: &str| {
            let inbounds = dataplanes(self.ours).flat_map(|(_, dataplane)| &dataplane.networking.inbound);
            inbounds
                .filter(|inbound| own.is_offered_by(inbound))
                .any(|inbound| select::is_section(inbound, section))
        };
        let called = CalledService { mesh: self.mesh, service: &own.service, has_inbound: &has_inbound };
        if let Some(&Entry { document, conf, index }) = entries_to(&self.tcp, &called).first() {
            let backend = |backend: &BackendRef| (backend.weight(), self.backend(document, backend, errors));
            let shares: Vec<_> =
                conf.backends.iter().filter(|backend| backend.weight() != 0).map(backend).collect();
            let by = || place(document, &format!("spec.to[{index}]"));
            return if shares.is_empty() { itself() } else { (shares, Some(by())) };
        }
        // As in Kuma they are about outbounds with tags.
        let older = older_policy::<TrafficRoute>(&self.older, self.pod.tags, &called);
        let Some((document, route)) = older.filter(|_| outbound.backend_ref.is_none()) else {
            return itself();
        };
        let share = |share: OlderShare| (share.weight, self.of_tags(outbound, own, &share.destination));
        let shares = route.conf().into_iter().filter(|share| share.weight != 0).map(share);
        (shares.collect(), Some(place(document, "conf")))
    }

    /// Returns the service of a route's backend.
    fn backend(&self, route: &Document, backend: &BackendRef, errors: &mut Vec<CompileError>) -> Destination {
        if matches!(backend.kind, BackendKind::MeshExternalService | BackendKind::MeshMultiZoneService) {
            let found = format!("a backend of kind {} for this pod", backend.kind.name());
            errors.push(route.error("spec.to", found, NOT_BUILT).into());
        }
        self.resolve(&backend.service(), backend.section(), &backend.tags, route.namespace.as_deref())
    }

    /// Returns the service of a TrafficRoute's destination. As in Kuma it has the outbound's tags where it says none of its
    /// own, or "*".
    fn of_tags(&self, outbound: &Outbound, own: &Destination, wanted: &Tags) -> Destination {
        let said = wanted.0.iter().filter(|(_, value)| *value != "*");
        let said = said.map(|(key, value)| (key.clone(), value.clone()));
        let tags = Tags(outbound.tags.0.clone().into_iter().chain(said).collect());
        if tags == outbound.tags {
            return own.clone();
        }
        self.destination(names::by_tags(&tags).into(), tags, None)
    }

    /// Makes a destination, with the addresses of its section.
    fn destination(&self, cluster: Arc<str>, tags: Tags, section: Option<String>) -> Destination {
        let service = tags.0.get(SERVICE).cloned().unwrap_or_default();
        let mut made = Destination { cluster, service, tags, section, only: HashSet::new() };
        if made.section.is_some() {
            for (_, dataplane) in dataplanes(self.ours) {
                let inbounds = dataplane.networking.inbound.iter().filter(|one| made.is_offered_by(one));
                let addresses: Vec<_> = inbounds
                    .flat_map(|inbound| [dataplane.endpoint(inbound), dataplane.listener(inbound)])
                    .collect();
                made.only.extend(addresses);
            }
        }
        made
    }
}

#[cfg(test)]
mod tests;
