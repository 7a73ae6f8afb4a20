// SPDX-License-Identifier: Apache-2.0
//! Command lines of `agent` and `uninstall`.

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue};
use clap::{Args, ValueEnum, ValueHint};

use super::shared::PathArgs;
use crate::agent::options::{OnDamage, StatusAddress};
use crate::conflist::Position;
use crate::host::entry::Mode;
use crate::kube::http::SERVICE_ACCOUNT;

/// Examples below `agent --help`.
const AGENT_EXAMPLES: &str = "\
Examples:
  culvert-install agent --host-root /host --node-name \"$NODE_NAME\"
  culvert-install agent --cni-bin-dir /home/kubernetes/bin --position after:portmap
  culvert-install agent --entry /etc/culvert/entry.json --node-name \"$NODE_NAME\" --hold-until-ready

The file of --entry holds a JSON object with keys of the plugin's conflist entry, such as
  { \"excludeNamespaces\": [\"kube-system\"], \"onUnknown\": \"deny\", \"redirect\": { \"excludeInboundPorts\": \"22\" } }

Exit codes: 0 ended by SIGTERM; 1 it cannot work on this node; 64 bad usage, or an entry that no pod could follow.";

/// Examples below `uninstall --help`.
const UNINSTALL_EXAMPLES: &str = "\
Examples:
  culvert-install uninstall
  culvert-install uninstall --host-root /host --now

Pods that were made with the plugin need it once more when they end. While there are any, a stub stays in its place: the plugin
itself, which passes new pods through untouched and goes with the last of those. --now does not wait for them.

Exit codes: 0 done, or nothing was there; 1 something could not be taken off, every such thing named; 64 bad usage.";

/// Options of `agent`.
#[derive(Debug, Args)]
#[command(after_help = AGENT_EXAMPLES)]
pub(crate) struct AgentArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Way of the plugin into the runtime's chain
    #[arg(long, value_enum, default_value_t = Mode::Chained)]
    pub mode: Mode,
    /// Place in the chain: `last`, or `after:TYPE`, behind the plugin of that type; last if there is none
    #[arg(long, default_value = "last", value_name = "last|after:TYPE")]
    pub position: Position,
    /// Keys of the plugin's entry, a JSON object: the node's defaults
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub entry: Option<PathBuf>,
    /// Treatment of a pod whose rules are missing or damaged
    #[arg(long, value_enum, default_value_t = OnDamage::Repair)]
    pub repair: OnDamage,
    /// This node's name in Kubernetes; without it no API server is asked
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: Option<String>,
    /// Key of a taint (effect NoSchedule) that the node starts with; it is kept off while the entry is effective
    #[arg(long, value_name = "TAINT", num_args = 0..=1, require_equals = true,
          default_missing_value = DEFAULT_TAINT, requires = "node_name", value_parser = taint_key)]
    pub hold_until_ready: Option<String>,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath)]
    pub service_account: PathBuf,
    /// Address of /metrics, /ready and /live
    #[arg(long, value_name = "ADDRESS", default_value = ":15090")]
    pub status_address: StatusAddress,
}

/// Key of the taint that `--hold-until-ready` means without a value.
pub(crate) const DEFAULT_TAINT: &str = "culvert.dev/agent-not-ready";

/// A text that is no key of a taint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be a taint's key without value and effect, such as {DEFAULT_TAINT}")]
pub(crate) struct NoTaint;

/// Checks the grammar of keys far enough to notice a `key=value:effect`.
fn taint_key(text: &str) -> Result<String, NoTaint> {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match text.split_once('/') {
        Some((domain, name)) if is_part(domain) && is_part(name) => Ok(text.to_owned()),
        None if is_part(text) => Ok(text.to_owned()),
        _ => Err(NoTaint),
    }
}

/// Options of `uninstall`.
#[derive(Debug, Args)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub(crate) struct UninstallArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Leave no stub: pods that were made with the plugin may then hang in Terminating
    #[arg(long)]
    pub now: bool,
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Chained, Self::DropIn]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Chained => PossibleValue::new("chained").help("An entry in the primary's own conflist"),
            Self::DropIn => PossibleValue::new("drop-in").help(
                "A file of ours in the folder named as the network, which libcni 1.3 and later reads (containerd 2.1, CRI-O 1.33)",
            ),
        })
    }
}

impl ValueEnum for OnDamage {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Repair, Self::Report, Self::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Repair => PossibleValue::new("repair").help("They are put right in place"),
            Self::Report => PossibleValue::new("report").help("It is told: an event, a metric, a log line"),
            Self::Off => PossibleValue::new("off").help("Nobody looks"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taint_keys() {
        for key in [DEFAULT_TAINT, "not-ready", "a.b/C_d"] {
            assert_eq!(taint_key(key), Ok(key.to_owned()));
        }
        for wrong in ["", "a/", "/b", "a/b/c", "a=b:NoSchedule", "a b"] {
            assert_eq!(taint_key(wrong), Err(NoTaint), "{wrong}");
        }
    }
}
