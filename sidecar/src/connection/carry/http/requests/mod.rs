// SPDX-License-Identifier: Apache-2.0
//! The requests of one connection: what is decided about each, and what became of it.
//!
//! ```text
//! head ─▶ permission ─▶ faults ─▶ rate ─▶ breaker ─▶ edits ─▶ server
//!             403       wait, status  429      503
//! ```
//! The order is that of Envoy's filters as Kuma puts them.

mod bandwidth;
mod counts;
mod fate;
mod log;
mod times;

pub(super) use times::Due;

use crate::cluster::balance::{Random, seed};
use crate::cluster::registry::{ClusterState, Listener};
use crate::metrics::Histogram;
use crate::net::limit::Permit;
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpTraffic;
use crate::plan::listener::http::{Caller, FaultPlan};
use crate::plan::tls::permissions::Peer;
use crate::relay::Side;
use crate::relay::http::{Decision, HttpMetrics, Local, Refusal, Rules};
use bandwidth::Bandwidth;
use counts::{Counted, Injected};
use culvert_http::edit::Edit;
use culvert_http::{Framing, RequestHead, ResponseHead, Words};
use fate::{Fate, Next};
use log::Log;
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use times::Times;

/// What is the same for all requests of a connection.
pub(super) struct Setting {
    /// Its rules and its rate of requests.
    pub(super) listener: Arc<Listener>,
    /// The cluster whose limit of requests counts.
    pub(super) cluster: Option<Arc<ClusterState>>,
    /// The member that called, if it proved who it is.
    pub(super) peer: Option<Peer>,
    pub(super) names_services: bool,
    /// The address of the client.
    pub(super) address: IpAddr,
    /// True if no permission lets the member in: its requests are answered, and the application gets none.
    pub(super) forbidden: bool,
    /// Changes of each head.
    pub(super) edits: Vec<Edit>,
    pub(super) metrics: Arc<HttpMetrics>,
    /// Times of all requests of the direction.
    pub(super) seconds: Histogram,
    /// True if a traffic log wants its requests.
    pub(super) logs: bool,
}

/// The requests of one connection.
pub(super) struct Requests {
    setting: Setting,
    /// Faults that its caller's requests have.
    faults: Vec<FaultPlan>,
    dice: Random,
    /// What is to come upon the request that waits.
    fate: Option<Fate>,
    /// The rule that answered the last request.
    by: Cell<Option<Local>>,
    /// That request, until it goes on.
    waiting: Option<Box<Waiting>>,
    /// Requests that were decided, the oldest first.
    under_way: VecDeque<Request>,
    /// Limits of time, where documents say any.
    times: Option<Box<Times>>,
    /// Requests that ended, for the log.
    ended: Vec<HttpTraffic>,
}

/// A request that a fault holds back.
struct Waiting {
    began: Instant,
    counted: Counted,
    log: Option<Box<Log>>,
}

/// A request from its decision to the end of its response.
struct Request {
    began: Instant,
    /// Behind its delay, and once it is the oldest: the time of its limits begins.
    goes_on: Instant,
    /// End of what the client sent of it.
    whole: Option<Instant>,
    /// True once it is a tunnel, which may last.
    is_tunnel: bool,
    /// The place among the cluster's requests.
    #[expect(dead_code, reason = "given back when the request ends")]
    permit: Option<Permit>,
    bandwidth: Option<Bandwidth>,
    _counted: Counted,
    log: Option<Box<Log>>,
}

// === impl Request ===

impl Request {
    fn new((began, goes_on): (Instant, Instant), counted: Counted, log: Option<Box<Log>>) -> Self {
        Self {
            began,
            goes_on,
            whole: None,
            is_tunnel: false,
            permit: None,
            bandwidth: None,
            _counted: counted,
            log,
        }
    }
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(setting: Setting) -> Self {
        let plan = setting.listener.plan.http.as_deref();
        let times = plan.map(|plan| plan.times).unwrap_or_default();
        let Setting { peer, names_services, address, .. } = &setting;
        let caller = Caller { peer: peer.as_ref(), names_services: *names_services, address: *address };
        let faults = plan.map(|plan| plan.faults.of(caller)).unwrap_or_default();
        Self {
            setting,
            faults,
            dice: Random::new(seed()),
            fate: None,
            by: Cell::new(None),
            waiting: None,
            // Room for one: most clients never have two under way, and an idle connection keeps it.
            under_way: VecDeque::with_capacity(1),
            times: Times::begin(times),
            ended: Vec::new(),
        }
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
        while let Some(request) = self.under_way.pop_front() {
            self.end(request, now, Some(reason));
        }
        if let Some(Waiting { began, counted, log }) = self.waiting.take().map(|waiting| *waiting) {
            self.end(Request::new((began, now), counted, log), now, Some(reason));
        }
    }

    /// Writes a request into the books.
    fn end(&mut self, request: Request, now: Instant, how: Option<CloseReason>) {
        let duration = now.saturating_duration_since(request.began);
        self.setting.seconds.observe(duration.as_secs_f64());
        if let Some(mut log) = request.log {
            if let Some(reason) = how {
                log.ends(log::of_close(reason, log.is_answered()));
            }
            self.ended.push(log.finish(duration));
        }
    }

    /// Notes that the connection ends at the next border.
    pub(super) fn is_ending(&mut self) {
        if let Some(times) = &mut self.times {
            times.is_ending();
        }
    }

    /// Decides about a request, as far as it need not wait.
    fn decide(
        &mut self,
        now: Instant,
        counted: &mut Counted,
    ) -> Result<(Option<Permit>, Option<Bandwidth>), Decision> {
        let answer = |by: Local, words: Words| {
            self.setting.metrics.local[by].inc();
            self.setting.answered_by(by, words.status);
            self.by.set(Some(by));
            Err(Decision::Answer(words))
        };
        if self.setting.forbidden {
            let words = fate::words(403, "forbidden: no permission lets the caller in\n");
            return answer(Local::Permission, Words { last: true, ..words });
        }
        let mut bandwidth = None;
        if let Some(plan) = self.setting.listener.plan.http.as_deref() {
            let fate = self.fate.get_or_insert_default();
            match fate.next(&self.faults, || self.dice.next()) {
                Next::Wait(time) => {
                    self.setting.metrics.delayed.inc();
                    self.setting.injected(counted, Injected::Delay);
                    return Err(Decision::Wait(now + time));
                }
                Next::Abort(status) => {
                    self.fate = None;
                    self.setting.injected(counted, Injected::Abort);
                    return answer(Local::Fault, fate::words(status, "fault filter abort"));
                }
                Next::Go { most } => bandwidth = most.map(|most| Bandwidth::new(most, now)),
            }
            self.fate = None;
            if let (Some(rate), Some(bucket)) = (&plan.rate, &self.setting.listener.requests) {
                let is_within = bucket.take();
                self.setting.rated(is_within);
                if !is_within {
                    let words = fate::words(rate.status, "local_rate_limited");
                    return answer(Local::Rate, Words { fields: Arc::clone(&rate.fields), ..words });
                }
            }
        }
        let permit = match &self.setting.cluster {
            Some(cluster) => match cluster.limits.requests.try_acquire() {
                Some(permit) => Some(permit),
                None => {
                    return answer(
                        Local::Breaker,
                        fate::words(503, "overloaded: too many requests are under way\n"),
                    );
                }
            },
            None => None,
        };
        if bandwidth.is_some() {
            self.setting.metrics.slowed.inc();
            self.setting.injected(counted, Injected::Bandwidth);
        }
        self.setting.let_through(counted);
        Ok((permit, bandwidth))
    }
}

impl Rules for Requests {
    fn request(&mut self, head: &RequestHead<'_>) -> Decision {
        let now = Instant::now();
        let Waiting { began, mut counted, mut log } = match self.waiting.take() {
            Some(waiting) => *waiting,
            None => Waiting {
                began: now,
                counted: self.setting.begin(),
                log: self.setting.logs.then(|| Log::begin(head)),
            },
        };
        let decided = self.decide(now, &mut counted);
        // What comes now is another request, so the one before is whole.
        if let Some(before) = self.under_way.back_mut() {
            before.whole.get_or_insert(now);
        }
        match decided {
            Ok((permit, bandwidth)) => {
                let request = Request { permit, bandwidth, ..Request::new((began, now), counted, log) };
                self.under_way.push_back(request);
                if let Some(times) = &mut self.times {
                    times.began(now);
                }
                Decision::Pass
            }
            Err(Decision::Answer(words)) => {
                if let (Some(log), Some(by)) = (&mut log, self.by.take()) {
                    log.answered_by(words.status, log::of_local(by));
                }
                self.under_way.push_back(Request::new((began, now), counted, log));
                Decision::Answer(words)
            }
            Err(other) => {
                if let Some(log) = &mut log {
                    log.is_delayed();
                }
                self.waiting = Some(Box::new(Waiting { began, counted, log }));
                other
            }
        }
    }

    fn edits(&self) -> &[Edit] {
        &self.setting.edits
    }

    fn response(&mut self, head: &ResponseHead<'_>) {
        if let Some(oldest) = self.under_way.front_mut() {
            oldest.is_tunnel = head.framing == Framing::Tunnel;
            if let Some(log) = &mut oldest.log {
                log.answered(head);
            }
        }
        // Another head follows an interim one.
        if !(100..200).contains(&head.status) || head.status == 101 {
            self.setting.answered(head.status);
        }
    }

    fn refused(&mut self, rule: Refusal, status: Option<u16>) {
        self.setting.refused(rule, status, !self.under_way.is_empty());
        if !self.setting.logs {
            return;
        }
        if self.under_way.is_empty() {
            self.ended.push(log::of_nothing(rule, status));
        }
        let mut status = status;
        while let Some(mut request) = self.under_way.pop_front() {
            // The answer is the oldest one's.
            if let Some(log) = &mut request.log {
                match status.take() {
                    Some(status) => log.answered_by(status, log::of_refusal(rule)),
                    None => log.ends(log::of_refusal(rule)),
                }
            }
            self.end(request, Instant::now(), None);
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
                self.end(request, now, None);
            }
            if let Some(oldest) = self.under_way.front_mut() {
                oldest.goes_on = now;
            }
        }
        let oldest = self.under_way.front();
        let whole = |one: &Request| one.whole.filter(|_| !one.is_tunnel).map(|whole| whole.max(one.goes_on));
        let oldest = oldest.map(|one| (one.goes_on, whole(one)));
        if let Some(times) = &mut self.times {
            times.note(oldest, now);
        }
    }

    fn body(&mut self, from: Side, bytes: u64) {
        if !self.setting.logs {
            return;
        }
        let (request, which) = match from {
            Side::Client => (self.under_way.back_mut(), 0),
            Side::Server => (self.under_way.front_mut(), 1),
        };
        if let Some(log) = request.and_then(|request| request.log.as_mut()) {
            log.count(which, bytes);
        }
    }

    fn is_limited(&self) -> bool {
        self.under_way.front().is_some_and(|request| request.bandwidth.is_some())
    }

    fn take_budget(&mut self, wanted: usize) -> Result<usize, Instant> {
        match self.under_way.front_mut().and_then(|request| request.bandwidth.as_mut()) {
            Some(bandwidth) => bandwidth.take(wanted, Instant::now()),
            None => Ok(wanted),
        }
    }
}
