// SPDX-License-Identifier: Apache-2.0
//! Data that was taken from one side and waits for the windows of the other.
//!
//! The h2 crate ends a connection with too many small frames of data that are not read: some 8,000 of a few bytes. A stream of small
//! messages whose receiver is slow would be such a connection, so frames are taken out as they come; their credit is not given
//! back, so a stream holds no more than its window. Small ones are put together, or each would cost its own buffer.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Frames below this size are put together. The h2 crate charges no frame from this size on.
const SMALL: usize = 256;

/// Data in its order.
#[derive(Debug, Default)]
pub(super) struct Held {
    front: Bytes,
    queue: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Size of what can be taken at once.
    pub(super) fn front(&self) -> usize {
        self.front.len()
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if self.front.is_empty() {
            self.front = data;
        } else if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
        } else {
            if !self.tail.is_empty() {
                self.queue.push_back(self.tail.split().freeze());
            }
            self.queue.push_back(data);
        }
    }

    /// Takes bytes of the front, at most its size.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        let taken = self.front.split_to(bytes);
        if self.front.is_empty() {
            self.front = self.queue.pop_front().unwrap_or_else(|| self.tail.split().freeze());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::Held;
    use bytes::Bytes;

    #[test]
    fn bytes_keep_their_order_and_small_frames_come_together() {
        let mut held = Held::default();
        let mut expected = Vec::new();
        for (number, size) in [10, 5, 5, 300, 1, 255, 256, 7].into_iter().enumerate() {
            let data = vec![number as u8; size];
            expected.extend_from_slice(&data);
            held.push(Bytes::from(data));
        }
        let mut sizes = Vec::new();
        let mut taken = Vec::new();
        while !held.is_empty() {
            sizes.push(held.front());
            // In two parts, where there are two.
            let half = held.front().div_ceil(2);
            let rest = held.front() - half;
            taken.extend_from_slice(&held.take(half));
            taken.extend_from_slice(&held.take(rest));
        }
        assert_eq!(taken, expected);
        assert_eq!(sizes, [10, 10, 300, 256, 256, 7]);
        held.push(Bytes::from_static(b"again"));
        assert_eq!(held.take(5), "again");
    }
}
