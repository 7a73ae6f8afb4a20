// SPDX-License-Identifier: Apache-2.0
//! Requests that wait for their responses, in order.

use crate::framing::Asked;

/// Most requests under way on one connection. Envoy reads no second one before the first is answered, and nginx as many as
/// fit into a buffer; browsers and `ab -k` never have more than one, and the pipelining bench of wrk has 16.
pub const MAX_PIPELINED: usize = 16;

/// Ring of requests, a byte each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    asked: [Asked; MAX_PIPELINED],
    first: u8,
    length: u8,
}

// === impl Queue ===

impl Queue {
    pub(super) fn len(&self) -> usize {
        usize::from(self.length)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == MAX_PIPELINED
    }

    /// Returns the request whose response is due.
    pub(super) fn front(&self) -> Option<Asked> {
        (self.length > 0).then(|| self.asked[usize::from(self.first)])
    }

    /// Returns the request that came last.
    pub(super) fn last(&self) -> Option<Asked> {
        let behind = usize::from(self.first) + self.len();
        (self.length > 0).then(|| self.asked[(behind - 1) % MAX_PIPELINED])
    }

    /// Adds a request. A full queue takes none: the caller holds the client before.
    pub(super) fn push(&mut self, asked: Asked) {
        debug_assert!(!self.is_full(), "the client was to be held");
        if !self.is_full() {
            self.asked[(usize::from(self.first) + self.len()) % MAX_PIPELINED] = asked;
            self.length += 1;
        }
    }

    /// Removes the request whose response is complete.
    pub(super) fn pop(&mut self) {
        if self.length > 0 {
            self.first = (self.first + 1) % MAX_PIPELINED as u8;
            self.length -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PIPELINED, Queue};
    use crate::framing::Asked;

    #[test]
    fn requests_leave_in_the_order_in_which_they_came() {
        let (get, head) = (Asked::new("GET", false, true), Asked::new("HEAD", false, true));
        let mut queue = Queue::default();
        // Around the ring more than once.
        for round in 0..5 {
            for n in 0..MAX_PIPELINED {
                assert_eq!((queue.len(), queue.is_full()), (n, false), "round {round}");
                queue.push(if n % 3 == 0 { head } else { get });
            }
            assert!(queue.is_full());
            assert_eq!(queue.last(), Some(head), "15 is a multiple of 3");
            for n in 0..MAX_PIPELINED {
                assert_eq!(queue.front(), Some(if n % 3 == 0 { head } else { get }));
                queue.pop();
            }
            assert_eq!((queue.front(), queue.is_empty()), (None, true));
            queue.push(get);
            queue.pop();
        }
        queue.pop();
        assert!(queue.is_empty());
    }
}
