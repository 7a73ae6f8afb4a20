// SPDX-License-Identifier: Apache-2.0
//! Whole connections: what passes is the same for all pieces, whole requests alone reach the server and each reader finds the same
//! ones, and what is left out is left out of the bytes that were sent. The player of culvert-http's tests holds each step to its
//! bounds: progress, at most sixteen requests, an end.
#![no_main]

#[path = "../../http/tests/messages/opinion.rs"]
mod opinion;
#[path = "../../http/tests/messages/readers.rs"]
mod readers;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "../../http/tests/messages/scripts/event.rs"]
mod scripts;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "http/spelling.rs"]
mod spelling;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "http/strict.rs"]
mod strict;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "../../http/tests/messages/wire.rs"]
mod wire;

use scripts::Event;
use wire::{Seen, Wire};

/// Plays the events in pieces of this length.
fn in_pieces(events: &[Event], piece: usize, finished_before: usize, splices: bool) -> Seen {
    let mut wire = Wire::new(splices);
    for (n, event) in events.iter().enumerate() {
        if n == finished_before {
            wire.finish();
        }
        let length = event.length();
        for from in (0..length.max(1)).step_by(piece) {
            wire.take(&event.piece(from, length.min(from + piece)));
        }
    }
    wire.seen()
}

/// Returns true if one is the other with bytes left out.
fn is_part_of(some: &[u8], all: &[u8]) -> bool {
    let mut all = all.iter();
    some.iter().all(|byte| all.any(|other| other == byte))
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (piece, finished_before, events) = spelling::read(input);
    let mut wire = Wire::default();
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for (n, event) in events.iter().enumerate() {
        if n == finished_before {
            wire.finish();
        }
        wire.take(event);
        match event {
            Event::Client(bytes) => client.extend_from_slice(bytes),
            Event::Server(bytes) => server.extend_from_slice(bytes),
            Event::ClientFin | Event::ServerFin => {}
        }
    }
    let whole = wire.seen();
    for (piece, splices) in [(piece, false), (piece, true), (1, false), (1, true), (usize::MAX / 2, true)] {
        let seen = in_pieces(&events, piece, finished_before, splices);
        assert!(seen == whole, "pieces of {piece}, {splices}: {seen:?}\nwhole: {whole:?}");
    }
    assert!(is_part_of(&whole.to_server, &client), "{whole:?}");
    let relayed: Vec<u8> =
        whole.to_client.iter().copied().filter(|byte| !b"<declined HEAD>".contains(byte)).collect();
    assert!(is_part_of(&relayed, &server), "{whole:?}");
    strict::are_requests(wire.messages());
    assert!(
        readers::dissenter(wire.messages()).is_none(),
        "{:?}: {whole:?}",
        readers::dissenter(wire.messages())
    );
});
