// SPDX-License-Identifier: Apache-2.0
//! Rates of an inbound's requests, by RateLimit and MeshRateLimit.
//!
//! | documents | the rate that a caller's requests count for |
//! |---|---|
//! | RateLimit | of all that are about the inbound the `sources[]` with most tags that fits the caller; each has a bucket |
//! | MeshRateLimit | the inbound's one rate, for all callers together; none where a RateLimit is about the inbound |
//!
//! As in Kuma one RateLimit about an inbound, even one without a rate, puts MeshRateLimits out of force there, their rates of
//! connections included.

use super::members::{Members, tagged};
use super::{TOO_MANY_REQUESTS, error_status, named};
use crate::plan::listener::http::{CallerRate, RequestRate};
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::older::{self, OlderHttpRate, RateLimit};
use culvert_mesh::kinds::services::ExternalService;
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select::{self, Effective, Subject};
use std::cmp::Reverse;

/// The rate of some callers' requests, and the selector that says it.
pub(in crate::plan::compile::limits) struct RateVoice<'a> {
    pub(in crate::plan::compile::limits) document: &'a Document,
    pub(in crate::plan::compile::limits) path: String,
    pub(in crate::plan::compile::limits) limit: CallerRate,
}

/// The RateLimits about an inbound.
pub(in crate::plan::compile::limits) struct OlderRates<'a> {
    /// One of them; `None` = there is none, and MeshRateLimits hold.
    pub(in crate::plan::compile::limits) about: Option<&'a Document>,
    /// Their rates. The first that is about a caller holds.
    pub(in crate::plan::compile::limits) voices: Vec<RateVoice<'a>>,
}

// === impl OlderRates ===

impl<'a> OlderRates<'a> {
    /// Finds those about an inbound.
    pub(in crate::plan::compile::limits) fn find(
        policies: &[&'a Document],
        inbound: &Subject<'_>,
        members: &Members<'_>,
    ) -> Self {
        let mut all = select::effective::<RateLimit>(policies, std::slice::from_ref(inbound));
        all.sort_by_key(|one| &one.document.name);
        let mut ranked = Vec::new();
        for Effective { document, policy, .. } in &all {
            let Some(http) = &policy.conf.http else { continue };
            for (index, source) in policy.sources.iter().enumerate() {
                let from = members.callers(vec![tagged(&source.tags)]);
                let limit = CallerRate { from, rate: rate(document, http) };
                let path = format!("sources[{index}]");
                ranked.push((Reverse(exactness(&source.tags)), RateVoice { document, path, limit }));
            }
        }
        // Stable, so that even ones stay in the order of their names.
        ranked.sort_by_key(|(rank, _)| *rank);
        Self {
            about: all.first().map(|one| one.document),
            voices: ranked.into_iter().map(|(_, voice)| voice).collect(),
        }
    }

    /// Returns the rates that hold. One behind a rate of the same callers, or of all, never does.
    pub(in crate::plan::compile::limits) fn in_force(self) -> Vec<CallerRate> {
        let mut rates: Vec<CallerRate> = Vec::new();
        for RateVoice { limit, .. } in self.voices {
            if !rates.iter().any(|one| one.from.is_everyone() || one.from.who == limit.from.who) {
                rates.push(limit);
            }
        }
        rates
    }
}

/// Returns how much a selector says: tags with a value, then tags with any.
fn exactness(Tags(tags): &Tags) -> [usize; 2] {
    let any = tags.values().filter(|value| *value == "*").count();
    [tags.len() - any, any]
}

fn rate(document: &Document, http: &OlderHttpRate) -> RequestRate {
    let OlderHttpRate { requests, interval, on_rate_limit } = http;
    let answer = on_rate_limit.as_ref();
    let status = answer.and_then(|answer| error_status(answer.status?)).unwrap_or(TOO_MANY_REQUESTS);
    let mut fields: Vec<(String, String)> = Vec::new();
    for header in answer.and_then(|answer| answer.headers.as_ref()).into_iter().flatten() {
        if header.append != Some(true) {
            fields.retain(|(name, _)| !name.eq_ignore_ascii_case(&header.key));
        }
        fields.push((header.key.clone(), header.value.clone()));
    }
    let rate = RatePlan { num: requests.0, interval: interval.0 };
    RequestRate { by: named(document), rate, status, fields: fields.into() }
}

/// Returns a line for each RateLimit about calls of the pod to an ExternalService: such calls are no requests here.
pub(in crate::plan::compile::limits) fn of_calls_outside(ours: &[&Document], pod: &[&Tags]) -> Vec<String> {
    let outside = |one: &&Document| match &one.spec {
        Spec::ExternalService(spec) => Some(service_of(spec)),
        _ => None,
    };
    let limits = ours.iter().filter_map(|one| match &one.spec {
        Spec::RateLimit(spec) if spec.conf.http.is_some() => Some((one, spec)),
        _ => None,
    });
    let mut lines = Vec::new();
    for (document, spec) in limits.filter(|(_, spec)| older::fit(&spec.sources, pod).is_some()) {
        let is_about = |service: &Tags| older::fit(&spec.destinations, &[service]).is_some();
        if let Some(service) = ours.iter().filter_map(outside).find(is_about) {
            let (name, service) = (&document.name, service.service().unwrap_or_default());
            lines.push(format!(
                "RateLimit {name}: calls of ExternalService {service} are not limited, as servers outside of the mesh get bytes, not requests"
            ));
        }
    }
    lines
}

fn service_of(spec: &ExternalService) -> Tags {
    Tags([(SERVICE.to_owned(), spec.service().to_owned())].into())
}
