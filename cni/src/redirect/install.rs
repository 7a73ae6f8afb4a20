// SPDX-License-Identifier: Apache-2.0
//! All or nothing: a policy's rules, `::6` and sysctls in one network namespace, read back, or undone.

use serde::{Deserialize, Serialize};

use super::engine::{self, Applied, Engine, EngineError, Outcome};
use super::loopback::{self, HopAddress};
use super::owner::Owner;
use super::plan::plan;
use super::policy::{IpFamilies, Policy};
use super::ruleset::Ruleset;
use super::sysctl::{self, SysctlError};
use crate::netlink::NetlinkError;

/// A redirect that could not be installed, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The engine could not write or read its rules.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// `::6` could not be put on `lo`.
    #[error("cannot put ::6 on lo: {0}")]
    HopAddress(NetlinkError),
    /// The policy is for IPv6 only, and the pod has no IPv6.
    #[error("ip-family is ipv6, but IPv6 is off on the pod's lo or not in this kernel")]
    NoIpv6,
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// The kernel does not hold the rules and sysctls that were written.
    #[error("the kernel does not hold what was written: {}", .0.join("; "))]
    ReadBack(Vec<String>),
}

/// The changes beside the rules, for their removal; kept in the attachment's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// State of the address `::6` after the installation.
    pub hop_address: HopAddress,
    /// Changed sysctls, in the order of the changes.
    pub sysctls: Vec<sysctl::Changed>,
}

impl Footprint {
    /// The footprint of an ADD that changed nothing.
    pub const fn nothing() -> Self {
        Self { hop_address: HopAddress::Off, sysctls: Vec::new() }
    }

    /// Merge the footprint of an `earlier` installation into this one, so that one removal undoes both.
    pub fn after(mut self, earlier: &Self) -> Self {
        // A second ADD finds the address present; it is still ours to remove, since the first one added it.
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

    /// Merge as [`Self::after`], but restore the values that other programs wrote since the `earlier` installation.
    pub fn over(self, earlier: &Self) -> Self {
        let newer = self.sysctls.clone();
        let mut merged = self.after(earlier);
        for sysctl in &mut merged.sysctls {
            if let Some(newer) = newer.iter().find(|newer| newer.name == sysctl.name) {
                sysctl.before.clone_from(&newer.before);
            }
        }
        merged
    }
}

/// The kind of network namespace that rules are written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Without processes and connections: ADD.
    New,
    /// With connections that must survive: see [`super::living`].
    Living,
    /// As [`Self::Living`], written to from a container with a read-only `/proc/sys`: sysctls that cannot be set there are
    /// left out and returned in [`Installed::left_out`].
    Container,
}

/// The result of [`install`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The engine that wrote the rules.
    pub engine: Engine,
    /// Written, replaced, or found unchanged.
    pub outcome: Outcome,
    /// The changes beside the rules.
    pub footprint: Footprint,
    /// Sysctls that could not be set, a line each; only in [`Namespace::Container`].
    pub left_out: Vec<String>,
}

/// Write the rules of `policy`, `::6` and the sysctls into this thread's network namespace and read all of it back. The rules
/// of another engine, `earlier`, are removed.
///
/// All or nothing: on any error, and on a panic, the previous state is restored.
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

    let mut differences = rules_difference(policy, &rules, engine)?;
    if left_out.is_empty() {
        differences.extend(sysctl::difference(policy)?);
    }
    if !differences.is_empty() {
        return Err(RedirectError::ReadBack(differences));
    }
    // Rules of two engines would both apply, so those of every other engine have to go: also those that another plugin
    // wrote for this namespace a moment ago.
    let others = earlier.into_iter().chain(engine::others_present(engine)?);
    for other in others.filter(|other| other.name() != engine.name()) {
        match other.remove() {
            // An engine that this node does not have has no rules here.
            Err(error) if error.is_absent() => {}
            removed => removed?,
        }
    }
    Ok(work.commit(engine, left_out))
}

/// Compare this thread's network namespace with what [`install`] would leave; one line for each difference. Changes
/// nothing.
pub fn verify(policy: &Policy, engine: Engine) -> Result<Vec<String>, RedirectError> {
    let mut lines = rules_difference(policy, &plan(policy), engine)?;
    let others = engine::others_present(engine)?;
    lines.extend(others.iter().map(|other| format!("rules by {} are there too", other.name())));
    lines.extend(sysctl::difference(policy)?);
    Ok(lines)
}

fn rules_difference(policy: &Policy, rules: &Ruleset, engine: Engine) -> Result<Vec<String>, RedirectError> {
    let mut lines = engine.difference(rules)?;
    if policy.families.with_v6() && !loopback::is_off() && !loopback::is_there() {
        lines.push("address ::6 is missing on lo".to_owned());
    }
    Ok(lines)
}

/// Remove the rules of `engine` and undo the changes in `footprint`. Continues after a failure and returns all of them.
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
        // Each step on its own: one that fails must not keep the others from being undone. Their errors are dropped, since
        // the caller already returns the error that led here; CHECK finds the rules that stay behind.
        drop(sysctl::restore(&self.sysctls));
        if self.hop_address == HopAddress::Added {
            drop(loopback::remove());
        }
        drop(self.applied.undo());
    }
}
