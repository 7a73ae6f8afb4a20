// SPDX-License-Identifier: Apache-2.0
//! The owner of a session: rules of documents for each of its requests, and their books.

use super::{ends, heads};
use crate::cluster::balance::{Random, seed};
use crate::connection::carry::filters::{
    Admission, Books, Change, Due, Fate, Filters, Times, Verdict, of_nothing, of_refusal,
};
use crate::connection::upstream::Judge;
use crate::observe::close_reason::CloseReason;
use crate::observe::requests::Noted;
use crate::observe::traffic_log::{HttpEnd, HttpTraffic};
use crate::plan::listener::http::HttpTimes;
use crate::relay::http::{Http2Rule, HttpMetrics, Refusal, Rule};
use culvert_http::Words;
use culvert_http2::http::header::{HeaderName, HeaderValue};
use culvert_http2::http::{StatusCode, request, response};
use culvert_http2::{
    Decision, Edits, Exchange, Failure, How, Malformed, Outcome, Peer, Reply, Rules, is_grpc,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Fields that HTTP/2 forbids, and those that a local answer sets itself.
const NOT_IN_ANSWERS: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "content-type",
];

/// Most requests that wait for the log: those that documents answer while a server is dialled. More are lost, and counted so.
const MOST_LINES: usize = 256;

/// State of a connection that its requests share.
pub(super) struct Shared {
    filters: Filters,
    /// Changes of each head.
    edits: Edits,
    /// Limits of time of one request.
    limits: HttpTimes,
    /// Requests that began.
    began: AtomicU64,
    state: Mutex<State>,
}

struct State {
    dice: Random,
    /// The time at which the first request may be late.
    due: Option<Instant>,
    /// The server's first failure.
    failure: Option<Failure>,
    /// The rule by which requests are answered, as there is no server, and the reason in words.
    unreachable: Option<(Refusal, Box<str>)>,
    /// The reason for which the connection ends before its requests.
    closes: CloseReason,
    /// Requests that ended, for the log; at most [`MOST_LINES`].
    ended: Vec<HttpTraffic>,
}

/// Owner of a session.
pub(super) struct Owner(pub(super) Arc<Shared>);

/// Owner's part in one request.
pub(super) struct Request {
    shared: Arc<Shared>,
    /// `None` once they are closed.
    books: Option<Books>,
    /// What is to come upon the request while it waits.
    fate: Fate,
    /// Held to the end of the request.
    means: Admission,
    /// The time at which it was decided.
    began: Option<Instant>,
    /// True once its response began.
    answered: bool,
    /// True if its answer is judged by its status of gRPC.
    is_grpc: bool,
    times: Option<Box<Times>>,
    bytes: u64,
}

/// Begins to note a request.
fn note(head: &request::Parts) -> Box<Noted> {
    let host = head.headers.get("host").map(HeaderValue::as_bytes);
    let host = head.uri.authority().map(|authority| authority.as_str().as_bytes()).or(host);
    Noted::of(head.method.as_str(), host.unwrap_or_default(), head.uri.path())
}

/// Returns the rule of a message with the same meaning.
fn rule_of(malformed: Malformed) -> Refusal {
    match malformed {
        Malformed::NoHost => Refusal::NoHost,
        Malformed::TwoHosts => Refusal::TwoHosts,
        Malformed::HostDiffers => Refusal::HostDiffers,
        Malformed::UserInformation => Refusal::BadHost,
        Malformed::Path => Refusal::Target,
    }
}

/// Returns the answer that a rule gives.
pub(super) fn reply_of(rule: Refusal) -> Reply {
    let status = StatusCode::from_u16(rule.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Reply::new(status, format!("{}: {rule}\n", rule.name()))
}

/// Returns an answer in the words of a document's rule.
fn reply(words: &Words) -> Reply {
    let Words { status, text, last: _, fields } = words;
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // These end with their heads.
    let text = if matches!(status.as_u16(), 204 | 304) { "" } else { text };
    let mut reply = Reply::new(status, text);
    reply.fields.extend(fields.iter().filter_map(|(name, value)| {
        let name = HeaderName::try_from(name).ok()?;
        let may = !NOT_IN_ANSWERS.contains(&name.as_str());
        Some((name, HeaderValue::try_from(value).ok()?)).filter(|_| may)
    }));
    reply
}

fn edits_of(changes: &[Change]) -> Edits {
    let mut edits = Edits::default();
    for Change { field, value } in changes {
        let name = HeaderName::from_static(field);
        match value.as_ref().and_then(|value| HeaderValue::try_from(value).ok()) {
            Some(value) => edits.set.push((name, value)),
            None => edits.remove.push(name),
        }
    }
    edits
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(filters: Filters, changes: &[Change]) -> Self {
        let limits = HttpTimes { headers: None, connection: None, ..filters.times() };
        let dice = Random::new(seed());
        let state = State {
            dice,
            due: None,
            failure: None,
            unreachable: None,
            closes: CloseReason::Ok,
            ended: Vec::new(),
        };
        Self { filters, edits: edits_of(changes), limits, began: AtomicU64::new(0), state: Mutex::new(state) }
    }

    pub(super) fn metrics(&self) -> &HttpMetrics {
        &self.filters.setting.metrics
    }

    /// Returns the limits of time, those of the connection included.
    pub(super) fn times(&self) -> HttpTimes {
        self.filters.times()
    }

    /// Returns the number of requests that began, refused ones included.
    pub(super) fn requests(&self) -> u64 {
        self.began.load(Relaxed)
    }

    /// Returns the time at which requests are to be asked if they are late.
    pub(super) fn due(&self) -> Option<Instant> {
        self.state().due
    }

    /// Forgets the time once it is reached, and returns true: each request notes its own again when it is asked.
    pub(super) fn take_due(&self) -> bool {
        let mut state = self.state();
        let reached = state.due.is_some_and(|due| due <= Instant::now());
        if reached {
            state.due = None;
        }
        reached
    }

    /// Returns the server's first failure.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.state().failure
    }

    /// Lets the server's answers be judged.
    pub(super) fn judged_by(&self, judge: Option<Judge>) {
        self.filters.judged_by(judge);
    }

    /// Notes the rule that requests are answered by from now on, and why in words.
    pub(super) fn is_unreachable(&self, rule: Refusal, why: &impl ToString) {
        self.state().unreachable = Some((rule, why.to_string().into()));
    }

    /// Notes the reason for which the connection ends, and with it the requests that are under way.
    pub(super) fn closes(&self, reason: CloseReason) {
        self.state().closes = reason;
    }

    /// Takes the requests that ended since, for the log.
    pub(super) fn take_ended(&self) -> Vec<HttpTraffic> {
        if !self.filters.setting.logs {
            return Vec::new();
        }
        std::mem::take(&mut self.state().ended)
    }

    fn log(&self, line: HttpTraffic) {
        let mut state = self.state();
        if state.ended.len() < MOST_LINES {
            state.ended.push(line);
        } else {
            self.filters.setting.told.lost_lines.inc();
        }
    }

    fn note_due(&self, at: Instant) {
        let mut state = self.state();
        state.due = Some(state.due.map_or(at, |due| due.min(at)));
    }

    fn note_failure(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        let rule: Rule = match failure {
            Failure::Died => Refusal::NoAnswer.into(),
            Failure::Protocol => Http2Rule::ServerFrames.into(),
            // The edits are the sidecar's own: no request fails by them.
            Failure::Edits => return,
        };
        self.metrics().refused(rule);
    }

    /// Takes the lock also after a panic elsewhere: each change is one assignment.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules for Owner {
    type Exchange = Request;

    fn begin(&self, request: &request::Parts) -> Request {
        let Self(shared) = self;
        shared.began.fetch_add(1, Relaxed);
        Request {
            books: Some(shared.filters.begin(Instant::now(), note(request), || heads::of_request(request))),
            fate: Fate::default(),
            means: Admission::default(),
            began: None,
            answered: false,
            is_grpc: is_grpc(&request.headers),
            times: Times::begin(shared.limits),
            bytes: 0,
            shared: Arc::clone(shared),
        }
    }

    fn refused(&self, _: &request::Parts, rule: Malformed) {
        let (Self(shared), rule) = (self, rule_of(rule));
        shared.began.fetch_add(1, Relaxed);
        shared.metrics().refused(rule);
        if shared.filters.setting.logs {
            shared.log(of_nothing(rule, None));
        }
        // No answer is said, but the request failed.
        shared.filters.setting.tell_refused(rule, 0);
    }
}

// === impl Request ===

impl Request {
    /// Notes the limit of time that is reached first.
    fn note_due(&self) {
        if let Some((at, _)) = self.times.as_ref().and_then(|times| times.due()) {
            self.shared.note_due(at);
        }
    }

    /// Notes an end that is not the response's, with the status of an answer of the sidecar's own.
    fn fails(&mut self, status: Option<u16>, end: HttpEnd, why: String) {
        if let Some(books) = &mut self.books {
            books.fails(status, end, why);
        }
    }
}

impl Exchange for Request {
    fn decide(&mut self, _: &request::Parts) -> Decision {
        let now = Instant::now();
        let Self { shared, books: Some(books), fate, .. } = self else {
            // Nothing is decided about a request that ended.
            return Decision::Pass(Edits::default());
        };
        match shared.filters.decide(books, fate, || shared.state().dice.next(), now) {
            Verdict::Wait(time) => return Decision::Delay(time),
            Verdict::Answer(words) => {
                self.began = Some(now);
                return Decision::Answer(reply(&words));
            }
            Verdict::Go(means) => (self.began, self.means) = (Some(now), means),
        }
        if let Some(times) = &mut self.times {
            times.began(now);
            times.note(self.began.map(|began| (began, None)), now);
            self.note_due();
        }
        Decision::Pass(self.shared.edits.clone())
    }

    fn answered(&mut self, reply: &Reply) {
        self.shared.metrics().answered(reply.status.as_u16());
    }

    fn received(&mut self) {
        if let Some(times) = &mut self.times {
            let now = Instant::now();
            times.note(self.began.map(|began| (began, Some(now))), now);
            self.note_due();
        }
    }

    fn responded(&mut self, response: &response::Parts) {
        let status = response.status.as_u16();
        self.answered = true;
        self.shared.metrics().answered(status);
        self.shared.filters.setting.answered(status);
        if !self.is_grpc {
            self.shared.filters.judge(status);
        }
        if let Some(books) = &mut self.books {
            books.noted.status = status;
            if let Some(log) = &mut books.log {
                log.answered(status, heads::of_response(response));
            }
        }
    }

    fn budget(&mut self, wanted: usize) -> Result<usize, tokio::time::Instant> {
        match &mut self.means.bandwidth {
            Some(bandwidth) => bandwidth.take(wanted, Instant::now()).map_err(Into::into),
            None => Ok(wanted),
        }
    }

    fn moved(&mut self, _: Peer, bytes: usize) {
        if let Some(times) = &mut self.times {
            // A head, which has none of a body, counts as one.
            self.bytes = self.bytes.wrapping_add(bytes.max(1) as u64);
            times.note_bytes(self.bytes, false, Instant::now());
        }
    }

    fn overdue(&mut self) -> Option<Reply> {
        match self.times.as_ref()?.due() {
            Some((at, Due::Late(rule))) if at <= Instant::now() => {
                self.shared.metrics().refused(rule);
                let status = (!self.answered).then_some(rule.status());
                self.shared.filters.setting.refused(rule, status, true);
                self.shared.filters.failed(rule);
                let why = self.shared.filters.setting.why_refused(rule);
                self.fails(status, of_refusal(rule), why);
                Some(reply_of(rule))
            }
            _ => {
                self.note_due();
                None
            }
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        let (closes, unreachable) = {
            let state = self.shared.state();
            (state.closes, state.unreachable.clone())
        };
        let Some(mut books) = self.books.take() else { return };
        let filters = &self.shared.filters;
        // The answer of the sidecar's own in place of the server's.
        let status = outcome.status.map(|status| status.as_u16()).filter(|_| !self.answered);
        match outcome.how {
            How::Complete | How::Answered | How::Overdue => {}
            How::ClientGone => filters.cut(&mut books, CloseReason::ClientReset),
            // Of a session that ended by itself nothing was noted: the client was cut for its frames.
            How::Dropped if closes == CloseReason::Ok => filters.cut(&mut books, CloseReason::HttpRequest),
            How::Dropped => filters.cut(&mut books, closes),
            How::Failed(failure) => {
                self.shared.note_failure(failure);
                filters.setting.refused(Refusal::NoAnswer, status, true);
                filters.failed(Refusal::NoAnswer);
                let (end, why) = ends::of_failure(failure, self.answered, &filters.setting);
                books.fails(status, end, why);
            }
            How::Unreachable => {
                let (rule, why) = unreachable.unwrap_or((Refusal::Unreachable, "there is no server".into()));
                self.shared.metrics().refused(rule);
                filters.setting.refused(rule, status, true);
                books.fails(status, of_refusal(rule), why);
            }
            how => {
                if matches!(how, How::ServerReset(_)) && !self.answered {
                    filters.failed(Refusal::NoAnswer);
                }
                let (end, why) = ends::of_reset(how, self.answered, &filters.setting);
                books.fails(None, end, why);
            }
        }
        if outcome.how == How::Complete && self.is_grpc {
            match outcome.grpc_status {
                Some(status) => {
                    filters.judge(ends::http_status(status));
                    ends::of_grpc(status, &mut books, &filters.setting);
                }
                // An answer of another server than the one that was meant.
                None => filters.judge(books.noted.status),
            }
        }
        if let Some(log) = &mut books.log {
            log.count(0, outcome.received);
            log.count(1, outcome.sent);
        }
        if let Some(line) = filters.end(books, Instant::now()) {
            self.shared.log(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_fields_but_those_that_http_2_forbids() {
        let fields =
            [("x-limit", "5"), ("Connection", "close"), ("Content-Length", "7"), ("a b", "c"), ("x", "\n")];
        let fields: Vec<_> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (status, text, expected) in
            [(429, "limited", "limited"), (204, "limited", ""), (304, "limited", "")]
        {
            let words = Words { status, text, last: false, fields: fields.clone().into() };
            let reply = reply(&words);
            assert_eq!((reply.status.as_u16(), &*reply.text), (status, expected));
            let names: Vec<_> = reply.fields.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["x-limit"], "{status}");
        }
    }

    #[test]
    fn changes_leave_fields_out_or_set_them() {
        let changes = [
            Change { field: "x-kuma-tags", value: None },
            Change { field: "x-forwarded-client-cert", value: Some("URI=spiffe://a/b".to_owned()) },
            // A value that no head may have must not leave the client's own in place.
            Change { field: "x-odd", value: Some("a\nb".to_owned()) },
        ];
        let edits = edits_of(&changes);
        let names = |name: &HeaderName| name.as_str().to_owned();
        assert_eq!(edits.remove.iter().map(names).collect::<Vec<_>>(), ["x-kuma-tags", "x-odd"]);
        let set: Vec<_> = edits.set.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(set, [("x-forwarded-client-cert", &b"URI=spiffe://a/b"[..])]);
    }
}
