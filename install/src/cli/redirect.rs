// SPDX-License-Identifier: Apache-2.0
//! The command line of `redirect`. `settings` comes last in each: its options bring a heading of their own,
//! which clap would hand on to what follows.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::annotations::Settings;

/// What stands below `redirect --help`.
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
    /// What to do.
    #[command(subcommand)]
    pub command: RedirectCommand,
}

/// What `redirect` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum RedirectCommand {
    /// Prints the rules that `apply` would write: a dry run, which needs no root and touches nothing
    #[command(after_help = EXAMPLES)]
    Show(ShowArgs),
    /// Puts the rules in; open connections live on
    #[command(after_help = EXAMPLES)]
    Apply(ApplyArgs),
    /// Says in what the kernel differs from what `apply` would write
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
    /// Takes back what `apply` did: rules, address and sysctls
    #[command(after_help = EXAMPLES)]
    Remove(RemoveArgs),
}

/// Options of `redirect show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The namespace that `apply` would get. It is not looked at: without it port 22 is kept out, as `apply` does
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// How the rules are printed
    #[arg(long, value_enum, default_value_t = Format::Words)]
    pub format: Format,
    /// What should happen to which traffic.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Where.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Also where nobody listens on the sidecar's ports, and over another's rules
    #[arg(long)]
    pub force: bool,
    /// What should happen to which traffic.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Where.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What should happen to which traffic.
    #[command(flatten)]
    pub settings: Settings,
}

/// Options of `redirect remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Where.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Also another's rules, such as those of culvert-cni
    #[arg(long)]
    pub force: bool,
}

/// A network namespace, and where is kept what was changed in it.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The network namespace [default: the current one, as of a virtual machine or an init container]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Where is kept what `remove` takes back
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/culvert",
        value_hint = ValueHint::DirPath
    )]
    pub state_dir: PathBuf,
}

/// How rules are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for a person
    Words,
    /// A file for `nft -f`
    Nft,
    /// Files for `iptables-restore` and `ip6tables-restore`
    Iptables,
}
