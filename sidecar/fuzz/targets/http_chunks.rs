// SPDX-License-Identifier: Apache-2.0
//! Chunked bodies: they end, and break a rule, at the byte where they do so for a strict reader, in any pieces and with data that
//! passes unseen; and readers with the habits of servers find the same requests in those that pass.
#![no_main]

#[path = "../../http/tests/messages/readers.rs"]
mod readers;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "http/strict.rs"]
mod strict;

use culvert_http::chunks::{Chunks, Scanned, Then};
use strict::{Chunked, chunked};

/// Scans a body in pieces; `splices`: data passes by count.
fn scan(bytes: &[u8], pieces: &[usize], splices: bool) -> Scanned {
    let mut chunks = Chunks::default();
    let (mut at, mut lengths) = (0, pieces.iter().cycle());
    while at < bytes.len() {
        let piece = &bytes[at..bytes.len().min(at + lengths.next().copied().unwrap_or(1))];
        let unseen = chunks.unseen().min(piece.len() as u64);
        if splices && unseen > 0 {
            chunks.skip(unseen);
            at += unseen as usize;
            continue;
        }
        let Scanned { forward, then } = chunks.scan(piece);
        assert!(forward <= piece.len());
        at += forward;
        if then != Then::More {
            return Scanned { forward: at, then };
        }
        assert_eq!(forward, piece.len(), "a body that goes on takes all");
    }
    Scanned { forward: at, then: Then::More }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = scan(bytes, &[bytes.len()], false);
    for pieces in [&[1][..], &[usize::from(*piece).max(1)], &[3, 1, 17]] {
        for splices in [false, true] {
            assert_eq!(scan(bytes, pieces, splices), whole, "pieces of {pieces:?}, {splices}");
        }
    }
    let body = &bytes[..whole.forward];
    match whole.then {
        Then::Done => assert_eq!(chunked(bytes), Chunked::Whole(whole.forward)),
        Then::More => assert_eq!((chunked(bytes), whole.forward), (Chunked::Part, bytes.len())),
        Then::Refused(_) => {
            assert_eq!(chunked(body), Chunked::Part, "what passes is right so far");
            assert_eq!(chunked(&bytes[..whole.forward + 1]), Chunked::Wrong, "and the byte behind is not");
        }
    }
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let next = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream =
        if whole.then == Then::Done { [&head[..], body, next].concat() } else { [&head[..], body].concat() };
    assert!(readers::dissenter(&stream).is_none(), "{:?} reads it otherwise", readers::dissenter(&stream));
});
