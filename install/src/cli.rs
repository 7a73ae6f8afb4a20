// SPDX-License-Identifier: Apache-2.0
//! The command line, as data.

pub mod agent;
pub mod annotations;
pub mod explain;
pub mod redirect;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use self::agent::{AgentArgs, UninstallArgs};
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
    /// Says whether this node can carry culvert, what is wrong and what to do; exits 0 only when all is well
    Doctor(DoctorArgs),
    /// Says where each kind of connection of a pod lands, and because of which setting
    Explain(ExplainArgs),
    /// Shows, applies, verifies or removes redirect rules without a runtime: for hosts without Kubernetes, for init
    /// containers, and as a dry run
    Redirect(RedirectArgs),
    /// Known by name, answered with an error.
    #[command(flatten)]
    Planned(Planned),
}

/// Commands of the public contract that are not built yet: they answer with an error, never with silence.
#[derive(Debug, Subcommand)]
pub enum Planned {
    /// (not built yet) Lists each pod of this node: onboarded, engine, last verified, reason
    Status(Ignored),
}

/// Whatever stands behind a command that is not built yet.
#[derive(Debug, Args)]
pub struct Ignored {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
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
        for name in ["agent", "uninstall", "doctor", "explain", "redirect"] {
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
