// SPDX-License-Identifier: Apache-2.0
//! `<service>.mesh`, the addresses of all services, and the hosts of ExternalServices.

use super::table::{HeldPort, HeldPorts, Holder, Named, Ports, Source, Table, field, has_tag};
use crate::net::addrs::is_loopback;
use crate::plan::compile::services::{Service, ServiceKind, Services};
use crate::plan::names::RefusedName;
use crate::plan::names::ledger::in_ranges;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::services::ExternalService;
use culvert_mesh::model::address::Host;
use culvert_mesh::model::host_name::host_name;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Domain of the services that tags name.
pub(super) const DOMAIN: &str = "mesh";

/// Adds all services and `<service>.mesh`. Returns the services with the places of their holders.
pub(super) fn add<'a>(
    table: &mut Table<'a>,
    services: &'a Services<'a>,
    workloads: &HashSet<IpAddr>,
    is_named: impl Fn(&Document) -> bool,
) -> Vec<(&'a Service<'a>, usize)> {
    let mut held = Vec::new();
    for service in services.all() {
        let is_shared = |vip: &IpAddr| workloads.contains(&vip.to_canonical());
        let (shared, fixed): (Vec<IpAddr>, Vec<IpAddr>) = service.vips.iter().copied().partition(is_shared);
        let public = fixed.iter().filter(|vip| !in_ranges(**vip) && !is_private(**vip));
        table.warnings.extend(public.map(|vip| {
            let place = &service.by.place;
            format!("{} ({place}): status.vips has {vip}, neither of a range for names nor private: calls to it go to the service", service.place())
        }));
        let (key, name) = (key(service), service.place());
        let name: Arc<str> = name.into();
        let place = table.hold(Holder {
            // One text where they are alike, as of services that tags name.
            key: if key == *name { Arc::clone(&name) } else { key.into() },
            service: name,
            document: service.by,
            fixed,
            shared,
            ports: Ports::Of(service),
        });
        if has_tag(service.kind) && is_named(service.by) {
            add_names(table, service, place);
        }
        held.push((service, place));
    }
    held
}

/// Returns true for an address that no host of the Internet has.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        // Beside those of RFC 1918 the shared ones of RFC 6598, which clusters use for Services too.
        IpAddr::V4(ip) => ip.is_private() || matches!(ip.octets(), [100, 64..=127, ..]),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Returns the key of a service's addresses: the same in every pod, and of both kinds that a tag names.
fn key(service: &Service<'_>) -> String {
    match (service.kind, service.namespace) {
        (ServiceKind::Tagged | ServiceKind::ExternalService, _) => {
            format!("kuma.io/service {}", service.name)
        }
        (_, namespace) => {
            // One of another zone is another service.
            let parts =
                [namespace.map(|name| format!(".{name}")), service.zone.map(|zone| format!(" in {zone}"))];
            service.place() + &parts.into_iter().flatten().collect::<String>()
        }
    }
}

/// Adds the name of a service, and its spelling with dots.
fn add_names<'a>(table: &mut Table<'a>, service: &Service<'a>, holder: usize) {
    let document = service.by;
    let by: Arc<str> = format!("{} {}", document.kind().name(), document.name).into();
    let plain = format!("{}.{DOMAIN}", service.name);
    let Some(host) = host_name(&plain) else {
        let why = format!("{by}: kuma.io/service {:?} makes no name of DNS", service.name);
        table.refused.push(RefusedName { host: plain.into(), why: why.into() });
        return;
    };
    let dotted = host_name(&plain.replace('_', ".")).filter(|dotted| *dotted != host);
    for host in std::iter::once(host).chain(dotted) {
        let claim = Named { holder, by: Arc::clone(&by), document: Some(document), source: Source::Service };
        table.claim(host, claim, "kuma.io/service");
    }
}

/// Adds the hosts of ExternalServices: as in Kuma, a call to the host itself goes the way of the service. One by address
/// needs no name.
pub(super) fn add_hosts<'a>(table: &mut Table<'a>, services: &Services<'a>, ours: &[&'a Document]) {
    let mut documents: Vec<(&Document, &ExternalService)> = ours
        .iter()
        .filter_map(|document| match &document.spec {
            Spec::ExternalService(external) => Some((*document, external)),
            _ => None,
        })
        .collect();
    if documents.is_empty() {
        return;
    }
    // Of two with one host and port the first by name has it, as in Kuma.
    documents.sort_by_key(|(document, _)| &document.name);
    let external = services.all().filter(|service| service.kind == ServiceKind::ExternalService);
    let by_name: HashMap<&str, &Service<'a>> = external.map(|service| (service.name, service)).collect();
    for (document, external) in documents {
        let networking = &external.networking;
        let address = &networking.address;
        // Calls to loopback are never redirected, and a port there is an application's.
        if is_loopback(address.host.ip()) {
            continue;
        }
        let Some(service) = by_name.get(external.service()) else { continue };
        let Some(port) = service.ports.iter().find(|port| port.port == address.port) else { continue };
        let mut ports = HeldPorts::default();
        ports.add(port.port, || HeldPort {
            name: port.name.clone(),
            to: port.destination.clone(),
            by: (document, field(service.kind)),
            reachable: port.reachable,
        });
        let place = table.hold(Holder {
            key: format!("host {}", address.host).into(),
            service: service.place().into(),
            document,
            fixed: Vec::new(),
            shared: match address.host {
                Host::Ip(ip) => vec![ip],
                Host::Name(_) => Vec::new(),
            },
            ports: Ports::Own(ports),
        });
        let name = address.host.name().filter(|_| !networking.disable_host_dns_entry).and_then(host_name);
        if let Some(host) = name {
            let by = format!("ExternalService {}", document.name).into();
            let claim = Named { holder: place, by, document: Some(document), source: Source::Service };
            table.claim(host, claim, "networking.address");
        }
    }
}
