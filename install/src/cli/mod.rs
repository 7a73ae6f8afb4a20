// SPDX-License-Identifier: Apache-2.0
//! The command line as data.

pub(crate) mod agent;
pub(crate) mod annotations;
pub(crate) mod await_uninstall;
pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod inject;
pub(crate) mod redirect;
pub(crate) mod shared;
pub(crate) mod status;

use clap::{Parser, Subcommand};

use self::agent::{AgentArgs, UninstallArgs};
use self::await_uninstall::AwaitUninstallArgs;
use self::controller::ControllerArgs;
use self::doctor::DoctorArgs;
use self::explain::ExplainArgs;
use self::inject::InjectArgs;
use self::redirect::RedirectArgs;
use self::status::StatusArgs;

/// Installs culvert on a node, keeps it there, and reports problems.
#[derive(Debug, Parser)]
#[command(name = "culvert-install", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place the plugin on this node, keep its conflist entry, verify and repair pods; runs until SIGTERM, which
    /// removes nothing
    Agent(AgentArgs),
    /// Remove the entry and the plugin from this node; safe to run again
    Uninstall(UninstallArgs),
    /// Wait until the pods that run `uninstall` are done on every node of the cluster: for the chart's pre-delete hook
    AwaitUninstall(AwaitUninstallArgs),
    /// Tell sidecars what the cluster knows, as it changes, and sign their identities; runs until SIGTERM
    Controller(ControllerArgs),
    /// Report whether this node can run culvert, every problem and what to do; exits 0 only if all is well
    Doctor(DoctorArgs),
    /// Explain where each kind of connection of a pod lands, and which setting decides it
    Explain(ExplainArgs),
    /// Put the sidecar into pods: as the cluster's admission webhook, or into those of a manifest; or tell why a pod gets
    /// one or not
    Inject(InjectArgs),
    /// Show, apply, verify or remove redirect rules without a runtime: for hosts without Kubernetes, for init
    /// containers, and as a dry run
    Redirect(RedirectArgs),
    /// List each pod of this node: onboarded or not, its engine, the time of its last check, and the reason
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
        for name in [
            "agent",
            "uninstall",
            "await-uninstall",
            "controller",
            "doctor",
            "status",
            "explain",
            "inject",
            "redirect",
        ] {
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
