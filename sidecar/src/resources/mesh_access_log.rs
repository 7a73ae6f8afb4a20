// SPDX-License-Identifier: Apache-2.0
//! `MeshAccessLog`: where the connections of some pods are logged.

use super::read::{At, Read, Tags, fields, words};
use crate::traffic_log::{SocketTarget, Template};
use serde_json::Value;

fields! {
    /// Where the connections of some pods are logged.
    pub struct MeshAccessLog {
        /// The pods; absent: all of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Connections to these pods.
        from: default Vec<From> = "from",
        /// Connections from these pods.
        to: default Vec<To> = "to",
        /// Connections to these pods, in the newer spelling.
        rules: default Vec<Rule> = "rules",
    }
}

/// Some pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRef {
    /// All of the mesh.
    Mesh,
    /// Those with these tags.
    Tags(Tags),
    /// One Dataplane, by name; none: all.
    Dataplane(Option<String>),
}

fields! {
    struct RawTarget {
        kind: required TargetKind = "kind",
        name: optional String = "name",
        tags: default Tags = "tags",
        proxy_types: default Vec<ProxyType> = "proxyTypes",
    }
}

words! {
    enum TargetKind {
        Mesh = "Mesh",
        MeshSubset = "MeshSubset",
        MeshService = "MeshService" | "MeshServiceSubset",
        Dataplane = "Dataplane",
    }
}

words! {
    enum ProxyType {
        Sidecar = "Sidecar",
        Gateway = "Gateway",
    }
}

impl Read for TargetRef {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let raw = RawTarget::read(value, at)?;
        match (raw.kind, raw.name) {
            (TargetKind::Mesh, _) => Some(Self::Mesh),
            (TargetKind::MeshSubset, _) => Some(Self::Tags(raw.tags)),
            (TargetKind::Dataplane, name) => Some(Self::Dataplane(name)),
            (TargetKind::MeshService, Some(name)) => {
                let mut tags = raw.tags;
                tags.0.insert(super::read::SERVICE.into(), name);
                Some(Self::Tags(tags))
            }
            (TargetKind::MeshService, None) => {
                at.field("name", |at| at.problem("nothing", "the service's name"));
                None
            }
        }
    }

    fn schema() -> Value {
        RawTarget::schema()
    }
}

fields! {
    /// Connections from some pods.
    pub struct From {
        /// From whom: only Mesh, as clients have no name without TLS.
        target_ref: required WholeMesh = "targetRef",
        /// Where they are logged.
        default: required Backends = "default",
    }
}

fields! {
    /// Connections to some services.
    pub struct To {
        /// To whom.
        target_ref: required Destination = "targetRef",
        /// Where they are logged.
        default: required Backends = "default",
    }
}

fields! {
    /// Connections from whomever.
    pub struct Rule {
        /// Where they are logged.
        default: required Backends = "default",
    }
}

fields! {
    /// Everybody.
    pub struct WholeMesh {
        /// Only Mesh.
        kind: required MeshKind = "kind",
    }
}

words! {
    /// Everybody.
    pub enum MeshKind {
        /// Everybody.
        Mesh = "Mesh",
    }
}

fields! {
    /// Everything, or one service.
    pub struct Destination {
        /// Mesh: everything, passthrough too.
        kind: required DestinationKind = "kind",
        /// The service's name.
        name: optional String = "name",
    }
}

words! {
    /// Everything, or one service.
    pub enum DestinationKind {
        /// Everything.
        Mesh = "Mesh",
        /// A service, by its kuma.io/service tag.
        MeshService = "MeshService",
    }
}

fields! {
    /// Where connections are logged.
    pub struct Backends {
        /// Each of them gets every line.
        backends: default Vec<Backend> = "backends",
    }
}

fields! {
    /// A place for logs.
    pub struct Backend {
        /// A file, or a TCP server that takes lines.
        kind: required BackendKind = "type",
        /// The file.
        file: optional File = "file",
        /// The TCP server.
        tcp: optional Tcp = "tcp",
    }
}

words! {
    /// The kinds of places for logs.
    pub enum BackendKind {
        /// A file.
        File = "File",
        /// A TCP server.
        Tcp = "Tcp",
    }
}

fields! {
    /// A file.
    pub struct File {
        /// Its path, or /dev/stdout.
        path: required String = "path",
        /// How a line looks.
        format: optional Format = "format",
    }
}

fields! {
    /// A TCP server that takes lines.
    pub struct Tcp {
        /// Its IP address and port.
        address: required SocketTarget = "address",
        /// How a line looks.
        format: optional Format = "format",
    }
}

fields! {
    /// How a line looks.
    pub struct Format {
        /// Text or JSON.
        kind: required FormatKind = "type",
        /// The text, with placeholders as %START_TIME%.
        plain: optional Template = "plain",
        /// The JSON object's members.
        json: default Vec<Member> = "json",
        /// Whether a placeholder without a value is "" rather than "-", and leaves its member out of JSON.
        omit_empty_values: default bool = "omitEmptyValues",
    }
}

words! {
    /// How a line looks.
    pub enum FormatKind {
        /// Text.
        Plain = "Plain",
        /// A JSON object.
        Json = "Json",
    }
}

fields! {
    /// A member of a JSON object.
    pub struct Member {
        /// Its name.
        key: required String = "key",
        /// Its value, with placeholders.
        value: required Template = "value",
    }
}

impl MeshAccessLog {
    /// What the fields say together.
    pub fn check(&self, at: &mut At<'_>) {
        at.field("from", |at| {
            for (index, from) in self.from.iter().enumerate() {
                at.item(index, |at| from.default.check(at));
            }
        });
        at.field("to", |at| {
            for (index, to) in self.to.iter().enumerate() {
                at.item(index, |at| {
                    if to.target_ref.kind == DestinationKind::MeshService && to.target_ref.name.is_none() {
                        at.field("targetRef", |at| at.problem("no name", "name: the service's name"));
                    }
                    to.default.check(at);
                });
            }
        });
        at.field("rules", |at| {
            for (index, rule) in self.rules.iter().enumerate() {
                at.item(index, |at| rule.default.check(at));
            }
        });
    }
}

impl Backends {
    fn check(&self, at: &mut At<'_>) {
        at.field("default", |at| {
            at.field("backends", |at| {
                for (index, backend) in self.backends.iter().enumerate() {
                    at.item(index, |at| backend.check(at));
                }
            });
        });
    }
}

impl Backend {
    fn check(&self, at: &mut At<'_>) {
        let (field, there, format) = match self.kind {
            BackendKind::File => {
                ("file", self.file.is_some(), self.file.as_ref().and_then(|file| file.format.as_ref()))
            }
            BackendKind::Tcp => {
                ("tcp", self.tcp.is_some(), self.tcp.as_ref().and_then(|tcp| tcp.format.as_ref()))
            }
        };
        at.field(field, |at| {
            if !there {
                at.problem("nothing", "this field is required by the backend's type");
            }
            let Some(format) = format else { return };
            at.field("format", |at| match format.kind {
                FormatKind::Plain if format.plain.is_none() => {
                    at.field("plain", |at| at.problem("nothing", "the line's text"));
                }
                FormatKind::Json if format.json.is_empty() => {
                    at.field("json", |at| at.problem("nothing", "at least one key with its value"));
                }
                _ => {}
            });
        });
    }
}
