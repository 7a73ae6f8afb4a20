// SPDX-License-Identifier: Apache-2.0
//! Documents that claim one service: chance would decide which of them holds.

use super::inbounds::Inbounds;
use super::{Service, ServiceKind};
use crate::plan::compile::error::CompileError;

/// Reports claims of one service by two documents. `all` are in their order.
pub(super) fn check(all: &[Service<'_>], inbounds: &Inbounds<'_>, errors: &mut Vec<CompileError>) {
    for pair in all.windows(2) {
        errors.extend(same(&pair[0], &pair[1]));
    }
    for service in all.iter().filter(|service| service.kind == ServiceKind::ExternalService) {
        errors.extend(inside(service, inbounds));
    }
}

fn key<'a>(of: &Service<'a>) -> (ServiceKind, &'a str, Option<&'a str>, Option<&'a str>) {
    (of.kind, of.display_name(), of.namespace, of.zone)
}

/// Reports two documents whose services policies and clusters could not tell apart.
fn same(one: &Service<'_>, other: &Service<'_>) -> Option<CompileError> {
    let (first, document) = one.document.zip(other.document)?;
    // Two of one name are reported with all other kinds.
    let reported = (&first.name, &first.namespace) == (&document.name, &document.namespace);
    (key(one) == key(other) && !reported).then(|| {
        let found = format!("the service {} of {} ({})", document.display_name(), one.place(), first.place);
        let allowed = "one document of a kind, display name, namespace and zone";
        document.error(document.name_field, found, allowed).into()
    })
}

/// Reports a service outside of the mesh that Dataplanes offer too.
fn inside(service: &Service<'_>, inbounds: &Inbounds<'_>) -> Option<CompileError> {
    let first = inbounds.of_service(service.name).first()?;
    let (document, dataplane) = (service.document?, inbounds.at(*first).document);
    let found = format!("{}, which Dataplane {} ({}) offers", service.name, dataplane.name, dataplane.place);
    Some(document.error("tags", found, "a kuma.io/service that no Dataplane has").into())
}
