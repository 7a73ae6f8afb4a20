// SPDX-License-Identifier: Apache-2.0
//! The requests of one connection: what is decided about each, and what became of it.

use crate::cluster::balance::{Random, seed};
use crate::connection::carry::filters::{
    Admission, Books, Change, Due, Fate, Filters, Times, Verdict, of_nothing, of_refusal,
};
use crate::connection::upstream::Judge;
use crate::observe::close_reason::CloseReason;
use crate::observe::requests::Noted;
use crate::observe::traffic_log::HttpTraffic;
use crate::relay::Side;
use crate::relay::http::{Decision, Refusal, Rules};
use culvert_http::edit::Edit;
use culvert_http::{Framing, RequestHead, ResponseHead, Target};
use std::collections::VecDeque;
use std::time::Instant;

/// The requests of one connection.
pub(super) struct Requests {
    filters: Filters,
    /// Changes of each head.
    edits: Box<[Edit]>,
    dice: Random,
    /// What is to come upon the request that waits.
    fate: Fate,
    /// The books of that request, which a fault holds back.
    waiting: Option<Box<Books>>,
    /// Requests that were decided, the oldest first.
    under_way: VecDeque<Request>,
    /// Limits of time, where documents say any.
    times: Option<Box<Times>>,
    /// Requests that ended, for the log.
    ended: Vec<HttpTraffic>,
}

/// A request from its decision to the end of its response.
struct Request {
    books: Books,
    /// Behind its delay, and once it is the oldest: the time of its limits begins.
    goes_on: Instant,
    /// End of what the client sent of it.
    whole: Option<Instant>,
    means: Admission,
}

/// Returns a change as an edit of a head. A value that no head may have must not leave the client's own in place.
fn edit(change: &Change) -> Option<Edit> {
    let remove = || Edit::remove(change.field);
    let made = match &change.value {
        None => remove(),
        Some(value) => Edit::set(change.field, value.as_bytes()).or_else(|_| remove()),
    };
    made.ok()
}

/// Begins to note a request.
fn note(head: &RequestHead<'_>) -> Box<Noted> {
    let host = head.host.unwrap_or_default();
    match head.target {
        Target::Origin(path) => Noted::of(head.method, host, path),
        Target::Absolute { uri, authority, .. } => {
            let behind = uri.split_once("://").map_or(uri, |(_, behind)| behind);
            let path = behind.split_once(authority).map_or("", |(_, path)| path);
            // Without a path it asks for the root.
            let path = if path.starts_with('/') { path } else { "/" };
            Noted::of(head.method, authority.as_bytes(), path)
        }
        Target::Authority(authority) => Noted::of(head.method, authority.as_bytes(), ""),
        Target::Asterisk => Noted::of(head.method, host, "*"),
    }
}

// === impl Request ===

impl Request {
    fn new(books: Books, goes_on: Instant) -> Self {
        Self { books, goes_on, whole: None, means: Admission::default() }
    }
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(filters: Filters, changes: &[Change]) -> Self {
        let mut edits: Vec<_> = changes.iter().filter_map(edit).collect();
        if filters.setting.listener.plan.http.is_some() || !edits.is_empty() {
            edits.push(Edit::without_h2c());
        }
        let times = Times::begin(filters.times());
        Self {
            filters,
            edits: edits.into(),
            dice: Random::new(seed()),
            fate: Fate::default(),
            waiting: None,
            // Room for one: most clients never have two under way, and an idle connection keeps it.
            under_way: VecDeque::with_capacity(1),
            times,
            ended: Vec::new(),
        }
    }

    /// Lets the server's answers be judged.
    pub(super) fn judged_by(&self, judge: Option<Judge>) {
        self.filters.judged_by(judge);
    }

    /// Returns the filters, for another version of HTTP.
    pub(super) fn into_filters(self) -> Filters {
        self.filters
    }

    /// Returns the limits of time, where documents say any.
    pub(super) fn times(&mut self) -> Option<&mut Times> {
        self.times.as_deref_mut()
    }

    /// Returns the limit of the exchange that is reached first, and when.
    pub(super) fn late(&self) -> Option<(Instant, Refusal)> {
        self.times.as_ref()?.late()
    }

    /// Returns the limit of time that is reached first, and when.
    pub(super) fn due(&self) -> Option<(Instant, Due)> {
        self.times.as_ref()?.due()
    }

    /// Takes the requests that ended since, for the log.
    pub(super) fn take_ended(&mut self) -> Vec<HttpTraffic> {
        std::mem::take(&mut self.ended)
    }

    /// Notes that the connection ended, and with it the requests that are under way.
    pub(super) fn abandon(&mut self, reason: CloseReason) {
        let now = Instant::now();
        let under_way = std::mem::take(&mut self.under_way);
        let is_unanswered = under_way.front().is_some_and(|oldest| oldest.books.noted.status == 0);
        if reason == CloseReason::ServerReset && is_unanswered {
            self.filters.failed(Refusal::NoAnswer);
        }
        for mut books in under_way.into_iter().map(|request| request.books) {
            self.filters.cut(&mut books, reason);
            self.ended.extend(self.filters.end(books, now));
        }
        if let Some(mut books) = self.waiting.take().map(|books| *books) {
            // A connection in good order ends before it only if the server has closed its side.
            let reason = if reason == CloseReason::Ok { CloseReason::ServerReset } else { reason };
            self.filters.cut(&mut books, reason);
            self.ended.extend(self.filters.end(books, now));
        }
    }

    /// Notes why there is no server, before the requests are refused for it.
    pub(super) fn because(&mut self, error: &impl ToString) {
        self.filters.setting.told.because = Some(error.to_string().into());
    }

    /// Notes that the connection ends at the next border.
    pub(super) fn is_ending(&mut self) {
        if let Some(times) = &mut self.times {
            times.is_ending();
        }
    }
}

impl Rules for Requests {
    fn request(&mut self, head: &RequestHead<'_>) -> Decision {
        let now = Instant::now();
        let mut books = match self.waiting.take() {
            Some(books) => *books,
            None => self.filters.begin(now, note(head), || head.bytes.into()),
        };
        let verdict = self.filters.decide(&mut books, &mut self.fate, || self.dice.next(), now);
        // What comes now is another request, so the one before is whole.
        if let Some(before) = self.under_way.back_mut() {
            before.whole.get_or_insert(now);
        }
        match verdict {
            Verdict::Go(means) => {
                self.under_way.push_back(Request { means, ..Request::new(books, now) });
                if let Some(times) = &mut self.times {
                    times.began(now);
                }
                Decision::Pass
            }
            Verdict::Answer(words) => {
                self.under_way.push_back(Request::new(books, now));
                Decision::Answer(words)
            }
            Verdict::Wait(time) => {
                self.waiting = Some(Box::new(books));
                Decision::Wait(now + time)
            }
        }
    }

    fn edits(&self) -> &[Edit] {
        &self.edits
    }

    fn response(&mut self, head: &ResponseHead<'_>) {
        // Another head follows an interim one.
        let is_last = !(100..200).contains(&head.status) || head.status == 101;
        if let Some(Request { books, .. }) = self.under_way.front_mut() {
            books.noted.is_tunnel = head.framing == Framing::Tunnel;
            if is_last {
                books.noted.status = head.status;
            }
            if let Some(log) = &mut books.log {
                log.answered(head.status, head.bytes.into());
            }
        }
        if is_last {
            self.filters.setting.answered(head.status);
            self.filters.judge(head.status);
        }
    }

    fn refused(&mut self, rule: Refusal, status: Option<u16>) {
        let waiting = self.waiting.take().map(|books| Request::new(*books, Instant::now()));
        self.under_way.extend(waiting);
        let setting = &self.filters.setting;
        setting.refused(rule, status, !self.under_way.is_empty());
        if self.under_way.is_empty() {
            if let Some(status) = status {
                setting.tell_refused(rule, status);
            }
            if setting.logs {
                self.ended.push(of_nothing(rule, status));
            }
            return;
        }
        self.filters.failed(rule);
        let why = self.filters.setting.told.because.take();
        let setting = &self.filters.setting;
        let why = why.unwrap_or_else(|| setting.why_refused(rule).into());
        let (mut status, now) = (status, Instant::now());
        while let Some(mut request) = self.under_way.pop_front() {
            // The answer is the oldest one's.
            request.books.fails(status.take(), of_refusal(rule), why.clone());
            self.ended.extend(self.filters.end(request.books, now));
        }
    }

    fn under_way(&mut self, requests: usize, whole: bool) {
        if self.under_way.len() <= requests && self.times.is_none() {
            return;
        }
        let now = Instant::now();
        if whole && let Some(last) = self.under_way.back_mut() {
            last.whole.get_or_insert(now);
        }
        while self.under_way.len() > requests {
            if let Some(request) = self.under_way.pop_front() {
                self.ended.extend(self.filters.end(request.books, now));
            }
            if let Some(oldest) = self.under_way.front_mut() {
                oldest.goes_on = now;
            }
        }
        let oldest = self.under_way.front();
        let whole = |one: &Request| {
            one.whole.filter(|_| !one.books.noted.is_tunnel).map(|whole| whole.max(one.goes_on))
        };
        let oldest = oldest.map(|one| (one.goes_on, whole(one)));
        if let Some(times) = &mut self.times {
            times.note(oldest, now);
        }
    }

    fn body(&mut self, from: Side, bytes: u64) {
        if !self.filters.setting.logs {
            return;
        }
        let (request, which) = match from {
            Side::Client => (self.under_way.back_mut(), 0),
            Side::Server => (self.under_way.front_mut(), 1),
        };
        if let Some(log) = request.and_then(|request| request.books.log.as_mut()) {
            log.count(which, bytes);
        }
    }

    fn is_limited(&self) -> bool {
        self.under_way.front().is_some_and(|request| request.means.bandwidth.is_some())
    }

    fn take_budget(&mut self, wanted: usize) -> Result<usize, Instant> {
        match self.under_way.front_mut().and_then(|request| request.means.bandwidth.as_mut()) {
            Some(bandwidth) => bandwidth.take(wanted, Instant::now()),
            None => Ok(wanted),
        }
    }
}

#[cfg(test)]
mod tests;
