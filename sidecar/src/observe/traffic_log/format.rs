// SPDX-License-Identifier: Apache-2.0
//! A line's format: Envoy's placeholders and Kuma's, as far as a connection or a request has them.

use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
use crate::net::clock::strftime;
use crate::observe::close_reason::CloseReason;
use crate::observe::one_line::one_line;
use crate::observe::traffic_log::http::HttpTraffic;
use culvert_mesh::model::log_template::{LogField, Template, TemplatePart};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

/// Kuma's format for TCP connections.
const DEFAULT: &str = "[%START_TIME%] %RESPONSE_FLAGS% %KUMA_MESH% \
    %KUMA_SOURCE_ADDRESS_WITHOUT_PORT%(%KUMA_SOURCE_SERVICE%)->%UPSTREAM_HOST%(%KUMA_DESTINATION_SERVICE%) \
    took %DURATION%ms, sent %BYTES_SENT% bytes, received: %BYTES_RECEIVED% bytes";

/// Kuma's format for requests of HTTP.
const OF_HTTP: &str = "[%START_TIME%] %KUMA_MESH% \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-B3-TRACEID?X-DATADOG-TRACEID)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%KUMA_SOURCE_SERVICE%\" \"%KUMA_DESTINATION_SERVICE%\" \
    \"%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%\" \"%UPSTREAM_HOST%\"";

/// The formats of backends that say none: of connections, and of requests.
static DEFAULTS: LazyLock<[Template; 2]> =
    LazyLock::new(|| [DEFAULT, OF_HTTP].map(|text| Template::parse(text).unwrap_or_default()));

/// A connection that ended, or a request, with the values that placeholders can have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic<'a> {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) mesh: &'a str,
    /// Zone and workload of this pod, where its Dataplane says them.
    pub(crate) zone: Option<&'a str>,
    pub(crate) workload: Option<&'a str>,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: Option<OrigDst>,
    pub(crate) dial: Option<DialAddr>,
    pub(crate) cluster: Option<&'a str>,
    pub(crate) source_service: Option<&'a str>,
    pub(crate) destination_service: Option<&'a str>,
    pub(crate) started: SystemTime,
    pub(crate) duration: Duration,
    /// From the client to the server.
    pub(crate) bytes_sent: u64,
    /// From the server to the client.
    pub(crate) bytes_recv: u64,
    pub(crate) reason: CloseReason,
    /// Server name in the client's ClientHello, where it was looked at.
    pub(crate) server_name: Option<&'a str>,
    /// The request; `None` = it is about the connection.
    pub(crate) http: Option<&'a HttpTraffic>,
}

/// Writes the value of a placeholder; nothing where the connection has none.
fn write_field(field: LogField, of: &Traffic<'_>, out: &mut String) {
    let put = |out: &mut String, value: Option<&dyn std::fmt::Display>| {
        if let Some(value) = value {
            // Writing to a String does not fail.
            let _ = write!(out, "{value}");
        }
    };
    let client_ip = of.client.get().ip();
    let local = of.orig_dst.map(OrigDst::get);
    match field {
        LogField::StartTime => {
            let seconds = of.started;
            let mut time = String::new();
            let _ = write_time(seconds, &mut time);
            out.push_str(&time);
        }
        LogField::ResponseFlags => {
            out.push_str(of.http.map_or_else(|| flags(of.reason), |http| http.end.flags))
        }
        LogField::Mesh => out.push_str(of.mesh),
        LogField::Zone => out.push_str(of.zone.unwrap_or_default()),
        LogField::Workload => out.push_str(of.workload.unwrap_or_default()),
        LogField::Direction => out.push_str(match of.direction {
            Direction::Inbound => "INBOUND",
            Direction::Outbound => "OUTBOUND",
        }),
        LogField::SourceAddress | LogField::DownstreamRemote => put(out, Some(&of.client)),
        LogField::SourceIp | LogField::DownstreamRemoteIp => put(out, Some(&client_ip)),
        LogField::SourceService => out.push_str(of.source_service.unwrap_or("unknown")),
        LogField::DestinationService => out.push_str(of.destination_service.unwrap_or("external")),
        LogField::UpstreamHost => put(out, of.dial.as_ref().map(|dial| dial as _)),
        LogField::UpstreamCluster => out.push_str(of.cluster.unwrap_or_default()),
        LogField::DownstreamLocal => put(out, local.as_ref().map(|at| at as _)),
        LogField::DownstreamLocalIp => put(out, local.map(|at| at.ip()).as_ref().map(|ip| ip as _)),
        LogField::DownstreamLocalPort => put(out, local.map(|at| at.port()).as_ref().map(|port| port as _)),
        LogField::ConnectionId => put(out, Some(&of.id)),
        LogField::Duration => put(out, Some(&of.duration.as_millis())),
        // Envoy's point of view: it sends to the client.
        LogField::BytesSent => put(out, Some(&of.bytes_recv)),
        LogField::BytesReceived => put(out, Some(&of.bytes_sent)),
        LogField::Details => {
            if of.reason != CloseReason::Ok {
                out.push_str(of.reason.name());
            }
        }
        LogField::ServerName => out.push_str(of.server_name.unwrap_or_default()),
        LogField::Protocol => out.push_str(of.http.map_or("", HttpTraffic::protocol)),
        LogField::ResponseCode => {
            put(out, of.http.map(|http| http.status).as_ref().map(|status| status as _))
        }
        LogField::ResponseCodeDetails => out.push_str(of.http.map_or("", |http| http.end.details)),
        LogField::Nothing => {}
    }
}

/// Envoy's flags for how a connection ended.
fn flags(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Ok | CloseReason::ServerReset => "",
        CloseReason::ClientReset => "DC",
        CloseReason::ConnectRefused | CloseReason::ConnectTimeout | CloseReason::ConnectUnreachable => "UF",
        CloseReason::NotInbound | CloseReason::Forbidden => "UAEX",
        CloseReason::Plaintext
        | CloseReason::ForeignTls
        | CloseReason::TlsNoCertificate
        | CloseReason::TlsUntrusted
        | CloseReason::TlsExpired
        | CloseReason::TlsNotYetValid
        | CloseReason::TlsIdentity
        | CloseReason::TlsRefused
        | CloseReason::TlsNoIdentity
        | CloseReason::TlsTimeout
        | CloseReason::TlsFailure
        | CloseReason::TlsTruncated
        | CloseReason::HttpRequest => "DPE",
        CloseReason::HttpResponse => "UPE",
        CloseReason::NoEndpoint => "UH",
        CloseReason::Limit => "UO",
        CloseReason::IdleTimeout => "SI",
        CloseReason::Denied | CloseReason::Unanswered => "NC",
        CloseReason::Loop | CloseReason::NoOriginalDst => "NR",
        CloseReason::DrainTimeout | CloseReason::Internal => "LR",
    }
}

/// Milliseconds, as Envoy writes them.
fn write_time(time: SystemTime, out: &mut String) -> std::fmt::Result {
    struct Of(SystemTime);
    impl FormatTime for Of {
        fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
            let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let seconds =
                crate::net::clock::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()));
            write!(w, "{}.{:03}Z", seconds.trim_end_matches('Z'), since.subsec_millis())
        }
    }
    Of(time).format_time(&mut Writer::new(out))
}

/// The text for a connection. Whether any placeholder had a value, or there is none.
fn render(template: &Template, of: &Traffic<'_>, omit_empty: bool, out: &mut String) -> bool {
    let mut said = template.parts().iter().all(|part| matches!(part, TemplatePart::Text(_)));
    for part in template.parts() {
        match part {
            TemplatePart::Text(text) => out.push_str(text),
            TemplatePart::Time(format) => {
                strftime(of.started, format.strftime(), out);
                said = true;
            }
            TemplatePart::Field(_) | TemplatePart::Head(_) => {
                let before = out.len();
                match part {
                    TemplatePart::Field(field) => write_field(*field, of, out),
                    TemplatePart::Head(field) => {
                        out.push_str(&of.http.map(|http| http.field(field)).unwrap_or_default())
                    }
                    TemplatePart::Text(_) | TemplatePart::Time(_) => {}
                }
                if let Cow::Owned(value) = one_line(&out[before..]) {
                    out.replace_range(before.., &value);
                }
                if out.len() != before {
                    said = true;
                } else if !omit_empty {
                    out.push('-');
                }
            }
        }
    }
    said
}

/// Format of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// Kuma's own formats for connections and requests.
    #[default]
    Kuma,
    /// One line of text.
    Plain {
        /// Text with placeholders.
        template: Template,
        /// Leaves a placeholder without a value empty; else it is `-`.
        omit_empty: bool,
    },
    /// A JSON object a line.
    Json {
        /// Members whose values are texts with placeholders.
        members: Vec<(String, Template)>,
        /// Leaves out a member without a value.
        omit_empty: bool,
    },
}

impl LineFormat {
    /// Returns true if a placeholder is in the format.
    pub(crate) fn has(&self, field: LogField) -> bool {
        let has = |template: &Template| template.parts().contains(&TemplatePart::Field(field));
        match self {
            Self::Kuma => DEFAULTS.iter().any(has),
            Self::Plain { template, .. } => has(template),
            Self::Json { members, .. } => members.iter().any(|(_, template)| has(template)),
        }
    }

    /// The line for a connection, with its end.
    pub(crate) fn line(&self, of: &Traffic<'_>) -> String {
        let mut line = String::with_capacity(256);
        match self {
            Self::Kuma => {
                render(&DEFAULTS[usize::from(of.http.is_some())], of, false, &mut line);
            }
            Self::Plain { template, omit_empty } => {
                render(template, of, *omit_empty, &mut line);
            }
            Self::Json { members, omit_empty } => {
                let mut object = Map::new();
                for (key, template) in members {
                    let mut text = String::new();
                    let said = render(template, of, *omit_empty, &mut text);
                    let value = match template.parts() {
                        [TemplatePart::Field(field)] if field.is_number() => {
                            text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
                        }
                        _ => Value::from(text),
                    };
                    if said || !omit_empty {
                        object.insert(key.clone(), value);
                    }
                }
                line = Value::Object(object).to_string();
            }
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_mesh::model::log_template::LOG_FIELDS;

    fn traffic() -> Traffic<'static> {
        Traffic {
            id: 7,
            mesh: "default",
            zone: Some("zone-1"),
            workload: Some("kri_wl_default_zone-1__demo_"),
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst: Some(OrigDst::new("192.0.2.1:443".parse().unwrap())),
            dial: Some(DialAddr::new("192.0.2.9:8443".parse().unwrap())),
            cluster: Some("web"),
            source_service: Some("demo"),
            destination_service: None,
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            duration: Duration::from_millis(1_234),
            bytes_sent: 5,
            bytes_recv: 70,
            reason: CloseReason::Ok,
            server_name: None,
            http: None,
        }
    }

    #[test]
    fn the_default_is_kumas() {
        assert_eq!(
            LineFormat::default().line(&traffic()),
            "[1970-01-01T00:00:01.500Z] - default 10.0.0.2(demo)->192.0.2.9:8443(external) took 1234ms, \
             sent 70 bytes, received: 5 bytes\n"
        );
    }

    #[test]
    fn every_placeholder_has_its_value() {
        let all = LOG_FIELDS.map(|(name, _)| format!("{name}=%{name}%")).join("\n");
        let template = Template::parse(&all).unwrap();
        let line = LineFormat::Plain { template, omit_empty: false }.line(&traffic());
        insta::assert_snapshot!(line);
    }

    #[test]
    fn the_time_has_the_format_that_the_document_gives_it() {
        let template = Template::parse("%START_TIME(%s.%3f)%,%KUMA_ZONE%,%START_TIME(%T)%").unwrap();
        let line = LineFormat::Plain { template, omit_empty: false };
        assert_eq!(line.line(&traffic()), "1.500,zone-1,00:00:01\n");
        let unknown = Traffic { zone: None, workload: None, ..traffic() };
        assert_eq!(line.line(&unknown), "1.500,-,00:00:01\n");
        let time = vec![("at".to_owned(), Template::parse("%START_TIME(%s)%").unwrap())];
        let json = LineFormat::Json { members: time, omit_empty: true };
        assert_eq!(json.line(&traffic()), "{\"at\":\"1\"}\n");
    }

    #[test]
    fn the_server_name_is_there_where_it_was_seen() {
        let template = Template::parse("%PROTOCOL% %REQUESTED_SERVER_NAME%").unwrap();
        let format = LineFormat::Plain { template, omit_empty: false };
        assert!(format.has(LogField::ServerName) && !LineFormat::default().has(LogField::ServerName));
        assert_eq!(format.line(&traffic()), "- -\n");
        let kumas = Traffic { server_name: Some("web{mesh=default}"), ..traffic() };
        assert_eq!(format.line(&kumas), "- web{mesh=default}\n");
        let hostile = Traffic { server_name: Some("a\nb"), ..traffic() };
        assert_eq!(format.line(&hostile), "- a\\nb\n");
        let members = vec![("name".to_owned(), Template::parse("%REQUESTED_SERVER_NAME%").unwrap())];
        assert!(LineFormat::Json { members, omit_empty: true }.has(LogField::ServerName));
    }

    #[test]
    fn what_only_http_has_is_nothing() {
        // The default of Kong Mesh for HTTP, in part.
        let text = "%KUMA_MESH% \"%REQ(:method)% %REQ(x-envoy-original-path?:path):9%\" %RESPONSE_CODE% (%BYTES_SENT%) %RESP(%)%";
        let format = |omit_empty| LineFormat::Plain { template: Template::parse(text).unwrap(), omit_empty };
        assert_eq!(format(false).line(&traffic()), "default \"- -\" - (70) -\n");
        assert_eq!(format(true).line(&traffic()), "default \" \"  (70) \n");
    }

    #[test]
    fn json_has_numbers_and_can_leave_out_what_is_empty() {
        let member = |key: &str, text: &str| (key.to_owned(), Template::parse(text).unwrap());
        let members = vec![
            member("bytes", "%BYTES_SENT%"),
            member("text", "%BYTES_SENT% bytes, 100%%"),
            member("flags", "%RESPONSE_FLAGS%"),
            member("fixed", "x\n"),
        ];
        let mut format = LineFormat::Json { members, omit_empty: true };
        assert_eq!(format.line(&traffic()), "{\"bytes\":70,\"fixed\":\"x\",\"text\":\"70 bytes, 100%\"}\n");
        if let LineFormat::Json { omit_empty, .. } = &mut format {
            *omit_empty = false;
        }
        assert!(format.line(&traffic()).contains("\"flags\":\"-\""));
    }

    #[test]
    fn every_end_has_envoys_flag() {
        for (reason, flag) in [
            (CloseReason::Ok, ""),
            (CloseReason::ConnectRefused, "UF"),
            (CloseReason::NoEndpoint, "UH"),
            (CloseReason::Limit, "UO"),
            (CloseReason::Denied, "NC"),
        ] {
            assert_eq!(flags(reason), flag, "{reason}");
        }
    }
}
