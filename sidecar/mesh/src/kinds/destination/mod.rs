// SPDX-License-Identifier: Apache-2.0
//! `to[].targetRef` of the policies about connections, and the rules that these policies have in common.

use crate::kinds::FromSpec;
use crate::merge::Merge;
use crate::model::labels::Labels;
use crate::read::part::Part;
use crate::read::{At, Read, fields, words};
use serde_json::{Value, json};

const DISPLAY_NAME: &str = "kuma.io/display-name";
const MESH: &str = "kuma.io/mesh";
const NAMESPACE: &str = "k8s.kuma.io/namespace";
const SERVICE_NAME: &str = "k8s.kuma.io/service-name";

/// A policy about connections: what it says of those to destinations, and of those to inbounds.
pub trait ConnectionPolicy: FromSpec {
    /// Values of the policy for a connection.
    type Conf: Clone + Merge;

    /// Returns the entries for destinations, in the order of the document.
    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &Self::Conf)>;

    /// Returns the entries for inbounds, in the order of the document.
    fn inbound(&self) -> impl DoubleEndedIterator<Item = &Self::Conf>;

    /// Returns the fields that have no effect.
    fn passed_over(&self) -> Vec<&'static str>;
}

fields! {
    /// Destinations of calls: all, or one kind of service by name or labels.
    pub struct ToRef {
        /// Mesh: every destination.
        kind: required ToKind = "kind",
        /// Name of the service: of its MeshService, or kuma.io/service.
        name: optional String = "name",
        /// Namespace of the service. Default: the policy's own.
        namespace: optional String = "namespace",
        /// Services with these labels.
        labels: optional Labels = "labels",
        /// Of the service, the port with this name or number.
        section_name: optional String = "sectionName",
    }
}

words! {
    /// Kinds of destinations.
    pub enum ToKind {
        /// Every destination.
        Mesh = "Mesh",
        /// A service of the mesh.
        MeshService = "MeshService",
        /// A service outside of the mesh.
        MeshExternalService = "MeshExternalService",
        /// A service of several zones.
        MeshMultiZoneService = "MeshMultiZoneService",
        /// Requests of a route.
        MeshHttpRoute = "MeshHTTPRoute",
    }
}

impl ToKind {
    /// Returns the kind's name, as documents spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
            Self::MeshHttpRoute => "MeshHTTPRoute",
        }
    }
}

/// A service that a pod calls, as its outbound names it.
#[derive(Clone, Copy)]
pub struct CalledService<'a> {
    /// The mesh of the pod.
    pub mesh: &'a str,
    /// Its `kuma.io/service`; of a Service of Kubernetes `NAME_NAMESPACE_svc_PORT`. Of a known service its name.
    pub service: &'a str,
    /// Returns true if an inbound behind the outbound, or the port of the known service, has this name or number.
    pub has_inbound: &'a dyn Fn(&str) -> bool,
    /// The service of a document; `None` where tags name the service.
    pub known: Option<KnownService<'a>>,
}

/// A service of a document, or of Dataplanes that stand for one.
#[derive(Clone, Copy, Debug)]
pub struct KnownService<'a> {
    /// Kind of the document.
    pub kind: ToKind,
    /// Name of the document.
    pub name: &'a str,
    /// Name that the document was written with.
    pub display_name: &'a str,
    /// Namespace of the document.
    pub namespace: Option<&'a str>,
    /// Labels of the document.
    pub labels: &'a Labels,
}

impl<'a> KnownService<'a> {
    /// Returns a label of the service, also one that its name and namespace say.
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.labels.get(key).or_else(|| match key {
            DISPLAY_NAME => Some(self.display_name),
            NAMESPACE => self.namespace,
            SERVICE_NAME if self.namespace.is_some() => Some(self.display_name),
            _ => None,
        })
    }

    /// Returns the labels that its name and namespace say.
    pub fn said_by_name(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let of_cluster = self.namespace.map(|_| self.display_name);
        let all = [
            (DISPLAY_NAME, Some(self.display_name)),
            (NAMESPACE, self.namespace),
            (SERVICE_NAME, of_cluster),
        ];
        all.into_iter().filter_map(|(label, value)| Some((label, value?)))
    }

    /// Returns true if the service has each of these labels.
    pub fn has_labels(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.label(key) == Some(value.as_str()))
    }

    /// Returns true if the words name the service. `own` is the namespace of the document that has them. A service without a
    /// namespace, and one that Kuma keeps in a namespace of its own, needs none.
    fn is_named(&self, name: &str, namespace: Option<&str>, own: Option<&str>) -> bool {
        let of_system = self.kind != ToKind::MeshService && namespace.is_none();
        (self.name == name || self.display_name == name)
            && match self.namespace {
                None => namespace.is_none(),
                Some(has) => of_system || namespace.or(own) == Some(has),
            }
    }
}

/// A Service of Kubernetes, whose names have no underscores.
struct ClusterService<'a> {
    name: &'a str,
    namespace: &'a str,
    port: Option<&'a str>,
}

impl<'a> ClusterService<'a> {
    fn of(service: &'a str) -> Option<Self> {
        let parts: Vec<_> = service.split('_').collect();
        match parts[..] {
            [name, namespace, "svc"] => Some(Self { name, namespace, port: None }),
            [name, namespace, "svc", port] => Some(Self { name, namespace, port: Some(port) }),
            _ => None,
        }
    }
}

impl ToRef {
    /// Returns true if the service is among the destinations. `namespace` is the policy's own.
    pub fn fits(&self, called: &CalledService<'_>, namespace: Option<&str>) -> bool {
        if let Some(known) = &called.known {
            let whole = self.names_service(known, namespace) || self.names_by_tag(called, known);
            return self.kind == ToKind::Mesh
                || whole && self.section_name.as_deref().is_none_or(|section| (called.has_inbound)(section));
        }
        match self.kind {
            ToKind::Mesh => true,
            ToKind::MeshService => {
                let cluster = ClusterService::of(called.service);
                self.names(called, cluster.as_ref(), namespace)
                    && self.section_name.as_deref().is_none_or(|section| {
                        cluster.and_then(|of| of.port) == Some(section) || (called.has_inbound)(section)
                    })
            }
            // Tags name a service of the mesh.
            ToKind::MeshExternalService | ToKind::MeshMultiZoneService | ToKind::MeshHttpRoute => false,
        }
    }

    /// Returns true if the words name a known service, whatever port they say. `own` is the namespace of their document.
    pub fn names_service(&self, known: &KnownService<'_>, own: Option<&str>) -> bool {
        self.kind == known.kind
            && match (&self.labels, &self.name) {
                (Some(labels), _) => known.has_labels(labels),
                (None, Some(name)) => known.is_named(name, self.namespace.as_deref(), own),
                (None, None) => false,
            }
    }

    /// Returns true if the name is the `kuma.io/service` of the Dataplanes that stand for a MeshService.
    fn names_by_tag(&self, called: &CalledService<'_>, known: &KnownService<'_>) -> bool {
        let named = self.namespace.is_none() && self.name.as_deref() == Some(called.service);
        // That of a document is none.
        let by_tag = known.kind == ToKind::MeshService && known.display_name != called.service;
        named && by_tag && self.kind == known.kind
    }

    fn names(
        &self,
        called: &CalledService<'_>,
        cluster: Option<&ClusterService<'_>>,
        policy: Option<&str>,
    ) -> bool {
        if let Some(Labels(wanted)) = &self.labels {
            let has = |label: &str| match (label, cluster) {
                (MESH, _) => Some(called.mesh),
                (DISPLAY_NAME, None) => Some(called.service),
                (DISPLAY_NAME | SERVICE_NAME, Some(of)) => Some(of.name),
                (NAMESPACE, Some(of)) => Some(of.namespace),
                _ => None,
            };
            return wanted.iter().all(|(label, value)| has(label) == Some(value.as_str()));
        }
        let Some(name) = self.name.as_deref() else { return false };
        if name == called.service && self.namespace.is_none() {
            return true;
        }
        let namespace = self.namespace.as_deref().or(policy);
        cluster.is_some_and(|of| of.name == name && Some(of.namespace) == namespace)
    }

    /// Returns the place of the entry among those of even policies; the higher decides, as Kuma sorts them.
    pub fn rank(&self) -> u8 {
        match (self.kind, &self.section_name) {
            (ToKind::Mesh, _) => 0,
            (_, None) => 1,
            (_, Some(_)) => 2,
        }
    }

    /// Notes problems that several fields make together. `routes`: requests of a route are a destination too.
    pub(super) fn check(part: &Part<'_>, routes: bool, at: &mut At<'_>) {
        let Ok(Some(kind)) = part.get::<ToKind>("kind") else { return };
        let there = |field| part.has(field) == Ok(true);
        if kind == ToKind::MeshHttpRoute && !routes {
            let allowed = "Mesh, MeshService, MeshExternalService, MeshMultiZoneService";
            part.problem(at, "kind", "\"MeshHTTPRoute\"", allowed);
        }
        let sections = [ToKind::MeshService, ToKind::MeshMultiZoneService].contains(&kind);
        for (field, fits, allowed) in [
            ("name", kind != ToKind::Mesh, "the kind alone: Mesh is every destination"),
            ("namespace", kind != ToKind::Mesh, "the kind alone: Mesh is every destination"),
            ("labels", kind != ToKind::Mesh, "the kind alone: Mesh is every destination"),
            ("sectionName", sections, "a port of a MeshService or MeshMultiZoneService"),
        ] {
            if there(field) && !fits {
                part.problem(at, field, format!("it beside kind {}", kind.name()), allowed);
            }
        }
        if kind == ToKind::Mesh {
            return;
        }
        if part.has("name") == Ok(false) && part.has("labels") == Ok(false) {
            part.problem(at, "name", "nothing", "the service's name, or labels");
        }
        if there("labels") && (there("name") || there("namespace")) {
            part.problem(at, "labels", "labels beside a name or namespace", "one or the other");
        }
        let labels = part.field("labels");
        if labels.is_empty() == Some(true) {
            part.problem(at, "labels", "none", "at least one label, or the service's name");
        }
    }
}

/// Notes a policy without entries, and one whose entries do not go together, as Kuma's control plane refuses them.
pub(super) fn check_entries(part: &Part<'_>, at: &mut At<'_>) {
    let count = |list| part.items(list).map(|items| items.len());
    let (Ok(to), Ok(from), Ok(rules)) = (count("to"), count("from"), count("rules")) else { return };
    if to + from + rules == 0 {
        part.problem_here(at, "no entry", "at least one in to, from or rules");
    }
    if rules > 0 && to + from > 0 {
        part.problem_here(at, "rules beside to or from", "rules alone; the other entries in another policy");
    }
    let target = part.field("targetRef");
    if to > 0 && target.has("sectionName") == Ok(true) {
        target.problem(
            at,
            "sectionName",
            "an inbound",
            "whole pods: calls in to leave a pod, not an inbound",
        );
    }
}

/// Notes a part that has none of these fields.
pub(super) fn check_says_something(part: &Part<'_>, fields: &[&str], at: &mut At<'_>) {
    if fields.iter().all(|field| part.has(field) == Ok(false)) {
        part.problem_here(at, "none of its fields", format!("at least one of {}", fields.join(", ")));
    }
}

/// A number above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive(pub u32);

impl Read for Positive {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let number =
            value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number != 0);
        number.map(Self).or_else(|| at.wrong(value, "a number from 1 to 4294967295"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})
    }
}

#[cfg(test)]
mod tests;
