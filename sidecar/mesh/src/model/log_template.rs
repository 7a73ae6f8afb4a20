// SPDX-License-Identifier: Apache-2.0
//! The format of a line of a traffic log: Envoy's placeholders and Kuma's, as far as a connection or a request has them.

use crate::model::time_format::{TIME_LETTERS, TimeFormat};

/// Longest format in bytes: it is rendered once for each connection.
pub const LONGEST_FORMAT: usize = 4096;

/// A placeholder of a traffic log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogField {
    /// Time of the accept, with milliseconds.
    StartTime,
    /// Envoy's flags for the end of the connection.
    ResponseFlags,
    /// Name of the mesh.
    Mesh,
    /// Zone of this pod, by its Dataplane.
    Zone,
    /// Identifier of this pod's workload, by its Dataplane.
    Workload,
    /// Direction: INBOUND or OUTBOUND.
    Direction,
    /// Address and port of the client.
    SourceAddress,
    /// Address of the client without its port.
    SourceIp,
    /// Service of the client, `unknown` without one.
    SourceService,
    /// Service of the server, `external` without one.
    DestinationService,
    /// Address and port that the sidecar dialled.
    UpstreamHost,
    /// Name of the cluster.
    UpstreamCluster,
    /// The client again, under Envoy's name.
    DownstreamRemote,
    /// The same without its port.
    DownstreamRemoteIp,
    /// Original destination, address and port.
    DownstreamLocal,
    /// Original destination, address only.
    DownstreamLocalIp,
    /// Original destination, port only.
    DownstreamLocalPort,
    /// Number of the connection, unique in the process.
    ConnectionId,
    /// Milliseconds from accept to end.
    Duration,
    /// Bytes that went to the client.
    BytesSent,
    /// Bytes that came from the client.
    BytesReceived,
    /// Close reason, nothing for a normal end.
    Details,
    /// Server name in the client's ClientHello, where it was looked at.
    ServerName,
    /// Version of HTTP of a request, as `HTTP/1.1`.
    Protocol,
    /// Status of the answer to a request; 0 without one.
    ResponseCode,
    /// Envoy's words for the end of a request.
    ResponseCodeDetails,
    /// A placeholder that has no value here.
    Nothing,
}

/// Head of a message, of which a placeholder takes a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogHead {
    /// Of the request.
    Request,
    /// Of the response.
    Response,
}

/// A field of a head as a placeholder: `REQ(NAME?OTHER):LENGTH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadField {
    /// The head.
    pub head: LogHead,
    /// Name in lower case; `:method`, `:path` and `:authority` are parts of the first line and of Host.
    pub name: String,
    /// Name of the field that stands in where that one is absent.
    pub other: Option<String>,
    /// Longest value in characters.
    pub length: Option<usize>,
}

/// Every placeholder by its name.
pub const LOG_FIELDS: [(&str, LogField); 26] = [
    ("START_TIME", LogField::StartTime),
    ("RESPONSE_FLAGS", LogField::ResponseFlags),
    ("DURATION", LogField::Duration),
    ("BYTES_SENT", LogField::BytesSent),
    ("BYTES_RECEIVED", LogField::BytesReceived),
    ("UPSTREAM_HOST", LogField::UpstreamHost),
    ("UPSTREAM_CLUSTER", LogField::UpstreamCluster),
    ("DOWNSTREAM_REMOTE_ADDRESS", LogField::DownstreamRemote),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", LogField::DownstreamRemoteIp),
    ("DOWNSTREAM_LOCAL_ADDRESS", LogField::DownstreamLocal),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", LogField::DownstreamLocalIp),
    ("DOWNSTREAM_LOCAL_PORT", LogField::DownstreamLocalPort),
    ("CONNECTION_ID", LogField::ConnectionId),
    ("CONNECTION_TERMINATION_DETAILS", LogField::Details),
    ("PROTOCOL", LogField::Protocol),
    ("RESPONSE_CODE", LogField::ResponseCode),
    ("RESPONSE_CODE_DETAILS", LogField::ResponseCodeDetails),
    ("REQUESTED_SERVER_NAME", LogField::ServerName),
    ("KUMA_MESH", LogField::Mesh),
    ("KUMA_ZONE", LogField::Zone),
    ("KUMA_WORKLOAD", LogField::Workload),
    ("KUMA_SOURCE_ADDRESS", LogField::SourceAddress),
    ("KUMA_SOURCE_ADDRESS_WITHOUT_PORT", LogField::SourceIp),
    ("KUMA_SOURCE_SERVICE", LogField::SourceService),
    ("KUMA_DESTINATION_SERVICE", LogField::DestinationService),
    ("KUMA_TRAFFIC_DIRECTION", LogField::Direction),
];

impl LogField {
    /// Returns true if the value is a number, in JSON too.
    pub fn is_number(self) -> bool {
        matches!(
            self,
            Self::Duration
                | Self::BytesSent
                | Self::BytesReceived
                | Self::ConnectionId
                | Self::DownstreamLocalPort
                | Self::ResponseCode
        )
    }
}

/// A text with placeholders, split at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<TemplatePart>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text that is written as it stands.
    Text(String),
    /// A placeholder.
    Field(LogField),
    /// Time of the accept, in a format of its own.
    Time(TimeFormat),
    /// A field of the request or its response.
    Head(HeadField),
}

/// Takes `NAME%` or `NAME(argument):length%` off a text; an argument may hold any character but `)`.
fn placeholder(text: &str) -> Option<(&str, &str)> {
    let argument = text.find('(').filter(|at| text[..*at].bytes().all(is_of_name));
    let from = argument.map_or(Some(0), |at| text[at..].find(')').map(|end| at + end))?;
    let end = from + text[from..].find('%')?;
    Some((&text[..end], &text[end + 1..]))
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'_'
}

/// Reads `REQ(NAME?OTHER):LENGTH` and the same of the response.
fn head_field(text: &str) -> Option<HeadField> {
    let (head, rest) = match text.strip_prefix("REQ(") {
        Some(rest) => (LogHead::Request, rest),
        None => (LogHead::Response, text.strip_prefix("RESP(")?),
    };
    let (names, length) = rest.split_once(')')?;
    let length = match length.strip_prefix(':') {
        Some(length) => Some(length.parse().ok()?),
        None if length.is_empty() => None,
        None => return None,
    };
    let (name, other) = names.split_once('?').map_or((names, None), |(name, other)| (name, Some(other)));
    let lower = |name: &str| name.to_ascii_lowercase();
    Some(HeadField { head, name: lower(name), other: other.map(lower), length })
}

/// Returns true for a placeholder that has no value here: Envoy writes `-` for it as well, where there are no trailers.
fn is_nothing(name: &str) -> bool {
    name.starts_with("TRAILER(") || name == "ROUTE_NAME"
}

/// Returns the piece that a placeholder's name stands for, or what was found and what is allowed.
fn part_of(name: &str) -> Result<TemplatePart, (String, String)> {
    let format = name.strip_prefix("START_TIME(").and_then(|rest| rest.strip_suffix(')'));
    if let Some(format) = format.filter(|format| !format.is_empty()) {
        return TimeFormat::parse(format).map(TemplatePart::Time).ok_or_else(|| {
            (
                format!("\"%{name}%\""),
                format!("a format of these letters: {TIME_LETTERS}; %% is the character"),
            )
        });
    }
    // Envoy takes an empty format for none.
    let plain = if format.is_some() { "START_TIME" } else { name };
    let known = LOG_FIELDS.iter().find(|(known, _)| *known == plain).map(|(_, field)| *field);
    if let Some(field) = head_field(name) {
        return Ok(TemplatePart::Head(field));
    }
    known.or_else(|| is_nothing(name).then_some(LogField::Nothing)).map(TemplatePart::Field).ok_or_else(
        || {
            let names: Vec<_> = LOG_FIELDS.iter().map(|(name, _)| format!("%{name}%")).collect();
            let allowed =
                format!("{} %REQ(NAME)% %RESP(NAME)% %TRAILER(NAME)% %ROUTE_NAME%", names.join(" "));
            (format!("\"%{name}%\""), allowed)
        },
    )
}

impl Template {
    /// Splits a text at its placeholders.
    ///
    /// # Errors
    /// The text that was found, and the text that is allowed there.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        if text.len() > LONGEST_FORMAT {
            return Err((
                format!("{} bytes", text.len()),
                format!("a format of at most {LONGEST_FORMAT} bytes"),
            ));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let Some((name, after)) = placeholder(after) else {
                return Err((
                    format!("\"%{after}\""),
                    "a placeholder between two %, or %% for the character".into(),
                ));
            };
            let part = part_of(name)?;
            if !plain.is_empty() {
                parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
            rest = after;
        }
        plain.push_str(rest);
        // A line is a record, so the format may not end it twice.
        let plain = plain.trim_end_matches('\n').to_owned();
        if !plain.is_empty() {
            parts.push(TemplatePart::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Texts and placeholders in their order.
    pub fn parts(&self) -> &[TemplatePart] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_format_says_what_is() {
        for (text, found) in [
            ("%START_TIME", "\"%START_TIME\""),
            ("%START_TIME(%Q)%", "\"%START_TIME(%Q)%\""),
            ("%START_TIME(%s", "\"%START_TIME(%s\""),
            ("%START_TIMES(%s)%", "\"%START_TIMES(%s)%\""),
            ("a (%NO%)", "\"%NO%\""),
            ("%REQ(:path", "\"%REQ(:path\""),
            ("%REQ(:path):x%", "\"%REQ(:path):x%\""),
            ("%RESP(a)b%", "\"%RESP(a)b%\""),
            ("%start_time%", "\"%start_time%\""),
        ] {
            let (what, allowed) = Template::parse(text).unwrap_err();
            assert_eq!(what, found);
            assert!(allowed.contains('%'), "{allowed}");
        }
        assert!(Template::parse(&"x".repeat(5000)).is_err());
    }

    #[test]
    fn the_time_may_have_a_format_of_its_own() {
        let seconds = TimeFormat::parse("%s").unwrap();
        let parts = |text: &str| Template::parse(text).unwrap().parts().to_vec();
        assert_eq!(
            parts("%START_TIME(%s)%,%KUMA_ZONE%"),
            [
                TemplatePart::Time(seconds),
                TemplatePart::Text(",".into()),
                TemplatePart::Field(LogField::Zone)
            ]
        );
        for default in ["%START_TIME%", "%START_TIME()%"] {
            assert_eq!(parts(default), [TemplatePart::Field(LogField::StartTime)]);
        }
    }
}
