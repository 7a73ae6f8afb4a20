// SPDX-License-Identifier: Apache-2.0
//! Which documents decide where connections are logged.
//!
//! For each direction the most specific MeshAccessLog that fits the pod and says anything about that direction; where there
//! is none, the Mesh's default backend.

use super::compile::CompileError;
use super::document::{Document, Kind, Spec};
use super::mesh::{self, Mesh};
use super::mesh_access_log::{
    self as policy, Backends, DestinationKind, FormatKind, MeshAccessLog, TargetRef,
};
use super::read::Tags;
use crate::addrs::Direction;
use crate::plan::{LogRule, Plan};
use crate::traffic_log::{LineFormat, MOST_TARGETS, Sink, Target, Template};
use std::sync::Arc;

/// This pod, as a policy sees it.
pub(super) struct Pod<'a> {
    /// Its document.
    pub document: Option<&'a Document>,
    /// The tags of its inbounds.
    pub tags: &'a [&'a Tags],
}

pub(super) fn add(
    plan: &mut Plan,
    mesh: Option<&Mesh>,
    ours: &[&Document],
    pod: &Pod<'_>,
    errors: &mut Vec<CompileError>,
) {
    let mut policies: Vec<_> = ours
        .iter()
        .filter_map(|document| match &document.spec {
            Spec::MeshAccessLog(policy) => Some((rank(policy.target_ref.as_ref(), pod)?, *document, policy)),
            _ => None,
        })
        .collect();
    // The most specific first; by name where that is even.
    policies.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
    plan.logs = from_mesh(mesh);
    for direction in Direction::ALL {
        let rules =
            policies.iter().map(|(_, _, policy)| rules(policy, direction)).find(|rules| !rules.is_empty());
        if let Some(rules) = rules {
            plan.logs[direction as usize] = rules;
        }
    }
    // Counted once all documents that decide it are right.
    let decides = [Kind::Mesh, Kind::Dataplane, Kind::MeshAccessLog];
    let wrong = |document: &&Document| matches!(document.spec, Spec::Wrong(kind) if decides.contains(&kind));
    let targets = plan.log_targets().len();
    if targets > MOST_TARGETS && !ours.iter().any(wrong) {
        let last =
            policies.first().map(|(_, document, _)| *document).or(pod.document).or(ours.first().copied());
        if let Some(document) = last {
            let found = format!("{targets} files and servers for logs");
            errors.push(document.error("", found, format!("at most {MOST_TARGETS}")).into());
        }
    }
}

/// How specific a policy of these pods is; `None`: not about this pod.
pub(super) fn rank(target: Option<&TargetRef>, pod: &Pod<'_>) -> Option<u8> {
    match target {
        None | Some(TargetRef::Mesh) => Some(0),
        Some(TargetRef::Tags(wanted)) => pod.tags.iter().any(|tags| wanted.select(tags)).then_some(1),
        Some(TargetRef::Dataplane(None)) => Some(2),
        Some(TargetRef::Dataplane(Some(name))) => {
            pod.document.is_some_and(|document| document.is_named(name)).then_some(3)
        }
    }
}

fn from_mesh(mesh: Option<&Mesh>) -> [Vec<LogRule>; 2] {
    let logging = mesh.and_then(|mesh| mesh.logging.as_ref());
    let default = logging.and_then(|logging| {
        let name = logging.default_backend.as_ref()?;
        logging.backends.iter().find(|backend| backend.name == *name)
    });
    let Some(sink) = default.and_then(mesh_sink) else { return Default::default() };
    let rule = LogRule { service: None, sinks: [sink].into() };
    [vec![rule.clone()], vec![rule]]
}

fn mesh_sink(backend: &mesh::Backend) -> Option<Sink> {
    let target = match backend.kind {
        mesh::BackendKind::File => Target::File(backend.conf.path.clone()?),
        mesh::BackendKind::Tcp => Target::Tcp(backend.conf.address?.0),
    };
    Some(Sink { target, format: plain(backend.format.as_ref(), false) })
}

fn plain(template: Option<&Template>, omit_empty: bool) -> Arc<LineFormat> {
    Arc::new(match template {
        Some(template) => LineFormat::Plain { template: template.clone(), omit_empty },
        None => LineFormat::default(),
    })
}

/// What a policy says about a direction; for one service before for all.
fn rules(policy: &MeshAccessLog, direction: Direction) -> Vec<LogRule> {
    let rule = |service: Option<&String>, backends: &Backends| LogRule {
        service: service.cloned(),
        sinks: backends.backends.iter().filter_map(sink).collect(),
    };
    let mut rules: Vec<_> = match direction {
        Direction::Inbound => {
            let from = policy.from.iter().map(|from| &from.default);
            let all: Vec<_> = from.chain(policy.rules.iter().map(|rule| &rule.default)).collect();
            let sinks = all.iter().flat_map(|one| &one.backends).filter_map(sink).collect();
            if all.is_empty() { Vec::new() } else { vec![LogRule { service: None, sinks }] }
        }
        Direction::Outbound => {
            let of = |to: &policy::To| {
                let one = to.target_ref.kind == DestinationKind::MeshService;
                rule(to.target_ref.name.as_ref().filter(|_| one), &to.default)
            };
            policy.to.iter().map(of).collect()
        }
    };
    rules.sort_by_key(|rule| rule.service.is_none());
    rules
}

fn sink(backend: &policy::Backend) -> Option<Sink> {
    let (target, format) = match backend.kind {
        policy::BackendKind::File => {
            let file = backend.file.as_ref()?;
            (Target::File(file.path.clone()), file.format.as_ref())
        }
        policy::BackendKind::Tcp => {
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
