//! Common parts of the benchmarks: programs that are measured beside each other, and medians of what they cost.

pub mod contender;
pub mod figures;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Reads a number from the environment: `setting("CULVERT_BENCH_ROUNDS", 3)`.
pub fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: not a number")),
        Err(_) => Ok(default),
    }
}

/// Returns the rounds of a run and the time of a load: `CULVERT_BENCH_ROUNDS` (3), `CULVERT_BENCH_SECONDS` (2).
pub fn rounds_and_time() -> Result<(u64, Duration)> {
    let rounds = setting("CULVERT_BENCH_ROUNDS", 3)?.max(1);
    Ok((rounds, Duration::from_secs(setting("CULVERT_BENCH_SECONDS", 2)?.max(1))))
}

/// Makes a lab in which tens of thousands of connections may follow each other.
pub fn lab() -> Result<Lab> {
    let lab = Lab::new()?;
    for host in [&lab.pod, &lab.peer] {
        host.set_sysctl("net.ipv4.ip_local_port_range", "16000 65535")?;
        host.set_sysctl("net.ipv4.tcp_tw_reuse", "1")?;
    }
    Ok(lab)
}
