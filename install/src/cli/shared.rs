// SPDX-License-Identifier: Apache-2.0
//! Options that several commands have.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use crate::host::paths::Paths;

/// Paths of the node. All but `--host-root` and `--plugin` lie below the host root.
#[derive(Debug, Clone, Args)]
pub(crate) struct PathArgs {
    /// Mount point of the node's file system
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub host_root: PathBuf,
    /// Folder of CNI configurations [default: from the runtime's own configuration, else /etc/cni/net.d]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder of CNI plugins [default: from the runtime's own configuration, else /opt/cni/bin]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_bin_dir: Option<PathBuf>,
    /// Binary of the plugin to place, not below --host-root [default: culvert-cni beside culvert-install]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plugin: Option<PathBuf>,
    /// Folder of attachment records and sockets
    #[arg(long, value_name = "DIR", default_value = "/run/culvert", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// CRI socket of the container runtime [default: the first existing one of those that runtimes use]
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub runtime_socket: Option<PathBuf>,
}

impl From<PathArgs> for Paths {
    fn from(args: PathArgs) -> Self {
        let PathArgs { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket } = args;
        Self { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket }
    }
}

/// Format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Table for people
    Text,
    /// One JSON document with stable keys
    Json,
}

/// Longest wait that makes sense: a cluster of thousands of nodes takes minutes.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Longest life of a certificate.
const LONGEST_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];

/// Parses whole seconds, minutes or hours: `90s`, `4m`, `1h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    within(text, &UNITS[..3], LONGEST)
        .ok_or_else(|| "it must be a whole number with a unit, from 1s to 24h, such as 90s or 4m".to_owned())
}

/// Parses the life of a certificate: `30d`, `12h`.
pub(super) fn long_time(text: &str) -> Result<Duration, String> {
    within(text, &UNITS, LONGEST_LIFE).ok_or_else(|| {
        "it must be a whole number with a unit, from 1s to 3650d, such as 90d or 12h".to_owned()
    })
}

fn within(text: &str, units: &[(&str, u64)], longest: Duration) -> Option<Duration> {
    let parse = |(unit, seconds): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds).map(Duration::from_secs)
    };
    units.iter().find_map(parse).filter(|time| !time.is_zero() && *time <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        for (text, seconds) in [("1s", 1), ("90d", 90 * 86400), ("3650d", 3650 * 86400)] {
            assert_eq!(long_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "d", "0d", "3651d", "1w", "99999999999999999999d"] {
            assert!(long_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("4m", 240), ("24h", 86400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in
            ["", "0s", "90", "s", "-1s", "1.5s", "25h", "99999999999999999999h", "18446744073709551615m"]
        {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
