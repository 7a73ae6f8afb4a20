// SPDX-License-Identifier: Apache-2.0
//! `Mesh`: what holds for all pods of a mesh.

use super::read::{At, Ignored, fields, words};
use crate::traffic_log::{SocketTarget, Template};

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

    fn check(&self, at: &mut At<'_>) {
        let names: Vec<_> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
        if let Some(name) = self.enabled_backend.as_ref().filter(|name| !name.is_empty())
            && !names.contains(&name.as_str())
        {
            at.field("enabledBackend", |at| {
                at.problem(format!("{name:?}"), format!("a backend of the list: {}", names.join(", ")));
            });
        }
        at.field("backends", |at| {
            for (index, name) in
                names.iter().enumerate().filter(|(index, name)| names[..*index].contains(name))
            {
                at.item(index, |at| {
                    at.field("name", |at| at.problem(format!("{name:?} again"), "each name once"));
                });
            }
        });
    }
}

impl Mesh {
    /// Whether connections may leave for destinations that no document names.
    pub fn passthrough(&self) -> bool {
        let outbound = self.networking.as_ref().and_then(|networking| networking.outbound.as_ref());
        outbound.and_then(|outbound| outbound.passthrough).unwrap_or(true)
    }

    /// What the fields say together.
    pub fn check(&self, at: &mut At<'_>) {
        if let Some(mtls) = &self.mtls {
            at.field("mtls", |at| mtls.check(at));
        }
        let Some(logging) = &self.logging else { return };
        at.field("logging", |at| {
            let names: Vec<_> = logging.backends.iter().map(|backend| backend.name.as_str()).collect();
            if let Some(default) = &logging.default_backend
                && !names.contains(&default.as_str())
            {
                at.field("defaultBackend", |at| {
                    at.problem(
                        format!("{default:?}"),
                        format!("a backend of the list: {}", names.join(", ")),
                    );
                });
            }
            at.field("backends", |at| {
                for (index, backend) in logging.backends.iter().enumerate() {
                    at.item(index, |at| {
                        if names[..index].contains(&names[index]) {
                            at.field("name", |at| {
                                at.problem(format!("{:?} again", names[index]), "each name once")
                            });
                        }
                        backend.check(at);
                    });
                }
            });
        });
    }
}

impl Backend {
    fn check(&self, at: &mut At<'_>) {
        let (needs, has) = match self.kind {
            BackendKind::File => ("path", self.conf.path.as_ref().is_some_and(|path| !path.is_empty())),
            BackendKind::Tcp => ("address", self.conf.address.is_some()),
        };
        if !has {
            at.field("conf", |at| {
                at.field(needs, |at| at.problem("nothing", "this field is required by the backend's type"));
            });
        }
    }
}
