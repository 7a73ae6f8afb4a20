// SPDX-License-Identifier: Apache-2.0
//! A pod that lives: whether its redirect is as it should be, and putting it right in place.
//!
//! ```text
//! generation ─▶ verify ─┬─ as it should be
//!                       ├─ another's rules: left alone
//!                       └─ differs ─▶ open connections noted ─▶ tcp_loose = 0 ─▶ install ─▶ verify again
//! ```
//! [`install`] replaces damaged rules in one transaction: the kernel's NAT stays registered while it does, and connections
//! that are redirected keep their entries in conntrack. Those that never were, since they are older than the rules, stay
//! direct ([`super::living`]).

use super::engine::{self, Engine};
use super::install::{Installed, Namespace, RedirectError, install, verify};
use super::living::{self, Established};
use super::nftables;
use super::owner::Owner;
use super::policy::Policy;

/// What to do about what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Say it.
    Report,
    /// Put it right.
    Repair,
}

/// How a pod's redirect was found, and is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How it is.
    pub state: State,
    /// The kernel's count of changes of rules before the last look; `None` where it does not say.
    pub generation: Option<u32>,
}

/// How a pod's redirect is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Well(Engine),
    /// It differs, a line each; only with [`Mode::Report`].
    Differs(Vec<String>),
    /// The rules there were written for somebody else, by this note: `culvert-install redirect`, or another container.
    Anothers(String),
    /// It differed, and was put right.
    Repaired(Box<Repaired>),
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// In what it differed, a line each.
    pub differences: Vec<String>,
    /// What was written.
    pub installed: Installed,
    /// Connections that were open: redirected ones stay so, all others stay direct until they end.
    pub established: Vec<Established>,
}

/// Look whether this thread's network namespace is as `policy` wants it for `owner`; with [`Mode::Repair`] make it so.
/// `recorded` is the engine that wrote the rules, where a record says so.
pub fn check(
    policy: &Policy,
    owner: &Owner,
    recorded: Option<Engine>,
    mode: Mode,
) -> Result<Checked, RedirectError> {
    // Before the look: what changes meanwhile shows as a newer generation next time.
    let generation = nftables::generation().ok().flatten();
    let wanted = match recorded {
        Some(engine) => engine,
        None => engine::candidates(policy)?.into_iter().next().unwrap_or(Engine::Nftables),
    };
    let differences = verify(policy, wanted)?;
    if differences.is_empty() {
        return Ok(Checked { state: State::Well(wanted), generation });
    }
    let present = engine::present()?;
    let noted = match present.map(Engine::owner).transpose() {
        Ok(noted) => noted.flatten().flatten(),
        // Tables of the pod's own, and none of the programs that could have written ours into them.
        Err(error) if error.is_absent() => None,
        Err(error) => return Err(error.into()),
    };
    // Rules of ours without a note are what somebody left of them.
    if let Some(another) = noted.filter(|found| found.container != owner.container) {
        return Ok(Checked { state: State::Anothers(another.to_string()), generation });
    }
    if mode == Mode::Report {
        return Ok(Checked { state: State::Differs(differences), generation });
    }
    let established = living::established().unwrap_or_default();
    // nftables' rules are replaced, or go, in any case.
    let earlier = [present, recorded].into_iter().flatten().find(|engine| *engine != Engine::Nftables);
    let installed = install(policy, owner, earlier, Namespace::Living)?;
    let generation = nftables::generation().ok().flatten();
    let left = verify(policy, installed.engine)?;
    if !left.is_empty() {
        return Err(RedirectError::ReadBack(left));
    }
    let repaired = Repaired { differences, installed, established };
    Ok(Checked { state: State::Repaired(Box::new(repaired)), generation })
}
