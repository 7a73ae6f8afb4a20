// SPDX-License-Identifier: Apache-2.0
//! `Mesh`: settings of all pods of a mesh.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::log_template::{SocketTarget, Template};
use crate::read::part::{Part, Reported};
use crate::read::{At, Ignored, fields, words};
use std::collections::BTreeSet;

fields! {
    /// Settings of all pods of a mesh.
    pub struct Mesh {
        /// Traffic that leaves the mesh.
        networking: optional MeshNetworking = "networking",
        /// Files and servers that connections are logged to.
        logging: optional Logging = "logging",
        /// TLS between the pods of the mesh.
        mtls: optional Mtls = "mtls",
    }
}

fields! {
    /// Traffic that leaves the mesh.
    pub struct MeshNetworking {
        /// Connections from the pods of the mesh.
        outbound: optional MeshOutbound = "outbound",
    }
}

fields! {
    /// Connections from the pods of the mesh.
    pub struct MeshOutbound {
        /// Lets connections leave for destinations that no document names. Default: true.
        passthrough: optional bool = "passthrough",
    }
}

fields! {
    /// Files and servers that connections are logged to.
    pub struct Logging {
        /// The backend that every connection is logged to; without one the backends are only defined.
        default_backend: optional String = "defaultBackend",
        /// Files and servers that take logs.
        backends: default Vec<LogBackend> = "backends",
    }
}

fields! {
    /// A file or server that takes logs.
    pub struct LogBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// A line's text, with placeholders as %START_TIME%.
        format: optional Template = "format",
        /// A file, or a TCP server that takes lines.
        kind: required LogBackendKind = "type",
        /// Path or address, by type.
        conf: required LogBackendConf = "conf",
    }
}

words! {
    /// Types of log backends.
    pub enum LogBackendKind {
        /// Lines are appended to a file.
        File = "file",
        /// Lines go to a TCP server.
        Tcp = "tcp",
    }
}

fields! {
    /// Path or address of a log backend.
    pub struct LogBackendConf {
        /// Of a file: its path, or /dev/stdout.
        path: optional String = "path",
        /// Of a TCP server: its IP address and port.
        address: optional SocketTarget = "address",
    }
}

fields! {
    /// TLS between the pods of the mesh.
    pub struct Mtls {
        /// Name of the backend that is on. Absent: no TLS.
        enabled_backend: optional String = "enabledBackend",
        /// Backends that can be turned on.
        backends: default Vec<MtlsBackend> = "backends",
        /// Kuma's own, about a change of it; ignored.
        skip_validation: optional Ignored = "skipValidation",
    }
}

fields! {
    /// A way to give pods identities. culvert does not act on it: identities come from --identity.
    pub struct MtlsBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// Type of the authority, as builtin or provided; ignored.
        kind: optional String = "type",
        /// Peers that the pods of the mesh let in. Default: STRICT.
        mode: optional MtlsMode = "mode",
        /// Settings of certificates; ignored.
        dp_cert: optional Ignored = "dpCert",
        /// Settings of the authority; ignored.
        conf: optional Ignored = "conf",
        /// Kuma's own, about the authority; ignored.
        root_chain: optional Ignored = "rootChain",
    }
}

words! {
    /// Peers that the pods of the mesh let in.
    pub enum MtlsMode {
        /// Members of the mesh.
        Strict = "STRICT",
        /// Every peer, a member or not.
        Permissive = "PERMISSIVE",
    }
}

impl Mtls {
    /// Returns the backend that is on.
    pub fn enabled(&self) -> Option<&MtlsBackend> {
        let name = self.enabled_backend.as_ref().filter(|name| !name.is_empty())?;
        self.backends.iter().find(|backend| backend.name == *name)
    }
}

impl Mesh {
    /// Returns true if connections may leave for destinations that no document names.
    pub fn passthrough(&self) -> bool {
        let outbound = self.networking.as_ref().and_then(|networking| networking.outbound.as_ref());
        outbound.and_then(|outbound| outbound.passthrough).unwrap_or(true)
    }
}

impl Resource for Mesh {
    const NAME: &'static str = "Mesh";

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        for (section, chosen) in [("mtls", "enabledBackend"), ("logging", "defaultBackend")] {
            let section = part.field(section);
            let _ = is_of_the_list(&section, chosen, at);
            let backends = section.items("backends").unwrap_or_default();
            let mut names = BTreeSet::new();
            for backend in &backends {
                if let Ok(name) = backend.need::<String>("name")
                    && !names.insert(name.clone())
                {
                    backend.problem(at, "name", format!("{name:?} again"), "each name once");
                }
                if chosen == "defaultBackend" {
                    let _ = has_its_place(backend, at);
                }
            }
        }
    }
}

fn is_of_the_list(section: &Part<'_>, chosen: &str, at: &mut At<'_>) -> Result<(), Reported> {
    let Some(name) = section.get::<String>(chosen)?.filter(|name| !name.is_empty()) else { return Ok(()) };
    let names = section.items("backends")?.into_iter().map(|backend| backend.need::<String>("name"));
    let names = names.collect::<Result<Vec<_>, Reported>>()?;
    if !names.contains(&name) {
        let list = if names.is_empty() { "which is empty".into() } else { names.join(", ") };
        section.problem(at, chosen, format!("{name:?}"), format!("a backend of the list: {list}"));
    }
    Ok(())
}

fn has_its_place(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Reported> {
    let field = match backend.need::<LogBackendKind>("type")? {
        LogBackendKind::File => "path",
        LogBackendKind::Tcp => "address",
    };
    let conf = backend.field("conf");
    if !conf.has(field)? || conf.get::<String>(field)?.is_some_and(|text| text.is_empty()) {
        conf.problem(at, field, "nothing", "this field is required by the backend's type");
    }
    Ok(())
}
