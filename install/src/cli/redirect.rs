// SPDX-License-Identifier: Apache-2.0
//! Command line of `redirect`. `settings` comes last in each: its options bring a heading of their own, which clap
//! would apply to all that follows.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::annotations::Settings;

/// Examples below `redirect --help`.
const EXAMPLES: &str = "\
Examples:
  culvert-install redirect show --exclude-inbound-ports 9100 --redirect-dns all
  culvert-install redirect show --format nft --annotations web.yaml
  culvert-install redirect apply --exclude-outbound-cidrs 10.0.0.0/8
  culvert-install redirect apply --netns /run/netns/blue
  culvert-install redirect verify --netns /run/netns/blue
  culvert-install redirect remove --netns /run/netns/blue

In an init container (the pod's own namespace, where the sidecar starts later):
  culvert-install redirect apply --force --exclude-inbound-ports ''

Exit codes: 0 done, or as it should be; 1 a difference, or it failed; 64 bad usage, or a value outside the grammar.";

/// Options of `redirect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RedirectArgs {
    #[command(subcommand)]
    pub command: RedirectCommand,
}

/// Verbs of `redirect`.
#[derive(Debug, Subcommand)]
pub(crate) enum RedirectCommand {
    /// Print the rules that `apply` would write: a dry run that needs no root and touches nothing
    #[command(after_help = EXAMPLES)]
    Show(ShowArgs),
    /// Write the rules; open connections go on
    #[command(after_help = EXAMPLES)]
    Apply(ApplyArgs),
    /// Print the differences between the kernel and what `apply` would write
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
    /// Undo `apply`: rules, address and sysctls
    #[command(after_help = EXAMPLES)]
    Remove(RemoveArgs),
}

/// Options of `redirect show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Namespace that `apply` would change. It is not opened; without it port 22 stays out, as with `apply`
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Format of the rules
    #[arg(long, value_enum, default_value_t = Format::Words)]
    pub format: Format,
    /// Settings of the redirect.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Namespace and state folder.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Also if nothing listens on the sidecar's ports, and over rules of another owner
    #[arg(long)]
    pub force: bool,
    /// Settings of the redirect.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Namespace and state folder.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Settings of the redirect.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Namespace and state folder.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Also rules of another owner, such as culvert-cni
    #[arg(long)]
    pub force: bool,
}

/// A network namespace, and the folder for records of changes in it.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Network namespace [default: the current one, for example of a virtual machine or an init container]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Folder for the records that `remove` reads
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/culvert",
        value_hint = ValueHint::DirPath
    )]
    pub state_dir: PathBuf,
}

/// Format of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Table for people
    Words,
    /// File for `nft -f`
    Nft,
    /// Files for `iptables-restore` and `ip6tables-restore`
    Iptables,
}
