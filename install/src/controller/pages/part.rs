// SPDX-License-Identifier: Apache-2.0
//! The part of the picture that one replica hears, and the parts of several replicas put together. Pure.
//!
//! A connection of two members counts by its client. Where the client's sidecar has its stream to another replica than the
//! server's, both replicas have a word about it: the server's is an echo, and no more of it counts than what exceeds the words of
//! the clients that the other replicas hear.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::controller::key::Key;
use crate::controller::traffic::{Amount, COVERS, Ends, MAX_EDGES, Node, Totals, workload};
use crate::controller::world::{Life, World};

/// Most nodes of a part: two of each edge, and the workloads that are heard.
const MAX_NODES: usize = 3 * MAX_EDGES;
/// Most bytes of a namespace, or of a name.
const MAX_NAME: usize = 253;
const OUTSIDE: &str = "outside";

/// The part of the picture that one replica hears. Also the shape of `/mesh.json?part`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Random since the replica's start: by it a replica knows its own answer.
    pub id: String,
    /// Connections that had no place in reports.
    pub left_out: u64,
    pub nodes: Vec<PartNode>,
    pub edges: Vec<PartEdge>,
}

/// A node that is heard, or that an edge ends at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartNode {
    pub id: String,
    /// Living pods whose sidecar has a stream to the replica.
    pub heard: usize,
}

/// Connections between two nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PartEdge {
    /// Places of its ends among the nodes.
    pub client: usize,
    pub server: usize,
    pub told: Amount,
    #[serde(default, skip_serializing_if = "Amount::is_nothing")]
    pub echo: Amount,
    pub seconds: u64,
    pub age: u64,
}

/// The reason why an answer is no part.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPart {
    #[error("its answer is not the JSON of a part: {0}")]
    Json(String),
    #[error("its answer has {0} nodes and {1} edges, which is more than a replica has")]
    TooMany(usize, usize),
    #[error("its answer has an edge to the node {0}, of {1} nodes")]
    NoNode(usize, usize),
    #[error("its answer has a node that is neither a workload nor a Service nor outside")]
    NoId,
}

/// Id of a node in JSON.
pub(super) fn id(node: &Node) -> String {
    match node {
        Node::Workload(key) => format!("workload/{key}"),
        Node::Service(key) => format!("service/{key}"),
        Node::Outside => OUTSIDE.to_owned(),
    }
}

/// Node of an id.
fn node(id: &str) -> Option<Node> {
    if id == OUTSIDE {
        return Some(Node::Outside);
    }
    let mut words = id.split('/');
    let (kind, namespace, name) = (words.next()?, words.next()?, words.next()?);
    let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len());
    if words.next().is_some() || !is_name(namespace) || !is_name(name) {
        return None;
    }
    let key = Key::new(namespace, name);
    match kind {
        "workload" => Some(Node::Workload(key)),
        "service" => Some(Node::Service(key)),
        _ => None,
    }
}

/// The workload behind a Service, where all its pods are of one.
fn stands_for(world: &World, node: Node) -> Node {
    let Node::Service(service) = &node else { return node };
    let (pods, others) = world.behind(service);
    let workloads: BTreeSet<Key> = pods.iter().map(|(pod, _)| workload(pod)).collect();
    match workloads.first() {
        Some(one) if others == 0 && workloads.len() == 1 => Node::Workload(one.clone()),
        _ => node,
    }
}

/// Edges by their ends, those of one replica.
type Edges = BTreeMap<Ends, Totals>;

/// Adds connections that are of the same two nodes for one replica.
fn add(edges: &mut Edges, ends: Ends, more: Totals) {
    let sum = edges.entry(ends).or_insert(Totals { age: more.age, ..Totals::default() });
    sum.told.add(more.told);
    sum.echo.add(more.echo);
    sum.seconds = sum.seconds.max(more.seconds);
    sum.age = sum.age.min(more.age);
}

impl Part {
    /// The own part: `heard` are the pods with a stream here.
    pub(super) fn of(world: &World, heard: &HashSet<Key>, edges: Vec<(Ends, Totals)>) -> Self {
        let mut merged = Edges::new();
        let mut stands = HashMap::<Node, Node>::new();
        for (Ends { client, server }, totals) in edges {
            // A Service may have a thousand pods, and as many callers.
            let mut of = |node: Node| {
                stands.entry(node).or_insert_with_key(|node| stands_for(world, node.clone())).clone()
            };
            add(&mut merged, Ends { client: of(client), server: of(server) }, totals);
        }
        let mut places = BTreeMap::<Node, (usize, usize)>::new();
        let living = heard.iter().filter_map(|key| world.pod(key)).filter(|pod| pod.life == Life::Living);
        for pod in living {
            places.entry(Node::Workload(workload(pod))).or_default().1 += 1;
        }
        for Ends { client, server } in merged.keys() {
            places.entry(client.clone()).or_default();
            places.entry(server.clone()).or_default();
        }
        let mut nodes = Vec::with_capacity(places.len());
        for (node, (place, heard)) in &mut places {
            *place = nodes.len();
            nodes.push(PartNode { id: id(node), heard: *heard });
        }
        let place = |node: &Node| places.get(node).map_or(0, |(place, _)| *place);
        let edges = merged.iter().map(|(Ends { client, server }, totals)| {
            let Totals { told, echo, seconds, age } = *totals;
            PartEdge { client: place(client), server: place(server), told, echo, seconds, age }
        });
        let edges = edges.collect();
        Self { nodes, edges, ..Self::default() }
    }

    /// Reads what another replica answers. Fields that are not known are of a newer version.
    pub(super) fn read(answer: &[u8]) -> Result<Self, NoPart> {
        let mut part: Self = serde_json::from_slice(answer).map_err(|error| {
            // Where and why, without words of the answer.
            let (line, column) = (error.line(), error.column());
            NoPart::Json(format!("{:?} error at line {line}, column {column}", error.classify()))
        })?;
        let (nodes, edges) = (part.nodes.len(), part.edges.len());
        if nodes > MAX_NODES || edges > MAX_EDGES {
            return Err(NoPart::TooMany(nodes, edges));
        }
        if part.nodes.iter().any(|one| node(&one.id).is_none()) {
            return Err(NoPart::NoId);
        }
        for edge in &mut part.edges {
            let last = edge.client.max(edge.server);
            if last >= nodes {
                return Err(NoPart::NoNode(last, nodes));
            }
            // A part of the connections is no more than all of them.
            for counts in [&mut edge.told.counts, &mut edge.echo.counts] {
                (counts.failed, counts.tls) = (counts.failed.min(counts.ended), counts.tls.min(counts.ended));
            }
            edge.seconds = edge.seconds.clamp(1, COVERS.as_secs());
        }
        Ok(part)
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        let nodes: Vec<Option<Node>> = self.nodes.iter().map(|one| node(&one.id)).collect();
        let at = |place: usize| nodes.get(place).cloned().flatten();
        for edge in &self.edges {
            let PartEdge { client, server, told, echo, seconds, age } = *edge;
            if let (Some(client), Some(server)) = (at(client), at(server)) {
                add(&mut edges, Ends { client, server }, Totals { told, echo, seconds, age });
            }
        }
        edges
    }
}

/// The parts of several replicas, put together.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Pods of a node that have a stream to any of them.
    pub heard: HashMap<Node, usize>,
    /// Connections, with no echo left.
    pub edges: BTreeMap<Ends, Totals>,
    pub left_out: u64,
}

impl Whole {
    /// Puts parts together, each of another replica.
    pub(super) fn of<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Self {
        let mut whole = Self::default();
        let mut words = BTreeMap::<Ends, Vec<Totals>>::new();
        for part in parts {
            whole.left_out = whole.left_out.saturating_add(part.left_out);
            for one in part.nodes.iter().filter(|one| one.heard > 0) {
                let Some(node) = node(&one.id) else { continue };
                let heard = whole.heard.entry(node).or_default();
                *heard = heard.saturating_add(one.heard);
            }
            for (ends, totals) in part.edges() {
                words.entry(ends).or_default().push(totals);
            }
        }
        whole.edges = words.into_iter().map(|(ends, words)| (ends, together(&words))).collect();
        whole.forget(MAX_EDGES);
        whole
    }

    /// Keeps as many edges as one replica does, those that were reported last.
    fn forget(&mut self, most: usize) {
        if self.edges.len() <= most {
            return;
        }
        let mut ages: Vec<u64> = self.edges.values().map(|edge| edge.age).collect();
        let (_, oldest, _) = ages.select_nth_unstable(most);
        let oldest = *oldest;
        let mut of_oldest = most - self.edges.values().filter(|edge| edge.age < oldest).count();
        self.edges.retain(|_, edge| {
            let stays = edge.age < oldest || (edge.age == oldest && of_oldest > 0);
            of_oldest -= usize::from(stays && edge.age == oldest);
            stays
        });
    }
}

/// Puts the words of several replicas about one edge together.
fn together(words: &[Totals]) -> Totals {
    let mut sum = Totals { age: u64::MAX, ..Totals::default() };
    for (at, word) in words.iter().enumerate() {
        let mut told_by_others = Amount::default();
        for (_, other) in words.iter().enumerate().filter(|(other, _)| *other != at) {
            told_by_others.add(other.told);
        }
        sum.told.add(word.told);
        sum.told.add(word.echo.without(told_by_others));
        // As in one replica: a sidecar that moved has told both, one after the other, and its rate is not the sum of theirs.
        sum.seconds = sum.seconds.max(word.seconds);
        sum.age = sum.age.min(word.age);
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::traffic::Counts;

    fn amount([ended, failed, tls, bytes, open]: [u64; 5]) -> Amount {
        Amount { counts: Counts { ended, failed, tls, bytes }, open }
    }

    fn workload(name: &str) -> Node {
        Node::Workload(Key::new("shop", name))
    }

    /// Connections from `web` to `db`.
    fn ends() -> Ends {
        Ends { client: workload("web"), server: workload("db") }
    }

    fn part(told: [u64; 5], echo: [u64; 5], [seconds, age]: [u64; 2]) -> Part {
        let totals = Totals { told: amount(told), echo: amount(echo), seconds, age };
        Part::of(&World::default(), &HashSet::new(), vec![(ends(), totals)])
    }

    /// The one edge of several parts.
    fn merged(parts: &[Part]) -> Totals {
        let whole = Whole::of(parts);
        let [(found, totals)] = whole.edges.into_iter().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(found, ends());
        assert_eq!(totals.echo, Amount::default());
        totals
    }

    const NONE: [u64; 5] = [0; 5];

    #[test]
    fn what_clients_tell_adds_up() {
        let parts = [
            part([60, 2, 50, 1000, 3], NONE, [100, 4]),
            part([40, 1, 0, 500, 1], NONE, [250, 9]),
            part([u64::MAX; 5], NONE, [1, 1]),
        ];
        let both = merged(&parts[..2]);
        assert_eq!((both.told, both.seconds, both.age), (amount([100, 3, 50, 1500, 4]), 250, 4));
        assert_eq!(merged(&parts).told, amount([u64::MAX; 5]));
    }

    #[test]
    fn a_connection_that_both_sides_tell_counts_once() {
        let client = part([60, 2, 58, 1000, 3], NONE, [100, 4]);
        let server = part(NONE, [58, 0, 58, 990, 3], [100, 6]);
        for parts in [[client.clone(), server.clone()], [server.clone(), client.clone()]] {
            assert_eq!(merged(&parts).told, amount([60, 2, 58, 1000, 3]));
        }
        // Nobody hears the client: its server alone tells.
        assert_eq!(merged(std::slice::from_ref(&server)).told, amount([58, 0, 58, 990, 3]));
        // 40 of these clients are heard by none; 4 went past the sidecar, which no client tells.
        let more = part([4, 0, 0, 10, 0], [98, 1, 58, 1500, 5], [100, 6]);
        assert_eq!(merged(&[client, more]).told, amount([102, 2, 58, 1510, 5]));
        // Clients and servers on both sides, by halves.
        let halves = [(); 2].map(|()| part([50, 0, 0, 0, 0], [25, 0, 0, 0, 0], [9, 0]));
        assert_eq!(merged(&halves).told.counts.ended, 100);
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        let mut own = part([60, 2, 50, 1000, 3], [7, 0, 0, 0, 1], [100, 4]);
        (own.id, own.left_out) = ("a".to_owned(), 5);
        own.nodes[0].heard = 2;
        let text = serde_json::to_vec(&own).unwrap();
        assert_eq!(Part::read(&text).as_ref(), Ok(&own));
        let mut other = own.clone();
        other.left_out = u64::MAX;
        let whole = Whole::of([&own, &other]);
        assert_eq!(whole.left_out, u64::MAX);
        let db = workload("db");
        assert_eq!(whole.heard, HashMap::from([(db, 4)]), "the first of the nodes is db");
    }

    /// An answer of one edge between two nodes, changed.
    fn answer(change: impl FnOnce(&mut Value)) -> Result<Part, NoPart> {
        let counts = json!({ "ended": 5, "failed": 1, "tls": 1, "bytes": 9 });
        let mut answer = json!({
            "id": "x", "left_out": 0, "newer": [1],
            "nodes": [{ "id": "workload/shop/web", "heard": 1 }, { "id": "outside", "heard": 0 }],
            "edges": [{ "client": 0, "server": 1, "told": { "counts": counts, "open": 1 }, "seconds": 5, "age": 1 }],
        });
        change(&mut answer);
        Part::read(&serde_json::to_vec(&answer).unwrap())
    }

    #[test]
    fn answers_that_are_no_part_are_refused() {
        assert!(answer(|_| {}).is_ok());
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        for text in
            ["", "{}", "null", "[]", "no JSON", "<html>", "{\"id\": \"x\"}", deep.as_str(), "{\"id\":"]
        {
            assert!(matches!(Part::read(text.as_bytes()), Err(NoPart::Json(_))), "{text:.20}");
        }
        assert!(matches!(Part::read(b"\xff\xfe"), Err(NoPart::Json(_))));
        // A whole picture, as another program or an older version answers.
        let picture =
            json!({ "replica": "x", "nodes": [{ "id": "outside", "kind": "outside" }], "edges": [] });
        assert!(matches!(Part::read(picture.to_string().as_bytes()), Err(NoPart::Json(_))));
        for (at, value) in [
            ("/id", json!(5)),
            ("/left_out", json!(-1)),
            ("/edges/0/client", json!("workload/shop/web")),
            ("/edges/0/told/counts/ended", json!(1.5)),
            ("/edges/0/told/counts/bytes", json!(1e30)),
            ("/edges/0/told", json!({ "open": 1 })),
            ("/nodes/0", json!("outside")),
        ] {
            let found = answer(|answer| *answer.pointer_mut(at).unwrap() = value);
            assert!(matches!(found, Err(NoPart::Json(_))), "{at}: {found:?}");
        }
        let name = "n".repeat(254);
        for id in
            ["", "Outside", "pod/shop/web", "workload/shop", "workload/shop/web/x", "workload//web", &name]
                .into_iter()
                .chain([format!("workload/shop/{name}").as_str()])
        {
            let found = answer(|answer| answer["nodes"][0]["id"] = id.into());
            assert_eq!(found, Err(NoPart::NoId), "{id}");
        }
        assert_eq!(answer(|answer| answer["edges"][0]["server"] = 2.into()), Err(NoPart::NoNode(2, 2)));
        let edges = |answer: &mut Value| {
            let edge = answer["edges"][0].clone();
            answer["edges"] = vec![edge; MAX_EDGES + 1].into();
        };
        assert_eq!(answer(edges), Err(NoPart::TooMany(2, MAX_EDGES + 1)));
        let nodes = |answer: &mut Value| {
            let node = answer["nodes"][0].clone();
            answer["nodes"] = vec![node; MAX_NODES + 1].into();
        };
        assert_eq!(answer(nodes), Err(NoPart::TooMany(MAX_NODES + 1, 1)));
    }

    #[test]
    fn numbers_that_cannot_be_are_bounded() {
        let part = answer(|answer| {
            answer["edges"][0]["told"]["counts"] =
                json!({ "ended": 5, "failed": u64::MAX, "tls": 9, "bytes": u64::MAX });
            answer["edges"][0]["seconds"] = u64::MAX.into();
            answer["nodes"][0]["heard"] = u64::MAX.into();
            // The same once more, and an edge to itself.
            let mut edge = answer["edges"][0].clone();
            answer["edges"].as_array_mut().unwrap().push(edge.clone());
            edge["server"] = 0.into();
            answer["edges"].as_array_mut().unwrap().push(edge);
        });
        let part = part.unwrap();
        let whole = Whole::of([&part, &part]);
        assert_eq!(whole.heard, HashMap::from([(workload("web"), usize::MAX)]));
        assert_eq!(whole.edges.len(), 2);
        let outside = whole.edges[&Ends { client: workload("web"), server: Node::Outside }];
        assert_eq!(outside.told, amount([20, 20, 20, u64::MAX, 4]));
        assert_eq!(outside.seconds, COVERS.as_secs());
        let itself = whole.edges[&Ends { client: workload("web"), server: workload("web") }];
        assert_eq!(itself.told.counts.ended, 10);
    }

    #[test]
    fn no_more_edges_than_one_replica_keeps() {
        let mut whole = Whole::default();
        for n in 0..20 {
            let ends = Ends { client: workload(&format!("w{n}")), server: Node::Outside };
            whole.edges.insert(ends, Totals { age: n / 4, ..Totals::default() });
        }
        whole.forget(20);
        assert_eq!(whole.edges.len(), 20);
        whole.forget(10);
        let mut ages: Vec<u64> = whole.edges.values().map(|edge| edge.age).collect();
        ages.sort_unstable();
        assert_eq!(ages, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
    }
}
