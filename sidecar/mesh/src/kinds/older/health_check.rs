// SPDX-License-Identifier: Apache-2.0
//! `HealthCheck`, the ancestor of MeshHealthCheck.

use super::{OlderPolicy, check_selectors};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::{Percent, Thousandths};
use crate::kinds::connections::{EVENT_LOG, Encoded, HealthConf, Payload, Status, TcpCheck, check_conf};
use crate::kinds::destination::Positive;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::Target;

fields! {
    /// Active checks of the endpoints of some services, by some pods.
    pub struct HealthCheck {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The checks.
        conf: required OlderChecks = "conf",
    }
}

fields! {
    /// Checks. Without tcp and http a connect is enough.
    pub struct OlderChecks {
        /// Time between two checks of an endpoint.
        interval: required Span = "interval",
        /// Time for a check.
        timeout: required Span = "timeout",
        /// Checks in a row that fail before an endpoint gets no more connections.
        unhealthy_threshold: required Positive = "unhealthyThreshold",
        /// Checks in a row that succeed before it gets connections again.
        healthy_threshold: required Positive = "healthyThreshold",
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
        /// Time between two checks as long as the service was never called. Default: 60s.
        no_traffic_interval: optional Span = "noTrafficInterval",
        /// Checks by TCP.
        tcp: optional OlderTcpCheck = "tcp",
        /// Checks by HTTP, without effect.
        http: optional OlderHttpCheck = "http",
        /// True, the default: checks that expect an answer use one connection after the other's end.
        reuse_connection: optional bool = "reuseConnection",
    }
}

fields! {
    /// Checks by TCP.
    pub struct OlderTcpCheck {
        /// Bytes that are sent, in Base64.
        send: optional Encoded = "send",
        /// Bytes that the answer has, in this order, in Base64. Without any, a connect is enough.
        receive: optional Vec<Encoded> = "receive",
    }
}

fields! {
    /// Checks by HTTP.
    pub struct OlderHttpCheck {
        /// Path that is asked for.
        path: required String = "path",
        /// Headers of the request.
        request_headers_to_add: optional Vec<OlderHeaderToAdd> = "requestHeadersToAdd",
        /// Statuses of a good answer.
        expected_statuses: optional Vec<Status> = "expectedStatuses",
    }
}

fields! {
    /// A header of a request.
    pub struct OlderHeaderToAdd {
        /// The header.
        header: required OlderKeyAndValue = "header",
        /// True: it is added to others of its name.
        append: optional bool = "append",
    }
}

fields! {
    /// A header by name and value.
    pub struct OlderKeyAndValue {
        /// Name of the header.
        key: required String = "key",
        /// Its value.
        value: optional String = "value",
    }
}

impl OlderChecks {
    /// Returns the check by TCP. As in Kuma one by HTTP takes its place, and has no effect here.
    fn tcp(&self) -> Option<TcpCheck> {
        let payload = |Encoded(bytes): &Encoded| Payload(bytes.clone());
        match (&self.tcp, &self.http) {
            (Some(tcp), _) => Some(TcpCheck {
                disabled: None,
                send: tcp.send.as_ref().map(payload),
                receive: tcp.receive.as_ref().map(|all| all.iter().map(payload).collect()),
            }),
            (None, None) => Some(TcpCheck { disabled: None, send: None, receive: None }),
            (None, Some(_)) => None,
        }
    }
}

impl OlderPolicy for HealthCheck {
    type Conf = HealthConf;

    fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }

    fn conf(&self) -> HealthConf {
        let conf = &self.conf;
        HealthConf {
            interval: Some(conf.interval),
            unhealthy_interval: None,
            timeout: Some(conf.timeout),
            unhealthy_threshold: Some(conf.unhealthy_threshold),
            healthy_threshold: Some(conf.healthy_threshold),
            initial_jitter: conf.initial_jitter,
            interval_jitter: conf.interval_jitter,
            interval_jitter_percent: conf.interval_jitter_percent,
            healthy_panic_threshold: conf.healthy_panic_threshold,
            fail_traffic_on_panic: conf.fail_traffic_on_panic,
            event_log_path: None,
            always_log: conf.always_log,
            no_traffic_interval: conf.no_traffic_interval,
            tcp: conf.tcp(),
            http: None,
            grpc: None,
            reuse_connection: conf.reuse_connection,
        }
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let all = [("http", self.conf.http.is_some()), (EVENT_LOG, self.conf.event_log_path.is_some())];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl Resource for HealthCheck {
    const NAME: &'static str = "HealthCheck";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
        let conf = part.field("conf");
        check_conf(&conf, at);
        if conf.has("tcp") == Ok(true) && conf.has("http") == Ok(true) {
            conf.problem(at, "http", "http beside tcp", "one or the other");
        }
        for header in conf.field("http").items("requestHeadersToAdd").unwrap_or_default() {
            let header = header.field("header");
            if header.get::<String>("key").is_ok_and(|key| key.is_some_and(|key| key.is_empty())) {
                header.problem(at, "key", "an empty text", "the name of a header");
            }
        }
    }
}
