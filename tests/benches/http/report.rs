//! The figures of all contenders by load, with our ratios to theirs.

use std::collections::BTreeMap;
use std::fmt::Write;

use culvert_tests::pod::bench::figures::{median, short};

use super::load::Load;

/// The figures of a load on a contender, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub per_second: f64,
    pub cpu_us: f64,
    pub p99_ms: f64,
    pub mib: f64,
    pub idle_kib: f64,
    pub failed: f64,
    /// CPU of all that is not the bench's, in percent of the machine.
    pub others: f64,
}

/// All samples by load and contender.
pub(crate) type Results = BTreeMap<(&'static str, String), Vec<Sample>>;

/// A figure of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    PerSecond,
    Cpu,
    P99,
    Memory,
    Idle,
    Failed,
    Others,
}

impl Measure {
    const ALL: [Self; 7] =
        [Self::PerSecond, Self::Cpu, Self::P99, Self::Memory, Self::Idle, Self::Failed, Self::Others];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "requests/s",
            Self::Cpu => "CPU µs a request",
            Self::P99 => "p99 ms",
            Self::Memory => "MiB after the load",
            Self::Idle => "KiB a connection",
            Self::Failed => "failed",
            Self::Others => "CPU % of all else",
        }
    }

    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::PerSecond => sample.per_second,
            Self::Cpu => sample.cpu_us,
            Self::P99 => sample.p99_ms,
            Self::Memory => sample.mib,
            Self::Idle => sample.idle_kib,
            Self::Failed => sample.failed,
            Self::Others => sample.others,
        }
    }

    /// Returns false for what is no contender's merit.
    fn compares(self) -> bool {
        !matches!(self, Self::Failed | Self::Others)
    }
}

impl Sample {
    pub(crate) fn nothing() -> Self {
        let nan = f64::NAN;
        Self { per_second: nan, cpu_us: nan, p99_ms: nan, mib: nan, idle_kib: nan, failed: nan, others: nan }
    }
}

/// The median over all rounds; NaN where it was not measured. Failures are added up.
pub(crate) fn figure(results: &Results, load: &'static str, contender: &str, measure: Measure) -> f64 {
    let Some(samples) = results.get(&(load, contender.to_owned())) else { return f64::NAN };
    let values: Vec<f64> = samples.iter().map(|sample| measure.of(sample)).collect();
    match measure {
        Measure::Failed => values.iter().sum(),
        _ => median(&values),
    }
}

/// Medians of all contenders under a load, and ours as shares of theirs.
pub(crate) fn table(load: &Load, names: &[&str], results: &Results) -> String {
    let others: Vec<_> = names.iter().copied().filter(|name| *name != "culvert").collect();
    let mut text = format!("{}: {}\n{:<22}", load.name, load.what, "median");
    text.extend(names.iter().map(|name| format!("{name:>10}")));
    text.extend(others.iter().map(|other| format!("{:>10}", format!("/{other}"))));
    for measure in Measure::ALL {
        let ours = figure(results, load.name, "culvert", measure);
        if ours.is_nan() {
            continue;
        }
        let _ = write!(text, "\n{:<22}", measure.name());
        for name in names {
            let value = figure(results, load.name, name, measure);
            let shown = if measure == Measure::Failed && value.is_finite() {
                format!("{value:.0}")
            } else {
                short(value)
            };
            let _ = write!(text, "{shown:>10}");
        }
        for other in others.iter().filter(|_| measure.compares()) {
            let _ = write!(text, "{:>10}", short(ours / figure(results, load.name, other, measure)));
        }
    }
    text
}
