// SPDX-License-Identifier: Apache-2.0
//! Command line of `await-uninstall`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use crate::kube::http::SERVICE_ACCOUNT;

/// Examples below `await-uninstall --help`.
const EXAMPLES: &str = "\
Examples:
  culvert-install await-uninstall --namespace culvert-system --daemonset culvert-uninstall
  culvert-install await-uninstall --namespace culvert-system --daemonset culvert-uninstall --unreachable fail

It runs in a pod whose service account may get that DaemonSet and list the pods of its namespace, as the chart's pre-delete
hook sets it up. On a single node, `culvert-install uninstall` does it all and ends when it is done.

Exit codes: 0 every node is done, but for those that may be skipped; 1 some are not, each named; 64 bad usage.";

/// Options of `await-uninstall`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AwaitUninstallArgs {
    /// Namespace of the DaemonSet
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
    /// DaemonSet whose pods run `culvert-install uninstall`
    #[arg(long, value_name = "NAME")]
    pub daemonset: String,
    /// Longest wait for all nodes together
    #[arg(long, value_name = "TIME", default_value = "240s", value_parser = time)]
    pub timeout: Duration,
    /// Longest wait until a node starts the work; a node that is down never does
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub unreachable_after: Duration,
    /// Treatment of nodes that do not start the work
    #[arg(long, value_enum, default_value_t = Unreachable::Skip)]
    pub unreachable: Unreachable,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath)]
    pub service_account: PathBuf,
}

/// Treatment of nodes that do not start the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unreachable {
    /// Name them and exit with 0
    Skip,
    /// Name them and exit with 1
    Fail,
}

/// Longest time that makes sense: a cluster of thousands of nodes takes minutes.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Parses whole seconds, minutes or hours: `90s`, `4m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let allowed = || "it must be a whole number with a unit, from 1s to 24h, such as 90s or 4m".to_owned();
    let unit = [("s", 1), ("m", 60), ("h", 3600)];
    let parse = |(unit, seconds): (&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds).map(Duration::from_secs)
    };
    let time = unit.into_iter().find_map(parse).ok_or_else(allowed)?;
    if time.is_zero() || time > LONGEST { Err(allowed()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
