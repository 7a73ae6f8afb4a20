// SPDX-License-Identifier: Apache-2.0
//! Second opinion about each head that passes: the types of the `http` crate.

use culvert_http::{Fields, Framing, RequestHead, ResponseHead, Target, Version};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// Longest scheme of the crate.
const LONGEST_SCHEME: usize = 64;

/// Compares a head that passes with the types of the `http` crate.
pub(crate) fn of_request(head: &RequestHead<'_>) {
    Method::from_bytes(head.method.as_bytes()).expect("a method");
    match head.target {
        Target::Absolute { uri, scheme, authority } => {
            let read = uri_of(uri);
            assert_eq!(read.authority().map(|found| found.as_str()), Some(authority));
            let found = read.scheme_str().expect("a scheme");
            assert!(scheme.len() > LONGEST_SCHEME || found.eq_ignore_ascii_case(scheme));
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

/// Reads a URI, but for what the crate is stricter about than servers: bytes of a path, and long schemes.
fn uri_of(uri: &str) -> Uri {
    let (scheme, rest) = uri.split_once("://").expect("a scheme");
    let scheme = if scheme.len() > LONGEST_SCHEME { "long" } else { scheme };
    // An authority has none of them.
    let strange = |letter: char| !letter.is_ascii() || "\"<>\\^`{|}".contains(letter);
    let rest = rest.split('#').next().expect("a part").replace(strange, "-");
    format!("{scheme}://{rest}").parse().expect("a URI")
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
