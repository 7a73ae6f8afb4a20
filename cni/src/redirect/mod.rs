// SPDX-License-Identifier: Apache-2.0
//! The redirect engine: what should happen ([`policy`]), as chains and rules ([`plan()`]), in the kernel ([`install`]).
//!
//! Everything here acts on the network namespace of the calling thread; [`crate::netns::Netns::enter`] provides one.

pub mod engine;
pub mod explain;
pub mod iptables;
pub mod living;
pub mod loopback;
pub mod nftables;
pub mod owner;
mod plan;
pub mod policy;
#[cfg(test)]
mod promises;
pub mod repair;
pub mod ruleset;
pub mod sysctl;

use std::fmt;

pub use plan::plan;
use serde::{Deserialize, Serialize};

use self::engine::{Applied, Engine, EngineError};
use self::loopback::HopAddress;
use self::owner::Owner;
use self::policy::{IpFamilies, Policy};
use self::sysctl::SysctlError;
use crate::netlink::NetlinkError;

/// Why the redirect could not be installed, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The engine could not write or read its rules.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// `::6` could not be put on `lo`.
    #[error("cannot put ::6 on lo: {0}")]
    HopAddress(NetlinkError),
    /// The policy is about IPv6 alone, which the pod has not.
    #[error("ip-family is ipv6, but IPv6 is off on the pod's lo or not in this kernel")]
    NoIpv6,
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// What the kernel holds after the write is not what was written.
    #[error("the kernel does not hold what was written: {}", .0.join("; "))]
    ReadBack(Vec<String>),
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
    /// Nothing was changed.
    pub const fn nothing() -> Self {
        Self { hop_address: HopAddress::Off, sysctls: Vec::new() }
    }

    /// The footprint of this and an `earlier` installation together, so that removing undoes both.
    pub fn after(mut self, earlier: &Self) -> Self {
        // Whatever became of it since: it is ours to take off.
        if earlier.hop_address == HopAddress::Added {
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

/// What the network namespace is like that rules are put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Nothing runs in it yet: ADD.
    New,
    /// It may carry connections, which must live on: see [`living`].
    Living,
    /// The same, and we run in a container, whose `/proc/sys` may be read-only: what cannot be set there is left out and
    /// told.
    Container,
}

/// What [`install`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Who wrote the rules.
    pub engine: Engine,
    /// How they came to be there.
    pub outcome: Outcome,
    /// What it takes to remove the rest.
    pub footprint: Footprint,
    /// Sysctls that could not be set, a line each; only in [`Namespace::Container`].
    pub left_out: Vec<String>,
}

/// Make `policy` true in this thread's network namespace: rules, `::6`, sysctls, and read it all back. The rules of
/// another engine, `earlier`, go.
///
/// All or nothing: on any error, and on a panic, what was there before is there again.
pub fn install(
    policy: &Policy,
    owner: &Owner,
    earlier: Option<Engine>,
    namespace: Namespace,
) -> Result<Installed, RedirectError> {
    if policy.families == IpFamilies::V6 && loopback::is_off() {
        return Err(RedirectError::NoIpv6);
    }
    let rules = plan(policy);
    let mut work =
        Undo { applied: Applied::Unchanged, hop_address: HopAddress::Off, sysctls: Vec::new(), done: false };
    let mut left_out = Vec::new();
    let mut tolerate = |result: Result<(), SysctlError>| match result {
        Err(error) if namespace == Namespace::Container && error.is_read_only() => {
            left_out.push(error.to_string());
            Ok(())
        }
        other => other,
    };
    if namespace != Namespace::New {
        tolerate(sysctl::keep_established(&mut work.sysctls))?;
    }
    let (engine, applied) = engine::apply_by_choice(policy, &rules, owner)?;
    work.applied = applied;
    if policy.families.with_v6() {
        work.hop_address = loopback::add().map_err(RedirectError::HopAddress)?;
    }
    tolerate(sysctl::set(policy, &mut work.sysctls))?;

    let mut differences = verify_rules(policy, engine)?;
    if left_out.is_empty() {
        differences.extend(sysctl::difference(policy)?);
    }
    if !differences.is_empty() {
        return Err(RedirectError::ReadBack(differences));
    }
    // Two engines' rules would both decide, the first in order first.
    let others = earlier.into_iter().chain((engine != Engine::Nftables).then_some(Engine::Nftables));
    for other in others.filter(|other| other.name() != engine.name()) {
        match other.remove() {
            // What is not to be had here has no rules here.
            Err(error) if error.is_absent() => {}
            removed => removed?,
        }
    }
    Ok(work.commit(engine, left_out))
}

/// In what this thread's network namespace differs from what [`install`] would leave, a line each. Changes nothing.
pub fn verify(policy: &Policy, engine: Engine) -> Result<Vec<String>, RedirectError> {
    let mut lines = verify_rules(policy, engine)?;
    lines.extend(sysctl::difference(policy)?);
    Ok(lines)
}

fn verify_rules(policy: &Policy, engine: Engine) -> Result<Vec<String>, RedirectError> {
    let mut lines = engine.difference(&plan(policy))?;
    if policy.families.with_v6() && !loopback::is_off() && !loopback::is_there() {
        lines.push("address ::6 is missing on lo".to_owned());
    }
    Ok(lines)
}

/// Remove the rules of `engine`, and what `footprint` says was changed beside them. Goes on after a failure and says all.
pub fn remove(engine: Engine, footprint: Option<&Footprint>) -> Vec<RedirectError> {
    let mut errors: Vec<RedirectError> = Vec::new();
    errors.extend(engine.remove().err().map(RedirectError::Engine));
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
    applied: Applied,
    hop_address: HopAddress,
    sysctls: Vec<sysctl::Changed>,
    done: bool,
}

impl Undo {
    fn commit(mut self, engine: Engine, left_out: Vec<String>) -> Installed {
        self.done = true;
        let sysctls = std::mem::take(&mut self.sysctls);
        let footprint = Footprint { hop_address: self.hop_address, sysctls };
        Installed { engine, outcome: self.applied.outcome(), footprint, left_out }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Each step on its own: one that fails must not keep the others from being undone. There is nobody left to tell
        // but the log of the error that led here; what stays behind is ours and found by CHECK.
        drop(sysctl::restore(&self.sysctls));
        if self.hop_address == HopAddress::Added {
            drop(loopback::remove());
        }
        drop(self.applied.undo());
    }
}
