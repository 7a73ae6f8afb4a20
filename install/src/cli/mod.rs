// SPDX-License-Identifier: Apache-2.0
//! The command line, as data.

pub(crate) mod agent;
pub(crate) mod annotations;
pub(crate) mod await_uninstall;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod redirect;
pub(crate) mod shared;
pub(crate) mod status;

use clap::{Parser, Subcommand};

use self::agent::{AgentArgs, UninstallArgs};
use self::await_uninstall::AwaitUninstallArgs;
use self::doctor::DoctorArgs;
use self::explain::ExplainArgs;
use self::redirect::RedirectArgs;
use self::status::StatusArgs;

/// Puts culvert on a node, keeps it there, and says what is wrong.
#[derive(Debug, Parser)]
#[command(name = "culvert-install", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
