// SPDX-License-Identifier: Apache-2.0
//! Logs of connections, by MeshAccessLog, its ancestor TrafficLog, and Mesh.
//!
//! The policies in effect are merged for each destination and each inbound: of all entries that are about it, the one of
//! the most specific policy decides. Where none is, of calls the TrafficLog does whose selectors say most, and else the
//! Mesh's default backend.

mod reasons;
mod sinks;

use crate::observe::traffic_log::{MOST_TARGETS, Sink};
use crate::plan::Plan;
use crate::plan::compile::dataplanes;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::limits::without_effect;
use crate::plan::logs::{CallerSinks, LogCaller, LogTargets};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Inbound;
use culvert_mesh::kinds::destination::{CalledService, ToKind, ToRef};
use culvert_mesh::kinds::mesh::Mesh;
use culvert_mesh::kinds::mesh_access_log::{AccessLogBackends, LoggedCaller, MeshAccessLog};
use culvert_mesh::kinds::mesh_traffic_permission::{MatchKind, SpiffeMatch};
use culvert_mesh::kinds::older::{self, TrafficLog};
use culvert_mesh::kinds::{FromSpec, Kind, Spec};
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select::{self, Effective, Subject};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds that are read here.
const KINDS: [Kind; 2] = [Kind::MeshAccessLog, Kind::TrafficLog];
/// Kuma's name for all destinations outside of the mesh, as a TrafficLog's selectors see them.
const PASS_THROUGH: &str = "pass_through";

/// The policies about logs, for one pod.
pub(super) struct Logs<'a> {
    mesh: Option<&'a Mesh>,
    pod: Subject<'a>,
    /// Each inbound and each service goes through the policies, so they are picked out of thousands of Dataplanes once.
    policies: Vec<&'a Document>,
    /// Those of MeshAccessLog that are about the pod's calls, the one that decides first.
    calls: Vec<Effective<'a, MeshAccessLog>>,
}

impl<'a> Logs<'a> {
    pub(super) fn new(mesh: Option<&'a Mesh>, ours: &[&'a Document], pod: Subject<'a>) -> Self {
        let policies: Vec<_> = ours.iter().copied().filter(|one| KINDS.contains(&one.kind())).collect();
        let calls = select::effective(&policies, std::slice::from_ref(&pod));
        Self { mesh, pod, policies, calls }
    }

    /// Returns the logs of calls to a service; `None`: to a destination outside of the mesh.
    ///
    /// As in Kuma, policies are sorted by their pods, then by the destination, then by name: between policies that are even
    /// the entry for a service decides, whatever their names are. Of even entries of a policy the later decides.
    pub(super) fn of_calls(&self, called: Option<&CalledService<'_>>) -> LogTargets {
        let entries = self.calls.iter().flat_map(|one| {
            let namespace = one.document.namespace.as_deref();
            let to = one.policy.to.iter().rev().map(|to| (&to.target_ref, &to.default));
            to.filter(move |(to, _)| fits(to, called, namespace))
                .map(move |(to, said)| ((Reverse(one.rank), Reverse(to.rank())), said))
        });
        let all = match entries.min_by_key(|(place, _)| *place) {
            Some((_, said)) => sinks::of_policy(said),
            None => self.of_older(called.map_or(PASS_THROUGH, |called| called.service)),
        };
        LogTargets { all, by_caller: Arc::default() }
    }

    /// Returns the logs of calls where no MeshAccessLog says anything. Of the ancestors one holds, as of the others.
    fn of_older(&self, service: &str) -> Arc<[Sink]> {
        sinks::of_mesh(self.mesh, self.older(service).and_then(|(_, policy)| policy.backend()))
    }

    /// Returns the TrafficLog that holds for calls to a service.
    fn older(&self, service: &str) -> Option<(&'a Document, &'a TrafficLog)> {
        let service = Tags([(SERVICE.to_owned(), service.to_owned())].into());
        let ranked = self.policies.iter().filter_map(|one| {
            let policy = TrafficLog::from_spec(&one.spec)?;
            let [sources, destinations] = policy.selectors();
            let (source, destination) =
                (older::fit(sources, self.pod.tags)?, older::fit(destinations, &[&service])?);
            let sum = [source[0] + destination[0], source[1] + destination[1]];
            Some(((Reverse(sum), &one.name), (*one, policy)))
        });
        ranked.min_by_key(|(place, _)| *place).map(|(_, held)| held)
    }

    /// Returns the logs of connections to an inbound, or without one to ports that no inbound names.
    ///
    /// As in Kuma 3, rules about different callers hold together, and those about every client beside them; of rules about
    /// the same ones the deciding policy's last holds.
    fn of_inbound(&self, subject: &Subject<'_>) -> LogTargets {
        let mut said: Vec<(Option<&SpiffeMatch>, &AccessLogBackends)> = Vec::new();
        let mut say = |caller: Option<&'a SpiffeMatch>, backends| {
            if !said.iter().any(|(there, _)| *there == caller) {
                said.push((caller, backends));
            }
        };
        for one in select::effective::<MeshAccessLog>(&self.policies, std::slice::from_ref(subject)) {
            for (matches, backends) in inbound(one.policy).into_iter().rev() {
                if matches.is_empty() {
                    say(None, backends);
                }
                for LoggedCaller { spiffe_id } in matches {
                    say(Some(spiffe_id), backends);
                }
            }
        }
        let everyone = said.iter().find(|(caller, _)| caller.is_none());
        let all = match everyone {
            Some((_, backends)) => sinks::of_policy(backends),
            None => sinks::of_mesh(self.mesh, None),
        };
        let some = said.iter().filter_map(|(caller, backends)| {
            let sinks = sinks::of_policy(backends);
            (!sinks.is_empty()).then_some(CallerSinks { caller: log_caller((*caller)?), sinks })
        });
        LogTargets { all, by_caller: some.collect() }
    }

    /// Adds the logs to a plan that has its outbounds' already.
    pub(super) fn add(&self, plan: &mut Plan, ours: &[&Document], errors: &mut Vec<CompileError>) {
        plan.logs.calls = self.of_calls(None);
        plan.logs.ports = self.of_inbound(&Subject { inbound: None, ..self.pod });
        if let Some((_, this)) = self.pod.pod {
            for inbound in &this.networking.inbound {
                let tags = [&*inbound.tags];
                let subject = Subject { tags: &tags, inbound: Some(inbound), ..self.pod };
                plan.logs.inbounds.insert(this.listener(inbound), self.of_inbound(&subject));
            }
        }
        self.add_services(plan, ours);
        let logs = &mut plan.logs;
        logs.outbounds.retain(|_, of| *of != logs.calls);
        logs.outbounds.shrink_to_fit();
        logs.inbounds.retain(|_, of| *of != logs.ports);
        let entries = |one: &Effective<'_, MeshAccessLog>| {
            without_effect(one.document, one.policy.to.iter().map(|to| &to.target_ref))
        };
        plan.warnings.extend(self.calls.iter().filter_map(entries));
        plan.warnings.extend(self.unknown_backends());
        errors.extend(self.too_many(plan, ours));
    }

    /// Adds the logs of calls to members by their own addresses, where they differ from those of other calls.
    fn add_services(&self, plan: &mut Plan, ours: &[&Document]) {
        // Thousands of services need not be looked at where every entry is about all of them.
        if !self.policies.iter().any(|policy| names_services(policy)) {
            return;
        }
        let mut services: BTreeMap<&str, Vec<&Inbound>> = BTreeMap::new();
        for inbound in dataplanes(ours).flat_map(|(_, dataplane)| &dataplane.networking.inbound) {
            if let Some(service) = inbound.tags.service() {
                services.entry(service).or_default().push(inbound);
            }
        }
        let mesh = ours.iter().find(|document| document.kind() == Kind::Mesh).copied();
        for (service, inbounds) in services {
            let has_inbound =
                |section: &str| inbounds.iter().any(|inbound| select::is_section(inbound, section));
            let called = CalledService { mesh: &plan.mesh, service, has_inbound: &has_inbound, known: None };
            let of = self.of_calls(Some(&called));
            if of != plan.logs.calls {
                let subject = format!("calls to members of {service} by address");
                plan.decisions.first(&subject, "log", || self.claims(Some(&called), mesh));
                plan.logs.services.insert(service.to_owned(), of);
            }
        }
    }

    /// Returns a line for each TrafficLog about the pod whose backend the Mesh does not have. As in Kuma its connections are
    /// not logged then. A wrong Mesh has an error of its own.
    fn unknown_backends(&self) -> Vec<String> {
        let Some(mesh) = self.mesh else { return Vec::new() };
        let there: Vec<_> = sinks::backends(mesh).map(|backend| backend.name.as_str()).collect();
        let line = |document: &&Document| {
            let policy = TrafficLog::from_spec(&document.spec)?;
            older::fit(policy.selectors()[0], self.pod.tags)?;
            let name = policy.backend().filter(|name| !there.contains(name))?;
            let list = if there.is_empty() { "none".into() } else { there.join(", ") };
            Some(format!(
                "TrafficLog {}: its connections are not logged, as the Mesh has no backend {name:?}; it has: {list}",
                document.name
            ))
        };
        self.policies.iter().filter_map(line).collect()
    }

    /// Reports more targets than there may be: each is a thread.
    fn too_many(&self, plan: &Plan, ours: &[&Document]) -> Option<CompileError> {
        // The number is right once all documents that decide it are.
        let decides = [Kind::Mesh, Kind::Dataplane, Kind::MeshAccessLog, Kind::TrafficLog];
        let wrong =
            |document: &&Document| matches!(document.spec, Spec::Wrong(kind) if decides.contains(&kind));
        let targets = plan.logs.targets().len();
        if targets <= MOST_TARGETS || ours.iter().any(wrong) {
            return None;
        }
        let first = self.calls.first().map(|one| one.document);
        let last = first.or(self.pod.pod.map(|(document, _)| document)).or(ours.first().copied())?;
        let found = format!("{targets} files and servers for logs");
        Some(last.error("", found, format!("at most {MOST_TARGETS}")).into())
    }
}

/// Returns true if an entry of a policy of a namespace is about calls to a service, or without one to others.
fn fits(to: &ToRef, called: Option<&CalledService<'_>>, namespace: Option<&str>) -> bool {
    called.map_or(to.kind == ToKind::Mesh, |called| to.fits(called, namespace))
}

/// Returns true if a policy is about some services rather than all.
fn names_services(policy: &Document) -> bool {
    match &policy.spec {
        Spec::MeshAccessLog(log) => log.to.iter().any(|to| to.target_ref.kind != ToKind::Mesh),
        Spec::TrafficLog(log) => {
            let names = |tags: &Tags| tags.service().is_some_and(|service| service != "*");
            log.destinations.iter().any(|selector| names(&selector.tags))
        }
        _ => false,
    }
}

/// Returns the entries of a policy about connections to its pods: callers, none for every client, and backends.
fn inbound(policy: &MeshAccessLog) -> Vec<(&[LoggedCaller], &AccessLogBackends)> {
    let from = policy.from.iter().map(|from| (&[][..], &from.default));
    from.chain(policy.rules.iter().map(|rule| (&rule.matches[..], &rule.default))).collect()
}

fn log_caller(SpiffeMatch { kind, value }: &SpiffeMatch) -> LogCaller {
    match kind {
        MatchKind::Exact => LogCaller::Exactly(value.clone()),
        MatchKind::Prefix => LogCaller::Prefix(value.clone()),
    }
}

#[cfg(test)]
mod tests;
