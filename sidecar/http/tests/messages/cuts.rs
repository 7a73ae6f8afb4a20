// SPDX-License-Identifier: Apache-2.0
//! Messages that come in pieces: the same bytes pass, for the same verdict, however they are cut.

use crate::scripts::{Event, cases, vectors};
use crate::wire::{Seen, Wire};
use proptest::prelude::*;

/// Plays the events with one of them in pieces.
fn cut(events: &[Event], which: usize, ends: impl IntoIterator<Item = usize>, splices: bool) -> Seen {
    let mut wire = Wire::new(splices);
    for (n, event) in events.iter().enumerate() {
        if n != which {
            wire.take(event);
            continue;
        }
        let mut from = 0;
        for to in ends.into_iter().chain([event.length()]) {
            wire.take(&event.piece(from, to));
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

fn scripts() -> Vec<(&'static str, Vec<Event>)> {
    let cases = cases::all().into_iter().map(|case| (case.name, case.events));
    cases.chain(vectors::all().into_iter().map(|vector| (vector.name, vector.events))).collect()
}

#[test]
fn a_message_cut_at_any_byte_gives_the_same_output() {
    for (name, events) in scripts() {
        let whole = Wire::play(&events);
        for (which, event) in events.iter().enumerate() {
            for at in event.cuts() {
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
        for (which, event) in events.iter().enumerate().filter(|(_, event)| event.length() <= 4096) {
            let seen = cut(&events, which, 1..event.length(), false);
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
        let most = events[which].length() + 1;
        let (a, b) = (usize::from(a) % most, usize::from(b) % most);
        let seen = cut(events, which, [a.min(b), a.max(b)], splices);
        prop_assert!(seen == Wire::play(events), "{name}: event {which} cut at {a} and {b}: {seen:?}");
    }
}
