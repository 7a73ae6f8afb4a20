// SPDX-License-Identifier: Apache-2.0
//! Frames in a stream of bytes, counted by the type in their headers.
//!
//! The h2 crate bounds what costs memory, and takes PING, SETTINGS, PRIORITY and WINDOW_UPDATE without an end: 50,000 of them
//! cost it a few milliseconds, and so can go on for ever. It has no hook for them, so the bytes are counted beside it.

/// Length of a frame's header.
const HEADER: usize = 9;
/// Length of the client's preface, in front of its first frame.
pub(crate) const PREFACE: usize = 24;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
/// Flag of HEADERS and DATA.
pub(crate) const END_STREAM: u8 = 1;

/// Position within a stream of frames.
#[derive(Debug)]
pub(crate) struct Frames {
    header: [u8; HEADER],
    have: usize,
    skip: usize,
}

/// Header of a frame, but for its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// Frames that began in some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// HEADERS and DATA.
    pub(crate) work: u32,
    /// All others but CONTINUATION, whose number the h2 crate bounds.
    pub(crate) control: u32,
}

impl Frames {
    /// Starts behind as many bytes that are no frame.
    pub(crate) const fn behind(skip: usize) -> Self {
        Self { header: [0; HEADER], have: 0, skip }
    }

    /// Counts the frames whose header ends in these bytes, and shows each.
    pub(crate) fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) -> Seen {
        let mut seen = Seen::default();
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return seen;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEADER {
                return seen;
            }
            self.have = 0;
            let [high, middle, low, kind, flags, stream @ ..] = self.header;
            self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            // The highest bit is reserved.
            each(Head { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
            match kind {
                DATA | HEADERS => seen.work += 1,
                CONTINUATION => (),
                _ => seen.control += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, PREFACE, Seen};

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1];
        bytes.resize(9 + length, 7);
        bytes
    }

    #[test]
    fn frames_are_counted_wherever_the_bytes_are_cut() {
        let mut bytes = vec![b'P'; PREFACE];
        for (kind, length) in
            [(4, 18), (1, 300), (9, 40), (0, 0), (0, 1_000), (8, 4), (6, 8), (2, 5), (77, 3), (3, 4), (7, 8)]
        {
            bytes.extend(frame(kind, length));
        }
        let whole = Seen { work: 3, control: 7 };
        assert_eq!(Frames::behind(PREFACE).walk(&bytes, |head| assert_eq!(head.stream, 1)), whole);
        for size in 1..50 {
            let mut frames = Frames::behind(PREFACE);
            let mut sum = Seen::default();
            for piece in bytes.chunks(size) {
                let seen = frames.walk(piece, |head| assert_eq!((head.flags, head.stream), (0, 1)));
                sum = Seen { work: sum.work + seen.work, control: sum.control + seen.control };
            }
            assert_eq!(sum, whole, "pieces of {size}");
        }
    }
}
