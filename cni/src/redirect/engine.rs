// SPDX-License-Identifier: Apache-2.0
//! Both engines behind one interface, and the choice `auto`.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

use super::iptables::{self, RunError, Variant};
use super::nftables;
use super::owner::Owner;
use super::policy::{ClosedPorts, EngineChoice, IpFamilies, Policy};
use super::ruleset::Ruleset;
use crate::netlink::NetlinkError;

/// A way to write rules into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// nf_tables over netlink; both families in one table.
    Nftables,
    /// The host's iptables programs, for these families.
    Iptables(Variant, IpFamilies),
}

/// A failure of an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel refused a message of nf_tables.
    #[error("nftables: {error}{}", hint(error))]
    Nftables {
        /// The failed exchange with the kernel.
        error: NetlinkError,
    },
    /// An iptables program failed.
    #[error("iptables: {0}")]
    Iptables(#[from] RunError),
    /// The pod has a user namespace of its own, and the setting asks for iptables.
    #[error(
        "the pod has a user namespace of its own (hostUsers: false), where iptables cannot tell uids apart: the engine must \
         be auto or nftables"
    )]
    UserNamespace,
    /// No engine works here.
    #[error("no engine works on this node, see culvert-install doctor: {}", .0.join("; "))]
    None(Vec<String>),
}

impl From<NetlinkError> for EngineError {
    fn from(error: NetlinkError) -> Self {
        Self::Nftables { error }
    }
}

impl EngineError {
    /// Returns true if this node does not have the engine at all, so that it cannot have rules here either.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::Nftables { error } => error.errno().is_some_and(is_unsupported),
            Self::Iptables(RunError::Missing(_)) => true,
            Self::Iptables(_) | Self::UserNamespace | Self::None(_) => false,
        }
    }

    /// Returns true if the next engine should be tried. That includes every failure of iptables: its nft variant is also
    /// installed on nodes whose kernel lacks nf_tables, and its message then differs from version to version.
    fn wants_another(&self) -> bool {
        self.is_absent() || matches!(self, Self::Iptables(_))
    }
}

/// The effect of an installation on the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No rules of ours were there, and they were written.
    Created,
    /// The same rules were there already.
    Unchanged,
    /// Other rules of ours were there and were replaced.
    Replaced,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Replaced => "replaced",
        })
    }
}

/// The change that an engine made, for undoing it.
#[derive(Debug)]
pub(crate) enum Applied {
    /// The same rules were there already.
    Unchanged,
    /// A change of the nftables table.
    Nftables(nftables::TableChange),
    /// A change by iptables, with the lines from before.
    Iptables(Variant, iptables::SavedTables),
}

impl Applied {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Unchanged | Self::Nftables(nftables::TableChange::Unchanged) => Outcome::Unchanged,
            Self::Nftables(nftables::TableChange::Created) => Outcome::Created,
            Self::Nftables(nftables::TableChange::Replaced(_)) => Outcome::Replaced,
            Self::Iptables(_, snapshot) if snapshot.is_empty() => Outcome::Created,
            Self::Iptables(..) => Outcome::Replaced,
        }
    }

    /// Restore the rules from before the change.
    pub(crate) fn undo(&self) -> Result<(), EngineError> {
        match self {
            Self::Unchanged => Ok(()),
            Self::Nftables(applied) => Ok(nftables::undo(applied)?),
            Self::Iptables(variant, snapshot) => Ok(iptables::undo(*variant, snapshot)?),
        }
    }
}

impl Engine {
    /// Find the engine with this name, as an attachment's record has it.
    pub fn by_name(name: &str, families: IpFamilies) -> Option<Self> {
        [Self::Nftables, Self::Iptables(Variant::Nft, families), Self::Iptables(Variant::Legacy, families)]
            .into_iter()
            .find(|engine| engine.name() == name)
    }

    /// Returns the name in the annotation's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables(variant, _) => variant.engine(),
        }
    }

    /// Write `rules` into the kernel.
    pub(crate) fn apply(self, rules: &Ruleset, owner: &Owner) -> Result<Applied, EngineError> {
        match self {
            Self::Nftables => Ok(Applied::Nftables(nftables::apply(rules, owner)?)),
            Self::Iptables(variant, families) => {
                iptables::available(variant, families)?;
                iptables::isolate();
                let before = iptables::apply(variant, rules, owner, families)?;
                Ok(before.map_or(Applied::Unchanged, |before| Applied::Iptables(variant, before)))
            }
        }
    }

    /// Compare the kernel's state with `rules`; one line for each difference.
    pub(crate) fn difference(self, rules: &Ruleset) -> Result<Vec<String>, EngineError> {
        match self {
            Self::Nftables => Ok(match nftables::read()? {
                None => vec![format!("table inet {} is missing", nftables::TABLE)],
                Some(found) => nftables::difference(rules, &found),
            }),
            Self::Iptables(variant, families) => Ok(iptables::difference(variant, rules, families)?),
        }
    }

    /// Read the owner's note of this engine's rules. `None`: no rules of culvert; `Some(None)`: rules without a note.
    pub fn owner(self) -> Result<Option<Option<Owner>>, EngineError> {
        match self {
            Self::Nftables => Ok(nftables::read()?.map(|found| found.owner())),
            Self::Iptables(variant, _) => {
                iptables::isolate();
                Ok(iptables::owner(variant)?)
            }
        }
    }

    /// Remove the rules; no rules is no error.
    pub fn remove(self) -> Result<(), EngineError> {
        match self {
            Self::Nftables => Ok(nftables::delete()?),
            Self::Iptables(variant, _) => {
                iptables::isolate();
                Ok(iptables::remove(variant)?)
            }
        }
    }
}

/// Write `rules` into the kernel with the first engine that `policy` allows and that works here.
pub(crate) fn apply_by_choice(
    policy: &Policy,
    rules: &Ruleset,
    owner: &Owner,
) -> Result<(Engine, Applied), EngineError> {
    let mut errors = Vec::new();
    for engine in candidates(policy)? {
        match engine.apply(rules, owner) {
            Ok(applied) => return Ok((engine, applied)),
            Err(error) if error.wants_another() => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    Err(match errors.len() {
        1 => errors.remove(0),
        _ => EngineError::None(errors.iter().map(ToString::to_string).collect()),
    })
}

/// List the engines that `policy` allows in this thread's network namespace, in order.
pub fn candidates(policy: &Policy) -> Result<Vec<Engine>, EngineError> {
    let by_nft = Engine::Iptables(Variant::Nft, policy.families);
    let by_legacy = Engine::Iptables(Variant::Legacy, policy.families);
    let only_nftables = policy.inbound.closed_ports == ClosedPorts::Refuse || in_another_user_namespace();
    Ok(match policy.engine {
        EngineChoice::Nftables => vec![Engine::Nftables],
        EngineChoice::Auto if only_nftables => vec![Engine::Nftables],
        EngineChoice::Auto => vec![Engine::Nftables, by_nft, by_legacy],
        EngineChoice::Iptables | EngineChoice::IptablesNft | EngineChoice::IptablesLegacy
            if only_nftables =>
        {
            return Err(EngineError::UserNamespace);
        }
        EngineChoice::Iptables => vec![by_nft, by_legacy],
        EngineChoice::IptablesNft => vec![by_nft],
        EngineChoice::IptablesLegacy => vec![by_legacy],
    })
}

/// Find the engine that may have rules in this thread's network namespace, for a DEL without a record. Runs no program,
/// since most pods without a record were never onboarded.
pub(crate) fn present() -> Result<Option<Engine>, EngineError> {
    let families = IpFamilies::Dual;
    if nftables::read()?.is_some() {
        return Ok(Some(Engine::Nftables));
    }
    if nftables::has_chain(iptables::PREFIX)? {
        return Ok(Some(Engine::Iptables(Variant::Nft, families)));
    }
    Ok(has_legacy_tables().then_some(Engine::Iptables(Variant::Legacy, families)))
}

/// Returns true if x_tables tables are loaded in this thread's network namespace; a pod without legacy rules has none.
pub(super) fn has_legacy_tables() -> bool {
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|name| {
        fs::read_to_string(format!("/proc/thread-self/net/{name}"))
            .is_ok_and(|tables| !tables.trim().is_empty())
    })
}

/// Find rules of culvert that another engine than `engine` wrote into this thread's network namespace. Both would apply.
/// Runs a program only if x_tables tables are loaded.
pub(crate) fn others_present(engine: Engine) -> Result<Vec<Engine>, EngineError> {
    let families = IpFamilies::Dual;
    let is_there = |other: &Engine| -> Result<bool, EngineError> {
        match other {
            Engine::Nftables => Ok(nftables::read()?.is_some()),
            Engine::Iptables(Variant::Nft, _) => Ok(nftables::has_chain(iptables::PREFIX)?),
            Engine::Iptables(Variant::Legacy, _) => Ok(has_legacy_tables() && other.owner()?.is_some()),
        }
    };
    let mut found = Vec::new();
    for other in [
        Engine::Nftables,
        Engine::Iptables(Variant::Nft, families),
        Engine::Iptables(Variant::Legacy, families),
    ] {
        if other.name() == engine.name() {
            continue;
        }
        match is_there(&other) {
            Ok(true) => found.push(other),
            Ok(false) => {}
            // An engine that this node does not have has no rules here.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Find an engine that works on this node, for STATUS: cheap, and without changes.
pub(crate) fn any_available() -> Result<Engine, EngineError> {
    let families = IpFamilies::Dual;
    let nftables = match nftables::probe() {
        Ok(()) if kernel_has_inet_nat() => return Ok(Engine::Nftables),
        Ok(()) => "nftables: this kernel is older than 5.2 and has no NAT in the inet family".to_owned(),
        Err(error) => EngineError::from(error).to_string(),
    };
    let mut said = vec![nftables];
    for variant in [Variant::Nft, Variant::Legacy] {
        match iptables::available(variant, families) {
            Ok(()) => return Ok(Engine::Iptables(variant, families)),
            Err(error) => said.push(error.to_string()),
        }
    }
    Err(EngineError::None(said))
}

/// Returns true for kernel 5.2 or newer, and if the release cannot be read.
fn kernel_has_inet_nat() -> bool {
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return true };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (5, 2),
        _ => true,
    }
}

/// Returns true if this thread's network namespace belongs to another user namespace: its sysctls then belong to that
/// namespace's root (`net_ctl_set_ownership` in the kernel's net/sysctl_net.c).
fn in_another_user_namespace() -> bool {
    fs::metadata("/proc/sys/net/ipv4/ip_local_reserved_ports").is_ok_and(|stat| stat.uid() != 0)
}

/// Returns the operator's next step after a refusal of the kernel.
fn hint(error: &NetlinkError) -> &'static str {
    match error.errno() {
        Some(Errno::EPERM) => ": the plugin needs CAP_NET_ADMIN in the pod's user namespace",
        Some(errno) if is_unsupported(errno) => {
            ": does this kernel have nf_tables with inet NAT (5.2 or newer)? see culvert-install doctor"
        }
        _ => "",
    }
}

/// Returns true for the errors of a kernel that lacks nf_tables, its `inet` NAT or an expression.
const fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT)
}
