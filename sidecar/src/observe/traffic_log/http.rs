// SPDX-License-Identifier: Apache-2.0
//! A request of HTTP and its answer, as lines of a traffic log show them.

use culvert_mesh::model::log_template::{HeadField, LogHead};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// Fields whose values are secrets: no line has them, whatever its format asks for.
const SECRETS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// The value in place of a secret.
const HIDDEN: &str = "[hidden]";

/// Envoy's words for the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HttpEnd {
    /// Flags, with commas between them.
    pub(crate) flags: &'static str,
    /// Details.
    pub(crate) details: &'static str,
}

/// A request that was answered, or ended without an answer.
#[derive(Clone, Debug)]
pub(crate) struct HttpTraffic {
    /// Bytes of the heads as they were received; empty where there was none.
    pub(crate) request: Box<[u8]>,
    pub(crate) response: Box<[u8]>,
    /// Status of the answer; 0 without one.
    pub(crate) status: u16,
    pub(crate) started: SystemTime,
    pub(crate) duration: Duration,
    /// Bytes of the bodies: of the request, and of the response.
    pub(crate) bytes: [u64; 2],
    pub(crate) end: HttpEnd,
}

// === impl HttpTraffic ===

impl HttpTraffic {
    /// Returns the version, as `HTTP/1.1`.
    pub(super) fn protocol(&self) -> &str {
        self.first_line().nth(2).unwrap_or_default()
    }

    /// Returns the value of a field of a head, as a line shows it.
    pub(super) fn field(&self, field: &HeadField) -> Cow<'_, str> {
        let value = self.value(field.head, &field.name);
        let value = match (value.is_empty(), &field.other) {
            (true, Some(other)) => self.value(field.head, other),
            _ => value,
        };
        match field.length {
            Some(length) if value.chars().count() > length => value.chars().take(length).collect(),
            _ => value,
        }
    }

    fn value(&self, head: LogHead, name: &str) -> Cow<'_, str> {
        match (head, name) {
            (LogHead::Request, ":method") => Cow::Borrowed(self.first_line().next().unwrap_or_default()),
            (LogHead::Request, ":path") => Cow::Borrowed(self.first_line().nth(1).unwrap_or_default()),
            (LogHead::Request, ":authority") => self.line(&self.request, "host"),
            (LogHead::Response, ":status") => Cow::Owned(self.status.to_string()),
            (LogHead::Request, name) => self.line(&self.request, name),
            (LogHead::Response, name) => self.line(&self.response, name),
        }
    }

    /// The words of the request line.
    fn first_line(&self) -> impl Iterator<Item = &str> {
        let line = self.request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        str::from_utf8(line).unwrap_or_default().split(' ')
    }

    /// The first value of a field.
    fn line<'a>(&self, head: &'a [u8], name: &str) -> Cow<'a, str> {
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        let mut values = lines.filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (found, value) = (&line[..colon], &line[colon + 1..]);
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        });
        match values.next() {
            None => Cow::Borrowed(""),
            Some(_) if SECRETS.contains(&name) => Cow::Borrowed(HIDDEN),
            Some(value) => String::from_utf8_lossy(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
    use crate::observe::close_reason::CloseReason;
    use crate::observe::traffic_log::{LineFormat, Traffic};
    use culvert_mesh::model::log_template::Template;

    fn request() -> HttpTraffic {
        let request = "GET /a?b=c HTTP/1.1\r\nHost: shop:80\r\nUser-Agent:  curl \r\nAuthorization: Bearer x\r\nCookie: y\r\nx-request-id: 7\r\n\r\n";
        let response = "HTTP/1.1 200 OK\r\nServer: nginx\r\nSet-Cookie: z\r\n\r\n";
        HttpTraffic {
            request: request.as_bytes().into(),
            response: response.as_bytes().into(),
            status: 200,
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            duration: Duration::from_millis(12),
            bytes: [5, 70],
            end: HttpEnd { flags: "", details: "via_upstream" },
        }
    }

    fn line(http: &HttpTraffic, format: &LineFormat) -> String {
        format.line(&Traffic {
            id: 7,
            mesh: "default",
            zone: None,
            workload: None,
            direction: Direction::Inbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst: Some(OrigDst::new("192.0.2.1:80".parse().unwrap())),
            dial: Some(DialAddr::new("192.0.2.9:8080".parse().unwrap())),
            cluster: Some("web"),
            source_service: None,
            destination_service: Some("shop"),
            started: http.started,
            duration: http.duration,
            bytes_sent: http.bytes[0],
            bytes_recv: http.bytes[1],
            reason: CloseReason::Ok,
            server_name: None,
            http: Some(http),
        })
    }

    #[test]
    fn the_default_is_kumas_for_requests() {
        assert_eq!(
            line(&request(), &LineFormat::Kuma),
            "[1970-01-01T00:00:01.500Z] default \"GET /a?b=c HTTP/1.1\" 200 - 5 70 12 - \"-\" \"curl\" \"-\" \"7\" \"shop:80\" \
             \"unknown\" \"shop\" \"10.0.0.2\" \"192.0.2.9:8080\"\n"
        );
    }

    #[test]
    fn placeholders_of_requests_have_their_values_and_secrets_none() {
        let of = |text: &str| {
            let format = LineFormat::Plain { template: Template::parse(text).unwrap(), omit_empty: false };
            line(&request(), &format).trim_end().to_owned()
        };
        for (text, value) in [
            ("%REQ(:method)% %REQ(:path):2% %REQ(:AUTHORITY)%", "GET /a shop:80"),
            ("%REQ(X-Nothing?User-Agent)%", "curl"),
            ("%REQ(x-nothing)%%RESP(x-nothing?y)%", "--"),
            (
                "%RESP(Server)% %RESP(:status)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%",
                "nginx 200 200 via_upstream",
            ),
            ("%REQ(authorization)% %REQ(Cookie)% %RESP(set-cookie)%", "[hidden] [hidden] [hidden]"),
            ("%REQ(proxy-authorization)%", "-"),
            ("%TRAILER(a)% %ROUTE_NAME% %PROTOCOL%", "- - HTTP/1.1"),
        ] {
            assert_eq!(of(text), value, "{text}");
        }
        let nothing = HttpTraffic { request: [].into(), response: [].into(), status: 0, ..request() };
        let format = LineFormat::Plain {
            template: Template::parse("%REQ(:method)% %PROTOCOL% %RESPONSE_CODE%").unwrap(),
            omit_empty: false,
        };
        assert_eq!(line(&nothing, &format), "- - 0\n");
    }
}
