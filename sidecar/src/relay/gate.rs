// SPDX-License-Identifier: Apache-2.0
//! The place between the halves of a relay: nothing for TCP, a reader of messages for HTTP.

use super::Side;

/// Reader of the bytes that a relay passes on.
///
/// A half asks it in this order: bytes that are ready, then FIN, then whether the source may be read; what it reads, it shows.
pub(crate) trait Gate {
    /// Copies the bytes of a side that wait for more to the front of the buffer, and returns their number.
    fn kept(&self, from: Side, buffer: &mut [u8]) -> usize;

    /// Looks at the bytes of a side, those that were kept in front. Moves those that pass to the front of the buffer and
    /// returns their number; the others are kept or dropped.
    fn pass(&mut self, from: Side, bytes: &mut [u8]) -> usize;

    /// Returns how many of the next bytes may pass without a look.
    fn unseen(&self, from: Side) -> u64;

    /// Counts bytes that passed without a look: at most [`Gate::unseen`].
    fn skip(&mut self, from: Side, bytes: u64);

    /// Notes FIN. Returns true if it may be passed on at once; else [`Gate::take_fin`] says when.
    fn fin(&mut self, from: Side) -> bool;

    /// Returns true if the side is not to be read now: what it sent waits for the other side.
    fn holds(&self, from: Side) -> bool;

    /// Returns true if bytes in this direction wait to be taken.
    fn has_ready(&self, from: Side) -> bool;

    /// Takes bytes in this direction that pass without a read: they waited, or the gate says them itself.
    fn take_ready(&mut self, from: Side) -> Option<Box<[u8]>>;

    /// Returns true, once, if this direction ends behind the bytes that passed.
    fn take_fin(&mut self, from: Side) -> bool;

    /// The same, if nothing else that passed waits to be taken: FIN may travel with the bytes at hand. Some clients send the next
    /// request as soon as they have an answer, unless the end of the connection came with it.
    fn take_last(&mut self, from: Side) -> bool;

    /// Returns true if what the client sent, and the server has not taken, is dropped.
    fn cuts_client(&self) -> bool;

    /// Returns true if the gate ended the connection, and the client has not sent FIN. Its socket must not be closed at once.
    fn lingers(&self) -> bool;

    /// Returns true, once, if a step of the server changed something for the client's direction.
    fn take_stirred(&mut self) -> bool;
}

/// No gate. It has no size, and its calls are compiled away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Open;

impl Gate for Open {
    fn kept(&self, _: Side, _: &mut [u8]) -> usize {
        0
    }

    fn pass(&mut self, _: Side, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    fn unseen(&self, _: Side) -> u64 {
        u64::MAX
    }

    fn skip(&mut self, _: Side, _: u64) {}

    fn fin(&mut self, _: Side) -> bool {
        true
    }

    fn holds(&self, _: Side) -> bool {
        false
    }

    fn has_ready(&self, _: Side) -> bool {
        false
    }

    fn take_ready(&mut self, _: Side) -> Option<Box<[u8]>> {
        None
    }

    fn take_fin(&mut self, _: Side) -> bool {
        false
    }

    fn take_last(&mut self, _: Side) -> bool {
        false
    }

    fn cuts_client(&self) -> bool {
        false
    }

    fn lingers(&self) -> bool {
        false
    }

    fn take_stirred(&mut self) -> bool {
        false
    }
}
