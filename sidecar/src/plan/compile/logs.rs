// SPDX-License-Identifier: Apache-2.0
//! Logs of connections, by MeshAccessLog and Mesh.
//!
//! For each direction the most specific MeshAccessLog in effect that says anything about that direction; without one, the
//! Mesh's default backend.

use crate::net::addrs::Direction;
use crate::observe::traffic_log::{LineFormat, MOST_TARGETS, Sink, Target};
use crate::plan::compile::error::CompileError;
use crate::plan::{LogRule, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh::{self, Mesh};
use culvert_mesh::kinds::mesh_access_log::{
    self as policy, AccessLogBackends, DestinationKind, FormatKind, MeshAccessLog,
};
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::merge::merged;
use culvert_mesh::model::log_template::Template;
use culvert_mesh::select::{self, Subject};
use std::sync::Arc;

pub(super) fn add(
    plan: &mut Plan,
    mesh: Option<&Mesh>,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    let policies = select::effective::<MeshAccessLog>(ours, std::slice::from_ref(pod));
    let said = policies.iter().map(|one| Direction::ALL.map(|direction| rules(one.policy, direction)));
    plan.logs = merged(said.chain([from_mesh(mesh)])).unwrap_or_default();
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

/// Returns the rules of a policy for a direction; those for one service come before those for all.
fn rules(policy: &MeshAccessLog, direction: Direction) -> Vec<LogRule> {
    let rule = |service: Option<&String>, backends: &AccessLogBackends| LogRule {
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
            let of = |to: &policy::AccessLogTo| {
                let one = to.target_ref.kind == DestinationKind::MeshService;
                rule(to.target_ref.name.as_ref().filter(|_| one), &to.default)
            };
            policy.to.iter().map(of).collect()
        }
    };
    rules.sort_by_key(|rule| rule.service.is_none());
    rules
}

fn sink(backend: &policy::AccessLogBackend) -> Option<Sink> {
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
