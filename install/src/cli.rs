// SPDX-License-Identifier: Apache-2.0
//! The command line, as data.

pub mod agent;
pub mod annotations;
pub mod await_uninstall;
pub mod explain;
pub mod redirect;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use self::agent::{AgentArgs, UninstallArgs};
use self::await_uninstall::AwaitUninstallArgs;
use self::explain::ExplainArgs;
use self::redirect::RedirectArgs;

/// Puts culvert on a node, keeps it there, and says what is wrong.
#[derive(Debug, Parser)]
#[command(name = "culvert-install", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Places the plugin on this node, keeps its conflist entry, verifies and repairs pods; runs until SIGTERM, which
    /// removes nothing
    Agent(AgentArgs),
    /// Takes the entry and the plugin off this node; safe to run again
    Uninstall(UninstallArgs),
    /// Waits until the pods that run `uninstall` are done on every node of the cluster: for the chart's pre-delete hook
    AwaitUninstall(AwaitUninstallArgs),
    /// Says whether this node can carry culvert, what is wrong and what to do; exits 0 only when all is well
    Doctor(DoctorArgs),
    /// Says where each kind of connection of a pod lands, and because of which setting
    Explain(ExplainArgs),
    /// Shows, applies, verifies or removes redirect rules without a runtime: for hosts without Kubernetes, for init
    /// containers, and as a dry run
    Redirect(RedirectArgs),
    /// Lists each pod of this node: whether it is onboarded, by which engine, when that was verified last, and why
    Status(StatusArgs),
}

/// What stands below `status --help`.
const STATUS_AFTER: &str = "\
The agent is asked by its socket in --state-dir. Where none answers, the pods are listed from the
runtime's CRI socket (else from the attachments' records) and each is looked at once, which changes
nothing.

Examples:
  culvert-install status
  culvert-install status --host-root /host --output json

Exit codes: 0 every onboarded pod is redirected, and what each pod is is known; 1 a pod needs
attention; 64 bad usage.";

/// Options of `status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_AFTER)]
pub struct StatusArgs {
    /// Where things are on the node.
    #[command(flatten)]
    pub paths: Paths,
    /// For a person or for a program
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// What stands below `doctor --help`.
const DOCTOR_AFTER: &str = "\
Examples:
  culvert-install doctor
  culvert-install doctor --host-root /host --output json

Exit codes: 0 all is well; 1 something needs attention; 64 bad usage.";

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_AFTER)]
pub struct DoctorArgs {
    /// Where things are on the node.
    #[command(flatten)]
    pub paths: Paths,
    /// For a person or for a program
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Where things are on the node. All but `--host-root` and `--plugin` lie below it.
#[derive(Debug, Clone, Args)]
pub struct Paths {
    /// Where the node's file system is mounted
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub host_root: PathBuf,
    /// The folder of CNI configurations [default: as the runtime's own configuration says, else /etc/cni/net.d]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_conf_dir: Option<PathBuf>,
    /// The folder of CNI plugins [default: as the runtime's own configuration says, else /opt/cni/bin]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary to place, not below --host-root [default: culvert-cni beside culvert-install]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plugin: Option<PathBuf>,
    /// The folder of attachment records and sockets
    #[arg(long, value_name = "DIR", default_value = "/run/culvert", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// The container runtime's CRI socket [default: the first that is there of those that runtimes use]
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub runtime_socket: Option<PathBuf>,
}

/// Who reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for a person
    Text,
    /// One JSON document with stable keys
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help() {
        let mut cli = Cli::command().term_width(100);
        cli.build();
        insta::assert_snapshot!("help", cli.render_long_help());
        for name in ["agent", "uninstall", "await-uninstall", "doctor", "status", "explain", "redirect"] {
            let command = cli.find_subcommand_mut(name).unwrap();
            insta::assert_snapshot!(format!("help_{name}"), command.render_long_help());
        }
        let redirect = cli.find_subcommand_mut("redirect").unwrap();
        for name in ["show", "apply", "verify", "remove"] {
            let command = redirect.find_subcommand_mut(name).unwrap();
            insta::assert_snapshot!(format!("help_redirect_{name}"), command.render_long_help());
        }
    }
}
