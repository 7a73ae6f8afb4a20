// SPDX-License-Identifier: Apache-2.0
//! Heads of HTTP/1: taken exactly where a strict reader takes them, with the same parts, the same in any pieces, and right for
//! the types of the `http` crate. An edited head is right as well, and has the other fields.
#![no_main]

#[path = "../../http/tests/messages/opinion.rs"]
mod opinion;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "http/strict.rs"]
mod strict;

use culvert_http::{Edit, Exchange, Framing, RequestHead, ResponseHead, Step, Target, Version, edited};
use std::sync::LazyLock;
use strict::{Asked, Body, Head};

/// The request that the first byte of an input chooses; `None`: the input is a request itself.
fn asked(first: u8) -> Option<(Asked, &'static [u8])> {
    Some(match first {
        b'g' => (Asked::Get, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        b'h' => (Asked::Head, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        b't' => (Asked::Connect, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        b'u' => (Asked::Upgrade, b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n"),
        _ => return None,
    })
}

fn framing(framing: Framing) -> Body {
    match framing {
        Framing::None => Body::Bytes(0),
        Framing::Length(bytes) => Body::Bytes(bytes),
        Framing::Chunked => Body::Chunks,
        Framing::UntilClose => Body::Rest,
        Framing::Tunnel => Body::Tunnel,
    }
}

fn is_same_request(head: &RequestHead<'_>, other: &Head<'_>) {
    let target = match head.target {
        Target::Origin(text) | Target::Authority(text) | Target::Absolute { uri: text, .. } => text,
        Target::Asterisk => "*",
    };
    let first = [head.method.as_bytes(), target.as_bytes()];
    assert_eq!((head.bytes.len(), first), (other.length, other.first));
    assert_eq!(head.version == Version::Http10, other.is_1_0);
    let fields: Vec<_> = head.fields().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(fields, other.fields);
    assert_eq!((framing(head.framing), head.keeps), (other.body, other.keeps));
    assert_eq!((head.upgrades, head.expects), (other.upgrades, other.expects));
}

fn is_same_response(head: &ResponseHead<'_>, other: &Head<'_>) {
    assert_eq!((head.bytes.len(), head.status.to_string().as_bytes()), (other.length, other.first[1]));
    assert_eq!(head.version == Version::Http10, other.is_1_0);
    let fields: Vec<_> = head.fields().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(fields, other.fields);
    assert_eq!((framing(head.framing), head.keeps), (other.body, other.keeps));
}

static EDITS: LazyLock<[Edit; 3]> = LazyLock::new(|| {
    let set = Edit::set("x-forwarded-client-cert", b"ours");
    [Edit::remove("x-kuma-tags").expect("a right edit"), set.expect("a right edit"), Edit::without_h2c()]
});

/// Returns true for a field that the edits change.
fn is_edited(name: &[u8]) -> bool {
    let name =
        name.to_ascii_lowercase().iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
    let name = String::from_utf8(name).unwrap_or_default();
    ["x-kuma-tags", "x-forwarded-client-cert", "upgrade", "http2-settings", "connection"]
        .contains(&name.as_str())
}

/// Returns true if h2c is among the protocols.
fn has_h2c(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

fn edits(head: &RequestHead<'_>, before: &Head<'_>) {
    let mut bytes = Vec::new();
    let edited = edited(head, &*EDITS, &mut bytes).expect("a field is set");
    // A field more than may be is no matter of its receiver.
    let after = match strict::request(edited.bytes) {
        Some(after) => after,
        None => return assert!(before.fields.len() == 100 || edited.bytes.len() > 60 * 1024),
    };
    is_same_request(&edited, &after);
    assert_eq!((before.first, before.body), (after.first, after.body));
    assert_eq!((before.is_1_0, before.keeps, before.expects), (after.is_1_0, after.keeps, after.expects));
    let others = |head: &Head<'_>| -> Vec<u8> {
        let others = head.fields.iter().filter(|(name, _)| !is_edited(name));
        others.flat_map(|(name, value)| [name, &b":"[..], value, b"\n"].concat()).collect()
    };
    assert_eq!(others(before), others(&after));
    let named = |name: &str| {
        let lines = after.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        lines.map(|(_, value)| value.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    assert_eq!(named("x-forwarded-client-cert"), [b"ours"]);
    assert!(named("x-kuma-tags").is_empty());
    let list = |name| -> Vec<Vec<u8>> {
        named(name)
            .iter()
            .flat_map(|line| line.split(|byte| *byte == b','))
            .map(|part| part.trim_ascii().to_vec())
            .collect()
    };
    assert!(!named("upgrade").iter().any(|list| has_h2c(list)));
    let asked = |(name, value): &(&[u8], &[u8])| name.eq_ignore_ascii_case(b"upgrade") && has_h2c(value);
    assert!(!before.fields.iter().any(asked) || named("http2-settings").is_empty());
    for option in [&b"x-kuma-tags"[..], b"x-forwarded-client-cert"] {
        assert!(!list("connection").contains(&option.to_vec()));
    }
}

/// What became of an input: the length of its head, its rule, or nothing yet.
type Became = (Option<usize>, Option<&'static str>);

fn became<H>(exchange: &Exchange, step: &Step<H>, length: impl Fn(&H) -> usize) -> Became {
    match step {
        Step::Head(head) => (Some(length(head)), None),
        _ => (None, exchange.refused().map(|rule| rule.name())),
    }
}

fn request(bytes: &[u8]) {
    let mut exchange = Exchange::default();
    let step = exchange.client(bytes);
    let other = strict::request(bytes);
    let whole = became(&exchange, &step, |head| head.bytes.len());
    match (&step, &other) {
        (Step::Head(head), Some(other)) => {
            opinion::of_request(head);
            is_same_request(head, other);
            edits(head, other);
        }
        (Step::Head(_), None) => panic!("not for the strict reader"),
        (_, Some(_)) => panic!("refused: {whole:?}"),
        (_, None) => {}
    }
    for piece in [1, 7, 64] {
        let mut exchange = Exchange::default();
        let mut last = (None, None);
        for end in (piece..bytes.len() + piece).step_by(piece) {
            let step = exchange.client(&bytes[..end.min(bytes.len())]);
            last = became(&exchange, &step, |head| head.bytes.len());
            if last != (None, None) {
                break;
            }
        }
        assert_eq!(last, whole, "pieces of {piece}");
    }
}

fn response(bytes: &[u8], asked: Asked, request: &[u8]) {
    let begin = || {
        let mut exchange = Exchange::default();
        let Step::Head(head) = exchange.client(request) else { panic!("a right request") };
        exchange.admit_request(&head);
        exchange
    };
    let mut exchange = begin();
    let step = exchange.server(bytes);
    let other = strict::response(bytes, asked);
    let whole = became(&exchange, &step, |head| head.bytes.len());
    match (&step, &other) {
        (Step::Head(head), Some(other)) => {
            opinion::of_response(head);
            is_same_response(head, other);
        }
        (Step::Head(_), None) => panic!("not for the strict reader"),
        (_, Some(_)) => panic!("refused: {whole:?}"),
        (_, None) => {}
    }
    for piece in [1, 7, 64] {
        let mut exchange = begin();
        let mut last = (None, None);
        for end in (piece..bytes.len() + piece).step_by(piece) {
            let step = exchange.server(&bytes[..end.min(bytes.len())]);
            last = became(&exchange, &step, |head| head.bytes.len());
            if last != (None, None) {
                break;
            }
        }
        assert_eq!(last, whole, "pieces of {piece}");
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    match asked(*first) {
        Some((asked, head)) => response(bytes, asked, head),
        // Empty lines in front are dropped, which is no matter of heads.
        None if bytes.starts_with(b"\r") => {}
        None => request(bytes),
    }
});
