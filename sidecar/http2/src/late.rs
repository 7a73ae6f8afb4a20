// SPDX-License-Identifier: Apache-2.0
//! Frames on streams that are over, counted until they are answered.
//!
//! The h2 crate forgets a stream some time after its end, and answers what still comes for it by a reset. Each such answer is an
//! object that waits for the socket, and neither a limit of streams nor a window holds for it: a peer that reads nothing could
//! have millions of them queued.

use crate::frames::{DATA, END_STREAM, HEADERS, Head, RESET};
use crate::rules::Peer;
use std::collections::BTreeSet;

/// Streams that may wait for their answer, some 6 MB in the h2 crate.
///
/// Each of them took a request before, unless the peer skipped it: an honest one has some hundred. One round reads fewer.
pub(crate) const MOST: usize = 8_192;

/// Streams of a connection on which its peer may send, and those on which it sent too late.
#[derive(Debug)]
pub(crate) struct Late {
    peer: Peer,
    open: BTreeSet<u32>,
    late: BTreeSet<u32>,
    /// Highest stream that was opened.
    last: u32,
}

impl Late {
    pub(crate) const fn new(peer: Peer) -> Self {
        Self { peer, open: BTreeSet::new(), late: BTreeSet::new(), last: 0 }
    }

    /// Notes a frame of the peer; true if it came too late.
    pub(crate) fn read(&mut self, head: Head) -> bool {
        match head.kind {
            HEADERS | DATA => (),
            RESET => {
                self.open.remove(&head.stream);
                return false;
            }
            _ => return false,
        }
        if self.peer == Peer::Client && head.kind == HEADERS {
            self.open(head.stream);
        }
        let late = !self.open.contains(&head.stream);
        if late && self.late.len() <= MOST {
            self.late.insert(head.stream);
        }
        if head.flags & END_STREAM != 0 {
            self.open.remove(&head.stream);
        }
        late
    }

    /// Notes a frame to the peer.
    pub(crate) fn wrote(&mut self, head: Head) {
        match head.kind {
            HEADERS if self.peer == Peer::Server => self.open(head.stream),
            RESET => {
                self.open.remove(&head.stream);
                self.late.remove(&head.stream);
            }
            _ => (),
        }
    }

    fn open(&mut self, stream: u32) {
        // The crate's limit of streams is far below; behind a GOAWAY it looks at none.
        if stream > self.last && self.open.len() < MOST {
            self.last = stream;
            self.open.insert(stream);
        }
    }

    /// Returns true if more streams wait than may.
    pub(crate) fn is_flood(&self) -> bool {
        self.late.len() > MOST
    }

    /// Forgets what waits: all of it is written.
    pub(crate) fn settle(&mut self) {
        self.late.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{DATA, END_STREAM, HEADERS, Head, Late, MOST, RESET};
    use crate::rules::Peer;

    fn head(kind: u8, flags: u8, stream: u32) -> Head {
        Head { kind, flags, stream }
    }

    #[test]
    fn frames_are_late_behind_the_end_of_their_stream() {
        let ends = [("the sender's end", head(DATA, END_STREAM, 9)), ("its reset", head(RESET, 0, 9))];
        for (name, end) in ends {
            let mut late = Late::new(Peer::Client);
            assert!(!late.read(head(HEADERS, 0, 9)), "{name}");
            assert!(!late.read(head(DATA, 0, 9)), "{name}");
            assert!(!late.read(end), "{name}");
            assert!(late.read(head(DATA, 0, 9)), "{name}");
            assert!(late.read(head(DATA, 0, 7)), "a stream that was skipped");
        }
        let mut late = Late::new(Peer::Server);
        assert!(late.read(head(HEADERS, 0, 1)), "no request");
        late.wrote(head(HEADERS, END_STREAM, 3));
        assert!(!late.read(head(HEADERS, 0, 3)));
        late.wrote(head(RESET, 0, 3));
        assert!(late.read(head(DATA, 0, 3)), "behind a reset");
    }

    #[test]
    fn streams_that_wait_are_counted_until_they_are_answered() {
        for peer in [Peer::Client, Peer::Server] {
            let mut late = Late::new(peer);
            for stream in 0..MOST as u32 {
                assert!(late.read(head(DATA, 0, stream)) && late.read(head(DATA, 0, stream)));
            }
            assert!(!late.is_flood());
            late.wrote(head(RESET, 0, 5));
            late.read(head(DATA, 0, u32::MAX));
            assert!(!late.is_flood(), "one was answered");
            late.read(head(DATA, 0, 5));
            assert!(late.is_flood());
            late.settle();
            assert!(!late.is_flood());
        }
    }
}
