// SPDX-License-Identifier: Apache-2.0
//! The mesh as a picture: workloads, and connections between them. Pure; also the shape of `/mesh.json`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use culvert_mesh::kinds::Kind;
use serde::Serialize;

use super::part::{Whole, id};
use crate::controller::traffic::{Amount, COVERS, Ends, Node, Totals, workload};
use crate::controller::world::{Life, Of, World};

/// Most invalid documents that are named. The condition `Accepted` of each says more.
const MAX_INVALID: usize = 50;
/// Characters of an invalid document's words.
const MAX_WORDS: usize = 400;

/// The mesh as the replicas know it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Picture {
    /// Name of the replica that says it.
    pub replica: String,
    pub replicas: Replicas,
    /// Time of the picture, RFC 3339.
    pub time: String,
    /// Seconds that connections are shown for.
    pub window_seconds: u64,
    pub sidecars: Sidecars,
    /// Namespaces that have a workload or a Service here, before any filter.
    pub namespaces: BTreeSet<String>,
    pub nodes: Vec<NodeView>,
    pub edges: Vec<EdgeView>,
    /// Connections that had no place in reports.
    pub left_out: u64,
    pub invalid_documents: Vec<Invalid>,
}

/// Replicas whose parts are in the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Replicas {
    /// Those that answered, the one that says it included.
    pub answered: usize,
    /// All of them.
    pub known: usize,
    pub silent: Vec<Silent>,
}

/// A replica whose part is not in the picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Silent {
    /// Name of its pod, or its address.
    pub replica: String,
    pub problem: String,
}

/// Sidecars of living pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sidecars {
    /// Those that have a stream to a replica that answered, and report to it.
    pub heard: usize,
    /// All of the cluster.
    pub known: usize,
}

/// Kind of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sort {
    #[default]
    Workload,
    /// A Service whose pods are not those of one workload.
    Service,
    Outside,
}

/// A node of the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct NodeView {
    pub id: String,
    pub kind: Sort,
    pub namespace: String,
    pub name: String,
    /// Living pods, those with a sidecar, and those whose sidecar a replica hears.
    pub pods: usize,
    pub sidecars: usize,
    pub heard: usize,
}

/// Protection of an edge's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Security {
    /// All went through mesh TLS.
    Tls,
    /// Some did.
    Mixed,
    /// None did.
    Plain,
    /// None has ended well yet.
    Unknown,
}

/// An edge of the picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct EdgeView {
    /// Ids of its nodes.
    pub client: String,
    pub server: String,
    /// Connections that ended, and those a second.
    pub connections: u64,
    pub per_second: f64,
    pub failed: u64,
    pub tls: u64,
    pub security: Security,
    pub bytes: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Seconds since the last report about it.
    pub age: u64,
}

/// A mesh document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Invalid {
    /// KIND/NAME, or KIND/NAMESPACE/NAME.
    pub document: String,
    pub errors: String,
}

impl EdgeView {
    fn of(Ends { client, server }: &Ends, totals: &Totals) -> Self {
        let (Amount { counts, open }, seconds, age) = (totals.told, totals.seconds, totals.age);
        let well = counts.ended - counts.failed.min(counts.ended);
        let security = match counts.tls {
            0 if well == 0 => Security::Unknown,
            0 => Security::Plain,
            tls if tls >= well => Security::Tls,
            _ => Security::Mixed,
        };
        Self {
            client: id(client),
            server: id(server),
            connections: counts.ended,
            // Three digits are what a person reads, and keep the answer short.
            per_second: (counts.ended as f64 / seconds.max(1) as f64 * 1000.0).round() / 1000.0,
            failed: counts.failed,
            tls: counts.tls,
            security,
            bytes: counts.bytes,
            open,
            age,
        }
    }
}

impl Picture {
    /// Draws together what is known here, and what the replicas hear.
    pub(super) fn of(world: &World, whole: &Whole) -> Self {
        let mut nodes = Nodes::default();
        let mut known = 0;
        let onboarded = world.onboarded_namespaces();
        for key in world.keys(Of::Pods) {
            let Some(pod) = world.pod(&key).filter(|pod| pod.life == Life::Living) else { continue };
            let has = pod.is_onboarded();
            known += usize::from(has);
            let node = nodes.of(&Node::Workload(workload(pod)));
            node.pods += 1;
            node.sidecars += usize::from(has);
        }
        for Ends { client, server } in whole.edges.keys() {
            nodes.of(client);
            nodes.of(server);
        }
        for (node, heard) in &whole.heard {
            if let Some(view) = nodes.0.get_mut(&id(node)) {
                // A sidecar on its way from one replica to another one may have a stream to both.
                view.heard = (*heard).min(view.sidecars);
            }
        }
        let mut edges: Vec<EdgeView> =
            whole.edges.iter().map(|(ends, totals)| EdgeView::of(ends, totals)).collect();
        edges.sort_by(|one, other| (&one.client, &one.server).cmp(&(&other.client, &other.server)));
        let ends: HashSet<&String> = edges.iter().flat_map(|edge| [&edge.client, &edge.server]).collect();
        // Else each Job that ever ran, and all of kube-system, would be in the picture of the mesh.
        let is_shown = |node: &NodeView| {
            node.sidecars > 0 || onboarded.contains(node.namespace.as_str()) || ends.contains(&node.id)
        };
        let nodes: Vec<NodeView> = nodes.0.into_values().filter(is_shown).collect();
        let namespaces = nodes.iter().map(|node| node.namespace.clone()).filter(|name| !name.is_empty());
        Self {
            window_seconds: COVERS.as_secs(),
            sidecars: Sidecars { heard: nodes.iter().map(|node| node.heard).sum(), known },
            namespaces: namespaces.collect(),
            nodes,
            edges,
            left_out: whole.left_out,
            invalid_documents: invalid(world),
            ..Self::default()
        }
    }

    /// The part that concerns a namespace: its nodes, and those that they talk to.
    pub(super) fn in_namespace(&self, namespace: &str) -> Self {
        let inside: HashSet<&str> =
            self.nodes.iter().filter(|one| one.namespace == namespace).map(|one| one.id.as_str()).collect();
        let is_inside = |id: &String| inside.contains(id.as_str());
        let edges: Vec<EdgeView> = self
            .edges
            .iter()
            .filter(|one| is_inside(&one.client) || is_inside(&one.server))
            .cloned()
            .collect();
        let ends: HashSet<&String> = edges.iter().flat_map(|one| [&one.client, &one.server]).collect();
        let nodes = self.nodes.iter().filter(|one| is_inside(&one.id) || ends.contains(&one.id));
        let nodes = nodes.cloned().collect();
        Self {
            replica: self.replica.clone(),
            replicas: self.replicas.clone(),
            time: self.time.clone(),
            window_seconds: self.window_seconds,
            sidecars: self.sidecars,
            namespaces: self.namespaces.clone(),
            nodes,
            edges,
            left_out: self.left_out,
            invalid_documents: self.invalid_documents.clone(),
        }
    }
}

/// Nodes by their ids.
#[derive(Debug, Default)]
struct Nodes(BTreeMap<String, NodeView>);

impl Nodes {
    fn of(&mut self, node: &Node) -> &mut NodeView {
        let (kind, key) = match node {
            Node::Workload(key) => (Sort::Workload, Some(key)),
            Node::Service(key) => (Sort::Service, Some(key)),
            Node::Outside => (Sort::Outside, None),
        };
        self.0.entry(id(node)).or_insert_with_key(|id| NodeView {
            id: id.clone(),
            kind,
            namespace: key.map(|key| key.namespace().to_owned()).unwrap_or_default(),
            name: key.map_or_else(|| "outside of the mesh".to_owned(), |key| key.name().to_owned()),
            ..NodeView::default()
        })
    }
}

fn invalid(world: &World) -> Vec<Invalid> {
    let wrong = world.documents.current().filter_map(|document| {
        let refused = document.read.as_ref().err()?;
        let kind = Kind::ALL.get(document.kind).map_or("", |kind| kind.name());
        let key = document.key.to_string();
        Some(Invalid {
            // A Mesh has no namespace.
            document: format!("{kind}/{}", key.trim_start_matches('/')),
            errors: refused.0.join("; ").chars().take(MAX_WORDS).collect(),
        })
    });
    wrong.take(MAX_INVALID).collect()
}
