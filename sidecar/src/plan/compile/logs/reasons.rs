// SPDX-License-Identifier: Apache-2.0
//! The documents that decide where connections are logged.

use super::{Logs, PASS_THROUGH, fits, inbound, sinks};
use crate::observe::traffic_log::Sink;
use crate::plan::Plan;
use crate::plan::decisions::Claim;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use culvert_mesh::kinds::destination::CalledService;
use culvert_mesh::kinds::mesh_access_log::{AccessLogBackends, LoggedCaller, MeshAccessLog};
use culvert_mesh::kinds::mesh_traffic_permission::{MatchKind, SpiffeMatch};
use culvert_mesh::kinds::older::TrafficLog;
use culvert_mesh::select::{self, Subject};
use std::cmp::Reverse;

impl Logs<'_> {
    /// Notes the logs of calls to destinations outside of the mesh, and of connections to each port of the pod.
    pub(in crate::plan::compile) fn explain(&self, plan: &mut Plan, ours: &[&Document]) {
        if !plan.decisions.are_kept() {
            return;
        }
        let mesh = ours.iter().find(|document| document.kind() == Kind::Mesh).copied();
        plan.decisions.first("calls that no outbound names", "log", || self.claims(None, mesh));
        self.explain_inbound(plan, "connections to ports that no inbound names", None, mesh);
        if let Some((_, this)) = self.pod.pod {
            for inbound in &this.networking.inbound {
                let subject = format!("listener inbound:{}", this.listener(inbound));
                let tags = [&*inbound.tags];
                let of = Subject { tags: &tags, inbound: Some(inbound), ..self.pod };
                self.explain_inbound(plan, &subject, Some(&of), mesh);
            }
        }
    }

    /// Notes the log of calls by the plan's last listener.
    pub(in crate::plan::compile) fn explain_calls(
        &self,
        plan: &mut Plan,
        ours: &[&Document],
        called: &CalledService<'_>,
    ) {
        let Some(listener) = plan.listeners.last().filter(|_| plan.decisions.are_kept()) else { return };
        let subject = format!("listener {}", listener.name);
        let mesh = ours.iter().find(|document| document.kind() == Kind::Mesh).copied();
        plan.decisions.first(&subject, "log", || self.claims(Some(called), mesh));
    }

    /// Returns what is said of calls, the deciding claim first.
    pub(super) fn claims(&self, called: Option<&CalledService<'_>>, mesh: Option<&Document>) -> Vec<Claim> {
        let mut entries = Vec::new();
        for one in &self.calls {
            let namespace = one.document.namespace.as_deref();
            for (index, to) in one.policy.to.iter().enumerate().rev() {
                if fits(&to.target_ref, called, namespace) {
                    let claim = claim(&to.default, one.document, &format!("spec.to[{index}]"));
                    entries.push(((Reverse(one.rank), Reverse(to.target_ref.rank())), claim));
                }
            }
        }
        // Stable, so that policies stay in the order of their names.
        entries.sort_by_key(|(place, _)| *place);
        let mut claims: Vec<_> = entries.into_iter().map(|(_, claim)| claim).collect();
        let service = called.map_or(PASS_THROUGH, |called| called.service);
        if let Some((document, policy)) = self.older(service) {
            let sinks = sinks::of_mesh(self.mesh, TrafficLog::backend(policy));
            claims.push(Claim::of(targets(&sinks), document, "conf"));
        }
        claims.extend(self.of_default(mesh));
        claims
    }

    fn explain_inbound(
        &self,
        plan: &mut Plan,
        subject: &str,
        of: Option<&Subject<'_>>,
        mesh: Option<&Document>,
    ) {
        let all = Subject { inbound: None, ..self.pod };
        let of = std::slice::from_ref(of.unwrap_or(&all));
        let mut everyone = Vec::new();
        // Of each caller the claims, the deciding one first: rules about different ones hold beside each other.
        let mut callers: Vec<(&SpiffeMatch, Vec<Claim>)> = Vec::new();
        for one in select::effective::<MeshAccessLog>(&self.policies, of) {
            let from = one.policy.from.len();
            for (index, (matches, backends)) in inbound(one.policy).into_iter().enumerate().rev() {
                let path = match index.checked_sub(from) {
                    Some(index) => format!("spec.rules[{index}]"),
                    None => format!("spec.from[{index}]"),
                };
                let claim = claim(backends, one.document, &path);
                if matches.is_empty() {
                    everyone.push(claim.clone());
                }
                for LoggedCaller { spiffe_id } in matches {
                    match callers.iter_mut().find(|(caller, _)| *caller == spiffe_id) {
                        // A caller that stands twice in a rule is the same one.
                        Some((_, said)) if said.last() == Some(&claim) => {}
                        Some((_, said)) => said.push(claim.clone()),
                        None => callers.push((spiffe_id, vec![claim.clone()])),
                    }
                }
            }
        }
        everyone.extend(self.of_default(mesh));
        plan.decisions.first(subject, "log", || everyone);
        for (SpiffeMatch { kind, value }, claims) in callers {
            let more = if *kind == MatchKind::Prefix { "…" } else { "" };
            plan.decisions.first(subject, &format!("log of {value}{more} too"), || claims);
        }
    }

    fn of_default(&self, mesh: Option<&Document>) -> Option<Claim> {
        let sinks = sinks::of_mesh(self.mesh, None);
        mesh.filter(|_| !sinks.is_empty())
            .map(|mesh| Claim::of(targets(&sinks), mesh, "logging.defaultBackend"))
    }
}

fn claim(backends: &AccessLogBackends, document: &Document, path: &str) -> Claim {
    Claim::of(targets(&sinks::of_policy(backends)), document, path)
}

fn targets(sinks: &[Sink]) -> String {
    let all: Vec<_> = sinks.iter().map(|sink| sink.target.to_string()).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
