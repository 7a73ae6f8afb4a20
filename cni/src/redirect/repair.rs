// SPDX-License-Identifier: Apache-2.0
//! Verification and repair of a running pod's redirect.
//!
//! ```text
//! generation ─▶ verify ─┬─ no difference
//!                       ├─ only lacks reserved ports ─▶ they are added
//!                       ├─ rules of another owner: left alone
//!                       └─ differs ─▶ open connections listed ─▶ tcp_loose = 0 ─▶ install ─▶ verify again
//! ```
//! [`install`] replaces damaged rules in one transaction: the kernel's NAT stays registered meanwhile, and redirected
//! connections keep their entries in conntrack. Connections older than the rules stay direct ([`super::living`]).

use super::beside;
use super::engine::{self, Engine};
use super::install::{Footprint, Installed, Namespace, RedirectError, install, verify};
use super::living::{self, Established};
use super::loopback::HopAddress;
use super::nftables;
use super::owner::Owner;
use super::policy::Policy;
use super::sysctl;

/// The reaction to a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Report the difference and change nothing.
    Report,
    /// Install the policy again.
    Repair,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// State of the redirect after the check.
    pub state: State,
    /// The kernel's count of rule changes before the last check; `None` if the kernel has none.
    pub generation: Option<u32>,
    /// NAT rules and drop policies of other programs, a line each.
    pub beside: Vec<String>,
}

/// The state of a pod's redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Equal to the policy, with this engine.
    Well(Engine),
    /// Different, with one line for each difference; only with [`Mode::Report`].
    Differs(Vec<String>),
    /// Rules of another owner, with its note: of `culvert-install redirect`, or of another container.
    Anothers(String),
    /// Different before, and repaired.
    Repaired(Box<Repaired>),
    /// Equal, but for ports of the sidecar in the pod's own `ip_local_reserved_ports`; one line for each. Only with
    /// [`Mode::Report`].
    Incomplete(Engine, Vec<String>),
    /// Incomplete before, and completed.
    Completed(Box<Completed>),
}

/// The details of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The engine whose rules are there.
    pub engine: Engine,
    /// One line for each port that was missing.
    pub differences: Vec<String>,
    /// The sysctl, for the attachment's record.
    pub footprint: Footprint,
}

/// The details of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// One line for each difference from before.
    pub differences: Vec<String>,
    /// Result of the new installation.
    pub installed: Installed,
    /// Connections that were open: redirected ones stay redirected, all others stay direct until they end.
    pub established: Vec<Established>,
}

/// Compare this thread's network namespace with `policy` for `owner`; with [`Mode::Repair`] remove the differences.
/// `recorded` is the engine in the attachment's record, if there is one.
pub fn check(
    policy: &Policy,
    owner: &Owner,
    recorded: Option<Engine>,
    mode: Mode,
) -> Result<Checked, RedirectError> {
    // Read first: a change during the check then shows as a newer generation at the next one.
    let generation = nftables::generation().ok().flatten();
    let state = state(policy, owner, recorded, mode)?;
    let generation = match &state {
        State::Repaired(_) => nftables::generation().ok().flatten(),
        _ => generation,
    };
    Ok(Checked { state, generation, beside: beside::others() })
}

fn state(
    policy: &Policy,
    owner: &Owner,
    recorded: Option<Engine>,
    mode: Mode,
) -> Result<State, RedirectError> {
    let wanted = match recorded {
        Some(engine) => engine,
        None => engine::candidates(policy)?.into_iter().next().unwrap_or(Engine::Nftables),
    };
    let differences = verify(policy, wanted)?;
    if differences.is_empty() {
        return Ok(State::Well(wanted));
    }
    if sysctl::only_lacks_ports(&differences) {
        return complete(policy, wanted, differences, mode);
    }
    let present = engine::present()?;
    let noted = match present.map(Engine::owner).transpose() {
        Ok(noted) => noted.flatten().flatten(),
        // The pod has x_tables tables, and the node has no program that could have written culvert's rules there.
        Err(error) if error.is_absent() => None,
        Err(error) => return Err(error.into()),
    };
    // Rules without a note are the rest of damaged ones, and count as ours.
    if let Some(another) = noted.filter(|found| found.container != owner.container) {
        return Ok(State::Anothers(another.to_string()));
    }
    if mode == Mode::Report {
        return Ok(State::Differs(differences));
    }
    let established = living::established().unwrap_or_default();
    // Rules of nftables are replaced or removed in any case, so they need not be named here.
    let earlier = [present, recorded].into_iter().flatten().find(|engine| *engine != Engine::Nftables);
    let installed = install(policy, owner, earlier, Namespace::Living)?;
    let left = verify(policy, installed.engine)?;
    if !left.is_empty() {
        return Err(RedirectError::ReadBack(left));
    }
    Ok(State::Repaired(Box::new(Repaired { differences, installed, established })))
}

/// Add the sidecar's ports to the pod's own list of reserved ones.
fn complete(
    policy: &Policy,
    engine: Engine,
    differences: Vec<String>,
    mode: Mode,
) -> Result<State, RedirectError> {
    if mode == Mode::Report {
        return Ok(State::Incomplete(engine, differences));
    }
    let mut sysctls = Vec::new();
    sysctl::set(policy, &mut sysctls)?;
    let left = sysctl::difference(policy)?;
    if !left.is_empty() {
        return Err(RedirectError::ReadBack(left));
    }
    let footprint = Footprint { hop_address: HopAddress::Present, sysctls };
    Ok(State::Completed(Box::new(Completed { engine, differences, footprint })))
}
