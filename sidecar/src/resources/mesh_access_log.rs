// SPDX-License-Identifier: Apache-2.0
//! `MeshAccessLog`: where the connections of some pods are logged.

use super::read::{At, fields, words};
use super::target::TargetRef;
use crate::traffic_log::{SocketTarget, Template};

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
        if self.target_ref.as_ref().is_some_and(|target| target.section.is_some()) {
            at.field("targetRef", |at| {
                at.field("sectionName", |at| at.problem("an inbound", "whole pods: a log is a pod's"));
            });
        }
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
