// SPDX-License-Identifier: Apache-2.0
//! Streams about which readers could disagree: what passes is read alike by all of them.

use crate::readers::dissenter;
use crate::scripts::{Event, cases, vectors};
use crate::wire::Wire;
use proptest::prelude::*;
use proptest::sample::select;

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
        let mut wire = Wire::default();
        wire.take(&Event::Client(requests.concat().into_bytes()));
        let dissenter = dissenter(wire.messages());
        prop_assert!(dissenter.is_none(), "{wire:?}: {dissenter:?}");
    }
}
