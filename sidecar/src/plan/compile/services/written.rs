// SPDX-License-Identifier: Apache-2.0
//! The services that MeshService and MeshMultiZoneService documents say.

use super::chosen::Chosen;
use super::destination::Behind;
use super::inbounds::{Inbounds, Workload};
use super::names::by_port;
use super::{Destination, NAMESPACE, Service, ServiceKind, ServicePort};
use culvert_mesh::document::{Document, ZONE};
use culvert_mesh::kinds::FromSpec;
use culvert_mesh::kinds::services::{MeshMultiZoneService, MeshService, ServiceSelector};
use culvert_mesh::model::spiffe::SpiffeId;
use culvert_mesh::model::tags::Tags;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The Dataplanes of a mesh by what selectors ask for.
struct Workloads<'i, 'a> {
    inbounds: &'i Inbounds<'a>,
    by_label: Chosen<'i>,
    by_tag: Chosen<'i>,
    by_name: HashMap<&'i str, Vec<u32>>,
}

/// Returns the name of the one Dataplane that a MeshService chooses.
fn named(selector: &ServiceSelector) -> Option<&str> {
    selector.dataplane_ref.as_ref()?.name.as_deref()
}

/// Returns the services of the MeshServices.
pub(super) fn mesh_services<'a>(
    ours: &[&'a Document],
    inbounds: &Inbounds<'a>,
    (mesh, zone): (&str, &str),
) -> Vec<Service<'a>> {
    let documents: Vec<_> = documents::<MeshService>(ours).collect();
    if documents.is_empty() {
        return Vec::new();
    }
    let selectors = documents.iter().map(|(_, spec)| &spec.selector);
    let workloads = Workloads::new(inbounds, &selectors.collect::<Vec<_>>());
    let service = |(document, spec): (&'a Document, &'a MeshService)| {
        let chosen = workloads.chosen(document, &spec.selector);
        let mut service = Service::of(ServiceKind::MeshService, document);
        service.ids = some(spec.spiffe_ids().collect());
        let name = (document.display_name(), service.namespace, service.zone.unwrap_or(zone));
        for port in &spec.ports {
            let (number, target) = (port.port.0, port.target());
            let offers = chosen.iter().flat_map(|workload| workload.offers.clone());
            let offers = offers.filter(|at| target.fits(inbounds.at(*at).inbound)).collect();
            let cluster = by_port(mesh, name, ServiceKind::MeshService, number);
            let destination = Destination::new(cluster, name.0, Behind::Port { service: 0, port: number });
            let new = ServicePort::new(number, Some(&port.name()), destination, offers);
            service.ports.push(new.speaks(port.app_protocol.as_deref()));
        }
        service.ports.sort_by_key(|port| port.port);
        service
    };
    documents.into_iter().map(service).collect()
}

fn documents<'a, T: FromSpec + 'a>(ours: &[&'a Document]) -> impl Iterator<Item = (&'a Document, &'a T)> {
    ours.iter().filter_map(|document| Some((*document, T::from_spec(&document.spec)?)))
}

impl<'i, 'a> Workloads<'i, 'a> {
    fn new(inbounds: &'i Inbounds<'a>, selectors: &[&'i ServiceSelector]) -> Self {
        let labels = selectors.iter().filter_map(|one| one.dataplane_labels.as_ref());
        let tags = selectors.iter().filter_map(|one| one.dataplane_tags.as_ref());
        let mut by_label = Chosen::new(labels.map(|labels| &labels.match_labels.0));
        let mut by_tag = Chosen::new(tags.map(|tags| &tags.0));
        let wanted: HashSet<&str> = selectors.iter().filter_map(|one| named(one)).collect();
        let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
        let keys = by_label.keys();
        for (place, workload) in (0..).zip(inbounds.workloads()) {
            let document = workload.document;
            by_label.add(keys.iter().filter_map(|key| Some((*key, document.label(key)?))));
            let tags = workload.offers.clone().flat_map(|at| &inbounds.at(at).inbound.tags.0);
            by_tag.add(tags.map(|(key, value)| (key.as_str(), value.as_str())));
            if wanted.is_empty() {
                continue;
            }
            // In Kubernetes a control plane writes NAME.NAMESPACE, and an older one the name alone.
            let full = document.label(NAMESPACE).map(|namespace| format!("{}.{namespace}", document.name));
            for name in [Some(document.name.as_str()), full.as_deref()].into_iter().flatten() {
                if let Some(name) = wanted.get(name) {
                    by_name.entry(name).or_default().push(place);
                }
            }
        }
        Self { inbounds, by_label, by_tag, by_name }
    }

    /// Returns the Dataplanes that a MeshService chooses. Those of another zone belong to that zone's MeshService.
    fn chosen(&self, of: &Document, selector: &ServiceSelector) -> Vec<&'i Workload<'a>> {
        let ServiceSelector { dataplane_tags, dataplane_labels, dataplane_ref: _ } = selector;
        let workload = |place: u32| &self.inbounds.workloads()[place as usize];
        let chosen: Vec<&Workload<'_>> = if let Some(wanted) = dataplane_tags {
            let candidates = self.by_tag.candidates(&wanted.0).into_iter().map(workload);
            candidates.filter(|workload| self.has_tags(workload, wanted)).collect()
        } else if let Some(wanted) = dataplane_labels.as_ref().map(|labels| &labels.match_labels) {
            let candidates = self.by_label.candidates(&wanted.0).into_iter().map(workload);
            candidates.filter(|workload| workload.document.has_labels(wanted)).collect()
        } else {
            let name = named(selector).unwrap_or_default();
            let places = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
            // A name alone is one of the MeshService's own namespace.
            let own = of.label(NAMESPACE);
            let near = |workload: &&Workload<'_>| {
                workload.document.name != name || own.is_none() || workload.document.label(NAMESPACE) == own
            };
            places.iter().copied().map(workload).filter(near).collect()
        };
        let zone = of.label(ZONE);
        let here = |workload: &&Workload<'_>| {
            let other = workload.document.label_or_tag(ZONE).zip(zone);
            other.is_none_or(|(one, other)| one == other)
        };
        chosen.into_iter().filter(here).collect()
    }

    /// Returns true if an inbound of a Dataplane has all of these tags.
    fn has_tags(&self, workload: &Workload<'_>, wanted: &Tags) -> bool {
        workload.offers.clone().any(|at| wanted.select(&self.inbounds.at(at).inbound.tags))
    }
}

/// Adds the services of the MeshMultiZoneServices, over the MeshServices that are there.
pub(super) fn add_multi_zone<'a>(all: &mut Vec<Service<'a>>, ours: &[&'a Document], mesh: &str) {
    let documents: Vec<_> = documents::<MeshMultiZoneService>(ours).collect();
    if documents.is_empty() {
        return;
    }
    let labels = |spec: &'a MeshMultiZoneService| &spec.selector.mesh_service.match_labels;
    let members: Vec<&Service<'_>> =
        all.iter().filter(|service| service.kind == ServiceKind::MeshService && service.listed).collect();
    let mut by_label = Chosen::new(documents.iter().map(|(_, spec)| &labels(spec).0));
    for service in &members {
        by_label.add(service.pairs());
    }
    let service = |(document, spec): (&'a Document, &'a MeshMultiZoneService)| {
        let wanted = labels(spec);
        let chosen = by_label.candidates(&wanted.0).into_iter().map(|place| members[place as usize]);
        let chosen: Vec<_> = chosen.filter(|service| service.has_labels(wanted)).collect();
        let mut service = Service::of(ServiceKind::MeshMultiZoneService, document);
        // One that says none may have any.
        let ids = chosen.iter().map(|service| service.ids.as_deref()).collect::<Option<Vec<_>>>();
        service.ids = ids.and_then(|ids| some(ids.into_iter().flatten().cloned().collect()));
        let name = (document.display_name(), service.namespace, service.zone.unwrap_or_default());
        for port in &spec.ports {
            let number = port.port.0;
            let of = |service: &&Service<'_>| service.ports.iter().position(|one| one.port == number);
            let offers = chosen.iter().filter_map(|service| Some(&service.ports[of(service)?].offers));
            // A MeshService of Kubernetes and one of tags may choose the same inbounds.
            let offers: BTreeSet<u32> = offers.flatten().copied().collect();
            let cluster = by_port(mesh, name, ServiceKind::MeshMultiZoneService, number);
            let destination = Destination::new(cluster, name.0, Behind::Port { service: 0, port: number });
            let offers = offers.into_iter().collect();
            let new = ServicePort::new(number, Some(&port.name()), destination, offers);
            service.ports.push(new.speaks(port.app_protocol.as_deref()));
        }
        service.ports.sort_by_key(|port| port.port);
        service
    };
    let made: Vec<_> = documents.into_iter().map(service).collect();
    all.extend(made);
}

/// Returns identities; `None` for none.
fn some(ids: BTreeSet<SpiffeId>) -> Option<Arc<[SpiffeId]>> {
    (!ids.is_empty()).then(|| ids.into_iter().collect())
}
