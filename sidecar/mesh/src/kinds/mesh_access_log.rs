// SPDX-License-Identifier: Apache-2.0
//! `MeshAccessLog`: logs of the connections of some pods.

use crate::context::Context;
use crate::kinds::destination::ToRef;
use crate::kinds::mesh_traffic_permission::SpiffeMatch;
use crate::kinds::{Resource, one_inbound_list};
use crate::model::address::HostPort;
use crate::model::log_template::Template;
use crate::read::part::{Part, Reported};
use crate::read::{At, Read, fields, words};
use crate::target::{PodsOrGateway, Target, WholeMesh};
use serde_json::{Value, json};

fields! {
    /// Logs of the connections of some pods.
    pub struct MeshAccessLog {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Connections to these pods.
        from: default Vec<AccessLogFrom> = "from",
        /// Connections from these pods.
        to: default Vec<AccessLogTo> = "to",
        /// Connections to these pods, in the newer spelling.
        rules: default Vec<AccessLogRule> = "rules",
    }
}

fields! {
    /// Connections from some pods.
    pub struct AccessLogFrom {
        /// The clients: only Mesh, as clients have no name without TLS.
        target_ref: required WholeMesh = "targetRef",
        /// Backends that take the lines.
        default: required AccessLogBackends = "default",
    }
}

fields! {
    /// Connections to some services.
    pub struct AccessLogTo {
        /// The destinations.
        target_ref: required ToRef = "targetRef",
        /// Backends that take the lines.
        default: required AccessLogBackends = "default",
    }
}

fields! {
    /// Connections from any client, or from some callers.
    pub struct AccessLogRule {
        /// The callers: one of these has to fit. Absent: every client.
        matches: default Vec<LoggedCaller> = "matches",
        /// Backends that take the lines.
        default: required AccessLogBackends = "default",
    }
}

fields! {
    /// Callers by their identity, which only the mesh's TLS shows.
    pub struct LoggedCaller {
        /// Identity or beginning of it.
        spiffe_id: required SpiffeMatch = "spiffeID",
    }
}

fields! {
    /// Backends that take the lines.
    pub struct AccessLogBackends {
        /// Each backend gets every line.
        backends: default Vec<AccessLogBackend> = "backends",
    }
}

fields! {
    /// A file or server that takes logs.
    pub struct AccessLogBackend {
        /// A file, or a TCP server that takes lines.
        kind: required AccessLogBackendKind = "type",
        /// The file of type File.
        file: optional File = "file",
        /// The server of type Tcp.
        tcp: optional Tcp = "tcp",
        /// Not supported: the type has the error.
        open_telemetry: optional NotBuilt = "openTelemetry",
    }
}

/// Types of log backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogBackendKind {
    /// Lines are appended to a file.
    File,
    /// Lines go to a TCP server.
    Tcp,
}

impl Read for AccessLogBackendKind {
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

/// Settings of a type that culvert does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBuilt;

impl Read for NotBuilt {
    fn read(_: &Value, _: &mut At<'_>) -> Option<Self> {
        // The error about the type is enough, a second one would say the same.
        Some(Self)
    }

    fn schema() -> Value {
        json!(false)
    }
}

fields! {
    /// Lines are appended to a file.
    pub struct File {
        /// Path of the file, or /dev/stdout.
        path: required String = "path",
        /// Format of a line.
        format: optional Format = "format",
    }
}

fields! {
    /// A TCP server that takes lines.
    pub struct Tcp {
        /// IP address or name of the server, and its port.
        address: required HostPort = "address",
        /// Format of a line.
        format: optional Format = "format",
    }
}

fields! {
    /// Format of a line.
    pub struct Format {
        /// Text or JSON object.
        kind: required FormatKind = "type",
        /// The text, with placeholders as %START_TIME%.
        plain: optional Template = "plain",
        /// The JSON object's members.
        json: default Vec<Member> = "json",
        /// Writes "" rather than "-" for a placeholder without a value, and leaves its member out of JSON.
        omit_empty_values: default bool = "omitEmptyValues",
    }
}

words! {
    /// Format of a line.
    pub enum FormatKind {
        /// A line of text.
        Plain = "Plain",
        /// A JSON object a line.
        Json = "Json",
    }
}

fields! {
    /// A member of a JSON object.
    pub struct Member {
        /// Name of the member.
        key: required String = "key",
        /// Value of the member, with placeholders.
        value: required Template = "value",
    }
}

impl Resource for MeshAccessLog {
    const NAME: &'static str = "MeshAccessLog";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrGateway::check(&target, at);
        if target.has("sectionName") == Ok(true) && part.items("to").is_ok_and(|items| !items.is_empty()) {
            let allowed = "whole pods: calls in to leave a pod, not an inbound";
            target.problem(at, "sectionName", "an inbound", allowed);
        }
        one_inbound_list(part, at);
        if ["to", "rules"].iter().all(|list| part.items(list).is_ok_and(|items| !items.is_empty())) {
            part.problem(at, "to", "to beside rules", "rules alone; the entries of to in another policy");
        }
        let lists = ["from", "to", "rules"].map(|list| (list, part.items(list)));
        if lists.iter().all(|(_, items)| items.as_ref().is_ok_and(Vec::is_empty)) {
            part.problem(at, "rules", "nothing", "at least one item of to, rules or from");
        }
        for (list, items) in lists {
            for item in items.unwrap_or_default() {
                if list == "to" {
                    ToRef::check(&item.field("targetRef"), true, at);
                }
                for caller in item.items("matches").unwrap_or_default() {
                    begins_as_an_identity(&caller.field("spiffeID"), at);
                }
                if item.field("default").has("backends") == Ok(false) {
                    let allowed = "a list of backends; an empty one turns the log off";
                    item.field("default").problem(at, "backends", "nothing", allowed);
                }
                for backend in item.field("default").items("backends").unwrap_or_default() {
                    let _ = backend_has_its_fields(&backend, at);
                }
            }
        }
    }
}

/// Notes a value that fits no identity, or by a typing error every one.
fn begins_as_an_identity(id: &Part<'_>, at: &mut At<'_>) {
    if let Ok(value) = id.need::<String>("value")
        && !value.starts_with("spiffe://")
    {
        id.problem(at, "value", format!("{value:?}"), "spiffe:// and so on");
    }
}

fn backend_has_its_fields(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Reported> {
    let field = match backend.need::<AccessLogBackendKind>("type")? {
        AccessLogBackendKind::File => "file",
        AccessLogBackendKind::Tcp => "tcp",
    };
    if !backend.has(field)? {
        backend.problem(at, field, "nothing", "this field is required by the backend's type");
        return Ok(());
    }
    if let Ok(path) = backend.field(field).need::<String>("path")
        && !is_path(&path)
    {
        backend.field(field).problem(
            at,
            "path",
            format!("{path:?}"),
            "an absolute path, as /var/log/access.log",
        );
    }
    let format = backend.field(field).field("format");
    match format.need::<FormatKind>("type")? {
        FormatKind::Plain if !format.has("plain")? => {
            format.problem(at, "plain", "nothing", "the line's text")
        }
        FormatKind::Plain if format.field("plain").is_text("") => {
            format.problem(at, "plain", "an empty text", "the line's text; without format it is Kuma's");
        }
        FormatKind::Json if format.items("json")?.is_empty() => {
            format.problem(at, "json", "nothing", "at least one key with its value");
        }
        FormatKind::Json => {
            for member in format.items("json")? {
                for field in ["key", "value"] {
                    stands_in_json(&member, field, at);
                }
            }
        }
        FormatKind::Plain => {}
    }
    Ok(())
}

/// Returns true for the path of a file that Kuma takes.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

/// Notes a key or value of a member that is empty, or that JSON could not hold as it is written. Kuma refuses these too.
fn stands_in_json(member: &Part<'_>, field: &str, at: &mut At<'_>) {
    let Ok(text) = member.need::<String>(field) else { return };
    if text.is_empty() || text.contains(['"', '\\']) || text.contains(char::is_control) {
        const ALLOWED: &str = "text without quotes, backslashes and control characters";
        member.problem(at, field, format!("{text:?}"), ALLOWED);
    }
}
