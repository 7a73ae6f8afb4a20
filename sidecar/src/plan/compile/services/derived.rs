// SPDX-License-Identifier: Apache-2.0
//! Services that Dataplanes stand for: those of their tags, and MeshServices where none is written.
//!
//! | inbounds | MeshService |
//! |---|---|
//! | `kuma.io/service: NAME_NAMESPACE_svc_PORT` | NAME of NAMESPACE, with the PORTs |
//! | `kuma.io/service: NAME` | NAME, with the inbounds' ports |
//! | no such tag, label `kuma.io/workload: NAME` | the same |

use super::destination::Behind;
use super::inbounds::{Inbounds, Offer};
use super::names::{self, ClusterService, by_port};
use super::{Destination, NAMESPACE, Service, ServiceKind, ServicePort};
use culvert_mesh::document::ZONE;
use culvert_mesh::kinds::dataplane::State;
use culvert_mesh::model::labels::Labels;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Label with the workload of a Dataplane.
const WORKLOAD: &str = "kuma.io/workload";

/// The name of a service with its namespace.
type Name<'a> = (&'a str, Option<&'a str>);
/// Inbounds with their `kuma.io/service`.
type Tagged<'a> = (Option<&'a str>, Vec<u32>);

/// Adds the services of tags, and the MeshServices that no document of this zone says.
pub(super) fn add<'a>(all: &mut Vec<Service<'a>>, inbounds: &Inbounds<'a>, (mesh, zone): (&'a str, &'a str)) {
    let here = |service: &&Service<'_>| zone.is_empty() || service.zone.is_none_or(|of| of == zone);
    let written: HashSet<Name<'a>> =
        all.iter().filter(here).map(|service| (service.display_name(), service.namespace)).collect();
    let mut groups: BTreeMap<Name<'a>, Vec<Tagged<'a>>> = BTreeMap::new();
    for (tag, offers) in inbounds.services().filter(|(tag, _)| !tag.is_empty()) {
        all.push(tagged(inbounds, (tag, offers), (mesh, zone)));
        let name = ClusterService::of(tag).map_or((tag, None), |of| (of.name, Some(of.namespace)));
        groups.entry(name).or_default().push((Some(tag), offers.to_vec()));
    }
    for workload in inbounds.workloads() {
        let untagged = workload.offers.clone().filter(|at| inbounds.at(*at).inbound.tags.service().is_none());
        let untagged: Vec<u32> = untagged.collect();
        if let Some(name) = workload.document.label_or_tag(WORKLOAD).filter(|_| !untagged.is_empty()) {
            groups.entry((name, workload.document.label(NAMESPACE))).or_default().push((None, untagged));
        }
    }
    let labels = [false, true].map(|kubernetes| Arc::new(labels(mesh, zone, kubernetes)));
    for (name, mut tags) in groups.into_iter().filter(|(name, _)| !written.contains(name)) {
        // The maps above have no order.
        tags.sort_unstable();
        let labels = Arc::clone(&labels[usize::from(name.1.is_some())]);
        all.push(stand_in(inbounds, (name, labels), tags, (mesh, zone)));
    }
}

fn is_offered(offer: &Offer<'_>) -> bool {
    offer.inbound.state != Some(State::Ignored)
}

/// Makes the service of a tag.
fn tagged<'a>(
    inbounds: &Inbounds<'a>,
    (tag, offers): (&'a str, &[u32]),
    (mesh, zone): (&'a str, &'a str),
) -> Service<'a> {
    let whole = Destination::of_service(tag);
    let cluster = ClusterService::of(tag);
    let name = cluster.map_or((tag, None, zone), |of| (of.name, Some(of.namespace), zone));
    let mut numbers: BTreeMap<u16, Option<&str>> = BTreeMap::new();
    for offer in offers.iter().map(|at| inbounds.at(*at)).filter(|offer| is_offered(offer)) {
        numbers.entry(offer.inbound.port.0).or_insert(offer.inbound.name.as_deref());
    }
    let one = numbers.len() == 1;
    let of_service = cluster.and_then(|of| of.port);
    if let Some(port) = of_service {
        numbers.entry(port).or_insert(None);
    }
    let ports = numbers.into_iter().map(|(port, port_name)| {
        let destination = if one || of_service == Some(port) {
            whole.clone()
        } else {
            let cluster = by_port(mesh, name, ServiceKind::MeshService, port);
            Destination {
                cluster: cluster.into(),
                behind: Behind::Offered { port: Some(port) },
                ..whole.clone()
            }
        };
        ServicePort::new(port, port_name, destination, Vec::new())
    });
    let ports = ports.collect();
    let by = inbounds.at(offers[0]).document;
    let new = Service::new(ServiceKind::Tagged, tag, by, Arc::default());
    Service { ports, whole: Some(whole), ..new }
}

/// A port: its name, the tag of its inbounds, and their places.
type Port<'n> = (Option<&'n str>, Option<&'n str>, Vec<u32>);

/// Makes the MeshService that inbounds stand for.
fn stand_in<'a>(
    inbounds: &Inbounds<'a>,
    ((name, namespace), labels): (Name<'a>, Arc<Labels>),
    tags: Vec<Tagged<'a>>,
    (mesh, zone): (&'a str, &'a str),
) -> Service<'a> {
    let first = tags.iter().filter_map(|(_, offers)| offers.first()).min();
    let by = inbounds.at(first.copied().unwrap_or_default()).document;
    let mut ports: BTreeMap<u16, Port<'_>> = BTreeMap::new();
    for (tag, offers) in &tags {
        let of_service = tag.and_then(ClusterService::of).and_then(|of| of.port);
        for at in offers.iter().filter(|at| is_offered(inbounds.at(**at))) {
            let inbound = inbounds.at(*at).inbound;
            let number = of_service.unwrap_or(inbound.port.0);
            let new = || (inbound.name.as_deref(), *tag, Vec::new());
            ports.entry(number).or_insert_with(new).2.push(*at);
        }
    }
    let made = ports.into_iter().map(|(port, (port_name, tag, offers))| {
        let cluster = by_port(mesh, (name, namespace, zone), ServiceKind::MeshService, port);
        let destination = Destination::new(cluster, tag.unwrap_or(name), Behind::Port { service: 0, port });
        ServicePort::new(port, port_name, destination, offers)
    });
    let ports = made.collect();
    let new = Service::new(ServiceKind::MeshService, name, by, labels);
    Service {
        namespace,
        zone: (!zone.is_empty()).then_some(zone),
        ports,
        listed: names::is_label(name),
        tags: tags.into_iter().filter_map(|(tag, _)| tag).collect(),
        ..new
    }
}

/// Returns the labels that Kuma gives the MeshServices that it makes, but for those that the name of one says: so all share them.
fn labels(mesh: &str, zone: &str, kubernetes: bool) -> Labels {
    let (environment, manager) =
        if kubernetes { ("kubernetes", "k8s-controller") } else { ("universal", "meshservice-generator") };
    let all = [
        ("kuma.io/mesh", mesh),
        ("kuma.io/origin", "zone"),
        ("kuma.io/env", environment),
        ("kuma.io/managed-by", manager),
        (ZONE, zone),
    ];
    let all = all.into_iter().filter(|(_, value)| !value.is_empty());
    Labels(all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}
