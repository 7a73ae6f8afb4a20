// SPDX-License-Identifier: Apache-2.0
//! Messages that come in pieces: the same bytes pass, for the same verdict, however they are cut.

use crate::wire::{Event, Seen, Wire};
use crate::{cases, vectors};
use proptest::prelude::*;

/// The piece of an event between two of its bytes.
fn piece(event: &Event, from: usize, to: usize) -> Event {
    match event {
        Event::Client(bytes) => Event::Client(bytes[from..to].to_vec()),
        Event::Server(bytes) => Event::Server(bytes[from..to].to_vec()),
        fin => fin.clone(),
    }
}

fn length(event: &Event) -> usize {
    match event {
        Event::Client(bytes) | Event::Server(bytes) => bytes.len(),
        Event::ClientFin | Event::ServerFin => 0,
    }
}

/// Plays the events with one of them in pieces.
fn cut(events: &[Event], which: usize, ends: impl IntoIterator<Item = usize>, splices: bool) -> Seen {
    let mut wire = Wire::new(splices);
    for (n, event) in events.iter().enumerate() {
        if n != which {
            wire.take(event);
            continue;
        }
        let mut from = 0;
        for to in ends.into_iter().chain([length(event)]) {
            wire.take(&piece(event, from, to));
            from = to;
        }
        return events[n + 1..]
            .iter()
            .fold(wire, |mut wire, event| {
                wire.take(event);
                wire
            })
            .seen();
    }
    wire.seen()
}

/// All points of a short event, and a choice of a long one's.
fn points(length: usize) -> impl Iterator<Item = usize> {
    (1..length).filter(move |at| length <= 4096 || *at < 100 || length - at < 100 || at % 997 == 0)
}

fn scripts() -> Vec<(&'static str, Vec<Event>)> {
    let cases = cases::all().into_iter().map(|case| (case.name, case.events));
    cases.chain(vectors::all().into_iter().map(|vector| (vector.name, vector.events))).collect()
}

#[test]
fn a_message_cut_at_any_byte_gives_the_same_output() {
    for (name, events) in scripts() {
        let whole = Wire::play(&events);
        for (which, event) in events.iter().enumerate() {
            for at in points(length(event)) {
                for splices in [false, true] {
                    let seen = cut(&events, which, [at], splices);
                    assert!(seen == whole, "{name}: event {which} cut at {at}: {seen:?}\nwhole: {whole:?}");
                }
            }
        }
    }
}

#[test]
fn messages_that_come_byte_by_byte_give_the_same_output() {
    for (name, events) in scripts() {
        let whole = Wire::play(&events);
        for (which, event) in events.iter().enumerate().filter(|(_, event)| length(event) <= 4096) {
            let seen = cut(&events, which, 1..length(event), false);
            assert!(seen == whole, "{name}: event {which} byte by byte: {seen:?}\nwhole: {whole:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn messages_cut_at_any_two_bytes_give_the_same_output(script: u16, which: u8, a: u16, b: u16, splices: bool) {
        let scripts = scripts();
        let (name, events) = &scripts[usize::from(script) % scripts.len()];
        let which = usize::from(which) % events.len();
        let most = length(&events[which]) + 1;
        let (a, b) = (usize::from(a) % most, usize::from(b) % most);
        let seen = cut(events, which, [a.min(b), a.max(b)], splices);
        prop_assert!(seen == Wire::play(events), "{name}: event {which} cut at {a} and {b}: {seen:?}");
    }
}
