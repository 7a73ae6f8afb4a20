// SPDX-License-Identifier: Apache-2.0
//! The pages beside the source: their tables name what the program has, and nothing else.
//!
//! `UPDATE_PAGES=1 cargo test -p culvert-sidecar --test program pages` writes OPTIONS.md's tables anew. METRICS.md is
//! written by hand, since a meaning is more than a name: there the test says which rows are missing or too many. So is
//! README.md's list of the admin's pages.

use super::{ADMIN, STATUS, Sidecar};
use clap::CommandFactory;
use culvert_sidecar::options::Options;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- options: begin -->\n";
const END: &str = "<!-- options: end -->\n";

fn path_of(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(page)
}

fn read(page: &str) -> String {
    fs::read_to_string(path_of(page)).unwrap()
}

// === the options ===

#[test]
fn the_options_are_those_of_the_command_line() {
    let path = path_of("OPTIONS.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("OPTIONS.md marks where its tables begin");
    let (stands, after) = rest.split_once(END).expect("OPTIONS.md marks where its tables end");
    let tables = options();
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        stands, tables,
        "OPTIONS.md differs from the command line: \
         UPDATE_PAGES=1 cargo test -p culvert-sidecar --test program pages"
    );
}

/// A table of the program's options, and one of each subcommand's own.
fn options() -> String {
    let program = Options::command();
    let mut text = format!("\n{}", table(&program));
    for command in program.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let (name, rows) = (command.get_name(), table(command));
        // Writing to a String does not fail.
        let _ = write!(text, "\n## {name}\n\n{about}.\n\n{rows}");
    }
    text + "\n"
}

fn table(command: &clap::Command) -> String {
    let arguments = || command.get_arguments().filter(|argument| !argument.is_hide_set());
    let with_variables = arguments().any(|argument| argument.get_env().is_some());
    let (variable, rule) = if with_variables { (" variable |", "---|") } else { ("", "") };
    let mut text = format!("| option |{variable} default | |\n|---|{rule}---|---|\n");
    for argument in arguments() {
        let Some(row) = row(argument, with_variables) else { continue };
        text.push_str(&row);
    }
    text
}

fn row(argument: &clap::Arg, with_variables: bool) -> Option<String> {
    let value = argument.get_value_names().map_or_else(String::new, |names| names.join(" "));
    let name = match argument.get_long() {
        Some("help" | "version") => return None,
        Some(long) => format!("`--{long} {value}`"),
        None => format!("`{value}…`"),
    };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    // A default that clap does not know, because it is computed, stands in the help.
    let (help, said) = match help.split_once(" [default: ") {
        Some((help, said)) => (help.to_owned(), said.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let known: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = if known.is_empty() { said } else { format!("`{}`", known.join(" ")) };
    let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let mut cells = vec![name];
    if with_variables {
        cells.push(variable);
    }
    cells.extend([default, help]);
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('\n', " ").replace('|', "\\|")).collect();
    Some(format!("| {} |\n", cells.join(" | ")))
}

// === the metrics ===

/// Series or statistics by name.
type Names = BTreeSet<String>;

/// The rows of the tables below a heading, cell by cell.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let heading = format!("\n## {heading}\n");
    let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("the page has no{heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let lines = section.lines().filter(|line| line.starts_with('|'));
    let rows: Vec<_> = lines.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "the page has no table below{heading}");
    rows
}

/// Returns the texts of a cell that stand in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first(row: &[String]) -> String {
    quoted(&row[0]).into_iter().next().unwrap_or_else(|| panic!("no name in {row:?}"))
}

/// The values of each label; under series and label together where a series has values of its own.
struct Labels(BTreeMap<String, Vec<String>>);

impl Labels {
    fn of(page: &str) -> Self {
        let mut labels = BTreeMap::new();
        for row in rows(page, "Labels") {
            let of = quoted(&row[1]).pop().unwrap_or_default();
            labels.insert(format!("{of}{}", first(&row)), quoted(&row[2]));
        }
        let reasons = rows(page, "Close reasons").iter().map(|row| first(row)).collect();
        labels.insert("culvert_connections_closed_totalreason".into(), reasons);
        labels.insert("version".into(), vec![env!("CARGO_PKG_VERSION").into()]);
        Self(labels)
    }

    fn values(&self, series: &str, label: &str) -> &[String] {
        let own = self.0.get(&format!("{series}{label}")).or_else(|| self.0.get(label));
        own.unwrap_or_else(|| panic!("METRICS.md does not say the values of {label} of {series}"))
    }
}

/// Every series of the page, as `name{label="value",…} type`.
fn written_series(page: &str) -> Names {
    let labels = Labels::of(page);
    let mut names = Names::new();
    for row in rows(page, "Series") {
        let series = first(&row);
        let mut sets = vec![BTreeSet::new()];
        for label in quoted(&row[2]) {
            let each = |set: &BTreeSet<String>| {
                let with = |value: &String| {
                    let mut set = set.clone();
                    set.insert(format!("{label}=\"{value}\""));
                    set
                };
                labels.values(&series, &label).iter().map(with).collect::<Vec<_>>()
            };
            sets = sets.iter().flat_map(each).collect();
        }
        for set in sets {
            let set: Vec<_> = set.into_iter().collect();
            assert!(names.insert(format!("{series}{{{}}} {}", set.join(","), row[1])), "{series} twice");
        }
    }
    names
}

/// Every series of an OpenMetrics text in the same form; of a histogram its count stands for all.
fn printed_series(metrics: &str) -> Names {
    let mut types = BTreeMap::new();
    for line in metrics.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            types.insert(name, kind);
        }
    }
    let mut names = Names::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) =
            sample.split_once('{').map_or((sample, ""), |(n, l)| (n, l.trim_end_matches('}')));
        let of = |end: &str, kind: &str| {
            name.strip_suffix(end).filter(|family| types.get(family).is_some_and(|of| *of == kind))
        };
        let (series, kind) = if types.get(name) == Some(&"gauge") {
            (name, "gauge")
        } else if of("_total", "counter").is_some() {
            (name, "counter")
        } else if let Some(family) = of("_count", "histogram") {
            (family, "histogram")
        } else {
            assert!(of("_bucket", "histogram").or(of("_sum", "histogram")).is_some(), "{line}");
            continue;
        };
        let labels: BTreeSet<_> = labels.split(',').filter(|label| !label.is_empty()).collect();
        let labels: Vec<_> = labels.into_iter().collect();
        names.insert(format!("{series}{{{}}} {kind}", labels.join(",")));
    }
    names
}

/// Every statistic below a heading.
fn statistics(page: &str, heading: &str) -> Vec<String> {
    rows(page, heading).iter().map(|row| first(row)).collect()
}

/// Names with what the program has in place of CLUSTER, DIRECTION and so on.
fn expanded(names: Vec<String>, page: &str, sidecar: &Sidecar) -> Names {
    let labels = Labels::of(page);
    let directions = labels.values("", "direction");
    let passthrough: Vec<_> = directions
        .iter()
        .flat_map(|direction| ["ipv4", "ipv6"].map(|family| format!("{direction}_passthrough_{family}")))
        .collect();
    let [inbound, outbound, ..] = sidecar.ports;
    let addresses: Vec<_> = [inbound, outbound]
        .iter()
        .flat_map(|port| [format!("0.0.0.0_{port}"), format!("[__]_{port}")])
        .collect();
    let places = [
        ("CLUSTER", &passthrough[..]),
        ("LISTENER", &passthrough[..]),
        ("ADDRESS", &addresses[..]),
        ("DIRECTION", directions),
        ("REASON", labels.values("culvert_connections_closed_total", "reason")),
        ("SPOKEN", labels.values("", "spoken")),
        ("ANSWER", labels.values("", "answer")),
        ("OUTCOME", labels.values("", "outcome")),
    ];
    let each = |names: Vec<String>, (place, values): (&str, &[String])| -> Vec<String> {
        let with = |name: String| {
            if name.contains(place) {
                values.iter().map(|value| name.replace(place, value)).collect()
            } else {
                vec![name]
            }
        };
        names.into_iter().flat_map(with).collect()
    };
    let names = places.into_iter().fold(names, each);
    let (count, names) = (names.len(), names.into_iter().collect::<Names>());
    assert_eq!(names.len(), count, "METRICS.md has a row twice");
    names
}

/// Fails with the rows that are missing and those that are too many.
fn compare(what: &str, written: &Names, printed: &Names) {
    let missing: Vec<_> = printed.difference(written).collect();
    let too_many: Vec<_> = written.difference(printed).collect();
    assert!(
        missing.is_empty() && too_many.is_empty(),
        "{what}: the page lacks {missing:#?}, and has in excess {too_many:#?}"
    );
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("an answer has a head and a body").1
}

const ENVOYS: &str = "Statistics with Envoy's names";
const OURS: &str = "Statistics of our own";

#[test]
fn every_series_has_its_row_and_every_row_its_series() {
    let page = read("METRICS.md");
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let metrics = sidecar.ask(STATUS, "GET /metrics");
    compare("/metrics", &written_series(&page), &printed_series(body(&metrics)));
}

#[test]
fn every_statistic_has_its_row_and_every_row_its_statistic() {
    let page = read("METRICS.md");
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let stats = sidecar.ask(ADMIN, "GET /stats");
    let printed = body(&stats).lines().filter_map(|line| line.rsplit_once(": ")).map(|(name, _)| name.into());
    let written = [ENVOYS, OURS].iter().flat_map(|heading| statistics(&page, heading)).collect();
    compare("/stats", &expanded(written, &page, &sidecar), &printed.collect());
}

/// Names a statistic as Prometheus knows it: `cluster.C.upstream_cx_total` becomes
/// `envoy_cluster_upstream_cx_total{envoy_cluster_name="C"}`.
fn as_series(statistic: &str) -> String {
    let label = |kind: &str| match kind {
        "cluster" => "envoy_cluster_name",
        "listener" => "envoy_listener_address",
        _ => "envoy_tcp_prefix",
    };
    match *statistic.splitn(3, '.').collect::<Vec<_>>() {
        [kind, place, what] => {
            format!("envoy_{kind}_{}{{{}=\"{place}\"}}", what.replace('.', "_"), label(kind))
        }
        _ => format!("envoy_{}", statistic.replace('.', "_")),
    }
}

#[test]
fn a_statistic_with_envoys_name_is_a_series_with_it_too() {
    let page = read("METRICS.md");
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let answer = sidecar.ask(ADMIN, "GET /stats/prometheus");
    let printed = body(&answer).lines().filter(|line| line.starts_with("envoy_"));
    let printed = printed.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned());
    let written = statistics(&page, ENVOYS).iter().map(|statistic| as_series(statistic)).collect();
    compare("/stats/prometheus", &expanded(written, &page, &sidecar), &printed.collect());
}

#[test]
fn a_series_names_only_statistics_that_there_are() {
    let page = read("METRICS.md");
    let known: Names = [ENVOYS, OURS].iter().flat_map(|heading| statistics(&page, heading)).collect();
    for row in rows(&page, "Series") {
        for name in quoted(&row[4]) {
            assert!(known.contains(&name), "{}: there is no statistic {name}", row[0]);
        }
    }
}

#[test]
fn the_admins_pages_are_those_of_its_help() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let help = sidecar.ask(ADMIN, "GET /help");
    let printed = body(&help).lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": "));
    let printed = printed.map(|(page, _)| page.to_owned()).collect();
    let page = read("README.md");
    let (_, section) = page.split_once("\n## Admin\n").expect("README.md has a section on the admin");
    let section = section.lines().take_while(|line| !line.starts_with("## "));
    let items = section.filter_map(|line| line.strip_prefix("- `/")?.split_once(": "));
    let written = items.map(|(page, _)| format!("/{}", page.replace('`', "")));
    compare("/help", &written.collect(), &printed);
}
