// SPDX-License-Identifier: Apache-2.0
//! `MeshHealthCheck`: active checks of the endpoints that some pods call.

use super::{EntryDefault, Headers, Payload, ToEntry, entries};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::{Percent, Thousandths, within};
use crate::kinds::destination::{self, ConnectionPolicy, Positive, ToRef};
use crate::merge::{Merge, merge_fields};
use crate::read::part::Part;
use crate::read::{At, Read, Span, fields};
use crate::target::{PodsOrGateway, Target};
use serde_json::{Value, json};

fields! {
    /// Active checks of the endpoints that some pods call.
    pub struct MeshHealthCheck {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Destinations whose endpoints are checked.
        to: default Vec<ToEntry<HealthConf>> = "to",
    }
}

fields! {
    /// Checks; an absent field is left to wider policies.
    pub struct HealthConf {
        /// Time between two checks of an endpoint. Default: 1m.
        interval: optional Span = "interval",
        /// The same after a check that failed. Default: interval.
        unhealthy_interval: optional Span = "unhealthyInterval",
        /// Time for a check. Default: 15s.
        timeout: optional Span = "timeout",
        /// Checks in a row that fail before an endpoint gets no more connections. Default: 5.
        unhealthy_threshold: optional Positive = "unhealthyThreshold",
        /// Checks in a row that succeed before it gets connections again. Default: 1.
        healthy_threshold: optional Positive = "healthyThreshold",
        /// Longest wait before the first check; the wait is drawn by chance.
        initial_jitter: optional Span = "initialJitter",
        /// Longest time that chance adds to an interval.
        interval_jitter: optional Span = "intervalJitter",
        /// The same as a share of the interval, in percent.
        interval_jitter_percent: optional Percent = "intervalJitterPercent",
        /// Share of the endpoints in service below which checks do not count, in percent. Default: 50.
        healthy_panic_threshold: optional Thousandths = "healthyPanicThreshold",
        /// True: below that share no endpoint gets connections, in place of all.
        fail_traffic_on_panic: optional bool = "failTrafficOnPanic",
        /// File of Envoy's events. The sidecar's log has them.
        event_log_path: optional String = "eventLogPath",
        /// True: each check that fails is logged, and not only the one that changes the state.
        always_log: optional bool = "alwaysLogHealthCheckFailures",
        /// Time between two checks as long as the destination was never called. Default: 1m.
        no_traffic_interval: optional Span = "noTrafficInterval",
        /// Checks by TCP.
        tcp: optional TcpCheck = "tcp",
        /// Checks by HTTP, without effect.
        http: optional HttpCheck = "http",
        /// Checks by gRPC, without effect as well.
        grpc: optional GrpcCheck = "grpc",
        /// True, the default: checks that expect an answer use one connection after the other's end.
        reuse_connection: optional bool = "reuseConnection",
    }
}

fields! {
    /// Checks by TCP.
    pub struct TcpCheck {
        /// True: there are none.
        disabled: optional bool = "disabled",
        /// Text that is sent, as it stands here.
        send: optional Payload = "send",
        /// Texts that the answer has, in this order. Without any, a connect is enough.
        receive: optional Vec<Payload> = "receive",
    }
}

merge_fields!(TcpCheck { disabled, send, receive });

fields! {
    /// Checks by HTTP.
    pub struct HttpCheck {
        /// True: there are none.
        disabled: optional bool = "disabled",
        /// Path that is asked for.
        path: optional String = "path",
        /// Headers of the request.
        request_headers_to_add: optional Headers = "requestHeadersToAdd",
        /// Statuses of a good answer.
        expected_statuses: optional Vec<Status> = "expectedStatuses",
    }
}

fields! {
    /// Checks by gRPC.
    pub struct GrpcCheck {
        /// True: there are none.
        disabled: optional bool = "disabled",
        /// Service that is asked for.
        service_name: optional String = "serviceName",
        /// Authority of the request.
        authority: optional String = "authority",
    }
}

/// A status of HTTP, 100 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Read for Status {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let status = value.as_u64().and_then(|number| u16::try_from(number).ok());
        let status = status.filter(|status| (100..600).contains(status));
        status.map(Self).or_else(|| at.wrong(value, "a status from 100 to 599"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 100, "maximum": 599})
    }
}

impl EntryDefault for HealthConf {
    const TO: &'static str = "Checks of the endpoints of some destinations.";
    const DEFAULT: &'static str = "Their checks.";
}

impl Merge for HealthConf {
    fn over(self, less_specific: Self) -> Self {
        let Self {
            interval,
            unhealthy_interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent,
            healthy_panic_threshold,
            fail_traffic_on_panic,
            event_log_path,
            always_log,
            no_traffic_interval,
            tcp,
            http,
            grpc,
            reuse_connection,
        } = less_specific;
        Self {
            interval: self.interval.or(interval),
            unhealthy_interval: self.unhealthy_interval.or(unhealthy_interval),
            timeout: self.timeout.or(timeout),
            unhealthy_threshold: self.unhealthy_threshold.or(unhealthy_threshold),
            healthy_threshold: self.healthy_threshold.or(healthy_threshold),
            initial_jitter: self.initial_jitter.or(initial_jitter),
            interval_jitter: self.interval_jitter.or(interval_jitter),
            interval_jitter_percent: self.interval_jitter_percent.or(interval_jitter_percent),
            healthy_panic_threshold: self.healthy_panic_threshold.or(healthy_panic_threshold),
            fail_traffic_on_panic: self.fail_traffic_on_panic.or(fail_traffic_on_panic),
            event_log_path: self.event_log_path.or(event_log_path),
            always_log: self.always_log.or(always_log),
            no_traffic_interval: self.no_traffic_interval.or(no_traffic_interval),
            tcp: within(self.tcp, tcp),
            http: self.http.or(http),
            grpc: self.grpc.or(grpc),
            reuse_connection: self.reuse_connection.or(reuse_connection),
        }
    }
}

impl HealthConf {
    /// Returns the fields that have no effect.
    fn passed_over(&self) -> impl Iterator<Item = &'static str> {
        let on = |disabled: Option<bool>| disabled != Some(true);
        let all = [
            ("http", self.http.as_ref().is_some_and(|http| on(http.disabled))),
            ("grpc", self.grpc.as_ref().is_some_and(|grpc| on(grpc.disabled))),
            (EVENT_LOG, self.event_log_path.is_some()),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name))
    }
}

/// The file of events, in a warning.
pub(in crate::kinds) const EVENT_LOG: &str = "eventLogPath (events are in the sidecar's log)";

impl ConnectionPolicy for MeshHealthCheck {
    type Conf = HealthConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &HealthConf)> {
        entries::to(&self.to)
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &HealthConf> {
        std::iter::empty()
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let mut all: Vec<_> = self.to.iter().flat_map(|to| to.default.passed_over()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Resource for MeshHealthCheck {
    const NAME: &'static str = "MeshHealthCheck";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        PodsOrGateway::check(&part.field("targetRef"), at);
        let to = part.items("to");
        if to.as_ref().is_ok_and(Vec::is_empty) {
            part.problem(at, "to", "no entry", "at least one");
        }
        let target = part.field("targetRef");
        if target.has("sectionName") == Ok(true) {
            target.problem(at, "sectionName", "an inbound", "whole pods: calls leave a pod, not an inbound");
        }
        for item in to.unwrap_or_default() {
            ToRef::check(&item.field("targetRef"), false, at);
            let conf = item.field("default");
            destination::check_says_something(&conf, &["tcp", "http", "grpc"], at);
            check_conf(&conf, at);
        }
    }
}

/// Notes values that Kuma's control plane refuses, of this kind and of its ancestor.
pub(in crate::kinds) fn check_conf(conf: &Part<'_>, at: &mut At<'_>) {
    for field in
        ["interval", "unhealthyInterval", "timeout", "initialJitter", "intervalJitter", "noTrafficInterval"]
    {
        if let Ok(Some(time)) = conf.get::<Span>(field)
            && time.get().is_none()
        {
            conf.problem(at, field, "0", "a duration above 0");
        }
    }
    if let Ok(Some(Thousandths(100_001..))) = conf.get::<Thousandths>("healthyPanicThreshold") {
        conf.problem(at, "healthyPanicThreshold", "more than 100", "a percentage from 0 to 100");
    }
    if let Ok(Some(path)) = conf.get::<String>("eventLogPath")
        && !path.starts_with('/')
    {
        let allowed = "an absolute path, as /var/log/health.log";
        conf.problem(at, "eventLogPath", format!("{path:?}"), allowed);
    }
    let http = conf.field("http");
    if http.get::<String>("path").is_ok_and(|path| path.is_some_and(|path| path.is_empty())) {
        http.problem(at, "path", "an empty text", "a path, as \"/health\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::merged;
    use crate::read::Problems;

    #[test]
    fn a_check_by_tcp_is_merged_field_by_field() {
        let conf = |value: Value| {
            let mut problems = Problems::default();
            HealthConf::read(&value, &mut At::root(&mut problems))
                .unwrap_or_else(|| panic!("{value}: {problems:?}"))
        };
        let narrow = conf(json!({"interval": "5s", "tcp": {"receive": ["baz"]}}));
        let wide =
            conf(json!({"interval": "9s", "timeout": "3s", "tcp": {"send": "foo", "receive": ["a", "b"]}}));
        let both = merged([narrow, wide.clone()]).unwrap();
        assert_eq!((both.interval.unwrap().0.as_secs(), both.timeout.unwrap().0.as_secs()), (5, 3));
        let bytes = |text: &str| Payload(text.into());
        let tcp = both.tcp.unwrap();
        assert_eq!((tcp.send, tcp.receive), (Some(bytes("foo")), Some(vec![bytes("baz")])));
        let off = merged([conf(json!({"tcp": {"disabled": true}})), wide]).unwrap();
        assert_eq!(off.tcp.unwrap().disabled, Some(true), "an override that turns checks off");
    }
}
