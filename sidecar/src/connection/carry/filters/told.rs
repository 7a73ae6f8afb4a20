// SPDX-License-Identifier: Apache-2.0
//! What operators are told of the requests of a connection: by which member, and of those that failed why, in words.

use super::Setting;
use crate::metrics::{Counter, Histogram, OfMember};
use crate::net::addrs::Direction;
use crate::observe::close_reason::CloseReason;
use crate::observe::requests::{Noted, Origin, RequestBook};
use crate::plan::listener::http::{CallerRate, HttpTimes};
use crate::relay::http::{Class, Local, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// The places in which requests of a connection are told.
pub(in crate::connection::carry) struct Told {
    pub(in crate::connection::carry) book: Arc<RequestBook>,
    /// Inbound the caller, outbound the service that is called; or an address.
    pub(in crate::connection::carry) peer: Arc<str>,
    /// The counters of that member.
    pub(in crate::connection::carry) answers: Arc<OfMember<Class>>,
    /// Counts lines that found no room on the way to a traffic log.
    pub(in crate::connection::carry) lost_lines: Counter,
    /// Times of all requests of the direction.
    pub(in crate::connection::carry) seconds: Histogram,
    /// The reason why there is no server, in words.
    pub(in crate::connection::carry) because: Option<Box<str>>,
}

// === impl Setting ===

impl Setting {
    fn origin(&self) -> Origin<'_> {
        let cluster = self.cluster.as_ref().map_or(&self.listener.plan.name, |cluster| &cluster.name);
        Origin { direction: self.listener.plan.direction, cluster, peer: &self.told.peer }
    }

    fn times(&self) -> HttpTimes {
        self.listener.plan.http.as_deref().map(|plan| plan.times).unwrap_or_default()
    }

    /// The other end of the connection to the server.
    pub(in crate::connection::carry) fn server(&self) -> &'static str {
        match self.listener.plan.direction {
            Direction::Inbound => "the application",
            Direction::Outbound => "the server",
        }
    }

    /// Returns why a document's rule answered a request. `fault` is the number of the fault that did.
    pub(in crate::connection::carry) fn why_answered(&self, by: Local, fault: Option<usize>) -> String {
        let plan = self.listener.plan.http.as_deref();
        match by {
            Local::Permission => "no MeshTrafficPermission lets the caller in".to_owned(),
            Local::Fault => {
                let document =
                    plan.zip(fault).and_then(|(plan, fault)| plan.faults.document_of(self.caller(), fault));
                format!("{} aborted it", document.map_or("a fault", |document| document))
            }
            Local::Rate => match plan.and_then(|plan| self.rate(plan)) {
                Some((CallerRate { rate, .. }, _)) => {
                    format!("it was above the rate of requests, {}, of {}", rate.rate, rate.by)
                }
                None => "it was above the rate of requests".to_owned(),
            },
            Local::Breaker => {
                let most = self.cluster.as_ref().map_or(0, |cluster| cluster.limits.requests.max());
                format!("maxRequests of the circuit breaker, {most}, were under way")
            }
        }
    }

    /// Returns why a broken rule or a limit of time ended a request.
    pub(in crate::connection::carry) fn why_refused(&self, rule: Refusal) -> String {
        let times = self.times();
        let within = |field: &str, time: Option<Duration>| format!("{field}, {:?}", time.unwrap_or_default());
        match rule {
            Refusal::RequestTimeout => {
                format!("the answer was not whole within {}", within("requestTimeout", times.request))
            }
            Refusal::StreamIdle => {
                format!("no byte moved for {}", within("streamIdleTimeout", times.stream_idle))
            }
            Refusal::StreamTimeout => {
                format!("it took longer than {}", within("maxStreamDuration", times.stream))
            }
            Refusal::HeaderTimeout => {
                format!("its head was not whole within {}", within("requestHeadersTimeout", times.headers))
            }
            Refusal::NoAnswer => format!("{} closed the connection before it answered", self.server()),
            Refusal::CutBody => format!("{} closed the connection within its answer", self.server()),
            Refusal::Unreachable | Refusal::NoEndpoint | Refusal::Overloaded => rule.to_string(),
            rule if rule.status() == 502 => {
                format!("the answer of {} broke a rule of HTTP, {}: {rule}", self.server(), rule.name())
            }
            rule => format!("it broke a rule of HTTP, {}: {rule}", rule.name()),
        }
    }

    /// Returns why a request had no whole answer when its connection ended.
    pub(in crate::connection::carry) fn why_abandoned(
        &self,
        reason: CloseReason,
        is_answered: bool,
    ) -> String {
        let before = if is_answered { "within the answer" } else { "before the answer" };
        match reason {
            CloseReason::Ok | CloseReason::ClientReset => format!("the client went away {before}"),
            CloseReason::ServerReset => format!("{} reset the connection {before}", self.server()),
            CloseReason::DrainTimeout => format!("the sidecar stopped {before}"),
            reason => format!("its connection {}", reason.in_words()),
        }
    }

    /// Tells of a request that ended.
    pub(in crate::connection::carry) fn tell(&self, mut noted: Box<Noted>, took: Duration) {
        if !noted.is_tunnel {
            self.told.seconds.observe(took.as_secs_f64());
        }
        if noted.status >= 500 && noted.why().is_none() {
            let why = format!("{} answered {}", self.server(), noted.status);
            noted.fails(why);
        }
        self.told.book.ended(&self.origin(), noted, took);
    }

    /// Tells of bytes that were answered, and were no request.
    pub(in crate::connection::carry) fn tell_refused(&self, rule: Refusal, status: u16) {
        let mut noted = Noted::of("", b"", "");
        noted.status = status;
        noted.fails(self.why_refused(rule));
        self.told.book.refused(&self.origin(), noted);
    }
}
