// SPDX-License-Identifier: Apache-2.0
//! `MeshAccessLog`: where the connections of some pods are logged.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::log_template::{SocketTarget, Template};
use crate::read::part::{Part, Told};
use crate::read::{At, Read, fields, words};
use crate::target::{Target, TargetRef, WholeMesh};
use serde_json::{Value, json};

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
        /// Not built: the type tells.
        open_telemetry: optional NotBuilt = "openTelemetry",
    }
}

/// The kinds of places for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A file.
    File,
    /// A TCP server.
    Tcp,
}

impl Read for BackendKind {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        match value.as_str() {
            Some("File") => Some(Self::File),
            Some("Tcp") => Some(Self::Tcp),
            Some("OpenTelemetry") => at.wrong(
                value,
                "File or Tcp: culvert does not speak OpenTelemetry; its collector takes lines by TCP (tcplog receiver)",
            ),
            _ => at.wrong(value, "File, Tcp"),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "enum": ["File", "Tcp"]})
    }
}

/// What belongs to a type that culvert does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBuilt;

impl Read for NotBuilt {
    fn read(_: &Value, _: &mut At<'_>) -> Option<Self> {
        // The error about the type is enough.
        Some(Self)
    }

    fn schema() -> Value {
        json!(false)
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

impl Resource for MeshAccessLog {
    const NAME: &'static str = "MeshAccessLog";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        Target::Ref(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        TargetRef::check(&target, at);
        if target.has("sectionName") == Ok(true) {
            target.problem(at, "sectionName", "an inbound", "whole pods: a log is a pod's");
        }
        for list in ["from", "to", "rules"] {
            for item in part.items(list).unwrap_or_default() {
                if list == "to" {
                    let _ = names_its_service(&item.field("targetRef"), at);
                }
                for backend in item.field("default").items("backends").unwrap_or_default() {
                    let _ = backend_has_its_fields(&backend, at);
                }
            }
        }
    }
}

fn names_its_service(target: &Part<'_>, at: &mut At<'_>) -> Result<(), Told> {
    if target.need::<DestinationKind>("kind")? == DestinationKind::MeshService && !target.has("name")? {
        target.problem(at, "name", "nothing", "the service's name");
    }
    Ok(())
}

fn backend_has_its_fields(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Told> {
    let field = match backend.need::<BackendKind>("type")? {
        BackendKind::File => "file",
        BackendKind::Tcp => "tcp",
    };
    if !backend.has(field)? {
        backend.problem(at, field, "nothing", "this field is required by the backend's type");
        return Ok(());
    }
    let format = backend.field(field).field("format");
    match format.need::<FormatKind>("type")? {
        FormatKind::Plain if !format.has("plain")? => {
            format.problem(at, "plain", "nothing", "the line's text")
        }
        FormatKind::Json if format.items("json")?.is_empty() => {
            format.problem(at, "json", "nothing", "at least one key with its value");
        }
        FormatKind::Plain | FormatKind::Json => {}
    }
    Ok(())
}
