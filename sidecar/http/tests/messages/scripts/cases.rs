// SPDX-License-Identifier: Apache-2.0
//! Message cases: what a direct connection carries, a relayed one carries too, but for [`super::exceptions`].

use super::Event;
use super::exceptions::exceptions;

/// Connection with what both ends have to see.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) events: Vec<Event>,
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    pub(crate) verdict: &'static str,
}

pub(crate) fn c(bytes: impl AsRef<[u8]>) -> Event {
    Event::Client(bytes.as_ref().to_vec())
}

pub(crate) fn s(bytes: impl AsRef<[u8]>) -> Event {
    Event::Server(bytes.as_ref().to_vec())
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    [fields_and_bodies(), interim_and_early(), targets_and_tunnels(), connections(), exceptions()]
        .into_iter()
        .flatten()
        .collect()
}

/// A case in which all bytes pass.
pub(crate) fn same(name: &'static str, verdict: &'static str, events: &[Event]) -> Case {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Client(bytes) => to_server.extend_from_slice(bytes),
            Event::Server(bytes) => to_client.extend_from_slice(bytes),
            Event::ClientFin | Event::ServerFin => {}
        }
    }
    Case { name, events: events.to_vec(), to_server, to_client, verdict }
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn fields_and_bodies() -> Vec<Case> {
    vec![
        same(
            "letters, order and duplicates of fields",
            "go",
            &[
                c("GET / HTTP/1.1\r\nhOsT: a\r\nX-B: 1\r\nx-a: \t2 \r\nX-B: 3\r\nX-Empty:\r\n\r\n"),
                s(
                    "HTTP/1.1 200 Fine By Me\r\nSet-Cookie: a\r\nserver: x\r\nset-cookie: b\r\ncontent-length: 2\r\n\r\nok",
                ),
            ],
        ),
        same(
            "underscores in a name",
            "go",
            &[c("GET / HTTP/1.1\r\nHost: a\r\nX_Under_Score: 1\r\n\r\n"), s(OK)],
        ),
        same(
            "bytes beyond ASCII in values and reasons",
            "go",
            &[
                c(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\xc3\xa4\r\n\r\n"),
                s(b"HTTP/1.1 200 \xc3\xa4\r\nX: \xff\r\nContent-Length: 0\r\n\r\n"),
            ],
        ),
        same(
            "hop-by-hop fields and TE: trailers",
            "go",
            &[
                c(
                    "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, TE\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\n\r\n",
                ),
                s(
                    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
                ),
            ],
        ),
        same(
            "bodies by length",
            "go",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
                s(OK),
                c("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nget"),
                s("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ],
        ),
        same(
            "chunks of a request, any sizes",
            "go",
            &[
                c(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n05\r\nhello\r\n1\r\n\r\r\nA\r\n0123456789\r\n000\r\n\r\n",
                ),
                s(OK),
            ],
        ),
        same(
            "chunk extensions",
            "go",
            &[
                c(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b;c\";d\r\nhello\r\n0;last\r\n\r\n",
                ),
                s("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;sig=1\r\nok\r\n0\r\n\r\n"),
            ],
        ),
        same(
            "trailers of a request",
            "go",
            &[
                c(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nx-other:\r\n\r\n",
                ),
                s(OK),
            ],
        ),
        same(
            "trailers of a response",
            "go",
            &[
                c(GET),
                s(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n",
                ),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "a body until close",
            "over",
            &[c(GET), s("HTTP/1.1 200 OK\r\n\r\nall"), s(" of it"), Event::ServerFin],
        ),
        same(
            "server-sent events",
            "go",
            &[
                c(GET),
                s("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"),
                s("data: 2\n\n"),
            ],
        ),
        same(
            "HEAD, with fields that speak of a body",
            "go",
            &[
                c(
                    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
                ),
                s(
                    "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                ),
                s("HTTP/1.1 404 Not Found\r\n\r\n"),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "204 with Transfer-Encoding, 304 with a length",
            "go",
            &[
                c(GET),
                s("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
                c(GET),
                s("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "a status line without reason, and one without the space",
            "go",
            &[
                c(GET),
                s("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
                c(GET),
                s("HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n"),
            ],
        ),
        same(
            "a head of 58 KB",
            "go",
            &[
                c(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(58_000))),
                s(format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "d".repeat(58_000))),
            ],
        ),
        same(
            "a hundred fields",
            "go",
            &[
                c(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99))),
                s(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", "X: y\r\n".repeat(99))),
            ],
        ),
    ]
}

fn interim_and_early() -> Vec<Case> {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    vec![
        same(
            "Expect, and the server's 100 with its fields",
            "go",
            &[c(post), s("HTTP/1.1 100 Go On\r\nX-Of: server\r\n\r\n"), c("hello"), s(OK), c(GET), s(OK)],
        ),
        same(
            "Expect, and a client that does not wait",
            "go",
            &[c([post, "hello"].concat()), s(OK), c(GET), s(OK)],
        ),
        same(
            "Expect, 100, and an answer before the body",
            "go",
            &[c(post), s("HTTP/1.1 100 Continue\r\n\r\n"), s(OK), c("hello"), c(GET), s(OK)],
        ),
        same(
            "Expect, and 417",
            "over",
            &[c(post), s("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")],
        ),
        same(
            "Expect of HTTP/1.0 is none",
            "over",
            &[
                c("POST / HTTP/1.0\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n"),
                c("a"),
                s("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ],
        ),
        same(
            "103 Early Hints, twice",
            "go",
            &[
                c(GET),
                s("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"),
                s(OK),
            ],
        ),
        same("102, and a body after a pause", "go", &[c(GET), s("HTTP/1.1 102 Processing\r\n\r\n"), s(OK)]),
        same(
            "an early 413 while the body comes",
            "go",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"),
                s("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
            ],
        ),
        same(
            "an early answer that closes, and a server that reads on",
            "over",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"),
                s("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
                Event::ServerFin,
                c("there"),
            ],
        ),
        same(
            "an early answer until close, and a server that reads on",
            "over",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"),
                s("HTTP/1.1 200 OK\r\n\r\nok"),
                Event::ServerFin,
                c("0\r\n\r\n"),
            ],
        ),
        same(
            "an early answer that keeps the connection",
            "go",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"),
                s(OK),
                c("there"),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "both bodies at a time",
            "go",
            &[
                c("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"),
                s("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"),
                c("1\r\nb\r\n"),
                s("1\r\nb\r\n"),
                c("0\r\n\r\n"),
                s("0\r\n\r\n"),
            ],
        ),
    ]
}

fn targets_and_tunnels() -> Vec<Case> {
    let websocket = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let connect = "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n";
    vec![
        same("absolute form", "go", &[c("GET http://a:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n"), s(OK)]),
        same("OPTIONS *", "go", &[c("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), s(OK)]),
        same(
            "a path that others normalise",
            "go",
            &[c("GET /a/../b//c%2F%00..;/?q=[]|#f HTTP/1.1\r\nHost: a\r\n\r\n"), s(OK)],
        ),
        same("a method of another protocol", "go", &[c("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"), s(OK)]),
        same(
            "WebSocket",
            "go",
            &[
                c(websocket),
                s([switch, "\x01\x02"].concat()),
                c("\0\x7f\r\n"),
                s("\0"),
                Event::ClientFin,
                Event::ServerFin,
            ],
        ),
        same(
            "WebSocket, and a client that speaks first",
            "go",
            &[c([websocket, "frame"].concat()), s(switch), s("frame")],
        ),
        same("WebSocket refused", "go", &[c(websocket), s(OK), c(GET), s(OK)]),
        same(
            "an Upgrade with a body",
            "go",
            &[
                c(
                    "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\nContent-Length: 5\r\n\r\nhello!",
                ),
                s("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n!"),
                c("?"),
            ],
        ),
        same(
            "Upgrade: TLS/1.2 that the server ignores",
            "go",
            &[
                c("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n"),
                s(OK),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "Upgrade: h2c that the server ignores",
            "go",
            &[
                c(
                    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
                ),
                s(OK),
                c(GET),
                s(OK),
            ],
        ),
        same(
            "CONNECT",
            "go",
            &[
                c(connect),
                s("HTTP/1.1 200 Yes\r\nContent-Length: 5\r\n\r\nhi"),
                c("\x16\x03"),
                s("\x16"),
                Event::ServerFin,
            ],
        ),
        same(
            "CONNECT refused",
            "go",
            &[
                c(connect),
                s("HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"),
                c(connect),
                s("HTTP/1.1 200 OK\r\n\r\n"),
                c("tunnel"),
            ],
        ),
    ]
}

fn connections() -> Vec<Case> {
    vec![
        same(
            "HTTP/1.0",
            "over",
            &[c("GET / HTTP/1.0\r\nHost: a\r\n\r\n"), s("HTTP/1.0 200 OK\r\n\r\nall"), Event::ServerFin],
        ),
        same(
            "HTTP/1.0 without Host",
            "over",
            &[c("GET / HTTP/1.0\r\n\r\n"), s("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")],
        ),
        same(
            "HTTP/1.0 that keeps the connection",
            "go",
            &[
                c("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
                s("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
                c("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
                s("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ],
        ),
        same(
            "pipelined requests in order",
            "go",
            &[
                c([GET, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", GET].concat()),
                s([OK, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", OK].concat()),
            ],
        ),
        same(
            "close, said by the client",
            "over",
            &[c("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n"), s(OK), Event::ServerFin],
        ),
        same(
            "close, said by the server",
            "over",
            &[
                c(GET),
                s("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
                Event::ServerFin,
            ],
        ),
        same("a server that closes an idle connection", "over", &[c(GET), s(OK), Event::ServerFin]),
        same("a client that half-closes behind its request", "go", &[c(GET), Event::ClientFin, s(OK)]),
        same(
            "a client that half-closes within a body",
            "go",
            &[c("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"), Event::ClientFin, s(OK)],
        ),
        same(
            "a server that closes and leaves a request unanswered",
            "close no_answer",
            &[c(GET), Event::ServerFin],
        ),
        same(
            "a body that is cut",
            "close cut_body",
            &[c(GET), s("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), Event::ServerFin],
        ),
        same(
            "chunks that are cut",
            "close cut_body",
            &[
                c(GET),
                s("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                Event::ServerFin,
            ],
        ),
    ]
}
