// SPDX-License-Identifier: Apache-2.0
//! Decisions about requests and their books, for either version of HTTP.
//!
//! ```text
//! head ─▶ permission ─▶ faults ─▶ rate ─▶ breaker ─▶ edits ─▶ server
//!             403       wait, status  429      503
//! ```
//! The order is that of Envoy's filters as Kuma puts them.

mod bandwidth;
mod books;
mod counts;
mod fate;
mod log;
mod rates;
mod times;
mod told;

pub(super) use books::Books;
pub(super) use fate::Fate;
pub(super) use log::{FAILED, REFUSED, of_nothing, of_refusal, reset_by};
pub(super) use times::{Due, Times};
pub(super) use told::Told;

use crate::cluster::registry::{ClusterState, Listener};
use crate::connection::upstream::Judge;
use crate::net::limit::Permit;
use crate::plan::listener::http::{CallerRate, FaultPlan, HttpTimes};
use crate::plan::tls::permissions::Peer;
use crate::relay::http::{HttpMetrics, Local, Refusal};
use bandwidth::Bandwidth;
use counts::Injected;
use culvert_http::Words;
use fate::Next;
use rates::CallersRates;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

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
    pub(super) metrics: Arc<HttpMetrics>,
    pub(super) told: Box<Told>,
    /// True if a traffic log wants its requests.
    pub(super) logs: bool,
    /// Rates of its caller's requests. Most have none, and a connection keeps this as long as it is idle.
    pub(super) rates: Option<Box<CallersRates>>,
}

/// Change of each head: a field is set, or left out where there is no value.
pub(super) struct Change {
    pub(super) field: &'static str,
    pub(super) value: Option<String>,
}

/// What the requests of a connection are decided by.
pub(super) struct Filters {
    pub(super) setting: Setting,
    /// Faults that its caller's requests have.
    faults: Box<[FaultPlan]>,
    /// Judge of the server's answers, once there is a server whose answers may eject it.
    judge: OnceLock<Box<Judge>>,
}

/// Decision about a request.
pub(super) enum Verdict {
    Go(Admission),
    /// It is decided about again after this time.
    Wait(Duration),
    Answer(Words),
}

/// The means of a request that goes to its server.
#[derive(Default)]
pub(super) struct Admission {
    /// The place among the cluster's requests, given back by dropping it.
    _permit: Option<Permit>,
    pub(super) bandwidth: Option<Bandwidth>,
}

// === impl Filters ===

impl Filters {
    pub(super) fn new(setting: Setting) -> Self {
        let plan = setting.listener.plan.http.as_deref();
        let faults = plan.map(|plan| plan.faults.of(setting.caller())).unwrap_or_default();
        Self { setting, faults: faults.into(), judge: OnceLock::new() }
    }

    /// Lets answers be judged from now on.
    pub(super) fn judged_by(&self, judge: Option<Judge>) {
        if let Some(judge) = judge {
            // The connection has one server.
            let _ = self.judge.set(Box::new(judge));
        }
    }

    /// Lets the answer of a server count for its endpoint.
    pub(super) fn judge(&self, status: u16) {
        if let Some(judge) = self.judge.get() {
            judge.answered(status);
        }
    }

    /// Lets the failure of a server that a rule of HTTP or a limit of time found in place of its answer count.
    pub(super) fn failed(&self, rule: Refusal) {
        if rule == Refusal::RequestTimeout || rule.status() == 502 {
            self.judge(rule.status());
        }
    }

    /// Returns the limits of time.
    pub(super) fn times(&self) -> HttpTimes {
        self.setting.listener.plan.http.as_deref().map(|plan| plan.times).unwrap_or_default()
    }

    /// Decides about a request, as far as it need not wait. `fate` is kept from one decision about it to the next.
    pub(super) fn decide(
        &self,
        books: &mut Books,
        fate: &mut Fate,
        dice: impl FnMut() -> u64,
        now: Instant,
    ) -> Verdict {
        let Setting { metrics, listener, cluster, .. } = &self.setting;
        if self.setting.forbidden {
            let words = fate::words(403, "forbidden: no permission lets the caller in\n");
            return self.answer(books, Local::Permission, None, Words { last: true, ..words });
        }
        let mut bandwidth = None;
        if let Some(plan) = listener.plan.http.as_deref() {
            match fate.next(&self.faults, dice) {
                Next::Wait(time) => {
                    metrics.delayed.inc();
                    self.setting.injected(&mut books.counted, Injected::Delay);
                    if let Some(log) = &mut books.log {
                        log.is_delayed();
                    }
                    return Verdict::Wait(time);
                }
                Next::Abort(status) => {
                    let fault = std::mem::take(fate).at();
                    self.setting.injected(&mut books.counted, Injected::Abort);
                    let words = fate::words(status, "fault filter abort");
                    return self.answer(books, Local::Fault, Some(fault), words);
                }
                Next::Go { most } => bandwidth = most.map(|most| Bandwidth::new(most, now)),
            }
            *fate = Fate::default();
            if let Some((CallerRate { rate, .. }, bucket)) = self.setting.rate(plan) {
                let is_within = bucket.take();
                self.setting.rated(is_within);
                if !is_within {
                    let words = fate::words(rate.status, "local_rate_limited");
                    let words = Words { fields: Arc::clone(&rate.fields), ..words };
                    return self.answer(books, Local::Rate, None, words);
                }
            }
        }
        self.setting.count_trial();
        let mut permit = None;
        if let Some(cluster) = cluster {
            permit = cluster.limits.requests.try_acquire();
            if permit.is_none() {
                let words = fate::words(503, "overloaded: too many requests are under way\n");
                return self.answer(books, Local::Breaker, None, words);
            }
        }
        if bandwidth.is_some() {
            metrics.slowed.inc();
            self.setting.injected(&mut books.counted, Injected::Bandwidth);
        }
        self.setting.let_through(&mut books.counted);
        Verdict::Go(Admission { _permit: permit, bandwidth })
    }

    /// Answers by a document's rule, of several faults by this one.
    fn answer(&self, books: &mut Books, by: Local, fault: Option<usize>, words: Words) -> Verdict {
        self.setting.metrics.local[by].inc();
        self.setting.answered_by(by, words.status);
        books.fails(Some(words.status), log::of_local(by), self.setting.why_answered(by, fault));
        Verdict::Answer(words)
    }
}
