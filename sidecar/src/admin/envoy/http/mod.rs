// SPDX-License-Identifier: Apache-2.0
//! Listeners of HTTP in Envoy's words, with the filters that Kuma writes for the same documents.
//!
//! Kuma's sidecars tell each other in a field who calls, and its faults match that field. Here a certificate or an address says
//! so, and the dump names the same callers by Kuma's match.

use crate::admin::dump::duration;
use crate::cluster::registry::{Listener, stat_prefix};
use crate::net::addrs::Direction;
use crate::plan::listener::http::{CallerRate, Callers, FaultPlan, Faults, HttpPlan, HttpTimes, RequestRate};
use crate::plan::tls::permissions::Who;
use crate::plan::{Serve, Share};
use culvert_mesh::model::percentage::{Denominator, Percentage};
use culvert_mesh::model::tags::Tags;
use serde_json::{Value, json};
use std::time::Duration;

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";
const FAULT: &str = "envoy.filters.http.fault";
const RATE: &str = "envoy.filters.http.local_ratelimit";
/// Field by which Kuma's sidecars say the tags of the caller.
const TAGS: &str = "x-kuma-tags";
/// Status that Envoy has without a word: it is left out.
const TOO_MANY_REQUESTS: u16 = 429;

/// Returns the filter that serves the connections of a listener of HTTP. `attempts` is the number of endpoints that are tried at
/// most, where there are several.
pub(super) fn connection_manager(of: &Listener, attempts: Option<usize>, has_tls: bool) -> Value {
    let planned = &of.plan;
    let none = HttpPlan::default();
    let HttpPlan { faults, rates, times } = planned.http.as_deref().unwrap_or(&none);
    let mut filters = fault_filters(faults);
    if !rates.is_empty() {
        let config = json!({"@type": rate_type(), "stat_prefix": "rate_limit"});
        filters.push(json!({"name": RATE, "typed_config": config}));
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{EXTENSIONS}.filters.http.router.v3.Router")},
    }));
    let mut config = json!({
        "@type": format!("{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": stat_prefix(planned),
        "route_config": route_config(of, (rates, times), attempts),
        "http_filters": filters,
        // Without it Envoy's would be 5 minutes; its word for none is 0.
        "stream_idle_timeout": duration(times.stream_idle.unwrap_or_default()),
        "common_http_protocol_options": of_connections(planned.idle_timeout, times),
    });
    if let Some(time) = times.headers {
        config["request_headers_timeout"] = duration(time).into();
    }
    if has_tls && planned.direction == Direction::Inbound {
        config["forward_client_cert_details"] = "SANITIZE_SET".into();
        config["set_current_client_cert_details"] = json!({"uri": true});
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

/// Adds to a cluster the version of HTTP that it is called by.
pub(super) fn mark(cluster: &mut Value, serve: Serve) {
    let version = if serve == Serve::Http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {version: {}},
    }});
}

/// Returns the times of a connection. Without an idle timeout Envoy's would be 1 hour; the others have no default.
fn of_connections(idle: Option<Duration>, times: &HttpTimes) -> Value {
    let mut options = json!({"idle_timeout": duration(idle.unwrap_or_default())});
    for (field, time) in
        [("max_connection_duration", times.connection), ("max_stream_duration", times.stream)]
    {
        if let Some(time) = time {
            options[field] = duration(time).into();
        }
    }
    options
}

fn route_config(
    of: &Listener,
    (rates, times): (&[CallerRate], &HttpTimes),
    attempts: Option<usize>,
) -> Value {
    let planned = &of.plan;
    let cluster = planned.cluster.as_ref().unwrap_or(&planned.name);
    let service = planned.service.as_ref().unwrap_or(cluster);
    // Without it Envoy's would be 15 seconds.
    let mut action = json!({"timeout": duration(times.request.unwrap_or_default())});
    if planned.split.is_empty() {
        action["cluster"] = (&**cluster).into();
    } else {
        let share = |share: &Share| json!({"name": &*share.cluster, "weight": share.weight});
        action["weighted_clusters"] =
            json!({"clusters": planned.split.iter().map(share).collect::<Vec<_>>()});
    }
    if let Some(attempts) = attempts.filter(|attempts| *attempts > 1) {
        // A request is sent once: only a connect that fails leads to another endpoint.
        action["retry_policy"] = json!({"retry_on": "connect-failure", "num_retries": attempts - 1});
    }
    if of.cluster.as_ref().is_some_and(|cluster| cluster.plan.balance.by_source) {
        action["hash_policy"] = json!([{"connection_properties": {"source_ip": true}}]);
    }
    let mut config = json!({
        "name": format!("{}:{service}", planned.direction.name()),
        "virtual_hosts": [{"name": &**service, "domains": ["*"], "routes": routes(rates, &action)}],
        "validate_clusters": false,
    });
    if planned.direction == Direction::Inbound {
        config["request_headers_to_remove"] = json!([TAGS]);
    }
    config
}

/// Returns a route for each rate, and one for callers without any. Of several that fit a caller Envoy takes the first.
fn routes(rates: &[CallerRate], action: &Value) -> Vec<Value> {
    let route = |matched: Value| json!({"match": matched, "route": action});
    let of_rate = |CallerRate { from, rate }: &CallerRate| {
        let mut matched = json!({"prefix": "/"});
        if let Some(tags) = tags_of(from) {
            matched["headers"] = json!([header(&tags, false)]);
        }
        let mut route = route(matched);
        route["typed_per_filter_config"] = json!({RATE: bucket(rate)});
        route
    };
    let without = (!rates.iter().any(|one| one.from.is_everyone())).then(|| route(json!({"prefix": "/"})));
    rates.iter().map(of_rate).chain(without).collect()
}

fn rate_type() -> String {
    format!("{EXTENSIONS}.filters.http.local_ratelimit.v3.LocalRateLimit")
}

/// Returns the rate of a route.
fn bucket(RequestRate { by: _, rate, status, fields }: &RequestRate) -> Value {
    let all = |key: &str| json!({"default_value": {"numerator": 100}, "runtime_key": key});
    let mut config = json!({
        "@type": rate_type(),
        "stat_prefix": "rate_limit",
        "token_bucket": {
            "max_tokens": rate.num, "tokens_per_fill": rate.num, "fill_interval": duration(rate.interval),
        },
        "filter_enabled": all("local_rate_limit_enabled"),
        "filter_enforced": all("local_rate_limit_enforced"),
    });
    if *status != TOO_MANY_REQUESTS {
        config["status"] = json!({"code": status_name(*status)});
    }
    if !fields.is_empty() {
        let field = |(key, value): &(String, String)| json!({"header": {"key": key, "value": value}});
        config["response_headers_to_add"] = fields.iter().map(field).collect();
    }
    config
}

/// Returns Envoy's name of a status, or its number where Envoy has none.
fn status_name(status: u16) -> Value {
    match status {
        400 => "BadRequest",
        401 => "Unauthorized",
        402 => "PaymentRequired",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        407 => "ProxyAuthenticationRequired",
        408 => "RequestTimeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "LengthRequired",
        412 => "PreconditionFailed",
        413 => "PayloadTooLarge",
        414 => "URITooLong",
        415 => "UnsupportedMediaType",
        416 => "RangeNotSatisfiable",
        417 => "ExpectationFailed",
        421 => "MisdirectedRequest",
        422 => "UnprocessableEntity",
        423 => "Locked",
        424 => "FailedDependency",
        426 => "UpgradeRequired",
        428 => "PreconditionRequired",
        429 => "TooManyRequests",
        431 => "RequestHeaderFieldsTooLarge",
        500 => "InternalServerError",
        501 => "NotImplemented",
        502 => "BadGateway",
        503 => "ServiceUnavailable",
        504 => "GatewayTimeout",
        505 => "HTTPVersionNotSupported",
        506 => "VariantAlsoNegotiates",
        507 => "InsufficientStorage",
        508 => "LoopDetected",
        510 => "NotExtended",
        511 => "NetworkAuthenticationRequired",
        _ => return status.into(),
    }
    .into()
}

/// Returns a filter for each fault. Of those that hold alone, each leaves out the callers of the ones before it.
fn fault_filters(faults: &Faults) -> Vec<Value> {
    let mut filters = Vec::new();
    let mut before: Vec<&Callers> = Vec::new();
    for set in &faults.first {
        filters.extend(set.faults.iter().map(|one| fault_filter(one, &set.from, &before)));
        if set.from.is_everyone() {
            break;
        }
        before.push(&set.from);
    }
    for set in &faults.each {
        filters.extend(set.faults.iter().map(|one| fault_filter(one, &set.from, &[])));
    }
    filters
}

fn fault_filter(fault: &FaultPlan, from: &Callers, others: &[&Callers]) -> Value {
    let mut config = json!({"@type": format!("{EXTENSIONS}.filters.http.fault.v3.HTTPFault")});
    if let Some((time, share)) = fault.delay {
        config["delay"] = json!({"fixed_delay": duration(time), "percentage": percentage(share)});
    }
    if let Some((status, share)) = fault.abort {
        config["abort"] = json!({"http_status": status, "percentage": percentage(share)});
    }
    if let Some((most, share)) = fault.bandwidth {
        let limit = json!({"limit_kbps": most.to_string()});
        config["response_rate_limit"] = json!({"fixed_limit": limit, "percentage": percentage(share)});
    }
    let own = tags_of(from).map(|regex| header(&regex, false));
    let others = others.iter().filter_map(|callers| Some(header(&tags_of(callers)?, true)));
    let headers: Vec<_> = own.into_iter().chain(others).collect();
    if !headers.is_empty() {
        config["headers"] = headers.into();
    }
    let filter = json!({"name": FAULT, "typed_config": config});
    match identity_of(from) {
        Some(identity) => only_for(&identity, &filter),
        None => filter,
    }
}

/// Returns a share in Envoy's words, whose defaults are left out: 0, and a denominator of 100.
fn percentage(Percentage { numerator, denominator }: Percentage) -> Value {
    let mut share = json!({});
    if numerator > 0 {
        share["numerator"] = numerator.into();
    }
    if denominator != Denominator::Hundred {
        share["denominator"] = denominator.name().into();
    }
    share
}

/// Returns Kuma's expression for the tags of callers, if these are what they are known by.
fn tags_of(callers: &Callers) -> Option<String> {
    if callers.is_everyone() {
        return None;
    }
    let tags = callers.who.iter().filter_map(|who| match who {
        Who::Tags(tags) => Some(expression(tags)),
        _ => None,
    });
    let all: Vec<_> = tags.collect();
    match &all[..] {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("({})", several.join("|"))),
    }
}

fn expression(Tags(tags): &Tags) -> String {
    let one = |(key, value): (&String, &String)| match value.as_str() {
        "*" => format!("&{key}=.*"),
        value => format!("&{key}=[^&]*{}[,&].*", value.replace('.', r"\.")),
    };
    std::iter::once(".*".to_owned()).chain(tags.iter().map(one)).collect()
}

fn header(expression: &str, is_other: bool) -> Value {
    let mut header = json!({"name": TAGS, "string_match": {"safe_regex": {"regex": expression}}});
    if is_other {
        header["invert_match"] = true.into();
    }
    header
}

/// Returns the match of an identity, if that is what a caller is known by.
fn identity_of(callers: &Callers) -> Option<Value> {
    match &callers.who[..] {
        [Who::Exactly(id)] => Some(json!({"exact": id})),
        [Who::Prefix(id)] => Some(json!({"prefix": id})),
        _ => None,
    }
}

/// Returns a filter that every caller without an identity skips.
fn only_for(identity: &Value, filter: &Value) -> Value {
    let input = json!({
        "name": "envoy.matching.inputs.uri_san",
        "typed_config": {"@type": format!("{EXTENSIONS}.matching.common_inputs.ssl.v3.UriSanInput")},
    });
    let skip = json!({
        "name": "skip",
        "typed_config": {"@type": format!("{EXTENSIONS}.filters.common.matcher.action.v3.SkipFilter")},
    });
    let predicate = json!({"not_matcher": {"single_predicate": {"input": input, "value_match": identity}}});
    json!({
        "name": FAULT,
        "typed_config": {
            "@type": format!("{EXTENSIONS}.common.matching.v3.ExtensionWithMatcher"),
            "extension_config": filter,
            "xds_matcher": {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": skip}}]}},
        },
    })
}

#[cfg(test)]
mod tests;
