// SPDX-License-Identifier: Apache-2.0
//! `MeshRateLimit`: the rate of connections to the inbounds of some pods.

use super::{EntryDefault, FromEntry, Headers, RuleEntry, entries, inbound_match};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::within;
use crate::kinds::destination::{self, ConnectionPolicy, Positive, ToRef};
use crate::merge::{Merge, merge_fields};
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::{PodsOrRoute, ProxyType, Target};
use std::time::Duration;

/// Intervals are longer than this, as Envoy's bucket once needed it.
const SHORTEST: Duration = Duration::from_millis(50);

fields! {
    /// The rate of connections to the inbounds of some pods.
    pub struct MeshRateLimit {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrRoute = "targetRef",
        /// Connections to Kuma's built-in gateways, which are proxies of their own.
        to: default Vec<FromEntry<RateConf>> = "to",
        /// Connections to these pods.
        from: default Vec<FromEntry<RateConf>> = "from",
        /// Connections to these pods, in the newer spelling.
        rules: default Vec<RuleEntry<RateConf>> = "rules",
    }
}

fields! {
    /// Rates that each pod counts by itself.
    pub struct RateConf {
        /// Rates by protocol.
        local: required LocalRates = "local",
    }
}

impl EntryDefault for RateConf {
    const DEFAULT: &'static str = "Their rate, of all together.";
    const OF_RULE: &'static str = "The rate of all together.";
    const HAS_MATCHES: bool = true;
}

merge_fields!(RateConf { local });

fields! {
    /// Rates by protocol.
    pub struct LocalRates {
        /// The rate of connections.
        tcp: optional TcpRate = "tcp",
        /// The rate of HTTP requests, on a port of HTTP.
        http: optional HttpRate = "http",
    }
}

impl Merge for LocalRates {
    fn over(self, less_specific: Self) -> Self {
        let Self { tcp, http } = less_specific;
        Self { tcp: within(self.tcp, tcp), http: within(self.http, http) }
    }
}

fields! {
    /// The rate of connections.
    pub struct TcpRate {
        /// True: there is no limit.
        disabled: optional bool = "disabled",
        /// Connections in a time.
        connection_rate: optional Rate = "connectionRate",
    }
}

merge_fields!(TcpRate { disabled, connection_rate });

fields! {
    /// A number in a time.
    pub struct Rate {
        /// The number: so many at once, and so many again in each interval.
        num: required Positive = "num",
        /// The time, above 50ms.
        interval: required Span = "interval",
    }
}

fields! {
    /// The rate of HTTP requests.
    pub struct HttpRate {
        /// True: there is no limit.
        disabled: optional bool = "disabled",
        /// Requests in a time.
        request_rate: optional Rate = "requestRate",
        /// The answer to requests above the rate.
        on_rate_limit: optional OnRateLimit = "onRateLimit",
    }
}

fields! {
    /// The answer to requests above the rate.
    pub struct OnRateLimit {
        /// Status of the answer.
        status: optional Positive = "status",
        /// Headers of the answer.
        headers: optional Headers = "headers",
    }
}

merge_fields!(HttpRate { disabled, request_rate, on_rate_limit });

impl HttpRate {
    /// Returns the rate in force, if there is one.
    pub fn in_force(&self) -> Option<&Rate> {
        self.request_rate.as_ref().filter(|_| self.disabled != Some(true))
    }
}

impl TcpRate {
    /// Returns the rate in force, if there is one.
    pub fn in_force(&self) -> Option<&Rate> {
        self.connection_rate.as_ref().filter(|_| self.disabled != Some(true))
    }
}

impl ConnectionPolicy for MeshRateLimit {
    type Conf = RateConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &RateConf)> {
        std::iter::empty()
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &RateConf> {
        entries::inbound(&self.from, &self.rules)
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let has = |http: &HttpRate| http.disabled != Some(true);
        let matched = |rule: &RuleEntry<RateConf>| {
            !rule.matches.is_empty() && rule.default.local.http.as_ref().is_some_and(has)
        };
        if self.rules.iter().any(matched) {
            vec!["rules[].default.local.http beside matches"]
        } else {
            Vec::new()
        }
    }
}

impl Resource for MeshRateLimit {
    const NAME: &'static str = "MeshRateLimit";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrRoute::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrRoute::check(&target, at);
        destination::check_entries(part, at);
        let to = part.items("to").unwrap_or_default();
        let gateways = PodsOrRoute::is_elsewhere(&target)
            || matches!(target.get::<Vec<ProxyType>>("proxyTypes"), Ok(Some(kinds)) if kinds == [ProxyType::Gateway]);
        if !to.is_empty() && !gateways {
            let allowed = "from or rules: connections are counted where they come in; to is for gateways";
            part.problem(at, "to", "entries", allowed);
        }
        for list in ["to", "from", "rules"] {
            for item in part.items(list).unwrap_or_default() {
                let local = item.field("default").field("local");
                check_local(&local, at);
                inbound_match::check(&item, &local, &["tcp"], at);
            }
        }
    }
}

/// Fields of an answer that the sidecar writes itself: they say where it ends.
const OWN: [&str; 3] = ["content-length", "transfer-encoding", "connection"];

/// Notes headers that would make another answer of the one they stand in.
fn check_headers(headers: &Part<'_>, at: &mut At<'_>) {
    for header in ["set", "add"].iter().flat_map(|list| headers.items(list).unwrap_or_default()) {
        check_header(&header, "name", at);
    }
}

/// Notes a header that would make another answer of the one it stands in. `key` is the field with its name.
pub(in crate::kinds) fn check_header(header: &Part<'_>, key: &str, at: &mut At<'_>) {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if let Ok(name) = header.need::<String>(key) {
        let found = format!("{name:?}");
        if name.is_empty() || !name.bytes().all(is_name) {
            header.problem(at, key, found, "a name of letters, digits and -");
        } else if OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            header.problem(at, key, found, "a header that does not say where the answer ends");
        }
    }
    if let Ok(value) = header.need::<String>("value")
        && value.bytes().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f))
    {
        header.problem(at, "value", format!("{value:?}"), "a text of one line");
    }
}

fn check_local(local: &Part<'_>, at: &mut At<'_>) {
    destination::check_says_something(local, &["tcp", "http"], at);
    for (protocol, fields, rate) in [
        ("tcp", &["disabled", "connectionRate"][..], "connectionRate"),
        ("http", &["disabled", "requestRate", "onRateLimit"], "requestRate"),
    ] {
        if local.has(protocol) != Ok(true) {
            continue;
        }
        let of = local.field(protocol);
        destination::check_says_something(&of, fields, at);
        check_headers(&of.field("onRateLimit").field("headers"), at);
        let rate = of.field(rate);
        if let Ok(Some(Span(interval))) = rate.get::<Span>("interval")
            && interval <= SHORTEST
        {
            rate.problem(at, "interval", format!("{} ms", interval.as_millis()), "a duration above 50ms");
        }
    }
}
