// SPDX-License-Identifier: Apache-2.0
//! The page of the mesh for people: one file, without a script. Pure.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::picture::{EdgeView, NodeView, Picture, Security, Sidecars, Silent, Sort};
use super::svg::{self, Drawing};
use super::text::{ago, bytes, count, escaped, is_name, rate, several, share, shortened};

const STYLE: &str = include_str!("mesh.css");
/// Most rows of a table. `/mesh.json` has all.
const MAX_ROWS: usize = 500;
/// Seconds between two looks of a page that keeps itself up to date.
const REFRESH: u32 = 10;
/// Characters of a silent replica's name, and of its problem.
const MAX_REPLICA: usize = 64;
const MAX_PROBLEM: usize = 200;
/// Marks of the picture in its key: class of the edge, and its meaning.
const KEYS: [(&str, &str); 5] = [
    ("edge tls", "mesh TLS"),
    ("edge plain", "plain"),
    ("edge mixed", "some plain"),
    ("edge unknown", "none ended yet"),
    ("edge failing", "some failed"),
];

/// Question of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Question {
    /// The one namespace that is shown.
    pub namespace: Option<String>,
    /// True if the page keeps itself up to date.
    pub refresh: bool,
}

impl Question {
    /// Reads the part of an address after its question mark.
    pub(super) fn read(query: &str) -> Result<Self, &'static str> {
        let mut question = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("namespace", "") => question.namespace = None,
                ("namespace", name) if is_name(name) => question.namespace = Some(name.to_owned()),
                ("refresh", "") => question.refresh = false,
                ("refresh", "on") => question.refresh = true,
                _ => return Err("only ?namespace=NAME and ?refresh=on are known"),
            }
        }
        Ok(question)
    }
}

/// The page's policy: nothing from elsewhere, no script, and this one style.
pub(super) fn policy() -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes());
    format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
        STANDARD.encode(hash)
    )
}

/// The page of a picture that is filtered already.
pub(super) fn page(picture: &Picture, question: &Question) -> String {
    let mut out = String::new();
    head(&mut out, picture, question);
    out.push_str("<main>");
    tiles(&mut out, picture);
    drawing(&mut out, picture, question);
    invalid(&mut out, picture);
    edges(&mut out, picture);
    nodes(&mut out, picture);
    let only = question.namespace.as_ref().map(|name| format!("?namespace={name}")).unwrap_or_default();
    // Writing to a String does not fail, here and below.
    let _ = write!(
        out,
        "<footer class=\"soft\">As text or JSON: <a href=\"/mesh.json{only}\">mesh.json</a><a href=\"/metrics\">metrics</a>\
         <a href=\"/ready\">ready</a></footer></main></body></html>"
    );
    out
}

fn head(out: &mut String, picture: &Picture, question: &Question) {
    let refresh = match question.refresh {
        true => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH}\">"),
        false => String::new(),
    };
    let Sidecars { heard, known } = picture.sidecars;
    let replicas = &picture.replicas;
    let mut more = String::new();
    if heard < known {
        more.push_str(
            "<p class=\"soft\">The others have no stream to a replica that answered. Connections that only they saw are \
             not shown here.</p>",
        );
    }
    for Silent { replica, problem } in &replicas.silent {
        let _ = write!(
            more,
            "<p class=\"warn\">No part of {}: {}</p>",
            escaped(&shortened(replica, MAX_REPLICA)),
            escaped(&shortened(problem, MAX_PROBLEM)),
        );
    }
    let class = if more.is_empty() { "good" } else { "warn" };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>The mesh, culvert-controller</title>\
         <link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body><header><h1>The mesh</h1>\
         <span class=\"badge {class}\">{} of {} heard, {} of {} answered</span>\
         <span class=\"soft\">{}, {}</span>{more}</header>",
        count(heard as u64),
        several(known, "sidecar"),
        count(replicas.answered as u64),
        several(replicas.known, "replica"),
        escaped(&picture.replica),
        escaped(&picture.time),
    );
}

fn tiles(out: &mut String, picture: &Picture) {
    let sum =
        |of: fn(&EdgeView) -> u64| picture.edges.iter().fold(0_u64, |sum, edge| sum.saturating_add(of(edge)));
    let (ended, failed) = (sum(|edge| edge.connections), sum(|edge| edge.failed));
    let per_second: f64 = picture.edges.iter().map(|edge| edge.per_second).sum();
    let workloads = picture.nodes.iter().filter(|node| node.kind == Sort::Workload);
    let facts = [
        (count(workloads.count() as u64), "Workloads"),
        (rate(per_second), "Connections"),
        (count(sum(|edge| edge.open)), "Open now"),
        (share(sum(|edge| edge.tls), ended), "By mesh TLS"),
        (share(failed, ended), "Failed"),
    ];
    out.push_str("<div class=\"tiles\">");
    for (value, name) in facts {
        let _ = write!(out, "<section><b>{value}</b><span class=\"soft\">{name}</span></section>");
    }
    out.push_str("</div>");
}

fn drawing(out: &mut String, picture: &Picture, question: &Question) {
    let Drawing { svg, nodes_left, edges_left } = svg::draw(picture);
    let minutes = picture.window_seconds / 60;
    let _ = write!(out, "<section><div class=\"head\"><h2>Connections of the last {minutes} minutes</h2>");
    form(out, picture, question);
    out.push_str("</div>");
    if picture.nodes.is_empty() {
        out.push_str("<p class=\"soft\">There is no workload with a sidecar.</p></section>");
        return;
    }
    out.push_str("<ul class=\"keys soft\">");
    for (class, name) in KEYS {
        let _ = write!(
            out,
            "<li><svg width=\"34\" height=\"10\" aria-hidden=\"true\"><g class=\"{class}\">\
             <path stroke-width=\"2\" d=\"M0 5H28\"/><path class=\"head\" d=\"M34 5L27 1V9Z\"/></g></svg>{name}</li>"
        );
    }
    for (class, name) in [("member", "with sidecars"), ("without", "pods without a sidecar")] {
        let _ = write!(
            out,
            "<li><svg width=\"24\" height=\"14\" aria-hidden=\"true\"><g class=\"node {class}\">\
             <rect x=\"1\" y=\"1\" width=\"22\" height=\"12\" rx=\"3\"/></g></svg>{name}</li>"
        );
    }
    let _ = write!(
        out,
        "</ul><div class=\"picture\" tabindex=\"0\" role=\"region\" aria-label=\"Picture\">{svg}</div>"
    );
    if nodes_left + edges_left > 0 {
        let _ = write!(
            out,
            "<p class=\"warn\">Not drawn: {} and {} with less traffic. Choose a namespace, or see the tables.</p>",
            several(nodes_left, "workload"),
            several(edges_left, "edge"),
        );
    }
    if picture.left_out > 0 {
        let several = several(usize::try_from(picture.left_out).unwrap_or(usize::MAX), "connection");
        let _ = write!(
            out,
            "<p class=\"warn\">{several} of many peers had no place in the sidecars' reports.</p>"
        );
    }
    out.push_str("</section>");
}

fn form(out: &mut String, picture: &Picture, question: &Question) {
    let chosen = question.namespace.as_deref();
    out.push_str(
        "<form action=\"/mesh\" method=\"get\"><label for=\"namespace\">Namespace</label>\
         <select id=\"namespace\" name=\"namespace\"><option value=\"\">all</option>",
    );
    // One that was chosen stays, though it may have nothing any more.
    let gone = chosen.filter(|name| !picture.namespaces.contains(*name));
    // A name that no namespace can have cannot be asked for either.
    for name in picture.namespaces.iter().map(String::as_str).filter(|name| is_name(name)).chain(gone) {
        let selected = if chosen == Some(name) { " selected" } else { "" };
        let _ = write!(out, "<option value=\"{name}\"{selected}>{name}</option>");
    }
    let checked = if question.refresh { " checked" } else { "" };
    let _ = write!(
        out,
        "</select><label><input type=\"checkbox\" name=\"refresh\" value=\"on\"{checked}> again each {REFRESH} s</label>\
         <button>Show</button></form>"
    );
}

fn invalid(out: &mut String, picture: &Picture) {
    if picture.invalid_documents.is_empty() {
        return;
    }
    out.push_str(
        "<section><h2 class=\"bad\">Documents that cannot be read</h2>\
         <p class=\"soft\">The last valid content of each stays in force.</p><div class=\"scroll\"><table><tbody>",
    );
    for one in &picture.invalid_documents {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&one.document),
            escaped(&one.errors)
        );
    }
    out.push_str("</tbody></table></div></section>");
}

fn table(out: &mut String, title: &str, columns: &[(&str, &str)], rows: Vec<Vec<String>>) {
    let rows_in_all = rows.len();
    let of = match rows_in_all > MAX_ROWS {
        true => format!("{MAX_ROWS} of {}; /mesh.json has all", count(rows_in_all as u64)),
        false => count(rows_in_all as u64),
    };
    let _ = write!(out, "<section><h2>{title} <span class=\"soft\">{of}</span></h2>");
    let _ = write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table><thead><tr>"
    );
    for (name, class) in columns {
        let _ = write!(out, "<th class=\"{class}\">{name}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows.into_iter().take(MAX_ROWS) {
        out.push_str("<tr>");
        for (cell, (_, class)) in row.iter().zip(columns) {
            let _ = write!(out, "<td class=\"{class}\">{}</td>", escaped(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></section>");
}

fn edges(out: &mut String, picture: &Picture) {
    let columns = [
        ("From", ""),
        ("To", ""),
        ("Connections", "n"),
        ("Ended", "n"),
        ("Failed", "n"),
        ("TLS", ""),
        ("Open", "n"),
        ("Bytes", "n"),
        ("Last report", ""),
    ];
    let mut sorted: Vec<&EdgeView> = picture.edges.iter().collect();
    sorted.sort_by_key(|edge| std::cmp::Reverse((edge.connections, edge.open)));
    let row = |edge: &EdgeView| {
        let security = match edge.security {
            Security::Tls => "mesh TLS".to_owned(),
            Security::Plain => "plain".to_owned(),
            Security::Mixed => format!("{} mesh TLS", share(edge.tls, edge.connections)),
            Security::Unknown => "not known yet".to_owned(),
        };
        vec![
            name(&edge.client),
            name(&edge.server),
            rate(edge.per_second),
            count(edge.connections),
            match edge.failed {
                0 => "0".to_owned(),
                failed => format!("{} ({})", count(failed), share(failed, edge.connections)),
            },
            security,
            count(edge.open),
            bytes(edge.bytes),
            ago(edge.age),
        ]
    };
    table(out, "Connections", &columns, sorted.into_iter().map(row).collect());
}

/// A node's name of its id.
fn name(id: &str) -> String {
    match id.split_once('/') {
        Some(("service", name)) => format!("{name} (Service)"),
        Some((_, name)) => name.to_owned(),
        None => "outside of the mesh".to_owned(),
    }
}

fn nodes(out: &mut String, picture: &Picture) {
    let columns = [
        ("Namespace", ""),
        ("Workload", ""),
        ("Pods", "n"),
        ("With a sidecar", "n"),
        ("Heard", "n"),
        ("", ""),
    ];
    let row = |node: &NodeView| {
        let note = match node.pods {
            0 => "no pods any more",
            pods if node.sidecars == 0 && pods > 0 => "no sidecar",
            pods if node.sidecars < pods => "some without a sidecar",
            _ => "",
        };
        vec![
            node.namespace.clone(),
            node.name.clone(),
            count(node.pods as u64),
            count(node.sidecars as u64),
            count(node.heard as u64),
            note.to_owned(),
        ]
    };
    let mut workloads: Vec<&NodeView> =
        picture.nodes.iter().filter(|node| node.kind == Sort::Workload).collect();
    // Those that lack a sidecar are the ones that a reader looks for.
    workloads.sort_by_key(|node| node.sidecars >= node.pods);
    table(out, "Workloads", &columns, workloads.into_iter().map(row).collect());
}
