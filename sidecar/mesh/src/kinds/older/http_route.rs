// SPDX-License-Identifier: Apache-2.0
//! `conf.http[]` of a TrafficRoute: requests, and the services that they go to. Checked, and without effect.

use super::way::{OlderShare, check_way};
use crate::kinds::destination::check_says_something;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Mapping, Read, fields};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fields! {
    /// Requests, and the services that they go to.
    pub struct OlderHttpRoute {
        /// The requests.
        matched: required OlderHttpMatch = "match",
        /// Changes of requests and answers.
        modify: optional Mapping = "modify",
        /// The service by its tags; "*" takes the value of the outbound.
        destination: optional Tags = "destination",
        /// Several services, each with its share.
        split: optional Vec<OlderShare> = "split",
    }
}

fields! {
    /// Requests by their parts; each that is there has to fit.
    pub struct OlderHttpMatch {
        /// Method of a request.
        method: optional OlderText = "method",
        /// Path of a request.
        path: optional OlderText = "path",
        /// Headers of a request, by their names.
        headers: optional OlderHeaders = "headers",
    }
}

fields! {
    /// A text, or the beginning or pattern of one.
    pub struct OlderText {
        /// The whole text.
        exact: optional String = "exact",
        /// Its beginning.
        prefix: optional String = "prefix",
        /// A regular expression that fits it.
        regex: optional String = "regex",
    }
}

/// Values of headers, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderHeaders(pub BTreeMap<String, OlderText>);

impl Read for OlderHeaders {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let Some(map) = value.as_object() else { return at.wrong(value, "a mapping of headers") };
        let before = at.count();
        let read = |(name, value): (&String, &Value)| {
            at.field(name, |at| OlderText::read(value, at)).map(|text| (name.clone(), text))
        };
        let headers = map.iter().filter_map(read).collect();
        (at.count() == before).then_some(Self(headers))
    }

    fn schema() -> Value {
        json!({"type": "object", "minProperties": 1, "additionalProperties": OlderText::schema()})
    }
}

/// Notes problems that several fields make together.
pub(super) fn check(route: &Part<'_>, at: &mut At<'_>) {
    check_way(route, at);
    let matched = route.field("match");
    if route.has("match") != Ok(true) {
        return;
    }
    check_says_something(&matched, &["method", "path", "headers"], at);
    for field in ["method", "path"] {
        check_text(&matched.field(field), at);
    }
    let headers = matched.field("headers");
    if headers.is_empty() == Some(true) {
        matched.problem(at, "headers", "none", "at least one header");
    }
    for name in headers.keys() {
        check_text(&headers.field(name), at);
    }
}

/// Notes a text that says nothing. Of several ways to say it, which Kuma's own page has, none has an effect here.
fn check_text(text: &Part<'_>, at: &mut At<'_>) {
    check_says_something(text, &["exact", "prefix", "regex"], at);
    for way in ["prefix", "regex"] {
        if text.field(way).is_text("") {
            text.problem(at, way, "an empty text", "a text");
        }
    }
}
