// SPDX-License-Identifier: Apache-2.0
//! The explanation for people and for programs. Pure.

use super::{DEFAULT, Explanation, Row, Setting};
use crate::command::table::table;

/// A table, with the facts about more than one row below it.
pub(crate) fn text(explanation: &Explanation) -> String {
    let Explanation { onboarded: _, reason, rows, notes, warnings } = explanation;
    let mut out = match reason {
        Some(reason) => format!(
            "The plugin leaves this pod alone ({reason}): every connection is direct.\n\
             culvert.dev/redirect: enabled onboards a pod.\n"
        ),
        None => {
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(["FROM", "TO", "FAMILY", "LANDS ON", "BECAUSE", "SETTING"], &rows)
        }
    };
    let mut list = |head: &str, lines: &[String]| {
        for line in lines {
            out.push_str(&format!("\n{head}: {line}"));
        }
        if !lines.is_empty() {
            out.push('\n');
        }
    };
    list("Note", notes);
    list("Warning", warnings);
    out
}

pub(crate) fn json(explanation: &Explanation) -> String {
    let mut out = serde_json::to_string_pretty(explanation).expect("strings, numbers and booleans only");
    out.push('\n');
    out
}

fn cells(row: &Row) -> [String; 6] {
    let Row { from, to, families, lands, port, because, settings } = row;
    let lands = match port {
        Some(port) => format!("sidecar, {port}"),
        None => (*lands).to_owned(),
    };
    [from.clone(), to.clone(), families.join(", "), lands, because.clone(), sources(settings)]
}

/// Sources of settings; `default` if a setting is not set, `always` if none matters.
fn sources(settings: &[Setting]) -> String {
    let set: Vec<_> = settings
        .iter()
        .filter(|setting| setting.source != DEFAULT)
        .map(|setting| setting.source.as_str())
        .collect();
    match (settings.is_empty(), set.is_empty()) {
        (true, _) => "always".to_owned(),
        (false, true) => DEFAULT.to_owned(),
        (false, false) => set.join(", "),
    }
}
