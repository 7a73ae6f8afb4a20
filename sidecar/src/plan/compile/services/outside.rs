// SPDX-License-Identifier: Apache-2.0
//! Services outside of the mesh: MeshExternalServices, and the ExternalServices that share a `kuma.io/service`.

use super::destination::Behind;
use super::names::by_port;
use super::{Destination, Service, ServiceKind, ServicePort};
use crate::plan::compile::error::CompileError;
use crate::plan::compile::external;
use crate::plan::external::ExternalEndpoint;
use culvert_mesh::document::{Document, HostAddresses};
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::services::{ExternalService, MeshExternalService};
use culvert_mesh::model::tags::{SERVICE, Tags};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An ExternalService with its endpoints.
type Older<'a> = (&'a Document, &'a ExternalService, Vec<ExternalEndpoint>);

/// Adds the services outside of the mesh, and reports what is wrong with their endpoints.
pub(super) fn add<'a>(
    all: &mut Vec<Service<'a>>,
    (ours, addresses): (&[&'a Document], &HostAddresses),
    mesh: &str,
    (warnings, errors): (&mut Vec<String>, &mut Vec<CompileError>),
) {
    let mut older: BTreeMap<&'a str, Vec<Older<'a>>> = BTreeMap::new();
    for document in ours.iter().copied() {
        if !matches!(document.spec, Spec::MeshExternalService(_) | Spec::ExternalService(_)) {
            continue;
        }
        let endpoints = external::endpoints(document, addresses, (&mut *warnings, &mut *errors));
        match &document.spec {
            Spec::MeshExternalService(spec) => all.push(newer(document, spec, endpoints, mesh)),
            Spec::ExternalService(spec) => {
                older.entry(spec.service()).or_default().push((document, spec, endpoints));
            }
            _ => {}
        }
    }
    all.extend(older.into_iter().map(|(service, documents)| together(service, documents)));
}

fn newer<'a>(
    document: &'a Document,
    spec: &MeshExternalService,
    endpoints: Vec<ExternalEndpoint>,
    mesh: &str,
) -> Service<'a> {
    let mut service = Service::of(ServiceKind::MeshExternalService, document);
    let port = spec.listener.port.0;
    let name = (document.display_name(), service.namespace, service.zone.unwrap_or_default());
    let cluster = by_port(mesh, name, ServiceKind::MeshExternalService, port);
    let destination = Destination::new(cluster, name.0, Behind::Outside { service: 0, tags: None });
    service.ports.push(ServicePort::new(port, None, destination, Vec::new()));
    service.outside.push((None, endpoints));
    service
}

/// Makes the service of all ExternalServices with one `kuma.io/service`.
fn together<'a>(service: &'a str, mut documents: Vec<Older<'a>>) -> Service<'a> {
    documents
        .sort_by(|(one, ..), (other, ..)| (&one.name, &one.namespace).cmp(&(&other.name, &other.namespace)));
    let tags = Tags([(SERVICE.to_owned(), service.to_owned())].into());
    let whole =
        Destination::new(service, service, Behind::Outside { service: 0, tags: Some(Arc::new(tags)) });
    let mut ports: Vec<u16> = documents.iter().map(|(_, spec, _)| spec.networking.address.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports = ports.into_iter().map(|port| ServicePort::new(port, None, whole.clone(), Vec::new()));
    let ports = ports.collect();
    let by = documents[0].0;
    let new = Service::new(ServiceKind::ExternalService, service, by, Arc::default());
    Service {
        ports,
        whole: Some(whole),
        document: Some(by),
        outside: documents.into_iter().map(|(_, spec, endpoints)| (Some(&spec.tags), endpoints)).collect(),
        ..new
    }
}
