// SPDX-License-Identifier: Apache-2.0
//! References to services → services of the Dataplanes.
//!
//! culvert has no MeshService documents yet: a service is the `kuma.io/service` of inbounds. Of Kubernetes that is
//! `NAME_NAMESPACE_svc_PORT`, which says what a MeshService would; elsewhere the port of a service is one of its inbounds, by
//! name or number.

use super::{Destination, Routes, names};
use crate::plan::compile::dataplanes;
use culvert_mesh::kinds::destination::{CalledService, ToRef};
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<'a> Routes<'a> {
    /// Returns the service that a reference names, or a part of it: the port `section`, inbounds with `tags`. `policy` is the
    /// namespace of the reference's document. A service that no Dataplane offers is one without endpoints.
    pub(super) fn resolve(
        &self,
        to: &ToRef,
        section: Option<String>,
        tags: &Tags,
        policy: Option<&str>,
    ) -> Destination {
        let fits = |service: &&str| {
            let called = CalledService { mesh: self.mesh, service, has_inbound: &|_| false };
            to.fits(&called, policy)
        };
        // In the order of their names, so that the order of files does not matter.
        let found: Vec<&str> = self.services().iter().copied().filter(fits).collect();
        let named = named(to);
        let first = found.first().copied().unwrap_or(&named);
        let with = |service: &str| {
            let mut all = tags.clone();
            all.0.insert(SERVICE.to_owned(), service.to_owned());
            all
        };
        let Some(section) = section else {
            let tags = with(first);
            return self.destination(names::by_tags(&tags).into(), tags, None);
        };
        let name =
            |service: &str| -> Arc<str> { names::by_port(self.mesh, service, &self.zone, &section).into() };
        let suffix = format!("_svc_{section}");
        if let Some(service) = found.iter().find(|service| service.ends_with(&suffix)) {
            return self.destination(name(service), with(service), None);
        }
        let offers = |service: &&&str| {
            let inbounds = dataplanes(self.ours).flat_map(|(_, dataplane)| &dataplane.networking.inbound);
            inbounds
                .filter(|inbound| inbound.tags.service() == Some(**service))
                .any(|inbound| select::is_section(inbound, &section))
        };
        let service = found.iter().find(offers).copied().unwrap_or(first);
        self.destination(name(service), with(service), Some(section.clone()))
    }

    fn services(&self) -> &BTreeSet<&'a str> {
        let collect = || {
            let inbounds = dataplanes(self.ours).flat_map(|(_, dataplane)| &dataplane.networking.inbound);
            inbounds.filter_map(|inbound| inbound.tags.service()).collect()
        };
        self.services.get_or_init(collect)
    }
}

/// Returns the words of a reference, for a service that is not found.
fn named(to: &ToRef) -> String {
    let labels = || {
        let labels = to.labels.iter().flat_map(|labels| &labels.0);
        labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    to.name.clone().unwrap_or_else(labels)
}
