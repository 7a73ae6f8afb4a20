//! Medians and ratios, as a table and as a chart.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use culvert_tests::pod::bench::figures::{median, short};

/// Each figure by contender, measure and round.
pub(crate) type Results = BTreeMap<String, BTreeMap<Measure, Vec<f64>>>;

/// The quantity that is measured, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    KeepAlive,
    KeepAliveP50,
    KeepAliveP99,
    CpuPerRequest,
    AloneP50,
    AloneP99,
    Connections,
    ConnectionsP99,
    OneStream,
    EightStreams,
    CpuPerGigabit,
    ReadyMs,
    StartMib,
    IdleKib,
}

impl Measure {
    const ALL: [Self; 14] = [
        Self::KeepAlive,
        Self::KeepAliveP50,
        Self::KeepAliveP99,
        Self::CpuPerRequest,
        Self::AloneP50,
        Self::AloneP99,
        Self::Connections,
        Self::ConnectionsP99,
        Self::OneStream,
        Self::EightStreams,
        Self::CpuPerGigabit,
        Self::ReadyMs,
        Self::StartMib,
        Self::IdleKib,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "requests/s, 32 kept connections",
            Self::KeepAliveP50 => "  median µs",
            Self::KeepAliveP99 => "  p99 µs",
            Self::CpuPerRequest => "  CPU µs per request",
            Self::AloneP50 => "median µs, 1 connection",
            Self::AloneP99 => "  p99 µs",
            Self::Connections => "new connections/s",
            Self::ConnectionsP99 => "  p99 µs",
            Self::OneStream => "Gbit/s, 1 stream",
            Self::EightStreams => "Gbit/s, 8 streams",
            Self::CpuPerGigabit => "CPU ms per Gbit, 1 stream",
            Self::ReadyMs => "start to listening, ms",
            Self::StartMib => "MiB after start",
            Self::IdleKib => "KiB per idle connection",
        }
    }

    /// Returns true if more is better.
    fn more_is_better(self) -> bool {
        matches!(self, Self::KeepAlive | Self::Connections | Self::OneStream | Self::EightStreams)
    }
}

fn figure(results: &Results, name: &str, measure: Measure) -> Option<f64> {
    Some(median(results.get(name)?.get(&measure)?)).filter(|value| value.is_finite())
}

/// Medians of all, and culvert's ratio to each of the others.
pub(crate) fn table(names: &[&str], results: &Results) -> String {
    let others: Vec<_> = names.iter().copied().filter(|name| *name != "culvert").collect();
    let mut text = format!("{:<34}", "median");
    for name in names {
        let _ = write!(text, "{name:>10}");
    }
    for other in &others {
        let _ = write!(text, "{:>16}", format!("culvert/{other}"));
    }
    text.push('\n');
    for measure in Measure::ALL {
        let _ = write!(text, "{:<34}", measure.name());
        for name in names {
            let _ = write!(text, "{:>10}", figure(results, name, measure).map_or("–".into(), short));
        }
        let ours = figure(results, "culvert", measure);
        for other in &others {
            let ratio = ours.zip(figure(results, other, measure)).map(|(ours, theirs)| ours / theirs);
            let _ = write!(text, "{:>16}", ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")));
        }
        text.push('\n');
    }
    text
}

/// Bars of how much better (right) or worse (left) than each peer, on a logarithmic scale.
pub(crate) fn write_chart(names: &[&str], results: &Results) -> Result<PathBuf> {
    let peers: Vec<_> = names.iter().copied().filter(|name| !["culvert", "direct"].contains(name)).collect();
    let colours = ["#1f6fd0", "#c2580c", "#1a7f44"];
    let (middle, wide, row) = (520.0, 250.0, 16.0 * peers.len().max(1) as f64 + 12.0);
    let height = 60.0 + row * Measure::ALL.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\">\n<rect width=\"860\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{middle}\" y=\"18\" text-anchor=\"middle\">← culvert worse · level · culvert better →</text>\n"
    );
    for (at, peer) in peers.iter().enumerate() {
        let (x, colour) = (20.0 + 110.0 * at as f64, colours[at % colours.len()]);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"8\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"18\">to {peer}</text>",
            x + 18.0
        );
    }
    for (line, measure) in Measure::ALL.into_iter().enumerate() {
        let top = 40.0 + row * line as f64;
        let _ = writeln!(svg, "<text x=\"20\" y=\"{}\">{}</text>", top + 12.0, measure.name().trim());
        for (at, peer) in peers.iter().enumerate() {
            let Some((ours, theirs)) =
                figure(results, "culvert", measure).zip(figure(results, peer, measure))
            else {
                continue;
            };
            let ratio = ours / theirs;
            let better = if measure.more_is_better() { ratio } else { 1.0 / ratio };
            // Four times better or worse reaches the edge.
            let length = (better.log2() / 2.0).clamp(-1.0, 1.0) * wide;
            let (x, y) = (middle + length.min(0.0), top + 16.0 * at as f64);
            let colour = colours[at % colours.len()];
            let (anchor, beside) = if length < 0.0 { ("end", x - 4.0) } else { ("start", x + length + 4.0) };
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"13\" fill=\"{colour}\"/>\
                 <text x=\"{beside:.1}\" y=\"{}\" text-anchor=\"{anchor}\" font-size=\"11\">{ratio:.2}</text>",
                length.abs().max(1.0),
                y + 11.0
            );
        }
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{middle}\" x2=\"{middle}\" y1=\"28\" y2=\"{height}\" stroke=\"#5b6775\"/>\n</svg>"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    fs::create_dir_all(&folder)?;
    let path = folder.canonicalize()?.join("relay-bench.svg");
    fs::write(&path, svg)?;
    Ok(path)
}
