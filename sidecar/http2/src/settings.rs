// SPDX-License-Identifier: Apache-2.0
//! Bounds of a session, and the count of what a peer may do in a second.

use std::time::Duration;
use tokio::time::Instant;

/// Most time for the last GOAWAY and resets to be written.
///
/// A peer that reads gets them at once; one that does not read must not hold the connection.
pub(crate) const CLOSING: Duration = Duration::from_secs(1);

/// Frames of control that each HEADERS or DATA allows on top of the limit.
///
/// A frame of data may be answered by two WINDOW_UPDATE and a PING (gRPC measures the bandwidth so); Envoy allows 10 WINDOW_UPDATE
/// for each frame sent.
const CONTROL_PER_WORK: u32 = 10;

/// Bounds of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams under way at once. Envoy 1,024, ztunnel 200.
    pub streams: u32,
    /// Bytes of a header list, 32 for each field included.
    pub header_list: u32,
    /// Receive window of a stream in bytes. Envoy 16 MiB, linkerd 64 KiB.
    pub stream_window: u32,
    /// Receive window of a connection in bytes. Envoy 24 MiB, linkerd 1 MiB.
    ///
    /// 16 streams whose reader stands still leave the others nothing to move in.
    pub connection_window: u32,
    /// Bytes of a stream that may wait for the socket on each side.
    pub send_buffer: usize,
    /// Streams that a client may reset in a second after they reached the server.
    ///
    /// Each stream that ends well allows one more.
    pub resets: u32,
    /// Frames other than HEADERS, DATA and CONTINUATION from a peer in a second.
    ///
    /// Each HEADERS and DATA that passes in either direction allows ten more.
    pub control: u32,
    /// Informational responses (1xx) to one request.
    pub interim: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams: 256,
            header_list: 60 * 1024,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            send_buffer: 256 * 1024,
            resets: 100,
            control: 1_000,
            interim: 16,
        }
    }
}

/// Count of what a peer may do in a second.
///
/// The clock is read only when the count is used up, not for each frame.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: u32,
    used: u32,
    earned: u32,
    since: Instant,
}

impl Rate {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, used: 0, earned: 0, since: Instant::now() }
    }

    /// Counts `times` more; false once the limit of a second is broken.
    pub(crate) fn spend(&mut self, times: u32) -> bool {
        self.used = self.used.saturating_add(times);
        if self.used <= self.limit.saturating_add(self.earned) {
            return true;
        }
        let now = Instant::now();
        if now.duration_since(self.since) < Duration::from_secs(1) {
            return false;
        }
        *self = Self { limit: self.limit, used: times, earned: 0, since: now };
        times <= self.limit
    }

    /// Allows as many more in this second.
    pub(crate) fn earn(&mut self, times: u32) {
        self.earned = self.earned.saturating_add(times);
    }

    /// Allows the frames of control that belong to as many frames with requests or data.
    pub(crate) fn work(&mut self, frames: u32) {
        self.earn(frames.saturating_mul(CONTROL_PER_WORK));
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_for_each_second() {
        let mut rate = Rate::new(100);
        assert!((0..100).all(|_| rate.spend(1)));
        assert!(!rate.spend(1), "the 101st within a second");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!((0..100).all(|_| rate.spend(1)), "a new second");
        rate.earn(5);
        assert!((0..5).all(|_| rate.spend(1)), "earned ones");
        assert!(!rate.spend(1));
        assert!(!Rate::new(3).spend(u32::MAX));
    }
}
