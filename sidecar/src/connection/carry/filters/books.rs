// SPDX-License-Identifier: Apache-2.0
//! The books of one request: its places among those that are counted, its time, its line of the log.

use super::counts::Counted;
use super::log::{Log, of_close};
use super::{Filters, Setting};
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpTraffic;
use std::time::Instant;

/// The books of a request, from its head to the end of its response.
pub(in crate::connection::carry) struct Books {
    /// The time of its head.
    began: Instant,
    pub(super) counted: Counted,
    /// Its line, where a traffic log wants it.
    pub(in crate::connection::carry) log: Option<Box<Log>>,
}

// === impl Books ===

impl Books {
    /// Notes that the connection ends before it.
    pub(in crate::connection::carry) fn cut(&mut self, reason: CloseReason) {
        if let Some(log) = &mut self.log {
            let end = of_close(reason, log.is_answered());
            log.ends(end);
        }
    }
}

// === impl Filters ===

impl Filters {
    /// Opens the books of a request. Its head is wanted for the log alone.
    pub(in crate::connection::carry) fn begin(
        &self,
        now: Instant,
        head: impl FnOnce() -> Box<[u8]>,
    ) -> Books {
        let log = self.setting.logs.then(|| Log::begin(head()));
        Books { began: now, counted: self.setting.begin(), log }
    }

    /// Closes the books of a request, and returns its line of the log.
    pub(in crate::connection::carry) fn end(&self, books: Books, now: Instant) -> Option<HttpTraffic> {
        let Setting { seconds, .. } = &self.setting;
        let duration = now.saturating_duration_since(books.began);
        seconds.observe(duration.as_secs_f64());
        books.log.map(|log| log.finish(duration))
    }
}
