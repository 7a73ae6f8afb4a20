// SPDX-License-Identifier: Apache-2.0
//! Bytes of one side that were read and not passed on yet.

/// Bytes of one side, in two parts: those that passed while the side was not read, and those that wait.
///
/// A side is read again only once the first part was taken. Together they are at most what one read brings.
#[derive(Debug, Default)]
pub(super) struct Lane {
    bytes: Vec<u8>,
    /// Bytes at the front that passed.
    ready: usize,
    /// True if the other side has to speak before this one is read.
    pub(super) holds: bool,
    pub(super) fin: Fin,
}

/// FIN of a side that cannot be passed on yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fin {
    #[default]
    None,
    /// It came behind bytes that wait.
    Waits,
    /// It is due behind the bytes that passed.
    Due,
}

// === impl Lane ===

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Copies the bytes that wait to the front of the buffer, and returns their number.
    pub(super) fn copy_waiting(&self, buffer: &mut [u8]) -> usize {
        let waiting = &self.bytes[self.ready..];
        buffer[..waiting.len()].copy_from_slice(waiting);
        waiting.len()
    }

    /// Keeps these bytes in place of those that waited.
    pub(super) fn keep(&mut self, waiting: &[u8]) {
        if waiting.is_empty() && self.ready == 0 {
            // An idle connection owns no buffer.
            self.bytes = Vec::new();
        } else {
            self.bytes.truncate(self.ready);
            self.bytes.extend_from_slice(waiting);
        }
    }

    /// Drops the bytes that wait.
    pub(super) fn forget(&mut self) {
        self.keep(&[]);
    }

    /// Adds bytes that passed.
    pub(super) fn put_ready(&mut self, passed: &[u8]) {
        self.bytes.splice(self.ready..self.ready, passed.iter().copied());
        self.ready += passed.len();
    }

    /// Returns true if no byte passed that was not taken.
    pub(super) fn is_ready_empty(&self) -> bool {
        self.ready == 0
    }

    /// Adds bytes that passed in front of those that passed last.
    pub(super) fn put_ready_before(&mut self, passed: &[u8]) {
        self.bytes.splice(..0, passed.iter().copied());
        self.ready += passed.len();
    }

    /// Takes the bytes that passed, and those that wait.
    pub(super) fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut ready = std::mem::take(&mut self.bytes);
        let waiting = ready.split_off(std::mem::take(&mut self.ready));
        (ready, waiting)
    }

    /// Puts back what [`Self::take`] took, of which more has passed.
    pub(super) fn put_back(&mut self, ready: Vec<u8>, passed: [&[u8]; 2], waiting: &[u8]) {
        self.bytes = ready;
        passed.iter().for_each(|bytes| self.bytes.extend_from_slice(bytes));
        self.ready = self.bytes.len();
        self.keep(waiting);
    }

    /// Takes the bytes that passed, if there are any.
    pub(super) fn take_ready(&mut self) -> Option<Box<[u8]>> {
        if self.ready == 0 {
            return None;
        }
        let (ready, waiting) = self.take();
        self.bytes = waiting;
        Some(ready.into_boxed_slice())
    }

    /// Returns true, once, if FIN is due.
    pub(super) fn take_fin(&mut self) -> bool {
        let is_due = self.fin == Fin::Due;
        if is_due {
            self.fin = Fin::None;
        }
        is_due
    }
}
