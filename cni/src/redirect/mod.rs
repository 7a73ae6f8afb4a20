// SPDX-License-Identifier: Apache-2.0
//! The redirect engine: what should happen ([`policy`]), as chains and rules ([`plan()`]), in the kernel ([`install`]).
//!
//! Everything here acts on the network namespace of the calling thread; [`crate::netns::Netns::enter`] provides one.

pub mod loopback;
pub mod nftables;
pub mod owner;
mod plan;
pub mod policy;
pub mod ruleset;
pub mod sysctl;

use std::fmt;

use nix::errno::Errno;
pub use plan::plan;
use serde::{Deserialize, Serialize};

use self::loopback::HopAddress;
use self::owner::Owner;
use self::policy::Policy;
use crate::netlink::NetlinkError;

/// Why the redirect could not be installed, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The engine could not write or read its rules.
    #[error("nftables: {error}{}", hint(error))]
    Engine {
        /// What the kernel said.
        error: NetlinkError,
    },
    /// `::6` could not be put on `lo`.
    #[error("cannot put ::6 on lo: {0}")]
    HopAddress(NetlinkError),
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// What the kernel holds after the write is not what was written.
    #[error("the kernel does not hold what was written: {}", .0.join("; "))]
    ReadBack(Vec<String>),
}

fn engine(error: NetlinkError) -> RedirectError {
    RedirectError::Engine { error }
}

/// What to do about a refusal of the kernel's.
fn hint(error: &NetlinkError) -> &'static str {
    match error.errno() {
        Some(Errno::EPERM) => ": the plugin needs CAP_NET_ADMIN in the pod's user namespace",
        Some(Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => {
            ": does this kernel have nf_tables with inet NAT (5.2 or newer)? see culvert-install doctor"
        }
        _ => "",
    }
}

/// How the rules came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They were written.
    Created,
    /// The same were there already.
    Unchanged,
    /// Others were there and were replaced.
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

/// What was installed, and what it takes to remove it; kept in the attachment's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// What became of `::6`.
    pub hop_address: HopAddress,
    /// The sysctls that were changed, in order.
    pub sysctls: Vec<sysctl::Changed>,
}

impl Footprint {
    /// The footprint of this and an `earlier` installation together, so that removing undoes both.
    pub fn after(mut self, earlier: &Self) -> Self {
        if earlier.hop_address == HopAddress::Added && self.hop_address == HopAddress::Present {
            self.hop_address = HopAddress::Added;
        }
        for old in earlier.sysctls.iter().rev() {
            match self.sysctls.iter_mut().find(|new| new.name == old.name) {
                Some(new) => new.before.clone_from(&old.before),
                None => self.sysctls.insert(0, old.clone()),
            }
        }
        self
    }
}

/// Make `policy` true in this thread's network namespace: rules, `::6`, sysctls, and read it all back.
///
/// All or nothing: on any error, and on a panic, what was there before is there again.
pub fn install(policy: &Policy, owner: &Owner) -> Result<(Outcome, Footprint), RedirectError> {
    let rules = plan(policy);
    let mut work = Undo {
        applied: Some(nftables::apply(&rules, owner).map_err(engine)?),
        hop_address: HopAddress::Off,
        sysctls: Vec::new(),
    };
    work.hop_address = loopback::add().map_err(RedirectError::HopAddress)?;
    sysctl::set(policy, &mut work.sysctls)?;

    let differences = verify(policy)?;
    if !differences.is_empty() {
        return Err(RedirectError::ReadBack(differences));
    }
    Ok(work.commit())
}

/// In what this thread's network namespace differs from what [`install`] would leave, a line each. Changes nothing.
pub fn verify(policy: &Policy) -> Result<Vec<String>, RedirectError> {
    let mut lines = match nftables::read().map_err(engine)? {
        None => vec![format!("table inet {} is missing", nftables::TABLE)],
        Some(found) => nftables::difference(&plan(policy), &found),
    };
    lines.extend(sysctl::difference(policy)?);
    Ok(lines)
}

/// Whose rules are in this thread's network namespace; `None`: no rules of ours.
pub fn installed_owner() -> Result<Option<Option<Owner>>, RedirectError> {
    let found = nftables::read().map_err(engine)?;
    Ok(found.map(|snapshot| snapshot.owner()))
}

/// Remove the rules, and what `footprint` says was changed beside them. Goes on after a failure and says all.
pub fn remove(footprint: Option<&Footprint>) -> Vec<RedirectError> {
    let mut errors: Vec<RedirectError> = Vec::new();
    errors.extend(nftables::delete().err().map(engine));
    if let Some(Footprint { hop_address, sysctls }) = footprint {
        errors.extend(sysctl::restore(sysctls).into_iter().map(RedirectError::Sysctl));
        if *hop_address == HopAddress::Added {
            errors.extend(loopback::remove().err().map(RedirectError::HopAddress));
        }
    }
    errors
}

/// Undoes an unfinished [`install`] when dropped; [`Undo::commit`] keeps it.
struct Undo {
    applied: Option<nftables::Applied>,
    hop_address: HopAddress,
    sysctls: Vec<sysctl::Changed>,
}

impl Undo {
    fn commit(mut self) -> (Outcome, Footprint) {
        let outcome = match self.applied.take() {
            Some(nftables::Applied::Unchanged) | None => Outcome::Unchanged,
            Some(nftables::Applied::Created) => Outcome::Created,
            Some(nftables::Applied::Replaced(_)) => Outcome::Replaced,
        };
        let sysctls = std::mem::take(&mut self.sysctls);
        (outcome, Footprint { hop_address: self.hop_address, sysctls })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(applied) = self.applied.take() else { return };
        // Each step on its own: one that fails must not keep the others from being undone. There is nobody left to tell
        // but the log of the error that led here; what stays behind is ours and found by CHECK.
        drop(sysctl::restore(&self.sysctls));
        if self.hop_address == HopAddress::Added {
            drop(loopback::remove());
        }
        drop(nftables::undo(&applied));
    }
}
