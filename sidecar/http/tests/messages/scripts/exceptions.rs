// SPDX-License-Identifier: Apache-2.0
//! Connections that are not carried as they are: limits, local answers, and bytes that no reader should get.

use super::Event;
use super::cases::{Case, GET, OK, c, s, same};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nConnection: upgrade\r\n\r\n";

fn but(case: Case, to_server: &[u8], to_client: &[u8]) -> Case {
    Case { to_server: to_server.to_vec(), to_client: to_client.to_vec(), ..case }
}

/// All exceptions.
pub(crate) fn exceptions() -> Vec<Case> {
    [refusals(), declined()].into_iter().flatten().collect()
}

/// Requests that the owner answers itself, in their turn.
fn declined() -> Vec<Case> {
    let no = "GET /declined HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /declined HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let switch = "GET /declined HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n";
    let head = "HEAD /declined HTTP/1.0\r\n\r\n";
    let row = |name, verdict, events: &[Event], to_server: String, to_client: String| {
        but(same(name, verdict, events), to_server.as_bytes(), to_client.as_bytes())
    };
    let (two, cut) = ([GET, GET].concat(), OK.len() - 1);
    vec![
        row(
            "a declined request",
            "go",
            &[c([no, GET].concat()), s(OK)],
            GET.into(),
            ["<declined>", OK].concat(),
        ),
        row(
            "declined requests in their turns",
            "go",
            &[c([GET, no, GET, no].concat()), s([OK, OK].concat())],
            two,
            [OK, "<declined>", OK, "<declined>"].concat(),
        ),
        row(
            "a declined request whose turn has not come",
            "go",
            &[c([GET, no].concat()), s(&OK[..cut])],
            GET.into(),
            OK[..cut].into(),
        ),
        row(
            "a declined request with a body",
            "over",
            &[c([GET, post, GET].concat()), s(OK)],
            GET.into(),
            [OK, "<declined>"].concat(),
        ),
        row(
            "a declined Upgrade",
            "over",
            &[c([switch, "words"].concat())],
            String::new(),
            "<declined>".into(),
        ),
        row(
            "a declined HEAD of HTTP/1.0",
            "over",
            &[c([head, GET].concat())],
            String::new(),
            "<declined HEAD>".into(),
        ),
        row(
            "a declined request behind an answer that closes",
            "over",
            &[c([GET, no].concat()), s("HTTP/1.1 200 OK\r\n\r\nall"), Event::ServerFin],
            GET.into(),
            "HTTP/1.1 200 OK\r\n\r\nall".into(),
        ),
        row(
            "a refused request behind a declined one",
            "400 no_host",
            &[c([GET, no, "GET / HTTP/1.1\r\n\r\n"].concat()), s(OK)],
            GET.into(),
            [OK, "<declined>"].concat(),
        ),
        row(
            "a declined request, and a server that closes",
            "over",
            &[c(no), Event::ServerFin],
            String::new(),
            "<declined>".into(),
        ),
        row(
            "a declined request behind one that stays unanswered",
            "close no_answer",
            &[c([GET, no].concat()), Event::ServerFin],
            GET.into(),
            String::new(),
        ),
    ]
}

fn refusals() -> Vec<Case> {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(100_000));
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "c".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(149));
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n";
    let no = "HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\n";
    vec![
        but(same("a head of 100 KB", "431 head_too_long", &[c(long)]), b"", b""),
        but(same("a request line of 100 KB", "414 target_too_long", &[c(line)]), b"", b""),
        but(same("150 fields", "431 too_many_fields", &[c(many)]), b"", b""),
        but(
            same(
                "empty lines in front of requests",
                "go",
                &[c(["\r\n\r\n", GET, "\r\n"].concat()), s(OK), c(GET)],
            ),
            [GET, GET].concat().as_bytes(),
            OK.as_bytes(),
        ),
        but(
            same(
                "an unknown expectation",
                "417 expectation",
                &[c("POST / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 1\r\n\r\na")],
            ),
            b"",
            b"",
        ),
        but(
            same(
                "the body that comes behind a final answer to Expect",
                "over",
                &[c(post), s(no), c("hello"), s("no")],
            ),
            post.as_bytes(),
            [no, "no"].concat().as_bytes(),
        ),
        but(
            same(
                "the request that comes behind a final answer to Expect",
                "over",
                &[c(post), s(no), s("no"), c(GET)],
            ),
            post.as_bytes(),
            [no, "no"].concat().as_bytes(),
        ),
        but(
            same("a request amid a final answer to Expect", "over", &[c(post), s(no), c(GET), s("no")]),
            post.as_bytes(),
            [no, "no"].concat().as_bytes(),
        ),
        but(
            same("a request amid an answer that closes", "over", &[c(GET), s(closing), c(GET), s("ok")]),
            GET.as_bytes(),
            [closing, "ok"].concat().as_bytes(),
        ),
        but(
            same(
                "a malformed chunk behind an early answer",
                "close chunk_size",
                &[c(chunks), s(OK), c("x\r\n"), c(GET)],
            ),
            chunks.as_bytes(),
            OK.as_bytes(),
        ),
        but(
            same(
                "a malformed chunk amid an early answer",
                "close chunk_size",
                &[c(chunks), s(closing), c(["x\r\n", GET].concat()), s("ok")],
            ),
            chunks.as_bytes(),
            [closing, "ok"].concat().as_bytes(),
        ),
        but(
            same(
                "bytes behind an early answer that closes",
                "close unasked_response",
                &[c(chunks), s(closing), s("okno"), c("1\r\na\r\n")],
            ),
            chunks.as_bytes(),
            [closing, "ok"].concat().as_bytes(),
        ),
        but(
            same(
                "a body behind an answer that closes before its own",
                "over",
                &[c([GET, chunks].concat()), s(closing), s("ok"), c("1\r\na\r\n")],
            ),
            [GET, chunks].concat().as_bytes(),
            [closing, "ok"].concat().as_bytes(),
        ),
        but(
            same("a request behind the last one", "over", &[c([close, GET].concat()), s(OK)]),
            close.as_bytes(),
            OK.as_bytes(),
        ),
        but(
            same(
                "a refused request waits for the answers before it",
                "400 no_host",
                &[c([GET, "GET / HTTP/1.1\r\n\r\n", GET].concat()), s(OK)],
            ),
            GET.as_bytes(),
            OK.as_bytes(),
        ),
        but(
            same(
                "a refused request, and an answer before it that is under way",
                "go",
                &[c([GET, "GET / HTTP/1.1\r\n\r\n"].concat()), s(&OK[..OK.len() - 1])],
            ),
            GET.as_bytes(),
            &OK.as_bytes()[..OK.len() - 1],
        ),
        but(
            same(
                "a refused request behind a server that closes",
                "over",
                &[
                    c([GET, "GET / HTTP/1.1\r\n\r\n"].concat()),
                    s("HTTP/1.1 200 OK\r\n\r\nall"),
                    Event::ServerFin,
                ],
            ),
            GET.as_bytes(),
            b"HTTP/1.1 200 OK\r\n\r\nall",
        ),
        but(same("a refused HEAD", "400 no_host without a body", &[c("HEAD / HTTP/1.1\r\n\r\n")]), b"", b""),
        but(
            same(
                "a head behind an Upgrade that is cut",
                "400 cut_head",
                &[c([UPGRADE, "GET / HT"].concat()), Event::ClientFin, s(OK)],
            ),
            UPGRADE.as_bytes(),
            OK.as_bytes(),
        ),
        but(
            same("a head that is cut", "400 cut_head", &[c("GET / HTTP/1.1\r\nHo"), Event::ClientFin]),
            b"",
            b"",
        ),
        but(
            same(
                "a response's head that is cut",
                "502 cut_head",
                &[c(GET), s("HTTP/1.1 200 OK\r\nCo"), Event::ServerFin],
            ),
            GET.as_bytes(),
            b"",
        ),
        but(
            same("no HTTP from the server", "502 status_line", &[c(GET), s("220 mail.example ESMTP\r\n")]),
            GET.as_bytes(),
            b"",
        ),
        but(
            same("binary bytes from the server", "502 control_byte", &[c(GET), s("\x04\0\0\x01")]),
            GET.as_bytes(),
            b"",
        ),
        but(
            same(
                "no HTTP from the server, to HEAD",
                "502 status_line without a body",
                &[c("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"), s("hello\r\n")],
            ),
            b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"",
        ),
        but(
            same("a status below 100", "502 status_code", &[c(GET), s("HTTP/1.1 099 No\r\n\r\n")]),
            GET.as_bytes(),
            b"",
        ),
        but(
            same(
                "a response with 101 fields",
                "502 too_many_fields",
                &[c(GET), s(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)))],
            ),
            GET.as_bytes(),
            b"",
        ),
        but(
            same(
                "101 that nothing asked for",
                "502 unasked_switch",
                &[c(GET), s("HTTP/1.1 101 Yes\r\n\r\nGET")],
            ),
            GET.as_bytes(),
            b"",
        ),
        but(
            same(
                "101 to a client that waits for 100",
                "502 unasked_switch",
                &[
                    c(
                        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                    ),
                    s("HTTP/1.1 101 Yes\r\n\r\n"),
                    c("hello"),
                ],
            ),
            b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            b"",
        ),
    ]
}
