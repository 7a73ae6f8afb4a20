// SPDX-License-Identifier: Apache-2.0
//! Logs of connections, by MeshAccessLog and Mesh.
//!
//! The policies in effect are merged for each destination: of all entries that are about it, the one of the most specific
//! policy decides. Where none is, the Mesh's default backend does.

use crate::net::addrs::Direction;
use crate::observe::traffic_log::{LineFormat, MOST_TARGETS, Sink, Target};
use crate::plan::compile::error::CompileError;
use crate::plan::{LogRule, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh::{self, Mesh};
use culvert_mesh::kinds::mesh_access_log::{
    self as policy, AccessLogBackends, AccessLogTo, DestinationKind, FormatKind, MeshAccessLog,
};
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::model::log_template::Template;
use culvert_mesh::select::{self, Effective, Rank, Subject};
use std::cmp::Reverse;
use std::sync::Arc;

pub(super) fn add(
    plan: &mut Plan,
    mesh: Option<&Mesh>,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    let policies = select::effective::<MeshAccessLog>(ours, std::slice::from_ref(pod));
    let default = from_mesh(mesh);
    plan.logs = Direction::ALL.map(|direction| rules(&policies, direction, default.as_ref()));
    // The number is right once all documents that decide it are.
    let decides = [Kind::Mesh, Kind::Dataplane, Kind::MeshAccessLog];
    let wrong = |document: &&Document| matches!(document.spec, Spec::Wrong(kind) if decides.contains(&kind));
    let targets = plan.log_targets().len();
    if targets > MOST_TARGETS && !ours.iter().any(wrong) {
        let last = policies
            .first()
            .map(|one| one.document)
            .or(pod.pod.map(|(document, _)| document))
            .or(ours.first().copied());
        if let Some(document) = last {
            let found = format!("{targets} files and servers for logs");
            errors.push(document.error("", found, format!("at most {MOST_TARGETS}")).into());
        }
    }
}

/// Returns the rule of the Mesh's default backend.
pub(super) fn from_mesh(mesh: Option<&Mesh>) -> Option<LogRule> {
    let logging = mesh?.logging.as_ref()?;
    let name = logging.default_backend.as_ref()?;
    let backend = logging.backends.iter().find(|backend| backend.name == *name)?;
    Some(LogRule { service: None, sinks: [mesh_sink(backend)?].into() })
}

fn mesh_sink(backend: &mesh::LogBackend) -> Option<Sink> {
    let target = match backend.kind {
        mesh::LogBackendKind::File => Target::File(backend.conf.path.clone()?),
        mesh::LogBackendKind::Tcp => Target::Tcp(backend.conf.address?.0),
    };
    Some(Sink { target, format: plain(backend.format.as_ref(), false) })
}

fn plain(template: Option<&Template>, omit_empty: bool) -> Arc<LineFormat> {
    Arc::new(match template {
        Some(template) => LineFormat::Plain { template: template.clone(), omit_empty },
        None => LineFormat::default(),
    })
}

/// Returns the rules of a direction; of those that fit a connection the first decides.
fn rules(
    policies: &[Effective<'_, MeshAccessLog>],
    direction: Direction,
    default: Option<&LogRule>,
) -> Vec<LogRule> {
    let rule = |Entry { service, backends, .. }: Entry<'_>| LogRule {
        service: service.cloned(),
        sinks: backends.backends.iter().filter_map(sink).collect(),
    };
    let mut rules: Vec<_> =
        entries(policies, direction).into_iter().map(rule).chain(default.cloned()).collect();
    // What follows a rule for everything is never asked.
    if let Some(last) = rules.iter().position(|rule| rule.service.is_none()) {
        rules.truncate(last + 1);
    }
    rules
}

/// An entry of a policy about a direction.
pub(super) struct Entry<'p> {
    rank: Rank,
    pub(super) document: &'p Document,
    /// List and place in it.
    pub(super) place: (&'static str, usize),
    /// The service that it is about; none: every destination.
    pub(super) service: Option<&'p String>,
    pub(super) backends: &'p AccessLogBackends,
}

/// Returns the entries about a direction, the deciding one first.
pub(super) fn entries<'p>(policies: &[Effective<'p, MeshAccessLog>], direction: Direction) -> Vec<Entry<'p>> {
    let of = |one: &Effective<'p, MeshAccessLog>| {
        let &Effective { document, policy, rank } = one;
        let entry = move |(place, (service, backends))| Entry { rank, document, place, service, backends };
        // Of several entries of a policy the last one decides.
        said(policy, direction).into_iter().rev().map(entry)
    };
    let mut entries: Vec<_> = policies.iter().flat_map(of).collect();
    // Kuma sorts by the pods, then by the destination, then by name: between policies that are even, the one for a service
    // decides whatever their names are. The sort is stable, so names and places stay in order.
    entries.sort_by_key(|entry| (Reverse(entry.rank), entry.service.is_none()));
    entries
}

type Said<'p> = ((&'static str, usize), (Option<&'p String>, &'p AccessLogBackends));

/// Returns the entries of a policy about a direction: a service, or none for every destination, and its backends.
fn said(policy: &MeshAccessLog, direction: Direction) -> Vec<Said<'_>> {
    match direction {
        Direction::Inbound => {
            let from = policy.from.iter().enumerate().map(|(at, from)| (("from", at), &from.default));
            let rules = policy.rules.iter().enumerate().map(|(at, rule)| (("rules", at), &rule.default));
            from.chain(rules).map(|(place, backends)| (place, (None, backends))).collect()
        }
        Direction::Outbound => {
            let to = policy.to.iter().enumerate();
            to.map(|(at, to)| (("to", at), (service(to), &to.default))).collect()
        }
    }
}

/// Returns the service that an entry is about.
fn service(AccessLogTo { target_ref: to, .. }: &AccessLogTo) -> Option<&String> {
    to.name.as_ref().filter(|_| to.kind == DestinationKind::MeshService)
}

pub(super) fn sink(backend: &policy::AccessLogBackend) -> Option<Sink> {
    let (target, format) = match backend.kind {
        policy::AccessLogBackendKind::File => {
            let file = backend.file.as_ref()?;
            (Target::File(file.path.clone()), file.format.as_ref())
        }
        policy::AccessLogBackendKind::Tcp => {
            let tcp = backend.tcp.as_ref()?;
            (Target::Tcp(tcp.address.0), tcp.format.as_ref())
        }
    };
    let format = match format {
        None => plain(None, false),
        Some(format) => match format.kind {
            FormatKind::Plain => plain(format.plain.as_ref(), format.omit_empty_values),
            FormatKind::Json => Arc::new(LineFormat::Json {
                members: format
                    .json
                    .iter()
                    .map(|member| (member.key.clone(), member.value.clone()))
                    .collect(),
                omit_empty: format.omit_empty_values,
            }),
        },
    };
    Some(Sink { target, format })
}
