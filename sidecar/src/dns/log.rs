// SPDX-License-Identifier: Apache-2.0
//! The DNS log: one line for each query, in JSON.

use crate::dns::message::{self, HEADER, question_end, type_of};
use crate::dns::metrics::Answered;
use crate::dns::{Arrival, Transport};
use crate::net::clock::micros;
use crate::observe::access_log::writer::{LogRecord, RecordLogger};
use hickory_proto::rr::RecordType;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// The DNS log, as the server sees it.
pub(crate) type QueryLogger = RecordLogger<QueryRecord>;

/// A query and its answer.
#[derive(Debug)]
pub(crate) struct QueryRecord {
    ended: SystemTime,
    client: SocketAddr,
    by: Transport,
    /// Name and type; `None` where the query holds no whole question.
    question: Option<(String, u16)>,
    answered: Answered,
    /// Code of the answer.
    code: u8,
    /// The server that gave it.
    server: Option<SocketAddr>,
    took: Duration,
}

/// A record as JSON. Programs that parse the log rely on these names.
#[derive(Serialize)]
struct QueryLine<'a> {
    time: String,
    client: SocketAddr,
    by: &'static str,
    name: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<String>,
    answer: &'static str,
    rcode: String,
    server: Option<SocketAddr>,
    ms: f64,
}

// === impl QueryRecord ===

impl QueryRecord {
    /// Describes a query that has been answered now.
    pub(crate) fn of(
        query: &[u8],
        Arrival { by, client, began }: Arrival,
        (answered, reply): (Answered, &[u8]),
        server: Option<SocketAddr>,
    ) -> Self {
        let question = question_end(query)
            .and_then(|end| Some((readable(query.get(HEADER..end - 4)?), type_of(query, end))));
        Self {
            ended: SystemTime::now(),
            client,
            by,
            question,
            answered,
            code: message::code_of(reply),
            server,
            took: began.map_or(Duration::ZERO, |began| began.elapsed()),
        }
    }
}

impl LogRecord for QueryRecord {
    const LOG: &'static str = "DNS log";
    const OPTION: &'static str = "--dns-log";
    const THREAD: &'static str = "dns-log";
    const LOST: &'static str = "dns_log_dropped";

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let Self { ended, client, by, question, answered, code, server, took } = self;
        let line = QueryLine {
            time: micros(*ended),
            client: *client,
            by: match by {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            name: question.as_ref().map(|(name, _)| &**name),
            kind: question.as_ref().map(|(_, kind)| type_name(*kind)),
            answer: answered.name(),
            rcode: code_name(*code),
            server: *server,
            ms: took.as_micros() as f64 / 1e3,
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

/// Writes a name as zone files do: a dot behind each label, and every byte that is not plain as `\` and three digits. What a
/// client asks for can so neither end a line nor look as another name.
fn readable(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let Some((&length, behind)) = rest.split_first()
        && length > 0
        && let Some((label, behind)) = behind.split_at_checked(usize::from(length))
    {
        for &byte in label {
            if byte.is_ascii_alphanumeric() || b"-_*".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a String does not fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
        text.push('.');
        rest = behind;
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

fn type_name(kind: u16) -> String {
    match RecordType::from(kind) {
        RecordType::Unknown(kind) => format!("TYPE{kind}"),
        known => known.to_string(),
    }
}

fn code_name(code: u8) -> String {
    let name = match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => return format!("RCODE{code}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_one_line_with_stable_names() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03wEb\x04mesh\0\0\x1c\0\x01";
        let asked = Arrival { by: Transport::Udp, client: "10.77.0.2:40000".parse().unwrap(), began: None };
        let mut record = QueryRecord::of(query, asked, (Answered::Mesh, query), None);
        record.ended = SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_000_042);
        let mut out = Vec::new();
        record.write(&mut out).unwrap();
        record.server = Some("[2001:db8::1]:53".parse().unwrap());
        (record.answered, record.code, record.by) = (Answered::Forwarded, 3, Transport::Tcp);
        record.took = Duration::from_micros(1234);
        record.question = Some((readable(b"\x07a\nb\"\\.\xff\x00"), 65_280));
        record.write(&mut out).unwrap();
        record.question = None;
        (record.answered, record.code) = (Answered::Rejected, 9);
        record.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                r#"{"time":"2026-01-01T00:00:00.000042Z","client":"10.77.0.2:40000","by":"udp","name":"wEb.mesh.","type":"AAAA","answer":"mesh","rcode":"NOERROR","server":null,"ms":0.0}"#,
                r#"{"time":"2026-01-01T00:00:00.000042Z","client":"10.77.0.2:40000","by":"tcp","name":"a\\010b\\034\\092\\046\\255.","type":"TYPE65280","answer":"forwarded","rcode":"NXDOMAIN","server":"[2001:db8::1]:53","ms":1.234}"#,
                r#"{"time":"2026-01-01T00:00:00.000042Z","client":"10.77.0.2:40000","by":"tcp","name":null,"type":null,"answer":"rejected","rcode":"RCODE9","server":"[2001:db8::1]:53","ms":1.234}"#,
            ]
        );
    }

    #[test]
    fn every_byte_of_a_name_is_plain_or_three_digits() {
        for byte in 0..=u8::MAX {
            let text = readable(&[1, byte, 0]);
            let plain = byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
            let expected = if plain { format!("{}.", char::from(byte)) } else { format!("\\{byte:03}.") };
            assert_eq!(text, expected);
        }
        assert_eq!(readable(&[0]), ".");
        assert_eq!(readable(&[]), ".");
        assert_eq!(readable(&[3, b'a']), ".", "a label that is cut");
    }
}
