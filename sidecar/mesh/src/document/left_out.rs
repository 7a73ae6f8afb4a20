// SPDX-License-Identifier: Apache-2.0
//! Kinds and fields that are not about this pod's connections. They pass, are counted, and make one warning each.

use crate::document::Place;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Kinds of Kuma and Kong Mesh that no sidecar acts on, each with its purpose. Ignoring one opens nothing and closes
/// nothing here. Of Kubernetes' own kinds only Secret is among them: Kuma keeps its keys and tokens so, and `kubectl get`
/// lists them. A ConfigMap stays an error, as its data may be documents that the user believes to be in force.
const KINDS: [(&str, &str); 25] = [
    ("AccessAudit", "the control plane's record of what its users did"),
    ("AccessRole", "rights of the control plane's users"),
    ("AccessRoleBinding", "rights of the control plane's users"),
    ("Config", "settings of the control plane"),
    ("ContainerPatch", "changes of the containers that Kuma's injector adds to pods"),
    ("DataplaneInsight", "state of a proxy, as the control plane saw it"),
    ("GlobalSecret", "keys and tokens of the control plane; identities come from --identity"),
    ("MeshGateway", "listeners of Kuma's built-in gateways, which are proxies of their own"),
    ("MeshGatewayConfig", "settings of Kuma's built-in gateways"),
    ("MeshGatewayInstance", "pods of Kuma's built-in gateways"),
    ("MeshGatewayRoute", "routes of Kuma's built-in gateways"),
    ("MeshInsight", "state of the mesh, as the control plane saw it"),
    ("MeshOpenTelemetryBackend", "a collector that policies may name; those that do are errors"),
    ("MeshTrace", "spans of HTTP requests; culvert makes no spans"),
    ("MeshZoneAddress", "address of a zone's ingress; services of other zones are not reached by it here"),
    ("Secret", "keys and tokens of the control plane; identities come from --identity"),
    ("ServiceInsight", "state of a service, as the control plane saw it"),
    ("TrafficTrace", "spans of HTTP requests; culvert makes no spans"),
    ("Workload", "a group of Dataplanes, for the control plane's pages and metrics"),
    ("Zone", "a zone, as the global control plane knows it"),
    ("ZoneEgress", "a proxy of its own at the edge of a zone; no connection goes by way of it here"),
    ("ZoneEgressInsight", "state of a zone's egress, as the control plane saw it"),
    (
        "ZoneIngress",
        "a proxy of its own at the edge of a zone; services of other zones are not reached by it here",
    ),
    ("ZoneIngressInsight", "state of a zone's ingress, as the control plane saw it"),
    ("ZoneInsight", "state of a zone, as the control plane saw it"),
];

/// Returns the name and purpose of a kind that is left out.
pub(super) fn kind(name: &str) -> Option<(&'static str, &'static str)> {
    KINDS.into_iter().find(|(known, _)| *known == name)
}

/// Returns the way to do in culvert what a kind does that culvert does not have.
pub(super) fn hint(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "ConfigMap" => "a ConfigMap is mounted, and --resources names the folder",
        "MeshOPA" | "OPAPolicy" => {
            "a decision of OPA would refuse callers, so leaving it out would let them in; who may call is what a \
             MeshTrafficPermission says"
        }
        "MeshGlobalRateLimit" | "MeshHTTPRoute" => {
            "this kind would change what the pod does, and is not built yet"
        }
        _ => return None,
    })
}

/// Documents and fields that were read and have no effect here, each kind and each field once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(BTreeMap<Heading, Count>);

/// A kind, or a field of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heading {
    kind: &'static str,
    /// Empty for whole documents.
    field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Count {
    documents: usize,
    first: Place,
    about: &'static str,
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOutCount {
    /// Documents that have no effect as a whole.
    pub documents: usize,
    /// Fields of other documents that have no effect; a field of two documents counts twice.
    pub fields: usize,
}

impl LeftOut {
    /// Counts a document, or with `field` one of its fields.
    pub(super) fn add(&mut self, kind: &'static str, field: &str, about: &'static str, place: &Place) {
        let heading = Heading { kind, field: field.into() };
        let new = Count { documents: 0, first: place.clone(), about };
        self.0.entry(heading).or_insert(new).documents += 1;
    }

    /// Adds what was found behind it.
    pub(crate) fn append(&mut self, other: &mut Self) {
        for (heading, count) in std::mem::take(&mut other.0) {
            match self.0.entry(heading) {
                Entry::Vacant(place) => {
                    place.insert(count);
                }
                Entry::Occupied(mut there) => there.get_mut().documents += count.documents,
            }
        }
    }

    /// Returns a line for each kind and each field.
    pub fn warnings(&self) -> Vec<String> {
        let line = |(Heading { kind, field }, Count { documents, first, about }): (&Heading, &Count)| {
            let s = if *documents == 1 { "" } else { "s" };
            if field.is_empty() {
                format!("left out: {documents} {kind} document{s} ({about}); the first is {first}")
            } else {
                format!(
                    "without effect here: {field} of {documents} {kind} document{s} ({about}); the first is {first}"
                )
            }
        };
        self.0.iter().map(line).collect()
    }

    /// Returns the numbers of documents and fields.
    pub fn count(&self) -> LeftOutCount {
        let mut count = LeftOutCount::default();
        for (heading, found) in &self.0 {
            match heading.field.is_empty() {
                true => count.documents += found.documents,
                false => count.fields += found.documents,
            }
        }
        count
    }
}
