// SPDX-License-Identifier: Apache-2.0
//! The services that this pod's Dataplane leaves reachable.
//!
//! As in Kuma `reachableServices` is about services that tags name, and `reachableBackends` about those of documents. Where only
//! one of them is there, no service of the other sort is left.

use super::Service;
use culvert_mesh::kinds::dataplane::{ReachableBackend, ReachableKind};
use culvert_mesh::kinds::destination::{ToKind, ToRef};
use culvert_mesh::select::Subject;
use std::collections::HashSet;

/// Stands for all services.
const ALL: &str = "*";

/// Marks the services and ports that the pod cannot call.
pub(super) fn cut(all: &mut [Service<'_>], pod: &Subject<'_>) {
    let Some((document, this)) = pod.pod else { return };
    let Some(of) = &this.networking.transparent_proxying else { return };
    let services: HashSet<&str> = of.reachable_services.iter().map(String::as_str).collect();
    let backends = of
        .reachable_backends
        .as_ref()
        .map(|backends| backends.refs.iter().map(|one| (reference(one), one)).collect::<Vec<_>>());
    let every_service = services.contains(ALL) || services.is_empty() && backends.is_none();
    for service in all.iter_mut().filter(|service| service.kind.reference().is_none() && !every_service) {
        service.set_reachable(services.contains(service.name));
    }
    let Some(backends) = backends else {
        let of_documents = all.iter_mut().filter(|service| service.kind.reference().is_some());
        of_documents.filter(|_| !every_service).for_each(|service| service.set_reachable(false));
        return;
    };
    let own = document.namespace.as_deref();
    for service in all.iter_mut().filter(|service| service.kind.reference().is_some()) {
        let named: Vec<&ReachableBackend> = match service.known() {
            Some(known) => {
                let named = backends.iter().filter(|(to, _)| to.names_service(&known, own));
                named.map(|(_, one)| *one).collect()
            }
            None => continue,
        };
        for port in &mut service.ports {
            port.reachable =
                named.iter().any(|one| one.port.as_ref().is_none_or(|wanted| wanted.0 == port.port));
        }
        service.reachable = service.ports.iter().any(|port| port.reachable);
    }
}

fn reference(of: &ReachableBackend) -> ToRef {
    let kind = match of.kind {
        ReachableKind::MeshService => ToKind::MeshService,
        ReachableKind::MeshExternalService => ToKind::MeshExternalService,
        ReachableKind::MeshMultiZoneService => ToKind::MeshMultiZoneService,
    };
    ToRef {
        kind,
        name: of.name.clone(),
        namespace: of.namespace.clone(),
        labels: of.labels.clone(),
        section_name: None,
    }
}

impl Service<'_> {
    fn set_reachable(&mut self, reachable: bool) {
        self.reachable = reachable;
        for port in &mut self.ports {
            port.reachable = reachable;
        }
    }
}
