// SPDX-License-Identifier: Apache-2.0
//! Rubbish, and messages out of right and wrong parts: nothing panics, and no bytes pass but those that were received.

use crate::scripts::Event;
use crate::wire::{Seen, Wire};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const PARTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET /declined HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /declined HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nConnection: upgrade\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 204 No\r\n\r\n",
    "HTTP/1.1 100 Go\r\n\r\n",
    "HTTP/1.1 101 Go\r\n\r\n",
    "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
    "Connection: close\r\n",
    "hello",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "\r\n",
    "\r",
    "\n",
    " ",
    ":",
    "\0",
    "GET",
    "HTTP/1.1 ",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let parts = vec(select(PARTS), 1..5).prop_map(|parts| parts.concat().into_bytes());
    prop_oneof![8 => parts, 1 => vec(any::<u8>(), 0..40)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => bytes().prop_map(Event::Client),
        8 => bytes().prop_map(Event::Server),
        1 => Just(Event::ClientFin),
        1 => Just(Event::ServerFin),
    ]
}

/// Cuts events into pieces of these lengths in turn.
fn pieces(events: &[Event], lengths: &[usize]) -> Vec<Event> {
    let mut lengths = lengths.iter().cycle();
    let mut cut = |bytes: &[u8], event: fn(Vec<u8>) -> Event| {
        let (mut rest, mut pieces) = (bytes, Vec::new());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(lengths.next().map_or(1, |length| rest.len().min(*length)));
            pieces.push(event(piece.to_vec()));
            rest = behind;
        }
        pieces
    };
    let cut = |event: &Event| match event {
        Event::Client(bytes) => cut(bytes, Event::Client),
        Event::Server(bytes) => cut(bytes, Event::Server),
        fin => vec![fin.clone()],
    };
    events.iter().flat_map(cut).collect()
}

/// Plays the events in pieces of these lengths, and finishes the connection before one of the events.
fn play(events: &[Event], lengths: &[usize], finished_before: usize, splices: bool) -> Seen {
    let (first, then) = events.split_at(finished_before.min(events.len()));
    let mut wire = Wire::new(splices);
    pieces(first, lengths).iter().for_each(|event| wire.take(event));
    if !then.is_empty() {
        wire.finish();
    }
    pieces(then, lengths).iter().for_each(|event| wire.take(event));
    wire.seen()
}

/// Returns true if one is the other with bytes left out.
fn is_part_of(some: &[u8], all: &[u8]) -> bool {
    let mut all = all.iter();
    some.iter().all(|byte| all.any(|other| other == byte))
}

fn sent(events: &[Event]) -> (Vec<u8>, Vec<u8>) {
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Client(bytes) => client.extend_from_slice(bytes),
            Event::Server(bytes) => server.extend_from_slice(bytes),
            Event::ClientFin | Event::ServerFin => {}
        }
    }
    (client, server)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_connection_gives_the_same_output_in_any_pieces(
        events in vec(event(), 1..8),
        lengths in vec(1_usize..60, 1..6),
        splices: bool,
        finished_before in 0_usize..16,
    ) {
        let whole = play(&events, &[usize::MAX], finished_before, false);
        let (client, server) = sent(&events);
        let relayed: Vec<u8> = whole.to_client.iter().copied().filter(|byte| !b"<declined>".contains(byte)).collect();
        prop_assert!(is_part_of(&whole.to_server, &client) && is_part_of(&relayed, &server), "{whole:?}");

        let seen = play(&events, &lengths, finished_before, splices);
        prop_assert!(seen == whole, "{seen:?}\nwhole: {whole:?}");
    }
}
