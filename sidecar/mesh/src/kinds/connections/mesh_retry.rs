// SPDX-License-Identifier: Apache-2.0
//! `MeshRetry`: further attempts where one fails, of the calls of some pods.

use super::{EntryDefault, ToEntry, entries};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::destination::{self, ConnectionPolicy, Positive, ToRef};
use crate::merge::merge_fields;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Read, Span, fields, words};
use crate::target::{PodsOrRoute, Target};
use serde_json::{Value, json};

fields! {
    /// Further attempts of the calls of some pods.
    pub struct MeshRetry {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrRoute = "targetRef",
        /// Connections from these pods.
        to: default Vec<ToEntry<RetryConf>> = "to",
    }
}

fields! {
    /// Attempts by protocol.
    pub struct RetryConf {
        /// Attempts to connect.
        tcp: optional TcpRetry = "tcp",
        /// Attempts of HTTP requests, without effect.
        http: optional HttpRetry = "http",
        /// Attempts of gRPC requests, without effect as well.
        grpc: optional GrpcRetry = "grpc",
    }
}

impl EntryDefault for RetryConf {
    const DEFAULT: &'static str = "Attempts of these connections.";
}

merge_fields!(RetryConf { tcp, http, grpc });

fields! {
    /// Attempts to connect.
    pub struct TcpRetry {
        /// Endpoints that one connection tries at most.
        max_connect_attempt: required Positive = "maxConnectAttempt",
    }
}

fields! {
    /// Attempts of HTTP requests.
    pub struct HttpRetry {
        /// Attempts after the first.
        num_retries: optional u32 = "numRetries",
        /// Time for each attempt.
        per_try_timeout: optional Span = "perTryTimeout",
        /// Pauses between attempts.
        back_off: optional BackOff = "backOff",
        /// Pauses that the server asks for.
        rate_limited_back_off: optional RateLimitedBackOff = "rateLimitedBackOff",
        /// Failures after which another attempt is made.
        retry_on: optional Vec<HttpRetryOn> = "retryOn",
        /// Headers of an answer after which another attempt is made.
        retriable_response_headers: optional Vec<HeaderMatch> = "retriableResponseHeaders",
        /// Headers of a request that may be repeated.
        retriable_request_headers: optional Vec<HeaderMatch> = "retriableRequestHeaders",
        /// Servers that another attempt avoids.
        host_selection: optional Vec<HostSelection> = "hostSelection",
        /// Servers that are looked at for another attempt.
        host_selection_max_attempts: optional u32 = "hostSelectionMaxAttempts",
    }
}

fields! {
    /// Attempts of gRPC requests.
    pub struct GrpcRetry {
        /// Attempts after the first.
        num_retries: optional u32 = "numRetries",
        /// Time for each attempt.
        per_try_timeout: optional Span = "perTryTimeout",
        /// Pauses between attempts.
        back_off: optional BackOff = "backOff",
        /// Pauses that the server asks for.
        rate_limited_back_off: optional RateLimitedBackOff = "rateLimitedBackOff",
        /// Failures after which another attempt is made.
        retry_on: optional Vec<GrpcRetryOn> = "retryOn",
    }
}

fields! {
    /// Pauses between attempts.
    pub struct BackOff {
        /// The first pause.
        base_interval: optional Span = "baseInterval",
        /// The longest pause.
        max_interval: optional Span = "maxInterval",
    }
}

fields! {
    /// Pauses that the server asks for.
    pub struct RateLimitedBackOff {
        /// Headers that say the pause.
        reset_headers: required Vec<ResetHeader> = "resetHeaders",
        /// The longest pause.
        max_interval: optional Span = "maxInterval",
    }
}

fields! {
    /// A header that says a pause.
    pub struct ResetHeader {
        /// Name of the header.
        name: required String = "name",
        /// Form of its value.
        format: required ResetFormat = "format",
    }
}

words! {
    /// Forms of a pause in a header.
    pub enum ResetFormat {
        /// Seconds from now.
        Seconds = "Seconds",
        /// Seconds since 1970.
        UnixTimestamp = "UnixTimestamp",
    }
}

fields! {
    /// A header by name and value.
    pub struct HeaderMatch {
        /// Comparison. Default: Exact.
        kind: optional HeaderMatchKind = "type",
        /// Name of the header.
        name: required String = "name",
        /// Its value.
        value: optional String = "value",
    }
}

words! {
    /// Comparisons of a header.
    pub enum HeaderMatchKind {
        /// The value is the whole value.
        Exact = "Exact",
        /// The value is the beginning.
        Prefix = "Prefix",
        /// The value is an expression.
        RegularExpression = "RegularExpression",
        /// The header is there.
        Present = "Present",
        /// The header is not there.
        Absent = "Absent",
    }
}

fields! {
    /// Servers that another attempt avoids.
    pub struct HostSelection {
        /// The servers.
        predicate: required HostPredicate = "predicate",
        /// Tags of the servers.
        tags: optional Tags = "tags",
        /// Attempts after which priorities are looked at again.
        update_frequency: optional u32 = "updateFrequency",
    }
}

words! {
    /// Servers that another attempt avoids.
    pub enum HostPredicate {
        /// Servers that were tried.
        OmitPreviousHosts = "OmitPreviousHosts",
        /// Servers with tags.
        OmitHostsWithTags = "OmitHostsWithTags",
        /// Priorities that were tried.
        OmitPreviousPriorities = "OmitPreviousPriorities",
    }
}

/// A failure, a status or a method with which an HTTP request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRetryOn(pub String);

const HTTP_RETRY_ON: [&str; 17] = [
    "5xx",
    "GatewayError",
    "Reset",
    "Retriable4xx",
    "ConnectFailure",
    "EnvoyRatelimited",
    "RefusedStream",
    "Http3PostConnectFailure",
    "HttpMethodConnect",
    "HttpMethodDelete",
    "HttpMethodGet",
    "HttpMethodHead",
    "HttpMethodOptions",
    "HttpMethodPatch",
    "HttpMethodPost",
    "HttpMethodPut",
    "HttpMethodTrace",
];

/// Returns true for a status that HTTP has, as Go knows them and Kuma takes them.
pub(in crate::kinds) fn is_known_status(status: u16) -> bool {
    matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429)
        || matches!(status, 431 | 451 | 500..=508 | 510 | 511)
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && text.parse().is_ok_and(is_known_status)
}

impl Read for HttpRetryOn {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        // Kuma takes a status as a number, too.
        let text = value.as_u64().map(|number| number.to_string());
        let text = text.or_else(|| value.as_str().map(Into::into)).unwrap_or_default();
        if HTTP_RETRY_ON.contains(&text.as_str()) || is_status(&text) {
            return Some(Self(text));
        }
        let allowed = format!("{}, or a status of HTTP as \"503\"", HTTP_RETRY_ON.join(", "));
        at.wrong(value, allowed)
    }

    fn schema() -> Value {
        json!({"anyOf": [
            {"type": "string", "enum": HTTP_RETRY_ON},
            {"type": "string", "pattern": "^[1-5][0-9]{2}$"},
            {"type": "integer", "minimum": 100, "maximum": 599},
        ]})
    }
}

words! {
    /// A status with which a gRPC request is tried again.
    pub enum GrpcRetryOn {
        /// Status 1.
        Canceled = "Canceled",
        /// Status 4.
        DeadlineExceeded = "DeadlineExceeded",
        /// Status 13.
        Internal = "Internal",
        /// Status 8.
        ResourceExhausted = "ResourceExhausted",
        /// Status 14.
        Unavailable = "Unavailable",
    }
}

impl ConnectionPolicy for MeshRetry {
    type Conf = RetryConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &RetryConf)> {
        entries::to(&self.to)
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &RetryConf> {
        std::iter::empty()
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let has = |of: fn(&RetryConf) -> bool| self.to.iter().any(|to| of(&to.default));
        let all = [("http", has(|conf| conf.http.is_some())), ("grpc", has(|conf| conf.grpc.is_some()))];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl Resource for MeshRetry {
    const NAME: &'static str = "MeshRetry";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrRoute::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        PodsOrRoute::check(&part.field("targetRef"), at);
        let to = part.items("to");
        if to.as_ref().is_ok_and(Vec::is_empty) {
            part.problem(at, "to", "no entry", "at least one");
        }
        let target = part.field("targetRef");
        if target.has("sectionName") == Ok(true) {
            target.problem(at, "sectionName", "an inbound", "whole pods: calls leave a pod, not an inbound");
        }
        for item in to.unwrap_or_default() {
            ToRef::check(&item.field("targetRef"), true, at);
            let conf = item.field("default");
            destination::check_says_something(&conf, &["tcp", "http", "grpc"], at);
            check_requests(&conf, "http", &HTTP, at);
            check_requests(&conf, "grpc", &HTTP[..5], at);
        }
    }
}

/// Fields of `http` of which one is enough, those first that `grpc` has too.
const HTTP: [&str; 8] = [
    "numRetries",
    "perTryTimeout",
    "backOff",
    "rateLimitedBackOff",
    "retryOn",
    "retriableRequestHeaders",
    "retriableResponseHeaders",
    "hostSelection",
];

fn check_requests(conf: &Part<'_>, protocol: &str, fields: &[&str], at: &mut At<'_>) {
    if conf.has(protocol) != Ok(true) {
        return;
    }
    let requests = conf.field(protocol);
    destination::check_says_something(&requests, fields, at);
    if requests.has("backOff") == Ok(true) {
        destination::check_says_something(&requests.field("backOff"), &["baseInterval", "maxInterval"], at);
    }
    let limited = requests.field("rateLimitedBackOff");
    if let Ok(Some(longest)) = limited.get::<Span>("maxInterval")
        && longest.get().is_none()
    {
        limited.problem(at, "maxInterval", "0", "a duration above 0");
    }
    for header in limited.items("resetHeaders").unwrap_or_default() {
        if header.get::<String>("name").is_ok_and(|name| name.is_some_and(|name| name.is_empty())) {
            header.problem(at, "name", "an empty text", "the name of a header");
        }
    }
    let selections = requests.items("hostSelection").unwrap_or_default();
    let mut priorities = 0;
    for selection in selections {
        match selection.get::<HostPredicate>("predicate") {
            Ok(Some(HostPredicate::OmitHostsWithTags)) if selection.has("tags") == Ok(false) => {
                selection.problem(at, "tags", "nothing", "tags of the servers");
            }
            Ok(Some(HostPredicate::OmitPreviousPriorities)) => {
                priorities += 1;
                if priorities == 2 {
                    selection.problem(at, "predicate", "OmitPreviousPriorities again", "it once");
                }
                if selection.get::<u32>("updateFrequency") == Ok(Some(0)) {
                    selection.problem(at, "updateFrequency", "0", "a number above 0");
                }
            }
            _ => {}
        }
    }
}
