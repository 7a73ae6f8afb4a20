//! Medians, and numbers as a table shows them.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};

use crate::lab::host::Host;

/// Returns the median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Writes a number with two to four digits that count, and a dash for NaN.
pub fn short(value: f64) -> String {
    match value {
        v if !v.is_finite() => "–".to_owned(),
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// CPU time of the whole machine so far that was not idle, in seconds over all processors.
///
/// Interrupts are left out: the kernel counts them to no process.
pub fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let ticks: u64 = [0, 1, 2, 7].iter().filter_map(|at| fields.get(*at)).sum();
    Ok(ticks as f64 / super::contender::TICKS)
}

/// CPU time of this program so far, and of the programs it started that have ended.
pub fn own_seconds() -> Result<f64> {
    let mut sum = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        }
    }
    Ok(sum)
}

/// Names the congestion control of new connections in a pod.
pub fn congestion_control(host: &Host) -> Result<String> {
    host.sysctl("net.ipv4.tcp_congestion_control").context("no congestion control")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[7.0], 7.0)] {
            assert!((median(values) - expected).abs() < f64::EPSILON, "{values:?}");
        }
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        for (value, expected) in [(12345.6, "12346"), (99.94, "99.9"), (1.234, "1.23"), (f64::NAN, "–")] {
            assert_eq!(short(value), expected);
        }
    }
}
