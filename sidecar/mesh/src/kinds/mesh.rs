// SPDX-License-Identifier: Apache-2.0
//! `Mesh`: what holds for all pods of a mesh.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::log_template::{SocketTarget, Template};
use crate::read::part::{Part, Told};
use crate::read::{At, Ignored, fields, words};
use std::collections::BTreeSet;

fields! {
    /// What holds for all pods of a mesh.
    pub struct Mesh {
        /// What may leave the mesh.
        networking: optional Networking = "networking",
        /// Where connections are logged.
        logging: optional Logging = "logging",
        /// TLS between the mesh's pods.
        mtls: optional Mtls = "mtls",
    }
}

fields! {
    /// What may leave the mesh.
    pub struct Networking {
        /// Connections from the mesh's pods.
        outbound: optional Outbound = "outbound",
    }
}

fields! {
    /// Connections from the mesh's pods.
    pub struct Outbound {
        /// Whether connections may leave for destinations that no document names. Default: true.
        passthrough: optional bool = "passthrough",
    }
}

fields! {
    /// Where connections are logged.
    pub struct Logging {
        /// The backend that every connection is logged to; without one the backends are only defined.
        default_backend: optional String = "defaultBackend",
        /// Where logs can go.
        backends: default Vec<Backend> = "backends",
    }
}

fields! {
    /// A place for logs.
    pub struct Backend {
        /// Its name.
        name: required String = "name",
        /// A line's text, with placeholders as %START_TIME%.
        format: optional Template = "format",
        /// A file, or a TCP server that takes lines.
        kind: required BackendKind = "type",
        /// Where it is.
        conf: required BackendConf = "conf",
    }
}

words! {
    /// The kinds of places for logs.
    pub enum BackendKind {
        /// A file.
        File = "file",
        /// A TCP server.
        Tcp = "tcp",
    }
}

fields! {
    /// Where a place for logs is.
    pub struct BackendConf {
        /// Of a file: its path, or /dev/stdout.
        path: optional String = "path",
        /// Of a TCP server: its IP address and port.
        address: optional SocketTarget = "address",
    }
}

fields! {
    /// TLS between the mesh's pods.
    pub struct Mtls {
        /// The backend that is on; none: no TLS.
        enabled_backend: optional String = "enabledBackend",
        /// What can be on.
        backends: default Vec<MtlsBackend> = "backends",
        /// Kuma's own, about a change of it.
        skip_validation: optional Ignored = "skipValidation",
    }
}

fields! {
    /// A way to give pods identities. Which way is not culvert's: identities come from --identity.
    pub struct MtlsBackend {
        /// Its name.
        name: required String = "name",
        /// Its kind, as builtin or provided; not looked at.
        kind: optional String = "type",
        /// Whom the mesh's pods let in. Default: STRICT.
        mode: optional MtlsMode = "mode",
        /// How certificates are issued; not looked at.
        dp_cert: optional Ignored = "dpCert",
        /// Where the authority is; not looked at.
        conf: optional Ignored = "conf",
        /// Kuma's own, about the authority; not looked at.
        root_chain: optional Ignored = "rootChain",
    }
}

words! {
    /// Whom the mesh's pods let in.
    pub enum MtlsMode {
        /// Its members.
        Strict = "STRICT",
        /// Everybody.
        Permissive = "PERMISSIVE",
    }
}

impl Mtls {
    /// What is on.
    pub fn enabled(&self) -> Option<&MtlsBackend> {
        let name = self.enabled_backend.as_ref().filter(|name| !name.is_empty())?;
        self.backends.iter().find(|backend| backend.name == *name)
    }
}

impl Mesh {
    /// Whether connections may leave for destinations that no document names.
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

fn is_of_the_list(section: &Part<'_>, chosen: &str, at: &mut At<'_>) -> Result<(), Told> {
    let Some(name) = section.get::<String>(chosen)?.filter(|name| !name.is_empty()) else { return Ok(()) };
    let names = section.items("backends")?.into_iter().map(|backend| backend.need::<String>("name"));
    let names = names.collect::<Result<Vec<_>, Told>>()?;
    if !names.contains(&name) {
        let list = if names.is_empty() { "which is empty".into() } else { names.join(", ") };
        section.problem(at, chosen, format!("{name:?}"), format!("a backend of the list: {list}"));
    }
    Ok(())
}

fn has_its_place(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Told> {
    let field = match backend.need::<BackendKind>("type")? {
        BackendKind::File => "path",
        BackendKind::Tcp => "address",
    };
    let conf = backend.field("conf");
    if !conf.has(field)? || conf.get::<String>(field)?.is_some_and(|text| text.is_empty()) {
        conf.problem(at, field, "nothing", "this field is required by the backend's type");
    }
    Ok(())
}
