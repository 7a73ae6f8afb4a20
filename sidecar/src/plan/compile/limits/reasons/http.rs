// SPDX-License-Identifier: Apache-2.0
//! The documents behind the rules of requests: faults, the answer above a rate, times.

use super::{Limits, Voice};
use crate::plan::compile::limits::http::{self, FaultVoice, FaultVoices, RateVoice};
use crate::plan::decisions::{Claim, Decisions, words};
use crate::plan::listener::http::{CallerRate, Callers, FaultPlan, RequestRate};
use crate::plan::tls::permissions::Who;
use culvert_mesh::kinds::connections::mesh_timeout::HttpTimeouts;
use culvert_mesh::kinds::connections::{HttpRate, OnRateLimit};
use culvert_mesh::model::percentage::Percentage;
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::Subject;

pub(super) const RATE: &str = "rate of requests";
pub(super) const ANSWER: &str = "answer above the rate of requests";
const FAULTS: &str = "faults";

const REQUEST: &str = "request timeout";
const STREAM_IDLE: &str = "stream idle timeout";
const HEADERS: &str = "request headers timeout";
const STREAM: &str = "max stream duration";
const CONNECTION: &str = "max connection duration";

/// Times of a listener of HTTP, in the order in which they are shown.
pub(super) const TIMES: [&str; 5] = [REQUEST, STREAM_IDLE, HEADERS, STREAM, CONNECTION];

/// Returns the times that a policy says, each with its field.
pub(super) fn times(conf: &HttpTimeouts) -> Vec<(&'static str, String)> {
    let HttpTimeouts {
        request_timeout,
        stream_idle_timeout,
        max_stream_duration,
        max_connection_duration,
        request_headers_timeout,
    } = conf;
    let all = [
        (REQUEST, request_timeout),
        (STREAM_IDLE, stream_idle_timeout),
        (HEADERS, request_headers_timeout),
        (STREAM, max_stream_duration),
        (CONNECTION, max_connection_duration),
    ];
    all.into_iter().filter_map(|(field, time)| Some((field, words((*time)?.get())))).collect()
}

/// Returns the claims about the answer to requests above a rate, the deciding one first.
pub(super) fn answers(voices: &[Voice<'_, HttpRate>]) -> Vec<Claim> {
    let said = voices.iter().filter_map(|voice| {
        let answer = voice.conf.on_rate_limit.as_ref()?;
        Some(voice.claim(answer_words(answer)))
    });
    said.chain([Claim::new(http::TOO_MANY_REQUESTS.to_string(), "default")]).collect()
}

fn answer_words(answer: &OnRateLimit) -> String {
    let status = http::status(answer).unwrap_or(http::TOO_MANY_REQUESTS);
    let fields = answer.headers.as_ref().map(http::fields).unwrap_or_default();
    in_words(status, &fields)
}

fn in_words(status: u16, fields: &[(String, String)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}"));
    std::iter::once(status.to_string()).chain(fields).collect::<Vec<_>>().join(", ")
}

/// Notes the rates of RateLimits about an inbound by their callers, with those that lost, and the answers above them.
pub(super) fn explain_rates(decisions: &mut Decisions, subject: &str, voices: &[RateVoice<'_>]) {
    for RateVoice { limit: CallerRate { from, .. }, .. } in voices {
        let about = |one: &&RateVoice<'_>| one.limit.from.is_everyone() || one.limit.from.who == from.who;
        let claims = |value: fn(&RequestRate) -> String| {
            let claim = |one: &RateVoice<'_>| Claim::of(value(&one.limit.rate), one.document, &one.path);
            voices.iter().filter(about).map(claim).collect::<Vec<_>>()
        };
        decisions.first(subject, &field_of(RATE, from), || claims(|rate| rate.rate.to_string()));
        decisions
            .first(subject, &field_of(ANSWER, from), || claims(|rate| in_words(rate.status, &rate.fields)));
    }
}

/// Notes the faults of the requests to an inbound, by their callers, with those that lost.
pub(super) fn explain_faults(
    limits: &Limits<'_>,
    decisions: &mut Decisions,
    subject: &str,
    inbound: &Subject<'_>,
) {
    let older = FaultVoices::older(&limits.policies, inbound, &limits.members);
    let newer = FaultVoices::newer(&limits.policies, inbound, &limits.members);
    let Some(one) = older.each.first() else {
        explain_first(decisions, subject, &newer.first);
        return explain_each(decisions, subject, &newer.each);
    };
    // One older policy is enough to put all others out of force.
    let none = Claim::of("none", one.document, "");
    explain_each(decisions, subject, &older.each);
    for voice in newer.first.iter().chain(&newer.each) {
        let field = format!("{} of newer policies", field_of(FAULTS, &voice.set.from));
        decisions.first(subject, &field, || vec![none.clone(), claim(voice)]);
    }
}

/// Notes faults of which the first that is about a caller holds alone.
fn explain_first(decisions: &mut Decisions, subject: &str, voices: &[FaultVoice<'_>]) {
    for voice in voices {
        let from = &voice.set.from;
        let about = |one: &&FaultVoice<'_>| one.set.from.is_everyone() || one.set.from.who == from.who;
        decisions
            .first(subject, &field_of(FAULTS, from), || voices.iter().filter(about).map(claim).collect());
    }
}

/// Notes faults of which all that are about a caller hold.
fn explain_each(decisions: &mut Decisions, subject: &str, voices: &[FaultVoice<'_>]) {
    for voice in voices {
        decisions.each(subject, &field_of(FAULTS, &voice.set.from), || vec![claim(voice)]);
    }
}

fn claim(voice: &FaultVoice<'_>) -> Claim {
    let all: Vec<_> = voice.set.faults.iter().map(fault_words).collect();
    let value = if all.is_empty() { "none".into() } else { all.join("; ") };
    Claim::of(value, voice.document, &voice.path)
}

/// Returns the field of a rule of some callers' requests.
fn field_of(rule: &str, callers: &Callers) -> String {
    if callers.is_everyone() {
        return rule.into();
    }
    let who = callers.who.iter().map(|who| match who {
        Who::Everyone => "every caller".into(),
        Who::Tags(Tags(tags)) => {
            tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        }
        Who::Exactly(id) => id.clone(),
        Who::Prefix(id) => format!("{id}…"),
    });
    format!("{rule} of {}", who.collect::<Vec<_>>().join(" or "))
}

fn fault_words(fault: &FaultPlan) -> String {
    let FaultPlan { delay, abort, bandwidth } = fault;
    let delay = delay.map(|(time, share)| format!("{} late for {}", words(Some(time)), percent(share)));
    let abort = abort.map(|(status, share)| format!("answer {status} for {}", percent(share)));
    let slow = bandwidth.map(|(most, share)| format!("{most} KiB/s for {}", percent(share)));
    let all: Vec<_> = [delay, abort, slow].into_iter().flatten().collect();
    // A delay of no time is none.
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn percent(share: Percentage) -> String {
    format!("{} %", f64::from(share.of_million()) / 10_000.0)
}
