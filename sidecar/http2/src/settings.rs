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

/// Age from which on a stream's reset is no sign of a flood, as in Envoy: a deadline ends many streams at once.
pub(crate) const PREMATURE: Duration = Duration::from_secs(1);

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
    /// Streams that a client may reset in a second after they reached the server, each in its first second.
    ///
    /// Each stream that ends well allows one more, up to as many as may be under way.
    pub resets: u32,
    /// Frames other than HEADERS, DATA and CONTINUATION from a peer in a second.
    ///
    /// Each HEADERS and DATA that passes in either direction allows ten more, up to ten times the limit.
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
    /// The most that is kept of the limit and of what was earned.
    most: u32,
    left: u32,
    since: Instant,
}

impl Rate {
    /// Makes a count that keeps at most as many earned ones.
    pub(crate) fn new(limit: u32, earned: u32) -> Self {
        Self { limit, most: limit.saturating_add(earned), left: limit, since: Instant::now() }
    }

    /// Counts frames of control.
    pub(crate) fn of_control(settings: &Settings) -> Self {
        Self::new(settings.control, settings.control.saturating_mul(CONTROL_PER_WORK))
    }

    /// Counts resets. All streams under way may be reset at once if as many ended well before.
    pub(crate) fn of_resets(settings: &Settings) -> Self {
        Self::new(settings.resets, settings.streams)
    }

    /// Counts `times` more; false once the limit of a second is broken.
    pub(crate) fn spend(&mut self, times: u32) -> bool {
        if times > self.left {
            let now = Instant::now();
            if now.duration_since(self.since) < Duration::from_secs(1) {
                return false;
            }
            (self.left, self.since) = (self.limit, now);
        }
        let enough = times <= self.left;
        self.left = self.left.saturating_sub(times);
        enough
    }

    /// Allows as many more, as far as they are kept.
    pub(crate) fn earn(&mut self, times: u32) {
        self.left = self.left.saturating_add(times).min(self.most);
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
        let mut rate = Rate::new(100, 50);
        assert!((0..100).all(|_| rate.spend(1)));
        assert!(!rate.spend(1), "the 101st within a second");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!((0..100).all(|_| rate.spend(1)), "a new second");
        rate.earn(5);
        assert!((0..5).all(|_| rate.spend(1)), "earned ones");
        assert!(!rate.spend(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        rate.earn(u32::MAX);
        assert!((0..150).all(|_| rate.spend(1)), "no more than are kept");
        assert!((0..100).all(|_| rate.spend(1)), "a new second");
        assert!(!rate.spend(1));
        assert!(!Rate::new(3, 0).spend(u32::MAX));
    }
}
