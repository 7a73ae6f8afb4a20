// SPDX-License-Identifier: Apache-2.0
//! Names of services by HostnameGenerators, and those that a control plane wrote into their status.
//!
//! Kuma's control planes make some generators by themselves. They are built in here, unless a document of that name is there.
//! They are about services that are written: a control plane that makes MeshServices of Dataplanes, and so gives them these
//! names, writes them down, and one that does not gives none.

use super::table::{Named, Source, Table};
use super::template::{Ask, Fault, Template};
use crate::plan::compile::services::{Service, ServiceKind};
use crate::plan::names::RefusedName;
use culvert_mesh::document::{Document, ZONE};
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::services::{Generates, HostnameGenerator};
use culvert_mesh::model::host_name::host_name;
use culvert_mesh::model::labels::Labels;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Label with the place where a document was written: the zone or the global control plane.
const ORIGIN: &str = "kuma.io/origin";
const ENV: &str = "kuma.io/env";
const MESH: &str = "kuma.io/mesh";
const DISPLAY_NAME: &str = "kuma.io/display-name";
const NAMESPACE: &str = "k8s.kuma.io/namespace";
const HEADLESS: &str = "k8s.kuma.io/is-headless-service";

/// Fields of a service that a template may ask for.
const FIELDS: [&str; 5] = ["Name", "DisplayName", "Namespace", "Mesh", "Zone"];

/// Names of DNS, for errors.
pub(super) const LEGAL: &str = "a name of DNS: at most 253 bytes, of parts of 1 to 63 letters, digits, '-' and '_', none of which begins with '-'";

/// A row of [`BUILT_IN`]: name, kind of services, their labels, template.
type BuiltIn = (&'static str, ServiceKind, &'static [(&'static str, &'static str)], &'static str);

/// The generators that a control plane of Kuma 2.14 makes in a zone, and those that a global one hands on.
const BUILT_IN: [BuiltIn; 7] = [
    (
        "local-universal-mesh-service",
        ServiceKind::MeshService,
        // Kuma makes it in zones of that environment alone, in which all services of the zone are of it.
        &[(ORIGIN, "zone"), (ENV, "universal")],
        "{{ .DisplayName }}.svc.mesh.local",
    ),
    (
        "local-mesh-external-service",
        ServiceKind::MeshExternalService,
        &[(ORIGIN, "zone")],
        "{{ .DisplayName }}.extsvc.mesh.local",
    ),
    (
        "synced-kube-mesh-service",
        ServiceKind::MeshService,
        &[(ORIGIN, "global"), (ENV, "kubernetes"), (HEADLESS, "false")],
        "{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
    ),
    (
        "synced-headless-kube-mesh-service",
        ServiceKind::MeshService,
        &[(ORIGIN, "global"), (ENV, "kubernetes"), (HEADLESS, "true")],
        "{{ label \"statefulset.kubernetes.io/pod-name\" }}.{{ label \"k8s.kuma.io/service-name\" }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
    ),
    (
        "synced-universal-mesh-service",
        ServiceKind::MeshService,
        &[(ORIGIN, "global"), (ENV, "universal")],
        "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local",
    ),
    (
        "synced-mesh-external-service",
        ServiceKind::MeshExternalService,
        &[(ORIGIN, "global")],
        "{{ .DisplayName }}.extsvc.{{ .Zone }}.mesh.local",
    ),
    (
        "synced-mesh-multi-zone-service",
        ServiceKind::MeshMultiZoneService,
        &[(ORIGIN, "global")],
        "{{ .DisplayName }}.mzsvc.mesh.local",
    ),
];

/// A generator whose template was parsed.
struct Generator<'a> {
    by: Arc<str>,
    /// `None` of one that is built in.
    document: Option<&'a Document>,
    kind: ServiceKind,
    labels: Vec<(&'a str, &'a str)>,
    template: Template,
}

/// A service with the place of its holder.
type Held<'s, 'a> = (&'s Service<'a>, usize);

/// Adds the names of services, by status and by generators.
pub(super) fn add<'a>(
    table: &mut Table<'a>,
    all: &[Held<'_, 'a>],
    ours: &[&'a Document],
    pod: (&str, Option<&str>),
) {
    for (service, holder) in all {
        add_status(table, service, *holder);
    }
    for generator in generators(table, ours) {
        let is_built_in = generator.document.is_none();
        let is_about = |service: &Service<'_>| {
            service.kind == generator.kind && !(is_built_in && service.document.is_none())
        };
        for (service, holder) in all.iter().filter(|(service, _)| is_about(service)) {
            let has = |(key, value): &(&str, &str)| label(service, pod, key) == Some(*value);
            if generator.labels.iter().all(has) {
                add_generated(table, &generator, (service, *holder), pod);
            }
        }
    }
}

/// Returns the ends of the names that generators make, of services that are not known yet too.
pub(super) fn ends(ours: &[&Document]) -> BTreeSet<Box<str>> {
    // What is wrong with them is told where they are used.
    let all = generators(&mut Table::default(), ours);
    all.iter().filter_map(|one| one.template.end()).map(|end| end.to_ascii_lowercase().into()).collect()
}

/// Adds the names that a control plane chose.
fn add_status<'a>(table: &mut Table<'a>, service: &Service<'a>, holder: usize) {
    let Some(document) = service.document else { return };
    let Some(status) = &document.status else { return };
    for address in &status.addresses {
        let by = match &address.generator {
            Some(name) => format!("HostnameGenerator {name}"),
            None => service.place(),
        };
        let source = Source::Generated(service.kind);
        let claim = Named { holder, by: by.into(), document: Some(document), source };
        table.claim(address.hostname.clone(), claim, "status.addresses");
    }
}

/// Returns all generators in the order in which Kuma asks them, as far as it is known: it has their time of creation too.
fn generators<'a>(table: &mut Table<'a>, ours: &[&'a Document]) -> Vec<Generator<'a>> {
    let mut written: Vec<(&Document, &HostnameGenerator)> = ours
        .iter()
        .filter_map(|document| match &document.spec {
            Spec::HostnameGenerator(generator) => Some((*document, generator)),
            _ => None,
        })
        .collect();
    written.sort_by_key(|(document, _)| (document.label(ORIGIN) != Some("zone"), &document.name));
    let there: Vec<&str> = written.iter().map(|(document, _)| document.display_name()).collect();
    let mut all = Vec::new();
    for (document, generator) in written.iter().copied() {
        let Some((kind, labels)) = generator.selected().map(selection) else { continue };
        match parsed(&generator.template) {
            Ok(template) => all.push(Generator {
                by: format!("HostnameGenerator {}", document.name).into(),
                document: Some(document),
                kind,
                labels: labels.0.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
                template,
            }),
            Err(Fault { found, allowed }) => {
                table.errors.push(document.error("spec.template", found, allowed).into());
            }
        }
    }
    for (name, kind, labels, template) in BUILT_IN.iter().filter(|(name, ..)| !there.contains(name)) {
        // A test parses them all.
        let Ok(template) = parsed(template) else { continue };
        let by = format!("HostnameGenerator {name}, which is built in").into();
        all.push(Generator { by, document: None, kind: *kind, labels: labels.to_vec(), template });
    }
    all
}

fn selection(generates: Generates<'_>) -> (ServiceKind, &Labels) {
    match generates {
        Generates::MeshService(labels) => (ServiceKind::MeshService, labels),
        Generates::MeshExternalService(labels) => (ServiceKind::MeshExternalService, labels),
        Generates::MeshMultiZoneService(labels) => (ServiceKind::MeshMultiZoneService, labels),
    }
}

fn parsed(text: &str) -> Result<Template, Fault> {
    let template = Template::parse(text)?;
    let is_unknown = |ask: &&Ask| matches!(ask, Ask::Field(name) if !FIELDS.contains(&name.as_str()));
    let unknown = template.asks().find(is_unknown).map(ToString::to_string);
    match unknown {
        Some(found) => {
            Err(Fault { found, allowed: format!("the fields .{}, and labels", FIELDS.join(", .")) })
        }
        None => Ok(template),
    }
}

fn add_generated<'a>(
    table: &mut Table<'a>,
    generator: &Generator<'a>,
    (service, holder): Held<'_, 'a>,
    pod: (&str, Option<&str>),
) {
    let value = |ask: &Ask| match ask {
        Ask::Field(name) => field(service, pod, name),
        Ask::Label(key) => label(service, pod, key),
    };
    let text = match generator.template.render(value) {
        Ok(text) => text,
        Err(missing) if generator.document.is_some() => {
            let why = format!("{}: {} has nothing for {}", generator.by, service.place(), missing.first);
            table.refused.push(RefusedName { host: missing.text.into(), why: why.into() });
            return;
        }
        Err(_) => return,
    };
    let Some(host) = host_name(&text) else {
        let place = &service.by.place;
        let found = format!("{text:?} for {} ({place})", service.place());
        let error = generator.document.map(|document| document.error("spec.template", found, LEGAL).into());
        table.errors.extend(error);
        return;
    };
    let source = match generator.document {
        Some(_) => Source::Generated(service.kind),
        None => Source::BuiltIn,
    };
    let claim = Named { holder, by: Arc::clone(&generator.by), document: generator.document, source };
    table.claim(host, claim, "spec.template");
}

/// Returns a field of a service, empty where it has none, as in Kuma.
fn field<'s>(service: &'s Service<'_>, pod: (&'s str, Option<&'s str>), name: &str) -> Option<&'s str> {
    match name {
        "Name" => Some(service.name),
        "DisplayName" => Some(service.display_name()),
        "Mesh" => Some(pod.0),
        "Namespace" => Some(label(service, pod, NAMESPACE).unwrap_or_default()),
        "Zone" => Some(label(service, pod, ZONE).or(pod.1).unwrap_or_default()),
        _ => None,
    }
}

/// Returns a label of a service. Those that a control plane would give a document that was written in this zone are there
/// too; a MeshMultiZoneService is written at the global one.
fn label<'s>(
    service: &'s Service<'_>,
    (mesh, zone): (&'s str, Option<&'s str>),
    key: &str,
) -> Option<&'s str> {
    let has_namespace = service.namespace.is_some();
    // What another zone wrote came by way of the global control plane, also where that one's own documents are read.
    if key == ORIGIN && service.zone.zip(zone).is_some_and(|(of, own)| of != own) {
        return Some("global");
    }
    service.label(key).or_else(|| match key {
        ORIGIN if service.kind == ServiceKind::MeshMultiZoneService => Some("global"),
        ORIGIN => Some("zone"),
        ENV => Some(if has_namespace { "kubernetes" } else { "universal" }),
        HEADLESS if service.kind == ServiceKind::MeshService => Some("false"),
        MESH => Some(mesh),
        DISPLAY_NAME => Some(service.display_name()),
        NAMESPACE => service.namespace,
        ZONE => service.zone.or(zone),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_generators_can_be_read() {
        for (name, .., template) in BUILT_IN {
            assert!(parsed(template).is_ok(), "{name}");
        }
        let fault = parsed("{{ .Named }}.mesh").unwrap_err();
        assert_eq!(fault.found, "{{ .Named }}");
        assert!(fault.allowed.contains(".DisplayName"), "{}", fault.allowed);
    }
}
