// SPDX-License-Identifier: Apache-2.0
//! `MeshTimeout`: timeouts of the connections of some pods.

use super::{EntryDefault, FromEntry, RuleEntry, ToEntry, entries, inbound_match};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::within;
use crate::kinds::destination::{self, ConnectionPolicy, ToRef};
use crate::merge::{Merge, merge_fields};
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::{PodsOrRoute, Target};

fields! {
    /// Timeouts of the connections of some pods.
    pub struct MeshTimeout {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrRoute = "targetRef",
        /// Connections from these pods.
        to: default Vec<ToEntry<TimeoutConf>> = "to",
        /// Connections to these pods.
        from: default Vec<FromEntry<TimeoutConf>> = "from",
        /// Connections to these pods, in the newer spelling.
        rules: default Vec<RuleEntry<TimeoutConf>> = "rules",
    }
}

fields! {
    /// Timeouts; an absent one is left to wider policies.
    pub struct TimeoutConf {
        /// Time for a connect, above 0.
        connection_timeout: optional Span = "connectionTimeout",
        /// Time after which a connection that moves no byte is reset; 0s = never.
        idle_timeout: optional Span = "idleTimeout",
        /// Timeouts of requests, on a port of HTTP.
        http: optional HttpTimeouts = "http",
    }
}

impl EntryDefault for TimeoutConf {
    const DEFAULT: &'static str = "Their timeouts.";
    const HAS_MATCHES: bool = true;
}

impl Merge for TimeoutConf {
    fn over(self, less_specific: Self) -> Self {
        let Self { connection_timeout, idle_timeout, http } = less_specific;
        Self {
            connection_timeout: self.connection_timeout.or(connection_timeout),
            idle_timeout: self.idle_timeout.or(idle_timeout),
            http: within(self.http, http),
        }
    }
}

fields! {
    /// Timeouts of HTTP; 0s = none.
    pub struct HttpTimeouts {
        /// Time for a whole request and answer.
        request_timeout: optional Span = "requestTimeout",
        /// Time after which a stream that moves no byte ends.
        stream_idle_timeout: optional Span = "streamIdleTimeout",
        /// Longest life of a stream.
        max_stream_duration: optional Span = "maxStreamDuration",
        /// Longest life of a connection.
        max_connection_duration: optional Span = "maxConnectionDuration",
        /// Time for the headers of a request.
        request_headers_timeout: optional Span = "requestHeadersTimeout",
    }
}

merge_fields!(HttpTimeouts {
    request_timeout,
    stream_idle_timeout,
    max_stream_duration,
    max_connection_duration,
    request_headers_timeout,
});

impl ConnectionPolicy for MeshTimeout {
    type Conf = TimeoutConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &TimeoutConf)> {
        entries::to(&self.to)
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &TimeoutConf> {
        entries::inbound(&self.from, &self.rules)
    }

    fn passed_over(&self) -> Vec<&'static str> {
        // The caller of a request is known, but its times are those of the port.
        let matched = self.rules.iter().any(|rule| !rule.matches.is_empty() && rule.default.http.is_some());
        if matched { vec!["rules[].default.http beside matches"] } else { Vec::new() }
    }
}

impl Resource for MeshTimeout {
    const NAME: &'static str = "MeshTimeout";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrRoute::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        PodsOrRoute::check(&part.field("targetRef"), at);
        destination::check_entries(part, at);
        for list in ["to", "from", "rules"] {
            for item in part.items(list).unwrap_or_default() {
                if list == "to" {
                    ToRef::check(&item.field("targetRef"), true, at);
                }
                let conf = item.field("default");
                check_conf(&conf, at);
                inbound_match::check(&item, &conf, &["connectionTimeout", "idleTimeout"], at);
                if item.field("matches").is_empty() == Some(false) {
                    check_matched(&conf.field("http"), at);
                }
            }
        }
    }
}

fn check_conf(conf: &Part<'_>, at: &mut At<'_>) {
    destination::check_says_something(conf, &["connectionTimeout", "idleTimeout", "http"], at);
    if let Ok(Some(timeout)) = conf.get::<Span>("connectionTimeout")
        && timeout.get().is_none()
    {
        conf.problem(at, "connectionTimeout", "0", "a duration above 0");
    }
    if conf.has("http") == Ok(true) {
        // As Kuma has it, the timeout of headers alone is not enough.
        const TIMEOUTS: [&str; 4] =
            ["requestTimeout", "streamIdleTimeout", "maxStreamDuration", "maxConnectionDuration"];
        destination::check_says_something(&conf.field("http"), &TIMEOUTS, at);
    }
}

/// Notes timeouts of HTTP that Kuma cannot tell apart by the caller.
fn check_matched(http: &Part<'_>, at: &mut At<'_>) {
    for field in ["requestHeadersTimeout", "maxStreamDuration", "maxConnectionDuration"] {
        if http.has(field) == Ok(true) {
            http.problem(
                at,
                field,
                "it beside matches",
                "requestTimeout and streamIdleTimeout beside matches",
            );
        }
    }
}
