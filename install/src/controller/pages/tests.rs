// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeSet, HashSet};
use std::fs;

use serde_json::{Value, json};

use super::ask::{Peer, Problem};
use super::html::{Question, page, policy};
use super::layout::{Graph, HEIGHT, Layout, WIDTH, layout};
use super::part::{Part, Whole};
use super::picture::{EdgeView, Invalid, NodeView, Picture, Replicas, Security, Sidecars, Silent, Sort};
use super::{read, svg, ways};
use crate::controller::key::Key;
use crate::controller::traffic::{Amount, Counts, Ends, Node, Totals};
use crate::controller::world::{Pod, Put, RawService, Service, Slice, World};

/// A graph with a lane and edges that are drawn from a seed: `count` nodes, one in six without edges. Most are called within
/// their lane, as in a cluster.
fn graph(count: usize, lanes: usize, seed: u64) -> Graph {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let lane: Vec<String> = (0..count).map(|_| format!("lane-{}", next(lanes))).collect();
    let mut edges = BTreeSet::new();
    for to in (0..count).filter(|to| to % 6 != 5) {
        let near: Vec<usize> = (0..to).filter(|from| lane[*from] == lane[to]).collect();
        edges.insert((near.get(next(near.len())).copied().unwrap_or(to / 2), to));
        if next(3) == 0 {
            edges.insert((next(count), to));
        }
    }
    Graph { lanes: lane, edges: edges.into_iter().collect() }
}

fn overlaps((x, y): (f64, f64), (other_x, other_y): (f64, f64)) -> bool {
    (x - other_x).abs() < WIDTH + 10.0 && (y - other_y).abs() < HEIGHT + 10.0
}

fn holds(graph: &Graph, places: &Layout) {
    assert_eq!(places.nodes.len(), graph.lanes.len());
    for (at, node) in places.nodes.iter().enumerate() {
        let lane = places.lanes.iter().find(|lane| lane.name == graph.lanes[at]).unwrap();
        assert!(node.1 > lane.top && node.1 + HEIGHT < lane.top + lane.height, "{at} is in its lane");
        assert!(node.0 > 0.0 && node.0 + WIDTH < places.width && node.1 + HEIGHT < places.height);
        for (other, place) in places.nodes.iter().enumerate().skip(at + 1) {
            assert!(!overlaps(*node, *place), "{at} and {other} overlap");
        }
    }
    for pair in places.lanes.windows(2) {
        assert!(pair[0].top + pair[0].height < pair[1].top, "lanes overlap");
    }
}

#[test]
fn nothing_overlaps_and_the_same_graph_looks_the_same() {
    for (count, lanes) in [(0, 1), (1, 1), (3, 1), (30, 4), (200, 9), (200, 1), (40, 40)] {
        for seed in 0..8 {
            let graph = graph(count, lanes, seed);
            let places = layout(&graph);
            holds(&graph, &places);
            assert_eq!(places, layout(&graph));
        }
    }
}

#[test]
fn callers_are_left_of_those_that_they_call() {
    let lanes = |count: usize| vec!["shop".to_owned(); count];
    // web → api → db, web → db, and a caller of db alone.
    let places = layout(&Graph { lanes: lanes(4), edges: vec![(0, 1), (1, 2), (0, 2), (3, 2)] });
    assert_eq!(places.columns, [0, 1, 2, 1]);
    // A circle has a begin all the same, and one that calls itself is no circle.
    let places = layout(&Graph { lanes: lanes(3), edges: vec![(0, 1), (1, 2), (2, 0), (1, 1)] });
    assert_eq!(places.columns, [0, 1, 2]);
    // Steps of a long chain share columns.
    let chain = Graph { lanes: lanes(60), edges: (1..60).map(|node| (node - 1, node)).collect() };
    let places = layout(&chain);
    holds(&chain, &places);
    // A star is broken into columns.
    let star = Graph { lanes: lanes(100), edges: (1..100).map(|node| (0, node)).collect() };
    let places = layout(&star);
    holds(&star, &places);
    assert!(places.height < 1500.0 && places.width < 1800.0, "{} × {}", places.width, places.height);
}

/// Coordinates of the ends of a path's pieces.
fn points(path: &str) -> Vec<(f64, f64)> {
    let mut at = (0.0, 0.0);
    let mut points = Vec::new();
    let mut rest = path;
    while let Some(kind) = rest.chars().next() {
        let end =
            rest[1..].find(|letter: char| letter.is_ascii_alphabetic()).map_or(rest.len(), |end| end + 1);
        let numbers: Vec<f64> = rest[1..end].split_whitespace().map(|one| one.parse().unwrap()).collect();
        match (kind, numbers.as_slice()) {
            ('M', [x, y]) => at = (*x, *y),
            ('C', [.., x, y]) => at = (*x, *y),
            ('H', [x]) => at.0 = *x,
            other => panic!("{other:?} in {path}"),
        }
        points.push(at);
        rest = &rest[end..];
    }
    points
}

#[test]
fn ways_begin_and_end_at_their_nodes_and_pass_no_other() {
    for seed in 0..20 {
        let graph = graph(60, 5, seed);
        let places = layout(&graph);
        for (number, &(from, to)) in graph.edges.iter().enumerate() {
            let way = ways::way(&places, number, from, to);
            let points = points(&way.line);
            if from == to {
                continue;
            }
            let touches = |(x, y): (f64, f64), node: usize| {
                let (left, top) = places.nodes[node];
                let side = (x - left).abs().min((x - left - WIDTH).abs());
                side <= 9.0 && y > top && y < top + HEIGHT
            };
            assert!(touches(points[0], from) && touches(*points.last().unwrap(), to), "{way:?}");
            // The level part of a long way lies between rows.
            if let [_, (x, y), (end, _), _] = points[..] {
                for (left, top) in &places.nodes {
                    let beside = left + WIDTH < x.min(end) || *left > x.max(end);
                    assert!(beside || y < *top || y > top + HEIGHT, "{way:?} passes through {left} {top}");
                }
            }
        }
    }
}

fn node(namespace: &str, name: &str, sidecars: usize) -> NodeView {
    NodeView {
        id: format!("workload/{namespace}/{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pods: 2,
        sidecars,
        heard: sidecars,
        ..NodeView::default()
    }
}

fn edge(client: &str, server: &str, connections: u64, security: Security) -> EdgeView {
    EdgeView {
        client: client.to_owned(),
        server: server.to_owned(),
        connections,
        per_second: connections as f64 / 300.0,
        failed: 0,
        tls: match security {
            Security::Tls => connections,
            Security::Mixed => connections / 3,
            Security::Plain | Security::Unknown => 0,
        },
        security,
        bytes: connections * 1500,
        open: 1,
        age: 3,
    }
}

fn silent(replica: &str) -> Silent {
    let problem = "no answer of 10.0.0.3:15090 within 1s".to_owned();
    Silent { replica: replica.to_owned(), problem }
}

/// A mesh of so many workloads in several namespaces, some without sidecars, with calls as [`graph`] has them.
fn mesh(count: usize) -> Picture {
    const NAMES: [&str; 8] = [
        "web",
        "checkout",
        "payments",
        "catalog",
        "recommendations-canary",
        "db",
        "search-indexer-nightly",
        "auth",
    ];
    let graph = graph(count, 1 + count / 12, 3);
    let nodes: Vec<NodeView> = (0..count)
        .map(|n| {
            let name =
                if count <= NAMES.len() { NAMES[n].to_owned() } else { format!("{}-{n}", NAMES[n % 8]) };
            node(&graph.lanes[n].replace("lane", "team"), &name, [2, 2, 2, 0, 2, 1][n % 6])
        })
        .collect();
    let security = [Security::Tls, Security::Tls, Security::Plain, Security::Mixed];
    let mut edges: Vec<EdgeView> = graph
        .edges
        .iter()
        .enumerate()
        .map(|(n, (from, to))| {
            let calls = 7_u64.pow(1 + n as u32 % 6);
            EdgeView {
                failed: if n % 7 == 3 { calls / 5 } else { 0 },
                ..edge(&nodes[*from].id, &nodes[*to].id, calls, security[n % 4])
            }
        })
        .collect();
    edges.push(edge("outside", &nodes[0].id, 90_000, Security::Plain));
    edges.push(EdgeView {
        connections: 0,
        security: Security::Unknown,
        ..edge(&nodes[count - 1].id, "outside", 0, Security::Unknown)
    });
    let outside = NodeView { id: "outside".to_owned(), kind: Sort::Outside, ..NodeView::default() };
    let namespaces = nodes.iter().map(|node| node.namespace.clone()).collect();
    let known = nodes.iter().map(|node| node.sidecars).sum();
    Picture {
        replica: "culvert-controller-5d8f7c9b4-x2v7k".to_owned(),
        replicas: Replicas { answered: 2, known: 3, silent: vec![silent("culvert-controller-5d8f7c9b4-a")] },
        time: "2026-11-29T12:00:00Z".to_owned(),
        window_seconds: 300,
        sidecars: Sidecars { heard: known * 2 / 3, known },
        namespaces,
        nodes: nodes.into_iter().chain([outside]).collect(),
        edges,
        left_out: 0,
        invalid_documents: vec![Invalid {
            document: "MeshTrafficPermission/team-0/allow-web".to_owned(),
            errors: "spec.from[0].default.action: found \"Alow\"; allowed: Allow, Deny, AllowWithShadowDeny"
                .to_owned(),
        }],
    }
}

/// Pages to look at: `PICTURES=FOLDER cargo test -p culvert-install pages_to_look_at`.
#[test]
fn pages_to_look_at_are_whole() {
    for count in [3, 30, 200] {
        let picture = mesh(count);
        let text = page(&picture, &Question::default());
        assert_eq!(
            text.matches("<g class=\"node").count(),
            picture.nodes.len().min(svg::MAX_NODES) + 3,
            "{count}"
        );
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        assert!(
            text.contains(" sidecars heard, 2 of 3 replicas answered") && text.contains("have no stream")
        );
        assert!(
            text.contains("No part of culvert-controller-5d8f7c9b4-a: no answer of 10.0.0.3:15090 within 1s")
        );
        if let Some(folder) = std::env::var_os("PICTURES") {
            fs::write(std::path::Path::new(&folder).join(format!("{count}.html")), &text).unwrap();
        }
    }
}

#[test]
fn more_than_can_be_drawn_is_told() {
    let picture = mesh(svg::MAX_NODES + 50);
    let drawing = svg::draw(&picture);
    assert_eq!(drawing.nodes_left, 51, "the outside is a node too");
    assert!(drawing.edges_left > 0);
    assert!(page(&picture, &Question::default()).contains("Not drawn: 51 workloads and "));
    // Busy ones are drawn.
    assert!(drawing.svg.contains(">callers</text>"));
}

#[test]
fn names_of_the_cluster_are_text() {
    let hostile = "</title><script>alert(1)</script>\"'&";
    let (mut one, two) = (node(hostile, hostile, 2), node("shop", "web", 2));
    one.id = format!("workload/{hostile}/{hostile}");
    let picture = Picture {
        replica: hostile.to_owned(),
        replicas: Replicas {
            silent: vec![Silent { problem: hostile.to_owned(), ..silent(hostile) }],
            ..Replicas::default()
        },
        time: hostile.to_owned(),
        namespaces: [hostile.to_owned(), "shop".to_owned()].into(),
        edges: vec![edge(&one.id, &two.id, 5, Security::Tls)],
        nodes: vec![one, two],
        invalid_documents: vec![Invalid { document: hostile.to_owned(), errors: hostile.to_owned() }],
        ..Picture::default()
    };
    let text = page(&picture, &Question { namespace: Some("shop".to_owned()), refresh: true });
    for wrong in ["<script", "alert(1)</script", "\"'&\"", "</title><s"] {
        assert!(!text.contains(wrong), "{wrong}");
    }
    assert!(text.contains("&lt;script&gt;alert(1)"));
    assert!(!text.contains("<option value=\"<"), "a name that no namespace has is no choice");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let text = page(&mesh(30), &Question::default());
    for foreign in
        ["http:", "https:", "src=", "@import", "url(", "//cdn", "<iframe", "<script", " style=", "onclick"]
    {
        assert!(!text.contains(foreign), "{foreign}");
    }
    assert!(text.contains("prefers-color-scheme: dark"));
    let policy = policy();
    assert!(policy.contains("default-src 'none'") && policy.contains("style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"));
}

#[test]
fn questions_that_are_known() {
    let only = |name: &str| Some(name.to_owned());
    for (query, namespace, refresh) in [
        ("", None, false),
        ("namespace=", None, false),
        ("namespace=shop", only("shop"), false),
        ("namespace=shop&refresh=on", only("shop"), true),
    ] {
        assert_eq!(Question::read(query), Ok(Question { namespace, refresh }), "{query}");
    }
    for query in [
        "namespace=%3Cscript%3E",
        "namespace=SHOP",
        "refresh=1",
        "x",
        &format!("namespace={}", "a".repeat(64)),
    ] {
        assert!(Question::read(query).is_err(), "{query}");
    }
}

#[test]
fn a_namespace_is_shown_with_those_that_it_talks_to() {
    let picture = Picture {
        nodes: vec![node("a", "one", 2), node("b", "two", 2), node("b", "alone", 2), node("c", "three", 2)],
        edges: vec![
            edge("workload/a/one", "workload/b/two", 1, Security::Tls),
            edge("workload/c/three", "workload/b/two", 1, Security::Tls),
        ],
        ..Picture::default()
    };
    let names = |namespace: &str| -> Vec<String> {
        picture.in_namespace(namespace).nodes.into_iter().map(|node| node.name).collect()
    };
    assert_eq!(names("a"), ["one", "two"]);
    assert_eq!(names("b"), ["one", "two", "alone", "three"]);
    assert_eq!(picture.in_namespace("a").edges.len(), 1);
    assert!(names("nowhere").is_empty());
}

/// A world with these pods: namespace, name and presence of a sidecar.
fn world(pods: &[(&str, &str, bool)]) -> World {
    let mut world = World::default();
    for (namespace, name, sidecar) in pods {
        let own =
            json!([{ "name": "culvert-sidecar", "image": "culvert:1", "args": ["--control=https://x"] }]);
        let workload = name.rsplit_once('-').unwrap().0;
        let pod = json!({
            "metadata": { "name": name, "namespace": namespace, "generateName": format!("{workload}-") },
            "spec": { "containers": [], "initContainers": if *sidecar { own } else { json!([]) } },
            "status": { "phase": "Running" },
        });
        world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap()));
        world.put(Put::Namespace((*namespace).into(), [].into()));
    }
    world
}

/// Puts a Service there with these pods behind it.
fn put_service(world: &mut World, name: &str, pods: &[&str]) {
    let service = json!({
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.2", "selector": { "app": name }, "ports": [{ "port": 80 }] },
    });
    let service: RawService = serde_json::from_value(service).unwrap();
    world.put(Put::Service(Service::read(service).unwrap()));
    let endpoint = |name: &&str| json!({ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "namespace": "shop", "name": name } });
    let metadata = json!({ "name": format!("{name}-x"), "namespace": "shop", "labels": { "kubernetes.io/service-name": name } });
    let data = json!({ "endpoints": pods.iter().map(endpoint).collect::<Vec<Value>>(), "ports": [{ "port": 8080 }] });
    world.put(Put::Slice(Slice::read(&serde_json::from_value(metadata).unwrap(), data).unwrap()));
}

fn called(node: Node, [ended, failed, tls]: [u64; 3]) -> (Ends, Totals) {
    let counts = Counts { ended, failed, tls, bytes: 10 };
    let client = Node::Workload(Key::new("shop", "web"));
    let told = Amount { counts, open: 1 };
    (Ends { client, server: node }, Totals { told, echo: Amount::default(), seconds: 100, age: ended })
}

/// The picture of one replica alone.
fn alone(world: &World, heard: &HashSet<Key>, edges: Vec<(Ends, Totals)>) -> Picture {
    let part = Part::of(world, heard, edges);
    Picture::of(world, &Whole::of([&part]))
}

#[test]
fn a_service_is_the_workload_behind_it() {
    let mut world = world(&[
        ("shop", "web-1", true),
        ("shop", "db-0", true),
        ("shop", "db-1", true),
        ("shop", "old-1", true),
    ]);
    let service = || Node::Service(Key::new("shop", "db"));
    let edges =
        || vec![called(service(), [50, 0, 50]), called(Node::Workload(Key::new("shop", "db")), [10, 0, 0])];
    let of = |world: &World| alone(world, &HashSet::new(), edges());
    // Both ways to it are one edge.
    put_service(&mut world, "db", &["db-0", "db-1"]);
    let picture = of(&world);
    let [edge] = picture.edges.as_slice() else { panic!("{:?}", picture.edges) };
    assert_eq!(
        (edge.server.as_str(), edge.connections, edge.open, edge.age),
        ("workload/shop/db", 60, 2, 10)
    );
    assert_eq!((edge.per_second, edge.security), (0.6, Security::Mixed));
    // Of two workloads it is neither.
    put_service(&mut world, "db", &["db-0", "old-1"]);
    let picture = of(&world);
    let servers: Vec<_> = picture.edges.iter().map(|edge| edge.server.as_str()).collect();
    assert_eq!(servers, ["service/shop/db", "workload/shop/db"]);
    assert!(picture.nodes.iter().any(|node| node.kind == Sort::Service && node.name == "db"));
}

#[test]
fn protection_is_told_by_the_connections_that_ended_well() {
    let world = world(&[("shop", "web-1", true)]);
    for (counts, security) in [
        ([10, 0, 10], Security::Tls),
        ([10, 4, 6], Security::Tls),
        ([10, 4, 5], Security::Mixed),
        ([10, 4, 0], Security::Plain),
        ([10, 10, 0], Security::Unknown),
        ([0, 0, 0], Security::Unknown),
    ] {
        let picture = alone(&world, &HashSet::new(), vec![called(Node::Outside, counts)]);
        assert_eq!(picture.edges[0].security, security, "{counts:?}");
    }
}

#[test]
fn workloads_of_the_mesh_and_those_that_it_talks_to_are_shown() {
    let mut world = world(&[
        ("shop", "web-1", true),
        ("shop", "web-2", false),
        ("shop", "cron-1", false),
        ("plain", "tool-1", false),
        ("plain", "idle-1", false),
    ]);
    let heard = HashSet::from([Key::new("shop", "web-1")]);
    let edges = |name: &str| vec![called(Node::Workload(Key::new("plain", name)), [1, 0, 0])];
    let ids =
        |picture: &Picture| -> Vec<String> { picture.nodes.iter().map(|node| node.id.clone()).collect() };
    let picture = alone(&world, &heard, edges("tool"));
    // A namespace with a sidecar is onboarded: what has none there is what a reader looks for.
    assert_eq!(ids(&picture), ["workload/plain/tool", "workload/shop/cron", "workload/shop/web"]);
    let web = picture.nodes.last().unwrap();
    assert_eq!((web.pods, web.sidecars, web.heard), (2, 1, 1));
    assert_eq!(picture.sidecars, Sidecars { heard: 1, known: 1 });
    // One whose pods are gone is there for as long as its connections are.
    let picture = alone(&world, &heard, edges("gone"));
    assert!(ids(&picture).contains(&"workload/plain/gone".to_owned()));
    let label = [("culvert.dev/inject".to_owned(), "enabled".to_owned())];
    world.put(Put::Namespace("plain".into(), label.into()));
    assert_eq!(ids(&alone(&world, &heard, Vec::new())).len(), 4);
}

#[test]
fn answers_count_once_and_the_own_one_not_at_all() {
    let own = Part { id: "own".to_owned(), ..Part::default() };
    let answer = |name: &str, id: Option<&str>| {
        let peer = Peer { name: name.to_owned(), at: "10.0.0.3:15090".parse().unwrap() };
        let part = id.map(|id| Part { id: id.to_owned(), ..Part::default() });
        let text = part.map_or_else(|| b"{".to_vec(), |part| serde_json::to_vec(&part).unwrap());
        (peer, Ok(text.into()))
    };
    let answers = vec![
        answer("a", Some("other")),
        answer("b", Some("own")),
        answer("c", Some("other")),
        answer("d", None),
        (answer("e", None).0, Err(Problem::TimedOut("10.0.0.3:15090".parse().unwrap()))),
    ];
    let (parts, Replicas { answered, known, silent }) = read(&own, answers);
    assert_eq!((parts.len(), answered, known), (1, 2, 4));
    let names: Vec<_> = silent.iter().map(|one| one.replica.as_str()).collect();
    assert_eq!(names, ["d", "e"]);
    assert!(silent[0].problem.contains("not the JSON of a part"), "{silent:?}");
    assert_eq!(silent[1].problem, self::silent("e").problem);
}
