// SPDX-License-Identifier: Apache-2.0
//! Second opinions: the types of the `http` crate about each head that passes, and readers with the habits of real servers about
//! each stream of requests that passes. They may not find other messages in it than a strict reader finds.

use crate::scripts::{Event, cases, vectors};
use crate::wire::Wire;
use culvert_http::{Fields, Framing, RequestHead, ResponseHead, Target, Version};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use proptest::prelude::*;
use proptest::sample::select;

/// Compares a head that passes with the types of the `http` crate.
pub(crate) fn of_request(head: &RequestHead<'_>) {
    Method::from_bytes(head.method.as_bytes()).expect("a method");
    match head.target {
        Target::Absolute { uri, scheme, authority } => {
            let read: Uri = uri.split('#').next().expect("a part").parse().expect("a URI");
            assert_eq!(read.authority().map(|found| found.as_str()), Some(authority));
            assert!(read.scheme_str().is_some_and(|found| found.eq_ignore_ascii_case(scheme)));
        }
        Target::Authority(authority) => {
            let read: Uri = authority.parse().expect("a URI");
            assert_eq!(read.authority().map(|found| found.as_str()), Some(authority));
        }
        Target::Origin(_) | Target::Asterisk => {}
    }
    let fields = map(head.fields(), head.bytes);
    let host = fields.get(HOST).map(HeaderValue::as_bytes);
    assert_eq!((host, head.host.is_some() || head.version == Version::Http10), (head.host, true));
    framing(&fields, head.framing, Framing::None);
}

/// Compares a head that passes with the types of the `http` crate.
pub(crate) fn of_response(head: &ResponseHead<'_>) {
    let status = StatusCode::from_u16(head.status).expect("a status");
    let fields = map(head.fields(), head.bytes);
    if !matches!(head.framing, Framing::None | Framing::Tunnel) && !status.is_informational() {
        framing(&fields, head.framing, Framing::UntilClose);
    }
}

/// Reads the fields, and checks that their lines are the whole head.
fn map(fields: Fields<'_>, head: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    let mut at = head.iter().position(|byte| *byte == b'\n').expect("a first line") + 1;
    for field in fields {
        assert_eq!(field.line.start, at);
        at = field.line.end;
        let line = &head[field.line];
        assert!(line.starts_with(field.name.as_bytes()) && line.ends_with(b"\r\n"));
        assert_eq!(line[field.name.len()], b':');
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_bytes(field.value).expect("a value"));
    }
    assert_eq!(&head[at..], b"\r\n");
    map
}

fn framing(fields: &HeaderMap, found: Framing, otherwise: Framing) {
    let lengths: Vec<_> = fields.get_all(CONTENT_LENGTH).iter().collect();
    let codings: Vec<_> = fields.get_all(TRANSFER_ENCODING).iter().collect();
    let expected = match (&lengths[..], &codings[..]) {
        ([], []) => otherwise,
        ([], [coding]) => {
            assert!(coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
            Framing::Chunked
        }
        ([length], []) => match length.to_str().expect("digits").parse().expect("a number") {
            0 => Framing::None,
            bytes => Framing::Length(bytes),
        },
        other => panic!("a message with two framings passed: {other:?}"),
    };
    assert_eq!(found, expected);
}

// === readers with habits ===

/// Habits of a reader, as servers and proxies have them.
#[derive(Clone, Copy, Debug, Default)]
struct Habits {
    lf_ends_lines: bool,
    cr_ends_lines: bool,
    length_beats_chunks: bool,
    last_field_wins: bool,
    trims_names: bool,
    joins_folded_lines: bool,
    takes_underscores: bool,
    /// Reads numbers as `strtol` does, and codings by a search.
    reads_loosely: bool,
}

/// Request as a reader found it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    line: Vec<u8>,
    body: Vec<u8>,
}

struct Reader<'a> {
    habits: Habits,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Returns all whole requests.
    fn read(habits: Habits, bytes: &'a [u8]) -> Vec<Found> {
        let mut reader = Self { habits, rest: bytes };
        let mut found = Vec::new();
        while let Some(request) = reader.request() {
            found.push(request);
        }
        found
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let Habits { lf_ends_lines, cr_ends_lines, .. } = self.habits;
        for at in 0..self.rest.len() {
            let length = match &self.rest[at..] {
                [b'\r', b'\n', ..] => 2,
                [b'\n', ..] if lf_ends_lines => 1,
                [b'\r', ..] if cr_ends_lines => 1,
                _ => continue,
            };
            let line = &self.rest[..at];
            self.rest = &self.rest[at + length..];
            return Some(line);
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn request(&mut self) -> Option<Found> {
        let line = self.line()?.to_vec();
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        loop {
            let field = self.line()?;
            if field.is_empty() {
                break;
            }
            if let (true, [b' ' | b'\t', ..], Some((_, value))) =
                (self.habits.joins_folded_lines, field, fields.last_mut())
            {
                value.extend_from_slice(field.trim_ascii());
                continue;
            }
            let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
            let mut name = field[..colon].to_ascii_lowercase();
            if self.habits.trims_names {
                name = name.trim_ascii().to_vec();
            }
            if self.habits.takes_underscores {
                name.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
            }
            fields.push((name, field[colon + 1..].trim_ascii().to_vec()));
        }
        let values = |name: &str| -> Vec<&[u8]> {
            let named = fields.iter().filter(|(found, _)| found == name.as_bytes());
            named.map(|(_, value)| value.as_slice()).collect()
        };
        let chosen = |values: Vec<&[u8]>| {
            let value = if self.habits.last_field_wins { values.last() } else { values.first() };
            value.map(|value| value.to_vec())
        };
        let length = chosen(values("content-length")).and_then(|value| self.number(&value, 10));
        let chunked = chosen(values("transfer-encoding")).is_some_and(|value| self.is_chunked(&value));
        let body = match length {
            Some(length) if !chunked || self.habits.length_beats_chunks => self.take(length)?.to_vec(),
            _ if chunked => self.chunks()?,
            _ => Vec::new(),
        };
        Some(Found { line, body })
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            match self.number(size, 16)? {
                0 => break,
                size => body.extend_from_slice(self.take(size)?),
            }
            self.line()?;
        }
        while !self.line()?.is_empty() {}
        Some(body)
    }

    fn number(&self, text: &[u8], radix: u32) -> Option<usize> {
        let text = std::str::from_utf8(text).ok()?;
        if !self.habits.reads_loosely {
            return usize::from_str_radix(text, radix).ok();
        }
        let text = text.trim_start().trim_start_matches("0x").trim_start_matches('+');
        let end = text.find(|digit: char| !digit.is_digit(radix)).unwrap_or(text.len());
        usize::from_str_radix(&text[..end], radix).ok()
    }

    fn is_chunked(&self, coding: &[u8]) -> bool {
        let coding = coding.to_ascii_lowercase();
        coding == b"chunked"
            || (self.habits.reads_loosely && coding.windows(7).any(|part| part == b"chunked"))
    }
}

/// All readers: each set of habits.
fn readers() -> impl Iterator<Item = Habits> {
    (0..=u8::MAX).map(|bits| {
        let has = |bit: u8| bits & 1 << bit != 0;
        Habits {
            lf_ends_lines: has(0),
            cr_ends_lines: has(1),
            length_beats_chunks: has(2),
            last_field_wins: has(3),
            trims_names: has(4),
            joins_folded_lines: has(5),
            takes_underscores: has(6),
            reads_loosely: has(7),
        }
    })
}

/// Returns a reader that finds other requests than the strict one.
fn dissenter(bytes: &[u8]) -> Option<Habits> {
    let strict = Reader::read(Habits::default(), bytes);
    readers().find(|habits| Reader::read(*habits, bytes) != strict)
}

#[test]
fn readers_find_the_same_requests_in_all_that_passes() {
    for (name, to_server) in cases::all()
        .into_iter()
        .map(|case| (case.name, case.to_server))
        .chain(vectors::all().into_iter().map(|vector| (vector.name, vector.to_server)))
    {
        assert!(dissenter(&to_server).is_none(), "{name}: {:?}", dissenter(&to_server));
    }
}

#[test]
fn readers_disagree_about_what_is_refused() {
    let mut disputed = 0;
    for vector in vectors::all() {
        let sent: Vec<u8> = vector
            .events
            .iter()
            .filter_map(|event| if let Event::Client(bytes) = event { Some(bytes.clone()) } else { None })
            .flatten()
            .collect();
        disputed += usize::from(dissenter(&sent).is_some());
    }
    // The others are refused for what readers do with them behind the framing, or reject themselves.
    assert!(disputed >= 40, "{disputed}");
}

/// Requests out of right parts and of those that smugglers use.
fn request() -> impl Strategy<Value = String> {
    let line = select(vec![
        "POST / HTTP/1.1",
        "POST / HTTP/1.1",
        "GET /a HTTP/1.1",
        "GET / HTTP/1.0",
        "GET  / HTTP/1.1",
    ]);
    let field = select(vec![
        "Content-Length: 3",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        "X: y",
        "content-length: 0x3",
        "Content-Length : 4",
        "Content_Length: 4",
        "Content-Length: +4",
        "Transfer-Encoding: xchunked",
        "transfer-encoding: chunked, identity",
        " Transfer-Encoding: chunked",
        "X: y\nContent-Length: 3",
        "X: y\rContent-Length: 3",
        "Connection: keep-alive",
    ]);
    let end = select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n"]);
    let body = select(vec![
        "",
        "abc",
        "abcd",
        "3\r\nabc\r\n0\r\n\r\n",
        "4;a=b\r\nabcd\r\n0\r\nT: u\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "0\r\n\r\n",
    ]);
    (line, proptest::collection::vec((field, end.clone()), 0..3), end, body).prop_map(
        |(line, fields, end, body)| {
            let fields: String = fields.into_iter().flat_map(|(field, end)| [field, end]).collect();
            format!("{line}\r\nHost: a\r\n{fields}{end}{body}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn readers_find_the_same_requests_in_any_stream_that_passes(requests in proptest::collection::vec(request(), 1..4)) {
        let seen = Wire::play(&[Event::Client(requests.concat().into_bytes())]);
        let dissenter = dissenter(&seen.to_server);
        prop_assert!(dissenter.is_none(), "{seen:?}: {dissenter:?}");
    }
}
