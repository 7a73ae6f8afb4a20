// SPDX-License-Identifier: Apache-2.0
//! The books of one request: its places among those that are counted, its time, its notes for the pages, its line of the log.

use super::Filters;
use super::counts::Counted;
use super::log::{Log, of_close};
use crate::observe::close_reason::CloseReason;
use crate::observe::requests::Noted;
use crate::observe::traffic_log::{HttpEnd, HttpTraffic};
use std::time::Instant;

/// The books of a request, from its head to the end of its response.
pub(in crate::connection::carry) struct Books {
    /// The time of its head.
    began: Instant,
    pub(super) counted: Counted,
    /// Its notes for the pages.
    pub(in crate::connection::carry) noted: Box<Noted>,
    /// Its line, where a traffic log wants it.
    pub(in crate::connection::carry) log: Option<Box<Log>>,
}

// === impl Books ===

impl Books {
    /// Notes an end that is not the response's, why in words, and the status of an answer of the sidecar's own.
    pub(in crate::connection::carry) fn fails(
        &mut self,
        status: Option<u16>,
        end: HttpEnd,
        why: impl Into<Box<str>>,
    ) {
        self.noted.fails(why);
        if let Some(status) = status {
            self.noted.status = status;
        }
        if let Some(log) = &mut self.log {
            match status {
                Some(status) => log.answered_by(status, end),
                None => log.ends(end),
            }
        }
    }
}

// === impl Filters ===

impl Filters {
    /// Opens the books of a request. Its head is wanted for the log alone.
    pub(in crate::connection::carry) fn begin(
        &self,
        now: Instant,
        noted: Box<Noted>,
        head: impl FnOnce() -> Box<[u8]>,
    ) -> Books {
        let log = self.setting.logs.then(|| Log::begin(head()));
        Books { began: now, counted: self.setting.begin(), noted, log }
    }

    /// Notes that the connection ends before the request. A tunnel ends with it.
    pub(in crate::connection::carry) fn cut(&self, books: &mut Books, reason: CloseReason) {
        if !books.noted.is_tunnel {
            self.setting.abandoned(reason);
            books.noted.fails(self.setting.why_abandoned(reason, books.noted.status != 0));
        }
        if let Some(log) = &mut books.log {
            let end = of_close(reason, log.is_answered());
            log.ends(end);
        }
    }

    /// Closes the books of a request, and returns its line of the log.
    pub(in crate::connection::carry) fn end(&self, books: Books, now: Instant) -> Option<HttpTraffic> {
        let duration = now.saturating_duration_since(books.began);
        self.setting.tell(books.noted, duration);
        books.log.map(|log| log.finish(duration))
    }
}
