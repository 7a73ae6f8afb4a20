// SPDX-License-Identifier: Apache-2.0
//! `CircuitBreaker`, the ancestor of MeshCircuitBreaker.

use super::{OlderPolicy, check_selectors};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_circuit_breaker::{
    BreakerConf, ConnectionLimits, ConsecutiveFailures, Detectors, OutlierDetection, Percent, Thousandths,
};
use crate::kinds::destination::{Positive, check_says_something};
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::Target;

/// Failures in a row where a detector does not say their number: Envoy's default.
const CONSECUTIVE: u32 = 5;

fields! {
    /// Limits of the connections of some pods to some services, and the ejection of endpoints that fail.
    pub struct CircuitBreaker {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The limits.
        conf: required OlderBreaker = "conf",
    }
}

fields! {
    /// Limits, and the ejection of endpoints.
    pub struct OlderBreaker {
        /// Time between two looks of Envoy. In culvert an endpoint is ejected at once.
        interval: optional Span = "interval",
        /// Time until the first trial of an ejected endpoint.
        base_ejection_time: optional Span = "baseEjectionTime",
        /// Share of the endpoints that may be ejected at once; one always may.
        max_ejection_percent: optional Percent = "maxEjectionPercent",
        /// True: failed connects are counted by localErrors alone.
        split: optional bool = "splitExternalAndLocalErrors",
        /// Limits of a cluster.
        thresholds: optional OlderThresholds = "thresholds",
        /// Failures that are counted.
        detectors: optional OlderDetectors = "detectors",
    }
}

fields! {
    /// Limits of a cluster.
    pub struct OlderThresholds {
        /// Most connections that are open at once.
        max_connections: optional u32 = "maxConnections",
        /// Most connects in flight.
        max_pending_requests: optional u32 = "maxPendingRequests",
        /// Most connects in flight to endpoints that are ejected.
        max_retries: optional u32 = "maxRetries",
        /// Most requests in flight, which only HTTP has.
        max_requests: optional u32 = "maxRequests",
    }
}

fields! {
    /// Failures that are counted.
    pub struct OlderDetectors {
        /// Failures of any kind in a row: failed connects, and answers of 500 and above.
        total: optional OlderConsecutive = "totalErrors",
        /// Failures of a gateway in a row: failed connects, and answers of 502, 503 and 504.
        gateway: optional OlderConsecutive = "gatewayErrors",
        /// Failed connects in a row, where splitExternalAndLocalErrors is true.
        local: optional OlderConsecutive = "localErrors",
        /// Rates by statistics, without effect.
        standard_deviation: optional OlderDeviation = "standardDeviation",
        /// Shares of failures, without effect.
        failure: optional OlderFailure = "failure",
    }
}

fields! {
    /// Failures in a row.
    pub struct OlderConsecutive {
        /// Number of failures that ejects an endpoint. Default: 5.
        consecutive: optional u32 = "consecutive",
    }
}

fields! {
    /// Rates by statistics.
    pub struct OlderDeviation {
        /// Requests that are enough.
        request_volume: optional u32 = "requestVolume",
        /// Endpoints with enough requests.
        minimum_hosts: optional u32 = "minimumHosts",
        /// Distance from the mean in standard deviations.
        factor: optional Thousandths = "factor",
    }
}

fields! {
    /// Shares of failures.
    pub struct OlderFailure {
        /// Requests that are enough.
        request_volume: optional u32 = "requestVolume",
        /// Endpoints with enough requests.
        minimum_hosts: optional u32 = "minimumHosts",
        /// Share of failures that ejects an endpoint.
        threshold: optional Percent = "threshold",
    }
}

impl OlderBreaker {
    fn limits(&self) -> Option<ConnectionLimits> {
        let OlderThresholds { max_connections, max_pending_requests, max_retries, max_requests } =
            self.thresholds.as_ref()?;
        Some(ConnectionLimits {
            max_connections: max_connections.map(Positive),
            max_connection_pools: None,
            max_pending_requests: max_pending_requests.map(Positive),
            max_retries: max_retries.map(Positive),
            max_requests: max_requests.map(Positive),
        })
    }

    fn outlier(&self) -> Option<OutlierDetection> {
        let detectors = self.detectors.as_ref()?;
        let failures = |of: &Option<OlderConsecutive>| {
            let number = of.as_ref()?.consecutive.unwrap_or(CONSECUTIVE).max(1);
            Some(ConsecutiveFailures { consecutive: Some(Positive(number)) })
        };
        Some(OutlierDetection {
            disabled: None,
            interval: self.interval,
            base_ejection_time: self.base_ejection_time,
            max_ejection_percent: self.max_ejection_percent,
            split: self.split,
            detectors: Some(Detectors {
                total: failures(&detectors.total),
                gateway: failures(&detectors.gateway),
                local: failures(&detectors.local),
                success_rate: None,
                failure_percentage: None,
            }),
            healthy_panic_threshold: None,
        })
    }
}

impl OlderPolicy for CircuitBreaker {
    type Conf = BreakerConf;

    fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }

    fn conf(&self) -> BreakerConf {
        BreakerConf { limits: self.conf.limits(), outlier: self.conf.outlier() }
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let Some(detectors) = &self.conf.detectors else { return Vec::new() };
        let split = self.conf.split == Some(true);
        let all = [
            ("detectors.totalErrors", split && detectors.total.is_some()),
            ("detectors.gatewayErrors", split && detectors.gateway.is_some()),
            ("detectors.localErrors", !split && detectors.local.is_some()),
            ("detectors.standardDeviation", detectors.standard_deviation.is_some()),
            ("detectors.failure", detectors.failure.is_some()),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl Resource for CircuitBreaker {
    const NAME: &'static str = "CircuitBreaker";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
        let conf = part.field("conf");
        check_says_something(&conf, &["thresholds", "detectors"], at);
        if conf.has("thresholds") == Ok(true) {
            const LIMITS: [&str; 4] = ["maxConnections", "maxPendingRequests", "maxRetries", "maxRequests"];
            check_says_something(&conf.field("thresholds"), &LIMITS, at);
        }
        if conf.has("detectors") == Ok(true) {
            const DETECTORS: [&str; 5] =
                ["totalErrors", "gatewayErrors", "localErrors", "standardDeviation", "failure"];
            check_says_something(&conf.field("detectors"), &DETECTORS, at);
        }
    }
}
