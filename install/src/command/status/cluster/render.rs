// SPDX-License-Identifier: Apache-2.0
//! The cluster for people and for programs. Pure.

use std::fmt::Write as _;

use super::{ClusterStatus, Controller, Invalid, Workload};
use crate::command::answer::Colour;
use crate::command::status::printable;
use crate::command::table::table;

/// A table of the workloads, and notes below it.
pub(super) fn text(status: &ClusterStatus, colour: Colour) -> String {
    let ClusterStatus { version, api_server, controller, meshes, workloads, .. } = status;
    let mut out = format!("culvert {version}, cluster of {api_server}\n\n");
    // Writing to a String does not fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(controller.as_ref().map_or_else(|| "controller: none".to_owned(), of_controller));
    let modes: Vec<String> = meshes.iter().map(|mesh| format!("{} ({})", mesh.name, mesh.mtls)).collect();
    line(format!(
        "meshes by their mTLS: {}",
        if modes.is_empty() { "none".to_owned() } else { modes.join(", ") }
    ));
    line(String::new());
    let rows: Vec<[String; 7]> = workloads.iter().map(row).collect();
    let header = ["NAMESPACE", "WORKLOAD", "SIDECARS", "MISSING", "MESH", "MTLS", "IMAGE"];
    let lines = table(header, &rows);
    for (index, text) in lines.lines().enumerate() {
        let lacks =
            index.checked_sub(1).and_then(|row| workloads.get(row)).is_some_and(|one| one.missing > 0);
        // A whole line: escapes have no width on a terminal, and would shift the columns.
        line(if lacks { red(text, colour) } else { text.to_owned() });
    }
    line(String::new());
    for workload in workloads.iter().filter(|one| one.missing > 0) {
        line(of_missing(workload));
    }
    for Invalid { kind, namespace, name, errors } in &status.invalid_documents {
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        line(red(&printable(&format!("invalid: {kind} {place}{name}: {}", errors.join("; "))), colour));
    }
    for problem in &status.problems {
        line(red(&printable(problem), colour));
    }
    line(verdict(status));
    out
}

fn of_controller(controller: &Controller) -> String {
    let Controller { namespace, holder, renewed, replicas } = controller;
    let ready = replicas.iter().filter(|replica| replica.ready).count();
    let leads = match (holder, renewed) {
        (Some(holder), Some(renewed)) => format!("{holder} writes, as of {renewed}"),
        (Some(holder), None) => format!("{holder} writes"),
        (None, _) => "none holds its Lease".to_owned(),
    };
    printable(&format!("controller in {namespace}: {ready} of {} replicas ready; {leads}", replicas.len()))
}

fn row(workload: &Workload) -> [String; 7] {
    let Workload { namespace, kind, name, mesh, mtls, pods, with_sidecar, missing, sidecars, reason: _ } =
        workload;
    let or_none = |text: Option<&str>| printable(text.unwrap_or("-"));
    [
        namespace.clone(),
        printable(&format!("{kind}/{name}")),
        format!("{with_sidecar}/{pods}"),
        missing.to_string(),
        or_none(mesh.as_deref()),
        or_none(*mtls),
        if sidecars.is_empty() { "-".to_owned() } else { printable(&sidecars.join(", ")) },
    ]
}

fn of_missing(workload: &Workload) -> String {
    let Workload { namespace, kind, name, missing, reason, .. } = workload;
    let reason = reason.as_deref().unwrap_or("its labels ask for one");
    let count = if *missing == 1 { "1 pod has".to_owned() } else { format!("{missing} pods have") };
    printable(&format!(
        "missing: {kind}/{name} in {namespace}: {count} no sidecar ({reason}). A pod gets it when it is made: restart the workload"
    ))
}

fn verdict(status: &ClusterStatus) -> String {
    let lack = status.workloads.iter().filter(|one| one.missing > 0).count();
    let found = [
        (lack, "workload lacks sidecars", "workloads lack sidecars"),
        (status.invalid_documents.len(), "document is invalid", "documents are invalid"),
        (
            status.problems.len(),
            "part of the cluster could not be read",
            "parts of the cluster could not be read",
        ),
    ];
    let found = found.iter().filter(|(count, ..)| *count > 0);
    let found: Vec<String> =
        found.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many })).collect();
    let others = match status.others {
        1 => "1 other workload asks for none".to_owned(),
        others => format!("{others} other workloads ask for none"),
    };
    if found.is_empty() {
        return format!("All is well: every pod that asks for a sidecar has one. {others}.");
    }
    format!("{}. {others}.", found.join(", "))
}

fn red(text: &str, colour: Colour) -> String {
    match colour {
        Colour::Terminal => format!("\x1b[31m{text}\x1b[0m"),
        Colour::Plain => text.to_owned(),
    }
}

pub(super) fn json(status: &ClusterStatus) -> String {
    let mut out = serde_json::to_string_pretty(status).expect("strings and numbers only");
    out.push('\n');
    out
}
