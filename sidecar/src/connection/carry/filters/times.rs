// SPDX-License-Identifier: Apache-2.0
//! Times that a request may take. A connection has no timer for them: the table's sweep looks for the one that is due first.

use crate::plan::listener::http::HttpTimes;
use crate::relay::http::Refusal;
use std::time::{Duration, Instant};

/// Times of the requests of one connection.
#[derive(Debug)]
pub(in crate::connection::carry) struct Times {
    limits: HttpTimes,
    /// The time at which the connection is to end between two requests.
    connection: Option<Instant>,
    /// Begin of the oldest request under way.
    began: Option<Instant>,
    /// End of what the client sent of it, or the time at which it became the oldest.
    whole: Option<Instant>,
    /// First byte of a head that is not whole yet.
    head: Option<Instant>,
    /// Last byte of the exchange that is under way.
    moved: Instant,
    /// Bytes until then.
    bytes: u64,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connection::carry) enum Due {
    /// The exchange ends, with an answer if none has begun.
    Late(Refusal),
    /// The connection ends between two requests.
    Old,
}

// === impl Times ===

impl Times {
    /// Begins with the connection; `None` if there is no limit.
    pub(in crate::connection::carry) fn begin(limits: HttpTimes) -> Option<Box<Self>> {
        (limits != HttpTimes::default()).then(|| Box::new(Self::new(limits)))
    }

    fn new(limits: HttpTimes) -> Self {
        let now = Instant::now();
        let connection = limits.connection.map(|life| now + life);
        Self { limits, connection, began: None, whole: None, head: None, moved: now, bytes: 0 }
    }

    /// Notes that a request was admitted.
    pub(in crate::connection::carry) fn began(&mut self, now: Instant) {
        self.moved = now;
        self.head = None;
    }

    /// Notes the begin of the oldest request under way, and the end of what the client sent of it.
    pub(in crate::connection::carry) fn note(
        &mut self,
        oldest: Option<(Instant, Option<Instant>)>,
        now: Instant,
    ) {
        if oldest.map(|(began, _)| began) != self.began {
            self.moved = now;
        }
        self.began = oldest.map(|(began, _)| began);
        self.whole = oldest.and_then(|(_, whole)| whole);
    }

    /// Notes the bytes that moved so far, and if the client has begun a head.
    pub(in crate::connection::carry) fn note_bytes(&mut self, bytes: u64, in_head: bool, now: Instant) {
        if bytes != self.bytes {
            (self.moved, self.bytes) = (now, bytes);
        }
        self.head = in_head.then_some(self.head.unwrap_or(now));
    }

    /// Returns the time at which the first limit is reached, and the limit.
    pub(in crate::connection::carry) fn due(&self) -> Option<(Instant, Due)> {
        let HttpTimes { request, stream_idle, headers, stream, connection: _ } = self.limits;
        let at = |from: Option<Instant>, time: Option<Duration>| Some(from? + time?);
        let limits = [
            (at(self.whole, request), Due::Late(Refusal::RequestTimeout)),
            (at(self.began, stream), Due::Late(Refusal::StreamTimeout)),
            (at(self.began.map(|_| self.moved), stream_idle), Due::Late(Refusal::StreamIdle)),
            (at(self.head, headers), Due::Late(Refusal::HeaderTimeout)),
            (self.connection, Due::Old),
        ];
        limits.into_iter().filter_map(|(at, due)| Some((at?, due))).min_by_key(|(at, _)| *at)
    }

    /// Returns the limit of the exchange that is reached first.
    pub(in crate::connection::carry) fn late(&self) -> Option<(Instant, Refusal)> {
        let without = Self { connection: None, ..*self };
        match without.due()? {
            (at, Due::Late(rule)) => Some((at, rule)),
            (_, Due::Old) => None,
        }
    }

    /// Notes that the connection ends at the next border.
    pub(in crate::connection::carry) fn is_ending(&mut self) {
        self.connection = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_limit_that_is_reached_first_is_due() {
        let none = HttpTimes::default();
        let late = |rule, seconds| Some((seconds, Due::Late(rule)));
        for (name, limits, due) in [
            ("none", none, None),
            ("of the request", HttpTimes { request: seconds(5), ..none }, late(Refusal::RequestTimeout, 7)),
            ("of both", HttpTimes { stream: seconds(4), ..none }, late(Refusal::StreamTimeout, 5)),
            ("idle", HttpTimes { stream_idle: seconds(3), ..none }, late(Refusal::StreamIdle, 6)),
            ("of a head", HttpTimes { headers: seconds(1), ..none }, None),
            ("of the connection", HttpTimes { connection: seconds(9), ..none }, Some((9, Due::Old))),
            (
                "the first of several",
                HttpTimes { request: seconds(5), stream_idle: seconds(3), connection: seconds(9), ..none },
                late(Refusal::StreamIdle, 6),
            ),
        ] {
            let mut times = Times::new(limits);
            let start = times.moved;
            let at = |seconds: u64| start + Duration::from_secs(seconds);
            times.began(at(1));
            times.note(Some((at(1), None)), at(1));
            times.note(Some((at(1), Some(at(2)))), at(2));
            times.note_bytes(1, false, at(3));
            let found = times.due().map(|(at, due)| (at.duration_since(start).as_secs(), due));
            assert_eq!(found, due, "{name}");
        }
    }

    #[test]
    fn a_limit_of_the_exchange_ends_with_it_and_that_of_a_head_with_the_head() {
        let limits = HttpTimes {
            request: seconds(5),
            stream_idle: seconds(5),
            stream: seconds(5),
            headers: seconds(2),
            connection: None,
        };
        let mut times = Times::new(limits);
        let start = times.moved;
        times.note_bytes(0, true, start);
        times.note_bytes(0, true, start + Duration::from_secs(1));
        assert_eq!(times.due(), Some((start + Duration::from_secs(2), Due::Late(Refusal::HeaderTimeout))));
        times.began(start);
        times.note(Some((start, Some(start))), start);
        times.note_bytes(0, false, start);
        assert!(times.due().is_some_and(|(_, due)| due != Due::Late(Refusal::HeaderTimeout)));
        times.note(None, start);
        assert_eq!(times.due(), None);
    }
}
