// SPDX-License-Identifier: Apache-2.0
//! The answer to "why may this caller in?" and "where does this timeout come from?": which documents decide what for a pod,
//! and what lost. The command `inspect` and the admin's page show the same.

mod text;

use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{self, PortReasons};
use crate::plan::decisions::{self, Change, Claim, Decision, place};
use crate::plan::tls::permissions::{Peer, Verdict};
use crate::plan::tls::trust::TrustDomains;
use culvert_mesh::document::{Document, Found};
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use serde::Serialize;

/// Everything that documents, options and defaults decide for a pod.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mesh: String,
    dataplane: Option<String>,
    /// Lines about the answer itself.
    pub(crate) notes: Vec<String>,
    /// Who the pod is, and whose members it believes; empty without a MeshIdentity.
    identity: Vec<Claim>,
    /// Who may call each port; empty where the mesh has no TLS.
    ports: Vec<Port>,
    decisions: Vec<Decision>,
    trial: Trial,
}

/// Who may call a port.
#[derive(Debug, Serialize)]
struct Port {
    port: String,
    mode: &'static str,
    /// What says the mode, the deciding one first.
    modes: Vec<Claim>,
    /// True where STRICT closes the port to every caller, as no inbound names it.
    closed: bool,
    /// False where every member may call.
    restricted: bool,
    /// Permissions, the deciding one first.
    permissions: Vec<Claim>,
    /// The mode that it would have with the policies on trial.
    mode_on_trial: Option<&'static str>,
    /// The permissions that it would have with the policies on trial.
    permissions_on_trial: Vec<Claim>,
    caller: Option<CallerVerdict>,
}

/// The verdict about a caller.
#[derive(Debug, Serialize)]
struct CallerVerdict {
    id: String,
    verdict: &'static str,
    /// Number of the permission that decides it, from 1.
    by: Option<usize>,
    /// The reason, where no permission decides it.
    why: Option<String>,
    /// The verdict with the policies on trial, if it is another one.
    on_trial: Option<&'static str>,
}

/// Policies with `kuma.io/effect: shadow`, and what they would change beside who may call.
#[derive(Debug, Default, Serialize)]
struct Trial {
    policies: Vec<String>,
    changes: Vec<Change>,
    /// Errors that the policies would make, so that what they would change is not known.
    errors: Vec<String>,
}

/// A member whose verdict is asked for.
#[derive(Debug)]
pub(crate) struct Caller {
    peer: Peer,
    names_services: bool,
}

impl Caller {
    /// Reads the identity of a member.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn new(config: &Config, id: &str) -> Result<Self, String> {
        let id = id.parse::<SpiffeId>().map_err(|error| error.to_string())?;
        let peer = Peer { ids: [id].into(), tags: [].into() };
        // Without --identity nothing says more than the names: only a mesh's own trust domain names services.
        let names_services = match &config.identity {
            Some(source) => source.names_services,
            None => peer.id().trust_domain() == config.mesh,
        };
        Ok(Self { peer, names_services })
    }

    /// Returns the reason for which TLS refuses the identity, before any permission is asked. `trusted` are the trust domains
    /// that the pod believes.
    fn refused_by_tls(&self, trusted: &TrustDomains) -> Option<String> {
        let id = self.peer.id();
        if !trusted.has(id.trust_domain()) {
            return Some(format!(
                "by TLS: it is of the trust domain {}, and this pod believes {trusted}",
                id.trust_domain()
            ));
        }
        id.path().is_empty().then(|| "by TLS: it has no path, so it is a trust domain and no workload".into())
    }
}

/// Returns the trust domains whose members the pod believes; `None` for a mesh whose name can be none.
fn trusted(config: &Config, plan: &Plan) -> Option<TrustDomains> {
    if let Some(trust) = plan.mtls.as_ref().and_then(|mtls| mtls.settings.trust.as_deref()) {
        return Some(TrustDomains::new(&trust.domain, trust.authorities.keys()));
    }
    let own = match &config.identity {
        Some(source) => source.trust_domain.clone(),
        None => config.mesh.parse::<TrustDomain>().ok()?,
    };
    Some(TrustDomains::new(&own, std::iter::empty()))
}

impl Report {
    /// Explains documents that make a plan.
    pub(crate) fn of(config: &Config, found: &Found, caller: Option<&Caller>) -> Self {
        let mut report = Self {
            mesh: config.mesh.clone(),
            dataplane: config.dataplane.clone(),
            notes: Vec::new(),
            identity: Vec::new(),
            ports: Vec::new(),
            decisions: Vec::new(),
            trial: Trial::default(),
        };
        // The plan was made before, so it has no errors.
        let Ok(plan) = compile::explained(config, found, false) else { return report };
        let (identity, ports) = compile::reasons(config, found, &plan);
        // The path of an identity that a MeshIdentity names is its own, not a service.
        let own_paths = !identity.is_empty();
        let trusted = trusted(config, &plan);
        let refused = caller.zip(trusted).and_then(|(caller, trusted)| caller.refused_by_tls(&trusted));
        report.ports = ports.into_iter().map(|port| Port::of(port, caller, own_paths, &refused)).collect();
        report.identity = identity;
        report.trial = Trial::of(config, found, &plan.decisions);
        report.decisions = plan.decisions.list().to_vec();
        report
    }
}

impl Port {
    fn of(reasons: PortReasons, caller: Option<&Caller>, own_paths: bool, refused: &Option<String>) -> Self {
        const CLOSED: &str = "STRICT closes ports that no inbound names";
        let why = refused.clone().or_else(|| reasons.closed.then(|| CLOSED.into()));
        let verdict = caller.map(|caller| match why {
            Some(why) => CallerVerdict::refused(&caller.peer, why),
            None => CallerVerdict::of(&reasons, &caller.peer, caller.names_services && !own_paths),
        });
        let mode_on_trial = reasons.mode_on_trial().map(crate::plan::TlsMode::name);
        let PortReasons { port, gate, modes, callers, on_trial, closed } = reasons;
        Self {
            port,
            mode: gate.mode.name(),
            modes,
            closed,
            restricted: gate.permissions.restricted,
            permissions: callers.into_iter().map(|(_, claim)| claim).collect(),
            mode_on_trial,
            permissions_on_trial: on_trial,
            caller: verdict,
        }
    }
}

impl CallerVerdict {
    fn of(port: &PortReasons, peer: &Peer, names_services: bool) -> Self {
        let (verdict, by) = port.decide(peer, names_services);
        let on_trial = port.decide_on_trial(peer, names_services).filter(|other| *other != verdict);
        let id = peer.id().to_string();
        Self { id, verdict: word(verdict), by, why: None, on_trial: on_trial.map(word) }
    }

    fn refused(peer: &Peer, why: String) -> Self {
        let id = peer.id().to_string();
        Self { id, verdict: word(Verdict::Denied), by: None, why: Some(why), on_trial: None }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "may call",
        Verdict::ShadowDenied => "may call, and counts as denied",
        Verdict::Denied => "is refused",
    }
}

impl Trial {
    fn of(config: &Config, found: &Found, is: &decisions::Decisions) -> Self {
        let ours = found.documents.iter().filter(|document| document.mesh == config.mesh);
        let shadow: Vec<&Document> = ours.filter(|document| document.is_shadow()).collect();
        if shadow.is_empty() {
            return Self::default();
        }
        let policies = shadow.iter().map(|document| place(document, "")).collect();
        match compile::explained(config, found, true) {
            Ok(plan) => {
                let changes = decisions::changes(is, &plan.decisions);
                Self { policies, changes, errors: Vec::new() }
            }
            Err(errors) => {
                let errors = errors.iter().map(ToString::to_string).collect();
                Self { policies, changes: Vec::new(), errors }
            }
        }
    }
}

#[cfg(test)]
mod kinds;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod tests;
