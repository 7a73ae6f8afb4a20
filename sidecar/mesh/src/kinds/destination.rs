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

/// Labels of a service that its name says. Others stand in a MeshService, which culvert does not read yet.
const LABELS: [&str; 4] = [DISPLAY_NAME, MESH, NAMESPACE, SERVICE_NAME];

/// A policy about connections: what it says of those to destinations, and of those to inbounds.
pub trait ConnectionPolicy: FromSpec {
    /// Values of the policy for a connection.
    type Conf: Clone + Merge;

    /// Returns the entries for destinations, in the order of the document.
    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &Self::Conf)>;

    /// Returns the entries for inbounds, in the order of the document.
    fn inbound(&self) -> impl DoubleEndedIterator<Item = &Self::Conf>;

    /// Returns the fields that have no effect on a connection that is forwarded as TCP.
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
    /// Its `kuma.io/service`; of a Service of Kubernetes `NAME_NAMESPACE_svc_PORT`.
    pub service: &'a str,
    /// Returns true if an inbound behind the outbound has this name or port.
    pub has_inbound: &'a dyn Fn(&str) -> bool,
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
        match self.kind {
            ToKind::Mesh => true,
            ToKind::MeshService => {
                let cluster = ClusterService::of(called.service);
                self.names(called, cluster.as_ref(), namespace)
                    && self.section_name.as_deref().is_none_or(|section| {
                        cluster.and_then(|of| of.port) == Some(section) || (called.has_inbound)(section)
                    })
            }
            // An outbound of today is a service of the mesh.
            ToKind::MeshExternalService | ToKind::MeshMultiZoneService | ToKind::MeshHttpRoute => false,
        }
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
        if kind == ToKind::MeshService {
            check_labels(&labels, at);
        }
    }
}

/// Notes labels of a service that its name does not say.
pub(super) fn check_labels(labels: &Part<'_>, at: &mut At<'_>) {
    for (label, _) in labels.texts().filter(|(label, _)| !LABELS.contains(label)) {
        let allowed = format!("{}, which the name of a service says", LABELS.join(", "));
        labels.problem(at, label, "a label that only a MeshService has", allowed);
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
mod tests {
    use super::*;
    use crate::read::Problems;

    fn to(value: Value) -> ToRef {
        ToRef::read(&value, &mut At::root(&mut Problems::default())).unwrap()
    }

    #[test]
    fn a_destination_fits_by_name_namespace_labels_and_port() {
        let universal = "backend";
        let cluster = "backend_shop_svc_3001";
        for (target, policy, service, fits) in [
            (json!({"kind": "Mesh"}), None, universal, true),
            (json!({"kind": "MeshService", "name": "backend"}), None, universal, true),
            (json!({"kind": "MeshService", "name": "backend"}), Some("shop"), universal, true),
            (json!({"kind": "MeshService", "name": "web"}), None, universal, false),
            (json!({"kind": "MeshService", "name": "backend", "namespace": "shop"}), None, universal, false),
            (json!({"kind": "MeshService", "name": "backend_shop_svc_3001"}), None, cluster, true),
            (json!({"kind": "MeshService", "name": "backend"}), None, cluster, false),
            (json!({"kind": "MeshService", "name": "backend"}), Some("shop"), cluster, true),
            (json!({"kind": "MeshService", "name": "backend"}), Some("web"), cluster, false),
            (
                json!({"kind": "MeshService", "name": "backend", "namespace": "shop"}),
                Some("web"),
                cluster,
                true,
            ),
            (json!({"kind": "MeshService", "name": "backend", "sectionName": "http"}), None, universal, true),
            (
                json!({"kind": "MeshService", "name": "backend", "sectionName": "grpc"}),
                None,
                universal,
                false,
            ),
            (
                json!({"kind": "MeshService", "name": "backend", "namespace": "shop", "sectionName": "3001"}),
                None,
                cluster,
                true,
            ),
            (
                json!({"kind": "MeshService", "name": "backend", "namespace": "shop", "sectionName": "3002"}),
                None,
                cluster,
                false,
            ),
            (
                json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "backend"}}),
                None,
                universal,
                true,
            ),
            (
                json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "backend"}}),
                None,
                cluster,
                true,
            ),
            (
                json!({"kind": "MeshService", "labels": {"k8s.kuma.io/service-name": "backend"}}),
                None,
                cluster,
                true,
            ),
            (
                json!({"kind": "MeshService", "labels": {"k8s.kuma.io/service-name": "backend"}}),
                None,
                universal,
                false,
            ),
            (
                json!({"kind": "MeshService", "labels": {"k8s.kuma.io/namespace": "shop", "kuma.io/mesh": "default"}}),
                None,
                cluster,
                true,
            ),
            (
                json!({"kind": "MeshService", "labels": {"k8s.kuma.io/namespace": "web"}}),
                None,
                cluster,
                false,
            ),
            (json!({"kind": "MeshExternalService", "name": "backend"}), None, universal, false),
            (json!({"kind": "MeshMultiZoneService", "name": "backend"}), None, universal, false),
            (json!({"kind": "MeshHTTPRoute", "name": "backend"}), None, universal, false),
        ] {
            let has_inbound = |section: &str| section == "http";
            let called = CalledService { mesh: "default", service, has_inbound: &has_inbound };
            assert_eq!(
                to(target.clone()).fits(&called, policy),
                fits,
                "{target} of {policy:?} for {service}"
            );
        }
    }

    #[test]
    fn of_the_entries_of_even_policies_the_narrower_decides() {
        let ranks = [
            json!({"kind": "Mesh"}),
            json!({"kind": "MeshService", "name": "a"}),
            json!({"kind": "MeshService", "name": "a", "sectionName": "http"}),
        ];
        assert_eq!(ranks.map(|value| to(value).rank()), [0, 1, 2]);
    }
}
