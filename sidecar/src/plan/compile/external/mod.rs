// SPDX-License-Identifier: Apache-2.0
//! Documents of services outside of the mesh → their endpoints.

mod tls;

use crate::plan::balance::{Localities, Locality};
use crate::plan::compile::CompileError;
use crate::plan::compile::external::tls::Settings;
use crate::plan::external::{ExternalEndpoint, ExternalHost, stand_in};
use culvert_mesh::document::{Document, HostAddresses};
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::services::{
    EndpointAddress, ExternalProtocol, ExternalService, MeshExternalService,
};
use culvert_mesh::model::address::Host;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// Tag with the protocol of a service.
const PROTOCOL: &str = "kuma.io/protocol";

/// Returns the endpoints of a MeshExternalService or ExternalService, by address and without a name that has none yet;
/// none for a document of another kind. All documents of an ExternalService together make the endpoints of its cluster,
/// [`crate::plan::Discovery::External`]; a policy arranges them with the cluster's numbers.
///
/// To be called once for each document, called by the pod or not, as its errors are those of the documents.
/// `addresses` are those of [`culvert_mesh::document::Found`].
pub(super) fn endpoints(
    document: &Document,
    addresses: &HostAddresses,
    (warnings, errors): (&mut Vec<String>, &mut Vec<CompileError>),
) -> Vec<ExternalEndpoint> {
    let mut making = Making {
        document,
        name: format!("{} {}", document.kind().name(), document.name).into(),
        addresses,
        warnings,
        errors,
    };
    match &document.spec {
        Spec::MeshExternalService(service) => making.mesh_external_service(service),
        Spec::ExternalService(service) => making.external_service(service),
        _ => Vec::new(),
    }
}

/// A server of a document.
struct Server<'d> {
    /// The host, with its port; else a Unix socket.
    at: Result<(&'d Host, u16), &'d Path>,
    priority: u32,
    /// Field with its address.
    path: String,
}

/// The endpoints of one document.
struct Making<'d> {
    document: &'d Document,
    name: Arc<str>,
    addresses: &'d HostAddresses,
    warnings: &'d mut Vec<String>,
    errors: &'d mut Vec<CompileError>,
}

impl Making<'_> {
    fn mesh_external_service(&mut self, service: &MeshExternalService) -> Vec<ExternalEndpoint> {
        let tls = service.tls.as_ref().filter(|tls| tls.enabled);
        let settings = tls.map(|tls| Settings::of(tls, self.document, self.errors));
        let servers = service.endpoints.iter().enumerate().filter_map(|(index, endpoint)| {
            let at = match (&endpoint.address, endpoint.port) {
                (EndpointAddress::Host(host), Some(port)) => Ok((host, port.0)),
                (EndpointAddress::Unix(path), _) => Err(path.as_path()),
                // The reader has an error for it.
                (EndpointAddress::Host(_), None) => return None,
            };
            let path = format!("spec.endpoints[{index}].address");
            Some(Server { at, priority: endpoint.priority.unwrap_or_default(), path })
        });
        self.all(&servers.collect::<Vec<_>>(), settings.as_ref())
    }

    fn external_service(&mut self, service: &ExternalService) -> Vec<ExternalEndpoint> {
        let tls = service.networking.tls.as_ref().filter(|tls| tls.enabled);
        let settings = tls.map(|tls| Settings::of_older(tls, self.document, self.errors));
        let address = &service.networking.address;
        let at = Ok((&address.host, address.port));
        self.all(&[Server { at, priority: 0, path: "networking.address".into() }], settings.as_ref())
    }

    fn all(&mut self, servers: &[Server<'_>], settings: Option<&Settings>) -> Vec<ExternalEndpoint> {
        // Kuma asks all servers of a document for the name of the first.
        let first = servers.iter().find_map(|server| server.at.ok()?.0.name());
        servers.iter().flat_map(|server| self.one(server, first, settings)).collect()
    }

    fn one(
        &mut self,
        server: &Server<'_>,
        first: Option<&str>,
        settings: Option<&Settings>,
    ) -> Vec<ExternalEndpoint> {
        let Server { at, priority, ref path } = *server;
        let (addresses, host) = match at {
            Err(socket) => (vec![stand_in(socket)], ExternalHost::Socket(socket.into())),
            Ok((Host::Ip(ip), port)) => (vec![SocketAddr::new(*ip, port)], ExternalHost::Address),
            Ok((Host::Name(name), port)) => {
                let found = self.addresses.get(name).map(Vec::as_slice);
                if found.is_some_and(<[_]>::is_empty) {
                    self.warnings.push(format!(
                        "{}: {path} is {name:?}, which has no address yet: nothing is sent there until it has",
                        self.name
                    ));
                }
                let found = found.unwrap_or_default().iter().map(|ip| SocketAddr::new(*ip, port));
                (found.collect(), ExternalHost::Name(Arc::from(&**name)))
            }
        };
        let Self { document, name, errors, .. } = self;
        let named = match settings.map(|settings| settings.server_name(&host, first)).transpose() {
            Ok(named) => named.flatten(),
            Err(why) => {
                errors.push(document.error(path, why.found, why.allowed).into());
                return Vec::new();
            }
        };
        // All addresses of a name have one, as resumed sessions do.
        let shared = settings.zip(named).map(|(settings, named)| Arc::new(settings.with_name(named)));
        let of_address = |ip: IpAddr| {
            settings.map(|settings| Arc::new(settings.with_name(ServerName::IpAddress(ip.into()))))
        };
        let endpoint = |address: SocketAddr| ExternalEndpoint {
            address,
            host: host.clone(),
            tls: shared.clone().or_else(|| of_address(address.ip())),
            priority,
            document: Arc::clone(name),
        };
        addresses.into_iter().map(endpoint).collect()
    }
}

/// Sorts the endpoints of a cluster by priority, and leaves out a second one of an address. Returns the groups where there are
/// several priorities.
pub(super) fn arranged(mut endpoints: Vec<ExternalEndpoint>) -> (Vec<ExternalEndpoint>, Option<Localities>) {
    // The order of files must not matter.
    endpoints.sort_by(|one, other| {
        let key = |of: &ExternalEndpoint| (of.address, of.priority, Arc::clone(&of.document));
        key(one).cmp(&key(other))
    });
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    endpoints.sort_by_key(|endpoint| endpoint.priority);
    let mut all: Vec<Locality> = Vec::new();
    for endpoint in &endpoints {
        let priority = endpoint.priority;
        match all.last_mut() {
            Some(locality) if locality.priority == priority => locality.endpoints += 1,
            _ => all.push(Locality {
                zone: None,
                // Kuma's name for it.
                sub_zone: Some(format!("priority-{priority}").into()),
                priority,
                weight: None,
                endpoints: 1,
            }),
        }
    }
    let localities = (all.len() > 1).then_some(Localities { all, threshold: None });
    (endpoints, localities)
}

/// Returns notes about all services outside of the mesh, one of each sort.
pub(super) fn notes(documents: &[&Document]) -> Vec<String> {
    let about = |fits: &dyn Fn(&Document) -> bool, words: &str| {
        let mut all = documents.iter().filter(|document| fits(document));
        let first = all.next()?;
        let (kind, name) = (first.kind().name(), &first.name);
        Some(match all.count() {
            0 => format!("{kind} {name}: {words}"),
            more => format!("{kind} {name} and {more} more: {words}"),
        })
    };
    let http = about(
        &speaks_http,
        "HTTP and gRPC are forwarded as TCP: the Host of a request stays as its caller wrote it",
    );
    let unverified =
        about(&is_unverified, "tls has no caCert: as in Kuma, the server's certificate is not verified");
    http.into_iter().chain(unverified).collect()
}

fn speaks_http(document: &Document) -> bool {
    match &document.spec {
        Spec::MeshExternalService(service) => {
            service.listener.protocol.is_some_and(|protocol| protocol != ExternalProtocol::Tcp)
        }
        Spec::ExternalService(service) => {
            let protocol = service.tags.0.get(PROTOCOL).map(String::as_str);
            matches!(protocol, Some("http" | "http2" | "grpc"))
        }
        _ => false,
    }
}

fn is_unverified(document: &Document) -> bool {
    let Spec::ExternalService(service) = &document.spec else { return false };
    service.networking.tls.as_ref().is_some_and(|tls| tls.enabled && tls.ca_cert.is_none())
}

#[cfg(test)]
mod tests;
