// SPDX-License-Identifier: Apache-2.0
//! Backends of documents → targets and formats of lines.

use crate::observe::traffic_log::{LineFormat, Sink, Target};
use culvert_mesh::kinds::mesh::{self, Mesh};
use culvert_mesh::kinds::mesh_access_log::{
    AccessLogBackend, AccessLogBackendKind, AccessLogBackends, FormatKind,
};
use culvert_mesh::model::log_template::Template;
use std::sync::Arc;

/// Returns the Mesh's backends of logs.
pub(super) fn backends(mesh: &Mesh) -> impl Iterator<Item = &mesh::LogBackend> {
    mesh.logging.iter().flat_map(|logging| &logging.backends)
}

/// Returns the target of a Mesh's backend, or of its default backend; none where there is none.
pub(super) fn of_mesh(mesh: Option<&Mesh>, backend: Option<&str>) -> Arc<[Sink]> {
    let find = || {
        let mesh = mesh?;
        let name = backend.or(mesh.logging.as_ref()?.default_backend.as_deref())?;
        of_mesh_backend(backends(mesh).find(|backend| backend.name == name)?)
    };
    find().into_iter().collect()
}

fn of_mesh_backend(backend: &mesh::LogBackend) -> Option<Sink> {
    let target = match backend.kind {
        mesh::LogBackendKind::File => Target::File(backend.conf.path.clone()?),
        mesh::LogBackendKind::Tcp => Target::Tcp(backend.conf.address.clone()?),
    };
    Some(Sink { target, format: plain(backend.format.as_ref(), false) })
}

/// Returns the targets of a policy's backends.
pub(super) fn of_policy(backends: &AccessLogBackends) -> Arc<[Sink]> {
    backends.backends.iter().filter_map(of_policy_backend).collect()
}

fn of_policy_backend(backend: &AccessLogBackend) -> Option<Sink> {
    let (target, format) = match backend.kind {
        AccessLogBackendKind::File => {
            let file = backend.file.as_ref()?;
            (Target::File(file.path.clone()), file.format.as_ref())
        }
        AccessLogBackendKind::Tcp => {
            let tcp = backend.tcp.as_ref()?;
            (Target::Tcp(tcp.address.clone()), tcp.format.as_ref())
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

fn plain(template: Option<&Template>, omit_empty: bool) -> Arc<LineFormat> {
    Arc::new(match template {
        Some(template) => LineFormat::Plain { template: template.clone(), omit_empty },
        None => LineFormat::default(),
    })
}
