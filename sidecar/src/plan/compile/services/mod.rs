// SPDX-License-Identifier: Apache-2.0
//! All services that the mesh's documents know, with their ports and endpoints.
//!
//! | kind | made of | cluster of a port |
//! |---|---|---|
//! | [`ServiceKind::Tagged`] | `kuma.io/service` of inbounds | `SERVICE`: all its inbounds; of one among several ports as a MeshService's |
//! | [`ServiceKind::MeshService`] | MeshService; Dataplanes, where none is written | `MESH_NAME_NAMESPACE_ZONE_msvc_PORT` |
//! | [`ServiceKind::MeshMultiZoneService`] | the document, over the MeshServices | `MESH_NAME_NAMESPACE_ZONE_mzsvc_PORT` |
//! | [`ServiceKind::MeshExternalService`] | the document | `MESH_NAME_NAMESPACE_ZONE_extsvc_PORT` |
//! | [`ServiceKind::ExternalService`] | all documents with one `kuma.io/service` | `SERVICE` |
//!
//! They are collected once for a plan and looked up by maps: a mesh may have thousands.

mod chosen;
mod claims;
mod derived;
mod destination;
mod find;
mod inbounds;
mod names;
mod outside;
mod reachable;
mod written;

pub(super) use destination::Destination;
pub(super) use inbounds::Offer;

use self::inbounds::Inbounds;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::security::Names;
use crate::plan::external::ExternalEndpoint;
use crate::plan::{Member, Serve};
use culvert_mesh::document::{Document, HostAddresses, ZONE};
use culvert_mesh::kinds::destination::{KnownService, ToKind};
use culvert_mesh::model::labels::Labels;
use culvert_mesh::model::spiffe::SpiffeId;
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::Subject;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Label with the namespace of a document.
const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Kinds of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ServiceKind {
    /// The inbounds with one `kuma.io/service`.
    Tagged,
    /// Inbounds of Dataplanes that a MeshService chooses.
    MeshService,
    /// MeshServices of all zones.
    MeshMultiZoneService,
    /// Servers outside of the mesh.
    MeshExternalService,
    /// Servers outside of the mesh, in the older spelling: they have a `kuma.io/service`.
    ExternalService,
}

impl ServiceKind {
    /// Returns the kind as documents spell it; of tagged inbounds their tag.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tagged => "kuma.io/service",
            Self::MeshService => "MeshService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
            Self::MeshExternalService => "MeshExternalService",
            Self::ExternalService => "ExternalService",
        }
    }

    /// Returns the kind as references have it; `None` for a service that tags name.
    fn reference(self) -> Option<ToKind> {
        match self {
            Self::Tagged | Self::ExternalService => None,
            Self::MeshService => Some(ToKind::MeshService),
            Self::MeshMultiZoneService => Some(ToKind::MeshMultiZoneService),
            Self::MeshExternalService => Some(ToKind::MeshExternalService),
        }
    }
}

/// A service that documents know.
pub(super) struct Service<'a> {
    pub(super) kind: ServiceKind,
    /// Name of the document; of a service that tags name the `kuma.io/service`; of one that Dataplanes stand for as Kuma would
    /// name it.
    pub(super) name: &'a str,
    /// The namespace, by the document or its label.
    pub(super) namespace: Option<&'a str>,
    /// The zone, by the document's label; of one that Dataplanes stand for this pod's.
    pub(super) zone: Option<&'a str>,
    /// The document; `None` where Dataplanes stand for one.
    pub(super) document: Option<&'a Document>,
    /// The document, or the first Dataplane of those that stand for one.
    pub(super) by: &'a Document,
    /// Labels of the document; of one that Dataplanes stand for those that Kuma would give it, but for those that
    /// [`label`](Service::label) has by its name.
    pub(super) labels: Arc<Labels>,
    /// Ports in their order, no two with one number.
    pub(super) ports: Vec<ServicePort>,
    /// All ports together, of a service that tags name.
    pub(super) whole: Option<Destination>,
    /// Identities that the document says its endpoints prove; `None` = it says none.
    pub(super) ids: Option<Arc<[SpiffeId]>>,
    /// Addresses that the document's status assigns.
    pub(super) vips: Vec<IpAddr>,
    /// True if this pod's Dataplane leaves a port of the service reachable: without a cut all are.
    pub(super) reachable: bool,
    /// False for a service that can be referred to, and that Kuma would not make: its name is no name of DNS.
    listed: bool,
    /// The `kuma.io/service` of the inbounds that stand for a document, in their order.
    tags: Vec<&'a str>,
    /// Endpoints outside of the mesh, with the tags of their document if it has some.
    outside: Vec<(Option<&'a Tags>, Vec<ExternalEndpoint>)>,
}

/// A port of a service.
pub(super) struct ServicePort {
    /// Port that clients call.
    pub(super) port: u16,
    /// Name of the port.
    pub(super) name: Option<Arc<str>>,
    /// The endpoints behind it.
    pub(super) destination: Destination,
    /// True if this pod's Dataplane leaves the port reachable.
    pub(super) reachable: bool,
    /// The way to serve calls of it, where its document says the protocol.
    serve: Option<Serve>,
    /// Places of the inbounds behind it, ready or not, in [`Inbounds`].
    offers: Vec<u32>,
}

impl ServicePort {
    fn new(port: u16, name: Option<&str>, destination: Destination, mut offers: Vec<u32>) -> Self {
        offers.shrink_to_fit();
        Self { port, name: name.map(Into::into), destination, reachable: true, serve: None, offers }
    }

    /// Notes the protocol that a document says.
    fn speaks(self, protocol: Option<&str>) -> Self {
        Self { serve: protocol.map(Serve::of_protocol), ..self }
    }

    /// Returns true if `section`, a name or a number, chooses the port.
    fn is_section(&self, section: &str) -> bool {
        self.name.as_deref() == Some(section) || section.parse() == Ok(self.port)
    }
}

impl<'a> Service<'a> {
    /// Makes a service without ports.
    fn new(kind: ServiceKind, name: &'a str, by: &'a Document, labels: Arc<Labels>) -> Self {
        Self {
            kind,
            name,
            namespace: None,
            zone: None,
            document: None,
            by,
            labels,
            ports: Vec::new(),
            whole: None,
            ids: None,
            vips: Vec::new(),
            reachable: true,
            listed: true,
            tags: Vec::new(),
            outside: Vec::new(),
        }
    }

    /// Makes the service of a document, without ports.
    fn of(kind: ServiceKind, document: &'a Document) -> Self {
        Self {
            namespace: document.label(NAMESPACE),
            zone: document.label(ZONE),
            document: Some(document),
            ids: None,
            vips: document.vips().to_vec(),
            ..Self::new(kind, &document.name, document, Arc::clone(&document.labels))
        }
    }

    /// Returns the name that the service's document was written with.
    pub(super) fn display_name(&self) -> &'a str {
        self.document.map_or(self.name, |document| document.display_name())
    }

    /// Returns kind and name, for pages and errors.
    pub(super) fn place(&self) -> String {
        format!("{} {}", self.kind.name(), self.name)
    }

    /// Returns what references see of it; `None` of a service that tags name.
    fn known(&self) -> Option<KnownService<'_>> {
        let Self { name, namespace, ref labels, .. } = *self;
        let kind = self.kind.reference()?;
        Some(KnownService { kind, name, display_name: self.display_name(), namespace, labels })
    }

    /// Returns a label of the service, also one that its name and namespace say.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.known().and_then(|known| known.label(key))
    }

    /// Returns all labels of the service.
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let written = self.labels.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        written.chain(self.known().into_iter().flat_map(|known| known.said_by_name()))
    }

    fn has_labels(&self, wanted: &Labels) -> bool {
        self.known().is_some_and(|known| known.has_labels(wanted))
    }

    /// Returns the port with this name or number.
    fn port(&self, section: &str) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.is_section(section))
    }

    /// Tells the destinations of the service its place among all of them.
    fn take_place(&mut self, at: usize) {
        let ports = self.ports.iter_mut().map(|port| &mut port.destination);
        for destination in ports.chain(&mut self.whole) {
            destination.take_place(at);
        }
    }
}

/// All services of a mesh, for one pod.
pub(super) struct Services<'a> {
    mesh: &'a str,
    /// The pod's zone, empty where it is not known.
    zone: &'a str,
    inbounds: Inbounds<'a>,
    all: Vec<Service<'a>>,
    index: find::Index<'a>,
}

impl<'a> Services<'a> {
    /// Collects the services of a mesh, and reports documents that claim one service, port or address.
    pub(super) fn new(
        (ours, addresses): (&[&'a Document], &HostAddresses),
        (pod, names, members): (&Subject<'a>, &Names<'_>, &HashMap<SocketAddr, Arc<Member>>),
        mesh: &'a str,
        (warnings, errors): (&mut Vec<String>, &mut Vec<CompileError>),
    ) -> Self {
        let inbounds = Inbounds::new(ours, (pod, names), members);
        let zone = pod.zone().unwrap_or_default();
        let mut all = written::mesh_services(ours, &inbounds, (mesh, zone));
        // Without a Dataplane the pod calls no service, and a mesh may have tens of thousands.
        if pod.pod.is_some() {
            derived::add(&mut all, &inbounds, (mesh, zone));
        }
        written::add_multi_zone(&mut all, ours, mesh);
        outside::add(&mut all, (ours, addresses), mesh, (warnings, &mut *errors));
        all.sort_by(|one, other| one.order().cmp(&other.order()));
        claims::check(&all, &inbounds, errors);
        // From here on a destination names its service by the place.
        for (at, service) in all.iter_mut().enumerate() {
            service.take_place(at);
        }
        reachable::cut(&mut all, pod);
        let index = find::Index::new(&all);
        Self { mesh, zone, inbounds, all, index }
    }

    /// Returns all services, in an order that the order of files does not change.
    pub(super) fn all(&self) -> impl Iterator<Item = &Service<'a>> {
        self.all.iter().filter(|service| service.listed)
    }

    /// Returns the inbounds of all Dataplanes, in an order that the order of files does not change.
    pub(super) fn inbounds(&self) -> impl Iterator<Item = &Offer<'a>> {
        self.inbounds.all()
    }
}

impl Service<'_> {
    fn order(&self) -> (ServiceKind, &str, Option<&str>, Option<&str>, &str, &str, usize) {
        let place = &self.by.place;
        (self.kind, self.display_name(), self.namespace, self.zone, self.name, &*place.file, place.number)
    }
}

#[cfg(test)]
mod tests;
