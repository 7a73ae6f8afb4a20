// SPDX-License-Identifier: Apache-2.0
//! The picture as SVG. Pure.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use super::layout::{self, Graph, HEIGHT, WIDTH};
use super::picture::{EdgeView, NodeView, Picture, Security, Sort};
use super::text::{count, escaped, is_name, rate, several, share, shortened};
use super::ways::{self, Labels};

/// Most nodes and edges that are drawn: more make a picture that nobody can read, and a browser slow.
pub(super) const MAX_NODES: usize = 200;
pub(super) const MAX_EDGES: usize = 400;
/// Edges of a picture in which they have their rates beside them. Pointed at, every edge says it.
const MAX_LABELS: usize = 60;
/// Letters of a name that a node has place for.
const MAX_NAME: usize = 18;
/// Letters of a lane's name.
const MAX_TITLE: usize = 63;
/// Name of the lane of those that are in no namespace.
const NOWHERE: &str = "outside of the mesh";

/// A drawn picture.
pub(super) struct Drawing {
    pub svg: String,
    /// Nodes and edges that have no place in it.
    pub nodes_left: usize,
    pub edges_left: usize,
}

/// A node that is drawn. The outside is two: callers at the left, and those that are called at the right.
struct Shape<'a> {
    view: &'a NodeView,
    name: &'a str,
    words: String,
    class: &'static str,
}

/// Draws a picture.
pub(super) fn draw(picture: &Picture) -> Drawing {
    let chosen = chosen(picture);
    let mut edges: Vec<&EdgeView> = picture.edges.iter().collect();
    edges.retain(|one| chosen.contains(one.client.as_str()) && chosen.contains(one.server.as_str()));
    edges.sort_by_key(|one| std::cmp::Reverse(weight(one)));
    edges.truncate(MAX_EDGES);
    // Lines that fail are above the others, and busy ones above those.
    edges.reverse();
    edges.sort_by_key(|one| one.failed > 0);
    let mut shapes = Vec::new();
    let (mut callers, mut called) = (HashMap::new(), HashMap::new());
    for view in picture.nodes.iter().filter(|view| chosen.contains(view.id.as_str())) {
        let id = view.id.as_str();
        let calls = edges.iter().any(|one| one.client == view.id);
        if view.kind == Sort::Outside {
            if calls {
                callers.insert(id, shapes.len());
                shapes.push(Shape { name: "callers", ..Shape::of(view) });
            }
            if edges.iter().any(|one| one.server == view.id) {
                called.insert(id, shapes.len());
                shapes.push(Shape { name: "called", ..Shape::of(view) });
            }
            continue;
        }
        callers.insert(id, shapes.len());
        called.insert(id, shapes.len());
        shapes.push(Shape::of(view));
    }
    let ends = edges.iter().filter_map(|one| {
        let (from, to) = (callers.get(one.client.as_str())?, called.get(one.server.as_str())?);
        Some((*from, *to))
    });
    let graph = Graph {
        lanes: shapes.iter().map(|shape| shape.view.namespace.clone()).collect(),
        edges: ends.collect(),
    };
    Drawing {
        svg: svg(&graph, &shapes, &edges),
        nodes_left: picture.nodes.len() - chosen.len(),
        edges_left: picture.edges.len() - edges.len(),
    }
}

/// Ids of the nodes that are drawn: those with most connections.
fn chosen(picture: &Picture) -> HashSet<&str> {
    let mut weights = HashMap::<&str, u64>::new();
    for edge in &picture.edges {
        for id in [&edge.client, &edge.server] {
            let sum = weights.entry(id).or_default();
            *sum = sum.saturating_add(weight(edge)).saturating_add(1);
        }
    }
    let mut ids: Vec<&str> = picture.nodes.iter().map(|one| one.id.as_str()).collect();
    // The sort is stable, and the nodes are in the order of their names.
    ids.sort_by_key(|id| std::cmp::Reverse(weights.get(id).copied().unwrap_or_default()));
    ids.truncate(MAX_NODES);
    ids.into_iter().collect()
}

fn weight(edge: &EdgeView) -> u64 {
    edge.connections.saturating_add(edge.open)
}

impl<'a> Shape<'a> {
    fn of(view: &'a NodeView) -> Self {
        let NodeView { kind, name, pods, sidecars, .. } = view;
        let without = pods.saturating_sub(*sidecars);
        let (class, words) = match kind {
            Sort::Outside => ("outside", "no pod, no Service".to_owned()),
            Sort::Service => ("service", "Service".to_owned()),
            Sort::Workload if *pods == 0 => ("gone", "no pods any more".to_owned()),
            Sort::Workload if *sidecars == 0 => ("without", format!("{}, no sidecar", several(*pods, "pod"))),
            Sort::Workload if without > 0 => {
                ("without", format!("{}, {} without sidecar", several(*pods, "pod"), count(without as u64)))
            }
            Sort::Workload => ("member", several(*pods, "pod")),
        };
        Self { view, name, words, class }
    }
}

fn svg(graph: &Graph, shapes: &[Shape<'_>], edges: &[&EdgeView]) -> String {
    let places = layout::layout(graph);
    let mut out = String::new();
    let (width, height) = (places.width, places.height);
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "<svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"group\" \
         aria-label=\"The mesh as a picture; the tables below say the same\">"
    );
    for lane in &places.lanes {
        let (x, y) = (16.0, lane.top);
        let _ = write!(
            out,
            "<rect class=\"lane\" x=\"{x}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\"/>",
            width - 2.0 * x,
            lane.height
        );
    }
    let mut labels = Labels::around(&places);
    for (number, (edge, (from, to))) in edges.iter().zip(&graph.edges).enumerate() {
        let way = ways::way(&places, number, *from, *to);
        let words = format!("{} → {}: {}", shapes[*from].full(), shapes[*to].full(), words(edge));
        line(&mut out, edge, &way, (&words, Some(&mut labels).filter(|_| edges.len() <= MAX_LABELS)));
    }
    for (shape, (x, y)) in shapes.iter().zip(&places.nodes) {
        shape.draw(&mut out, *x, *y);
    }
    for lane in &places.lanes {
        title(&mut out, &lane.name, lane.top + 21.0);
    }
    out.push_str("</svg>");
    out
}

fn title(out: &mut String, name: &str, y: f64) {
    let shown = if name.is_empty() { NOWHERE } else { name };
    let text = format!(
        "<text class=\"name\" x=\"32\" y=\"{y:.0}\">{}</text>",
        escaped(&shortened(shown, MAX_TITLE))
    );
    let _ = match is_name(name) {
        true => write!(out, "<a href=\"/mesh?namespace={name}\">{text}</a>"),
        false => write!(out, "{text}"),
    };
}

/// Totals of an edge in words.
fn words(edge: &EdgeView) -> String {
    let EdgeView { connections, per_second, failed, tls, open, .. } = edge;
    let mut words = format!("{}, {} open", rate(*per_second), count(*open));
    if *connections > 0 {
        let _ = write!(
            words,
            ", {} by mesh TLS, {} failed",
            share(*tls, *connections),
            share(*failed, *connections)
        );
    }
    words
}

/// Name of an edge's class.
pub(super) const fn class(security: Security) -> &'static str {
    match security {
        Security::Tls => "tls",
        Security::Mixed => "mixed",
        Security::Plain => "plain",
        Security::Unknown => "unknown",
    }
}

/// The few words beside an edge.
fn label(edge: &EdgeView) -> String {
    match (edge.connections, edge.failed) {
        (0, _) => format!("{} open", count(edge.open)),
        (_, 0) => rate(edge.per_second),
        (ended, failed) => format!("{}, {} fail", rate(edge.per_second), share(failed, ended)),
    }
}

fn line(out: &mut String, edge: &EdgeView, way: &ways::Way, (words, labels): (&str, Option<&mut Labels>)) {
    let failing = if edge.failed > 0 { " failing" } else { "" };
    // A thousand times the rate is twice as thick.
    let thick = 1.5 + (1.0 + edge.per_second * 10.0).log10().min(4.0) * 0.6;
    let _ = write!(
        out,
        "<g class=\"edge {}{failing}\"><title>{}</title><path class=\"near\" d=\"{2}\"/>\
         <path class=\"line\" stroke-width=\"{thick:.1}\" d=\"{2}\"/><path class=\"head\" d=\"{3}\"/>",
        class(edge.security),
        escaped(words),
        way.line,
        way.head
    );
    let text = label(edge);
    let place = labels.and_then(|labels| labels.place(&way.labels, text.chars().count()));
    if let Some((x, y)) = place {
        let _ =
            write!(out, "<text class=\"rate\" x=\"{x:.0}\" y=\"{:.0}\">{}</text>", y + 4.0, escaped(&text));
    }
    out.push_str("</g>");
}

impl Shape<'_> {
    /// Name with its namespace.
    fn full(&self) -> String {
        match self.view.kind {
            Sort::Outside => NOWHERE.to_owned(),
            Sort::Workload | Sort::Service => format!("{}/{}", self.view.namespace, self.view.name),
        }
    }

    fn draw(&self, out: &mut String, x: f64, y: f64) {
        let round = if self.view.kind == Sort::Service { HEIGHT / 2.0 } else { 6.0 };
        let soft = if self.class == "without" { "soft warn" } else { "soft" };
        // An inner svg cuts what is too wide, whatever letters a name has.
        let _ = write!(
            out,
            "<g class=\"node {}\"><title>{}: {}</title><rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" rx=\"{round}\"/><svg x=\"{x:.0}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{HEIGHT}\">\
             <text class=\"name\" x=\"12\" y=\"18\">{}</text><text class=\"{soft}\" x=\"12\" y=\"33\">{}</text></svg></g>",
            self.class,
            escaped(&self.full()),
            escaped(&self.words),
            WIDTH - 6.0,
            escaped(&shortened(self.name, MAX_NAME)),
            escaped(&self.words),
        );
    }
}
