// SPDX-License-Identifier: Apache-2.0
//! Smuggling vectors: messages that two readers read differently. Each is followed by a request that must not pass.

use super::Event;
use super::cases::{c, s};

/// Vector with the part of it that passes, and the verdict.
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) events: Vec<Event>,
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    pub(crate) verdict: &'static str,
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = heads();
    vectors.extend(chunks());
    vectors.extend(switches());
    vectors.extend(responses());
    vectors
}

/// Fields behind the request line and Host, and the rule that they break.
const FIELDS: &[(&str, &str, &str)] = &[
    ("length, then chunked", "Content-Length: 6\r\nTransfer-Encoding: chunked", "400 length_and_chunked"),
    ("chunked, then length", "Transfer-Encoding: chunked\r\nContent-Length: 6", "400 length_and_chunked"),
    ("chunked and length zero", "Transfer-Encoding: chunked\r\nContent-Length: 0", "400 length_and_chunked"),
    ("two lengths that differ", "Content-Length: 5\r\nContent-Length: 6", "400 two_lengths"),
    ("two lengths alike", "Content-Length: 5\r\nContent-Length: 5", "400 two_lengths"),
    ("a list of lengths", "Content-Length: 5, 5", "400 bad_length"),
    ("length with a sign", "Content-Length: +3", "400 bad_length"),
    ("length below zero", "Content-Length: -3", "400 bad_length"),
    ("length in hexadecimal", "Content-Length: 0x3", "400 bad_length"),
    ("length with an overflow", "Content-Length: 18446744073709551619", "413 length_too_large"),
    ("empty length", "Content-Length:", "400 bad_length"),
    ("length with a space within", "Content-Length: 1 0", "400 bad_length"),
    ("length with underscores", "Content_Length: 5", "400 field_lookalike"),
    ("xchunked", "Transfer-Encoding: xchunked", "501 transfer_coding"),
    ("identity", "Transfer-Encoding: identity", "501 transfer_coding"),
    ("chunked, identity", "Transfer-Encoding: chunked, identity", "501 transfer_coding"),
    ("identity, chunked", "Transfer-Encoding: identity, chunked", "501 transfer_coding"),
    ("chunked twice in a list", "Transfer-Encoding: chunked, chunked", "501 transfer_coding"),
    ("chunked with a comma", "Transfer-Encoding: chunked,", "501 transfer_coding"),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\"", "501 transfer_coding"),
    ("chunked with a parameter", "Transfer-Encoding: chunked;a=b", "501 transfer_coding"),
    (
        "two codings in two lines",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "400 two_transfer_codings",
    ),
    (
        "chunked in two lines",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
        "400 two_transfer_codings",
    ),
    ("a space before the colon", "Transfer-Encoding : chunked", "400 field_name"),
    ("a tab before the colon", "Content-Length\t: 5", "400 field_name"),
    ("a vertical tab before the coding", "Transfer-Encoding: \x0bchunked", "400 field_value"),
    ("coding with underscores", "Transfer_Encoding: chunked", "400 field_lookalike"),
    ("a bare LF before a field", "X: y\nTransfer-Encoding: chunked", "400 bare_lf"),
    ("a bare CR before a field", "X: y\rTransfer-Encoding: chunked", "400 bare_cr"),
    ("a bare CR at a line's end", "X: y\r\r\nContent-Length: 5", "400 bare_cr"),
    ("a folded line", "Transfer-Encoding:\r\n chunked", "400 folded_line"),
    ("a folded first field", "X: y\r\n\tContent-Length: 5", "400 folded_line"),
    ("NUL in a value", "X: y\0z", "400 field_value"),
    ("NUL in a name", "X\0: y", "400 field_name"),
    ("a line without colon", "Content-Length 5", "400 field_name"),
    ("an empty name", ": y", "400 field_name"),
    ("two Hosts", "host: b", "400 two_hosts"),
    ("two Hosts alike", "Host: a", "400 two_hosts"),
];

/// Whole heads, and the rule that they break.
const HEADS: &[(&str, &str, &str)] = &[
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "400 transfer_coding_in_1_0",
    ),
    ("no Host", "GET / HTTP/1.1\r\nX: y\r\n\r\n", "400 no_host"),
    ("a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 bad_host"),
    ("Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 bad_host"),
    (
        "Host that differs from an absolute form",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "400 host_differs",
    ),
    ("a user in an absolute form", "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("a space within the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("a request line that ends with a space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400 request_line"),
    ("HTTP/0.9", "GET /\r\n\r\n", "400 request_line"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505 version"),
    ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 version"),
    ("a bare LF behind the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "400 bare_lf"),
    ("a bare LF at the head's end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400 bare_lf"),
    ("a bare CR in the request line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", "400 bare_cr"),
    ("a bare LF before a request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 bare_lf"),
    ("white space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 folded_line"),
    ("head in small letters", "head / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method_case"),
    ("connect in small letters", "Connect a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "400 method_case"),
    ("CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"),
    (
        "CONNECT with a body",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello",
        "400 connect_body",
    ),
    (
        "CONNECT with chunks",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400 connect_body",
    ),
];

fn heads() -> Vec<Vector> {
    let refused = |name, request: String, verdict| Vector {
        name,
        events: vec![c(request + SMUGGLED)],
        to_server: Vec::new(),
        to_client: Vec::new(),
        verdict,
    };
    let by_fields = FIELDS.iter().map(|(name, fields, verdict)| {
        refused(name, format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nG"), *verdict)
    });
    let whole = HEADS.iter().map(|(name, head, verdict)| refused(name, (*head).to_owned(), *verdict));
    let mut vectors: Vec<Vector> = by_fields.chain(whole).collect();
    // Two things that readers agree on.
    let tab = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\t\r\n\r\n0\r\n\r\n".to_owned() + GET;
    let pass = |name, bytes: &str, to_server: &str| Vector {
        name,
        events: vec![c(bytes)],
        to_server: to_server.into(),
        to_client: Vec::new(),
        verdict: "go",
    };
    vectors.push(pass("a tab before the coding passes", &tab, &tab));
    vectors.push(pass("empty lines before a request do not pass", &format!("\r\n\r\n{GET}"), GET));
    vectors
}

fn chunks() -> Vec<Vector> {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let refused = |(name, body, passes, verdict): (&'static str, &str, usize, &'static str)| Vector {
        name,
        events: vec![c([head, body, SMUGGLED].concat())],
        to_server: [head, &body[..passes]].concat().into(),
        to_client: Vec::new(),
        verdict,
    };
    [
        ("a size line that LF ends", "5\nhello\r\n0\r\n\r\n", 1, "400 bare_lf"),
        ("a size line that CR ends", "5\rhello\r\n0\r\n\r\n", 2, "400 bare_cr"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n", 1, "400 chunk_size"),
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n", 0, "400 chunk_size"),
        ("a size with an overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n", 16, "413 chunk_too_large"),
        ("data that is longer than its size", "5\r\nhelloo\r\n0\r\n\r\n", 8, "400 chunk_end"),
        ("data that LF ends", "5\r\nhello\n0\r\n\r\n", 8, "400 chunk_end"),
        ("spaces behind a size", "5  \r\nhello\r\n0\r\n\r\n", 1, "400 chunk_size"),
        ("a space before a size", " 5\r\nhello\r\n0\r\n\r\n", 0, "400 chunk_size"),
        ("a tab before an extension", "5\t;a\r\nhello\r\n0\r\n\r\n", 1, "400 chunk_size"),
        ("an underscore in a size", "5_0\r\nhello\r\n0\r\n\r\n", 1, "400 chunk_size"),
        ("no size", "\r\nhello\r\n0\r\n\r\n", 0, "400 chunk_size"),
        ("LF within an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", 3, "400 bare_lf"),
        ("CR within an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", 4, "400 bare_cr"),
        ("NUL within an extension", "5;\0\r\nhello\r\n0\r\n\r\n", 2, "400 chunk_extension"),
        ("trailers that LF ends", "0\r\nX: y\n\r\n", 7, "400 bare_lf"),
        ("a body that LF ends", "0\r\n\n", 3, "400 bare_lf"),
        ("a length in the trailers", "0\r\nContent-Length: 5\r\n\r\n", 17, "400 trailer_field"),
        ("a coding in the trailers", "0\r\nTRANSFER-ENCODING: chunked\r\n\r\n", 20, "400 trailer_field"),
        ("a Host in the trailers", "0\r\nHost: b\r\n\r\n", 7, "400 trailer_field"),
        ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n", 9, "400 trailer_field"),
    ]
    .map(refused)
    .into()
}

/// Bytes behind a request that asks for another protocol. They wait for the answer, and are read by what it says.
fn switches() -> Vec<Vector> {
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: b\r\n\r\n";
    let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let bad = "GET /smuggled HTTP/1.1\r\n\r\n";
    let no = "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n";
    let vector = |name, to_server: &str, to_client: &str, verdict, events: Vec<Event>| Vector {
        name,
        events,
        to_server: to_server.into(),
        to_client: to_client.into(),
        verdict,
    };
    vec![
        vector("bytes behind Upgrade wait", upgrade, "", "go", vec![c([upgrade, SMUGGLED].concat())]),
        vector("bytes behind CONNECT wait", connect, "", "go", vec![c([connect, "\x16\x03"].concat())]),
        vector(
            "behind a refused Upgrade rules hold",
            upgrade,
            no,
            "400 no_host",
            vec![c([upgrade, bad].concat()), s(no)],
        ),
        vector(
            "behind a refused CONNECT rules hold",
            connect,
            no,
            "400 no_host",
            vec![c([connect, bad].concat()), s(no)],
        ),
        vector(
            "an interim answer to Upgrade is no switch",
            upgrade,
            "HTTP/1.1 103 X\r\n\r\n",
            "go",
            vec![c([upgrade, bad].concat()), s("HTTP/1.1 103 X\r\n\r\n")],
        ),
        vector(
            "Upgrade of HTTP/1.0 is none",
            "GET / HTTP/1.0\r\nUpgrade: b\r\n\r\n",
            "",
            "502 unasked_switch",
            vec![c("GET / HTTP/1.0\r\nUpgrade: b\r\n\r\n"), s("HTTP/1.1 101 Yes\r\n\r\n"), c("b")],
        ),
        vector(
            "2xx to Upgrade is no switch",
            upgrade,
            no,
            "400 control_byte",
            vec![c([upgrade, "\0"].concat()), s(no)],
        ),
    ]
}

fn responses() -> Vec<Vector> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let vector = |(name, response, passes, verdict): (&'static str, String, &str, &'static str)| Vector {
        name,
        events: vec![c(GET), s(response)],
        to_server: GET.into(),
        to_client: passes.into(),
        verdict,
    };
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{ok}");
    [
        (
            "a response with length and chunked",
            head("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            "",
            "502 length_and_chunked",
        ),
        (
            "a response with two lengths",
            head("Content-Length: 5\r\nContent-Length: 6"),
            "",
            "502 two_lengths",
        ),
        (
            "a response with two lengths alike",
            head("Content-Length: 5\r\nContent-Length: 5"),
            "",
            "502 two_lengths",
        ),
        (
            "a response with chunked twice",
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            "",
            "502 two_transfer_codings",
        ),
        (
            "a response with a list of codings",
            head("Transfer-Encoding: chunked, chunked"),
            "",
            "502 transfer_coding",
        ),
        (
            "a response of HTTP/1.0 with chunks",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "",
            "502 transfer_coding_in_1_0",
        ),
        ("a response with a folded line", head("X: y\r\n z"), "", "502 folded_line"),
        ("a response with a bare LF", head("X: y\nZ: y"), "", "502 bare_lf"),
        ("a response with a bare CR", head("X: y\rZ: y"), "", "502 bare_cr"),
        ("a response with a space before the colon", head("Content-Length : 5"), "", "502 field_name"),
        ("a response behind empty lines", format!("\r\n{ok}"), "", "502 status_line"),
        ("a response that nothing asked for", [ok, ok].concat(), ok, "close unasked_response"),
        (
            "bytes behind a 204",
            "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
            "close unasked_response",
        ),
        (
            "a malformed chunk of a response",
            format!("{chunked}5\nhello"),
            &format!("{chunked}5"),
            "close bare_lf",
        ),
    ]
    .map(vector)
    .into()
}
