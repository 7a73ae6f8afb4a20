// SPDX-License-Identifier: Apache-2.0
//! Rules of requests, as policies say them.

mod faults;
mod members;
mod rates;

pub(super) use faults::{FaultVoice, FaultVoices, faults};
pub(super) use members::Members;
pub(super) use rates::{OlderRates, RateVoice, of_calls_outside};

use super::Entry;
use crate::plan::listener::http::{CallerRate, Callers, HttpPlan, HttpTimes, RequestRate};
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::connections::mesh_timeout::HttpTimeouts;
use culvert_mesh::kinds::connections::{Headers, HttpRate, NamedHeader, OnRateLimit, RateConf};
use std::sync::Arc;

/// Status of the answer to requests above a rate, where no document says another.
pub(super) const TOO_MANY_REQUESTS: u16 = 429;

/// Returns the rules, or nothing where they say nothing.
pub(super) fn rules(plan: HttpPlan) -> Option<Arc<HttpPlan>> {
    (plan != HttpPlan::default()).then(|| Arc::new(plan))
}

/// Returns the times of requests.
pub(super) fn times(conf: &HttpTimeouts) -> HttpTimes {
    let HttpTimeouts {
        request_timeout,
        stream_idle_timeout,
        max_stream_duration,
        max_connection_duration,
        request_headers_timeout,
    } = *conf;
    HttpTimes {
        request: request_timeout.and_then(|time| time.get()),
        stream_idle: stream_idle_timeout.and_then(|time| time.get()),
        headers: request_headers_timeout.and_then(|time| time.get()),
        stream: max_stream_duration.and_then(|time| time.get()),
        connection: max_connection_duration.and_then(|time| time.get()),
    }
}

/// Returns the rate of requests to an inbound, which all callers have together.
pub(super) fn rate(entries: &[Entry<'_, RateConf>], conf: Option<&RateConf>) -> Option<CallerRate> {
    let http = conf?.local.http.as_ref()?;
    let rate = http.in_force()?;
    let HttpRate { on_rate_limit, .. } = http;
    let answer = on_rate_limit.as_ref();
    let status = answer.and_then(status);
    let fields = answer.and_then(|answer| answer.headers.as_ref()).map(fields).unwrap_or_default();
    let says = |entry: &&Entry<'_, RateConf>| {
        entry.conf.local.http.as_ref().is_some_and(|http| http.request_rate.is_some())
    };
    let rate = RequestRate {
        by: entries.iter().find(says).map(|entry| named(entry.document)).unwrap_or_default(),
        rate: RatePlan { num: rate.num.0, interval: rate.interval.0 },
        status: status.unwrap_or(TOO_MANY_REQUESTS),
        fields,
    };
    Some(CallerRate { from: Callers::everyone(), rate })
}

/// Returns kind and name of a document.
fn named(document: &Document) -> Arc<str> {
    format!("{} {}", document.kind().name(), document.name).into()
}

/// Returns the status of an answer, where a document says an error.
pub(super) fn status(OnRateLimit { status, .. }: &OnRateLimit) -> Option<u16> {
    error_status(status.as_ref()?.0)
}

/// Returns a status if it is an error: Envoy has no other answer to a request above a rate.
fn error_status(status: u32) -> Option<u16> {
    u16::try_from(status).ok().filter(|status| (400..600).contains(status))
}

/// Returns the fields of an answer. There are none before, so that those which are set and those which are added are alike.
pub(super) fn fields(headers: &Headers) -> Arc<[(String, String)]> {
    let all = headers.set.iter().chain(&headers.add).flatten();
    all.map(|NamedHeader { name, value }| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
