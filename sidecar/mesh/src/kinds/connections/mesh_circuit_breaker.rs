// SPDX-License-Identifier: Apache-2.0
//! `MeshCircuitBreaker`: limits of the connections of some pods, and the ejection of endpoints that fail.

use super::{EntryDefault, FromEntry, RuleEntry, ToEntry, entries};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::destination::{self, ConnectionPolicy, Positive, ToRef};
use crate::merge::{Merge, merge_fields};
use crate::read::part::Part;
use crate::read::{At, Read, Span, fields};
use crate::target::{PodsOrGateway, Target};
use serde_json::{Value, json};

fields! {
    /// Limits of the connections of some pods, and the ejection of endpoints that fail.
    pub struct MeshCircuitBreaker {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Connections from these pods.
        to: default Vec<ToEntry<BreakerConf>> = "to",
        /// Connections to these pods.
        from: default Vec<FromEntry<BreakerConf>> = "from",
        /// Connections to these pods, in the newer spelling.
        rules: default Vec<RuleEntry<BreakerConf>> = "rules",
    }
}

fields! {
    /// Limits, and the ejection of endpoints.
    pub struct BreakerConf {
        /// Limits of a cluster.
        limits: optional ConnectionLimits = "connectionLimits",
        /// Ejection of endpoints that fail.
        outlier: optional OutlierDetection = "outlierDetection",
    }
}

fields! {
    /// Limits of a cluster; an absent one is left to wider policies.
    pub struct ConnectionLimits {
        /// Most connections that are open at once.
        max_connections: optional Positive = "maxConnections",
        /// Most pools of connections, without effect: culvert has none.
        max_connection_pools: optional Positive = "maxConnectionPools",
        /// Most connects in flight.
        max_pending_requests: optional Positive = "maxPendingRequests",
        /// Most connects in flight to endpoints that are ejected.
        max_retries: optional Positive = "maxRetries",
        /// Most requests in flight, which only HTTP has.
        max_requests: optional Positive = "maxRequests",
    }
}

merge_fields!(ConnectionLimits {
    max_connections,
    max_connection_pools,
    max_pending_requests,
    max_retries,
    max_requests,
});

fields! {
    /// Ejection of endpoints that fail.
    pub struct OutlierDetection {
        /// True: no endpoint is ejected.
        disabled: optional bool = "disabled",
        /// Time between two looks of Envoy. In culvert an endpoint is ejected at once.
        interval: optional Span = "interval",
        /// Time until the first trial of an ejected endpoint.
        base_ejection_time: optional Span = "baseEjectionTime",
        /// Share of the endpoints that may be ejected at once; one always may.
        max_ejection_percent: optional Percent = "maxEjectionPercent",
        /// True: failed connects are counted by localOriginFailures alone.
        split: optional bool = "splitExternalAndLocalErrors",
        /// Failures that are counted.
        detectors: optional Detectors = "detectors",
        /// Share of the endpoints in service below which ejections do not count.
        healthy_panic_threshold: optional Thousandths = "healthyPanicThreshold",
    }
}

fields! {
    /// Failures that are counted.
    pub struct Detectors {
        /// Failures of any kind in a row: failed connects, and answers of 500 and above.
        total: optional ConsecutiveFailures = "totalFailures",
        /// Failures of a gateway in a row: failed connects, and answers of 502, 503 and 504.
        gateway: optional ConsecutiveFailures = "gatewayFailures",
        /// Failed connects in a row, where splitExternalAndLocalErrors is true.
        local: optional ConsecutiveFailures = "localOriginFailures",
        /// Rates by statistics, without effect.
        success_rate: optional SuccessRate = "successRate",
        /// Shares of failures, without effect.
        failure_percentage: optional FailurePercentage = "failurePercentage",
    }
}

fields! {
    /// Failures in a row.
    pub struct ConsecutiveFailures {
        /// Number of failures that ejects an endpoint.
        consecutive: optional Positive = "consecutive",
    }
}

merge_fields!(ConsecutiveFailures { consecutive });

fields! {
    /// Rates by statistics.
    pub struct SuccessRate {
        /// Endpoints with enough requests.
        minimum_hosts: optional Positive = "minimumHosts",
        /// Requests that are enough.
        request_volume: optional Positive = "requestVolume",
        /// Distance from the mean in standard deviations.
        standard_deviation_factor: optional Thousandths = "standardDeviationFactor",
    }
}

fields! {
    /// Shares of failures.
    pub struct FailurePercentage {
        /// Endpoints with enough requests.
        minimum_hosts: optional Positive = "minimumHosts",
        /// Requests that are enough.
        request_volume: optional Positive = "requestVolume",
        /// Share of failures that ejects an endpoint.
        threshold: optional Percent = "threshold",
    }
}

/// A share in percent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u32);

impl Read for Percent {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.filter(|number| *number <= 100).map(Self).or_else(|| at.wrong(value, "a number from 0 to 100"))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0, "maximum": 100})
    }
}

/// A decimal number, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thousandths(pub u32);

impl Read for Thousandths {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let number = thousandths(&text).map(Self);
        number.or_else(|| at.wrong(value, "a number with at most three decimals, as 50 or \"1.9\""))
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,3})?$"}]})
    }
}

fn thousandths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let decimals: u32 = format!("{decimals:0<3}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(decimals)
}

/// Merges inside of an optional value: Kuma merges policies down to single numbers.
pub(in crate::kinds) fn within<T: Merge>(specific: Option<T>, less_specific: Option<T>) -> Option<T> {
    match (specific, less_specific) {
        (Some(specific), Some(less_specific)) => Some(specific.over(less_specific)),
        (specific, less_specific) => specific.or(less_specific),
    }
}

impl EntryDefault for BreakerConf {
    const DEFAULT: &'static str = "Their limits.";
}

impl Merge for BreakerConf {
    fn over(self, less_specific: Self) -> Self {
        let Self { limits, outlier } = less_specific;
        Self { limits: within(self.limits, limits), outlier: within(self.outlier, outlier) }
    }
}

impl Merge for OutlierDetection {
    fn over(self, less_specific: Self) -> Self {
        let Self {
            disabled,
            interval,
            base_ejection_time,
            max_ejection_percent,
            split,
            detectors,
            healthy_panic_threshold,
        } = less_specific;
        Self {
            disabled: self.disabled.or(disabled),
            interval: self.interval.or(interval),
            base_ejection_time: self.base_ejection_time.or(base_ejection_time),
            max_ejection_percent: self.max_ejection_percent.or(max_ejection_percent),
            split: self.split.or(split),
            detectors: within(self.detectors, detectors),
            healthy_panic_threshold: self.healthy_panic_threshold.or(healthy_panic_threshold),
        }
    }
}

impl Merge for Detectors {
    fn over(self, less_specific: Self) -> Self {
        let Self { total, gateway, local, success_rate, failure_percentage } = less_specific;
        Self {
            total: within(self.total, total),
            gateway: within(self.gateway, gateway),
            local: within(self.local, local),
            success_rate: self.success_rate.or(success_rate),
            failure_percentage: self.failure_percentage.or(failure_percentage),
        }
    }
}

fn number(of: &Option<ConsecutiveFailures>) -> Option<u32> {
    Some(of.as_ref()?.consecutive?.0)
}

impl OutlierDetection {
    /// Returns the number of failed connects in a row that ejects an endpoint, if a detector that sees connects says one.
    ///
    /// Envoy's TCP proxy reports a failed connect as a failure of local origin. Unless these are split off, it counts as an
    /// error of the server and of a gateway.
    pub fn failed_connects(&self) -> Option<u32> {
        let detectors = self.detectors.as_ref()?;
        match self.split {
            Some(true) => number(&detectors.local),
            _ => self.failed_answers().into_iter().flatten().min(),
        }
    }

    /// Returns the numbers of failed answers in a row that eject an endpoint: of all, and of a gateway's.
    pub fn failed_answers(&self) -> [Option<u32>; 2] {
        let detectors = self.detectors.as_ref();
        detectors.map_or([None; 2], |all| [number(&all.total), number(&all.gateway)])
    }

    /// Returns the detectors that see nothing.
    fn passed_over(&self) -> Vec<&'static str> {
        let Some(detectors) = &self.detectors else { return Vec::new() };
        let split = self.split == Some(true);
        let all = [
            ("detectors.localOriginFailures", !split && detectors.local.is_some()),
            ("detectors.successRate", detectors.success_rate.is_some()),
            ("detectors.failurePercentage", detectors.failure_percentage.is_some()),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl ConnectionPolicy for MeshCircuitBreaker {
    type Conf = BreakerConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &BreakerConf)> {
        entries::to(&self.to)
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &BreakerConf> {
        entries::inbound(&self.from, &self.rules)
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        // The one application behind an inbound is never ejected.
        if self.inbound().any(|conf| conf.outlier.is_some()) {
            all.push("outlierDetection of an inbound");
        }
        for conf in self.to().map(|(_, conf)| conf) {
            all.extend(conf.outlier.iter().flat_map(OutlierDetection::passed_over));
        }
        let mut limits =
            self.inbound().chain(self.to().map(|(_, conf)| conf)).filter_map(|conf| conf.limits.as_ref());
        if limits.any(|limits| limits.max_connection_pools.is_some()) {
            all.push("maxConnectionPools");
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Resource for MeshCircuitBreaker {
    const NAME: &'static str = "MeshCircuitBreaker";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        PodsOrGateway::check(&part.field("targetRef"), at);
        destination::check_entries(part, at);
        for list in ["to", "from", "rules"] {
            for item in part.items(list).unwrap_or_default() {
                if list == "to" {
                    ToRef::check(&item.field("targetRef"), false, at);
                }
                let conf = item.field("default");
                destination::check_says_something(&conf, &["connectionLimits", "outlierDetection"], at);
                if conf.has("outlierDetection") == Ok(true) {
                    check_outlier(&conf.field("outlierDetection"), at);
                }
            }
        }
    }
}

fn check_outlier(outlier: &Part<'_>, at: &mut At<'_>) {
    for field in ["interval", "baseEjectionTime"] {
        if let Ok(Some(time)) = outlier.get::<Span>(field)
            && time.get().is_none()
        {
            outlier.problem(at, field, "0", "a duration above 0");
        }
    }
    if let Ok(Some(Thousandths(100_001..))) = outlier.get::<Thousandths>("healthyPanicThreshold") {
        outlier.problem(at, "healthyPanicThreshold", "more than 100", "a percentage from 0 to 100");
    }
    // Kuma 3.0 takes the panic threshold alone.
    if outlier.has("detectors") == Ok(false) && outlier.has("healthyPanicThreshold") == Ok(false) {
        outlier.problem(at, "detectors", "nothing", "at least one detector");
    }
    if outlier.has("detectors") != Ok(true) {
        return;
    }
    let detectors = outlier.field("detectors");
    const ALL: [&str; 5] =
        ["totalFailures", "gatewayFailures", "localOriginFailures", "successRate", "failurePercentage"];
    destination::check_says_something(&detectors, &ALL, at);
    let rate = detectors.field("successRate");
    if rate.get::<Thousandths>("standardDeviationFactor") == Ok(Some(Thousandths(0))) {
        rate.problem(at, "standardDeviationFactor", "0", "a number above 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::merged;
    use crate::read::Problems;

    fn conf(value: Value) -> BreakerConf {
        let mut problems = Problems::default();
        BreakerConf::read(&value, &mut At::root(&mut problems))
            .unwrap_or_else(|| panic!("{value}: {problems:?}"))
    }

    #[test]
    fn numbers_are_merged_one_by_one() {
        let narrow = conf(json!({
            "connectionLimits": {"maxConnections": 1},
            "outlierDetection": {"splitExternalAndLocalErrors": true, "detectors": {"localOriginFailures": {"consecutive": 2}}},
        }));
        let wide = conf(json!({
            "connectionLimits": {"maxConnections": 9, "maxRetries": 8},
            "outlierDetection": {"baseEjectionTime": "7s", "detectors": {"totalFailures": {"consecutive": 6}, "localOriginFailures": {"consecutive": 5}}},
        }));
        let both = merged([narrow, wide.clone()]).unwrap();
        let limits = both.limits.unwrap();
        assert_eq!((limits.max_connections, limits.max_retries), (Some(Positive(1)), Some(Positive(8))));
        let outlier = both.outlier.unwrap();
        assert_eq!(outlier.failed_connects(), Some(2));
        assert_eq!(outlier.base_ejection_time.unwrap().0.as_secs(), 7);
        assert_eq!(
            wide.outlier.unwrap().failed_connects(),
            Some(6),
            "failed connects are errors of the server too"
        );
    }

    #[test]
    fn decimals_are_thousandths() {
        for (text, number) in [
            ("0", Some(0)),
            ("50", Some(50_000)),
            ("1.9", Some(1_900)),
            ("33.333", Some(33_333)),
            ("0.05", Some(50)),
        ] {
            assert_eq!(thousandths(text), number, "{text}");
        }
        for text in ["", ".5", "1.", "1.2345", "-1", "1e3", "4294968", "99999999999"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
