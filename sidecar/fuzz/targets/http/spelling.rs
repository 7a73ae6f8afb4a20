// SPDX-License-Identifier: Apache-2.0
//! Connections as inputs: the length of pieces, the event before which the connection is finished, then events, each a letter, a
//! length of two bytes and its bytes.

use crate::scripts::Event;

/// Spells a connection.
pub(crate) fn spell(events: &[Event]) -> Vec<u8> {
    let mut input = vec![0, u8::MAX];
    for event in events {
        let (letter, bytes) = match event {
            Event::Client(bytes) => (b'c', bytes.as_slice()),
            Event::Server(bytes) => (b'r', bytes.as_slice()),
            Event::ClientFin => (b'C', &[][..]),
            Event::ServerFin => (b'S', &[][..]),
        };
        input.push(letter);
        input.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
        input.extend_from_slice(bytes);
    }
    input
}

/// Reads the length of pieces, the place of the end, and the events. Any input is some connection.
pub(crate) fn read(input: &[u8]) -> (usize, usize, Vec<Event>) {
    let [pieces, finished_before, rest @ ..] = input else { return (1, 0, Vec::new()) };
    let mut rest = rest;
    let mut events = Vec::new();
    while let [letter, low, high, behind @ ..] = rest {
        let length = behind.len().min(u16::from_le_bytes([*low, *high]).into());
        let (bytes, next) = behind.split_at(length);
        rest = next;
        events.push(match letter {
            b'C' => Event::ClientFin,
            b'S' => Event::ServerFin,
            letter if letter % 2 == 1 => Event::Client(bytes.to_vec()),
            _ => Event::Server(bytes.to_vec()),
        });
    }
    (usize::from(*pieces).max(1), usize::from(*finished_before), events)
}
