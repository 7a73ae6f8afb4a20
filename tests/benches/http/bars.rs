//! The promises: what the sidecar must reach beside its peers.

use std::fmt::Write;

use culvert_tests::pod::bench::figures::short;

use super::report::{Measure, Results, figure};

/// A bound of our figure, as a share of another contender's or by itself.
#[derive(Debug, Clone, Copy)]
struct Bar {
    load: &'static str,
    measure: Measure,
    beside: Option<&'static str>,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

const fn more(load: &'static str, measure: Measure, beside: &'static str, least: f64) -> Bar {
    Bar { load, measure, beside: Some(beside), bound: Bound::AtLeast(least) }
}

const fn less(load: &'static str, measure: Measure, beside: &'static str, most: f64) -> Bar {
    Bar { load, measure, beside: Some(beside), bound: Bound::AtMost(most) }
}

const fn alone(load: &'static str, measure: Measure, most: f64) -> Bar {
    Bar { load, measure, beside: None, bound: Bound::AtMost(most) }
}

const BARS: &[Bar] = &[
    more("keep-32", Measure::PerSecond, "envoy", 2.5),
    less("keep-32", Measure::Cpu, "envoy", 0.30),
    less("keep-32", Measure::P99, "envoy", 0.6),
    more("keep-32", Measure::PerSecond, "haproxy", 1.0),
    less("keep-32", Measure::Cpu, "haproxy", 0.8),
    more("keep-32", Measure::PerSecond, "tcp", 0.93),
    more("keep-256", Measure::PerSecond, "envoy", 2.5),
    less("keep-256", Measure::Cpu, "envoy", 0.25),
    less("keep-256", Measure::P99, "envoy", 0.6),
    more("keep-256", Measure::PerSecond, "haproxy", 1.0),
    less("keep-256", Measure::Cpu, "haproxy", 0.8),
    more("keep-256", Measure::PerSecond, "tcp", 0.93),
    more("close", Measure::PerSecond, "envoy", 1.1),
    less("close", Measure::Cpu, "envoy", 0.65),
    more("down-1k", Measure::PerSecond, "envoy", 2.5),
    less("down-1k", Measure::Cpu, "envoy", 0.3),
    more("up-1k", Measure::PerSecond, "envoy", 2.5),
    less("up-1k", Measure::Cpu, "envoy", 0.3),
    more("down-100k", Measure::PerSecond, "envoy", 1.3),
    less("down-100k", Measure::Cpu, "envoy", 0.8),
    more("up-100k", Measure::PerSecond, "envoy", 1.6),
    less("up-100k", Measure::Cpu, "envoy", 0.5),
    more("down-10m", Measure::PerSecond, "envoy", 1.4),
    less("down-10m", Measure::Cpu, "envoy", 0.65),
    more("up-10m", Measure::PerSecond, "envoy", 1.4),
    less("up-10m", Measure::Cpu, "envoy", 0.65),
    more("h2c", Measure::PerSecond, "envoy", 2.5),
    less("h2c", Measure::Cpu, "envoy", 0.25),
    less("h2c", Measure::P99, "envoy", 0.5),
    less("h2c", Measure::Memory, "envoy", 0.3),
    alone("idle", Measure::Idle, 3.0),
    alone("keep-32", Measure::Failed, 0.0),
    alone("keep-256", Measure::Failed, 0.0),
    alone("close", Measure::Failed, 0.0),
    alone("down-1k", Measure::Failed, 0.0),
    alone("up-1k", Measure::Failed, 0.0),
    alone("down-100k", Measure::Failed, 0.0),
    alone("up-100k", Measure::Failed, 0.0),
    alone("down-10m", Measure::Failed, 0.0),
    alone("up-10m", Measure::Failed, 0.0),
    alone("h2c", Measure::Failed, 0.0),
];

/// A line for each bar of the loads that were run, and the number of those that are missed.
pub(crate) fn table(results: &Results) -> (String, usize) {
    let (mut text, mut missed) =
        (format!("{:<10} {:<20} {:<10} {:>8}  {:<8}", "bar", "", "beside", "is", "bound"), 0);
    for bar in BARS {
        let ours = figure(results, bar.load, "culvert", bar.measure);
        if ours.is_nan() {
            continue;
        }
        let is = bar.beside.map_or(ours, |other| ours / figure(results, bar.load, other, bar.measure));
        let verdict = match is {
            is if is.is_nan() => "not measured",
            is if bar.bound.is_met(is) => "pass",
            _ => {
                missed += 1;
                "FAIL"
            }
        };
        let bound = match bar.bound {
            Bound::AtLeast(least) => format!("≥ {least}"),
            Bound::AtMost(most) => format!("≤ {most}"),
        };
        let (name, beside) = (bar.measure.name(), bar.beside.unwrap_or("–"));
        let _ =
            write!(text, "\n{:<10} {name:<20} {beside:<10} {:>8}  {bound:<8} {verdict}", bar.load, short(is));
    }
    (text, missed)
}
