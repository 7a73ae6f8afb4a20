// SPDX-License-Identifier: Apache-2.0
//! Active checks of clusters and applications, and rates of inbounds, as policies and Dataplanes say them.

use super::ENVOY;
use crate::plan::health::{CheckPlan, HealthPlan};
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::kinds::connections::mesh_circuit_breaker::{Percent, Thousandths};
use culvert_mesh::kinds::connections::{HealthConf, Payload, RateConf, TcpCheck};
use culvert_mesh::kinds::dataplane::ServiceProbe;
use culvert_mesh::kinds::destination::Positive;
use std::sync::Arc;
use std::time::Duration;

/// Returns the health of an outbound's endpoints. `threshold` is the one that a MeshCircuitBreaker says: Kuma applies that
/// policy after this one, to the same field of the cluster.
///
/// As Kuma has it for a cluster of TCP, checks by HTTP and gRPC do not count, and without one by TCP nothing is checked.
pub(super) fn of_outbound(conf: &HealthConf, threshold: Option<Thousandths>) -> Option<Arc<HealthPlan>> {
    let check = conf.tcp.as_ref().filter(|tcp| tcp.disabled != Some(true)).map(|tcp| check(conf, tcp));
    let fail_on_panic = conf.fail_traffic_on_panic == Some(true);
    if check.is_none() && !fail_on_panic {
        return None;
    }
    let said = threshold.or(conf.healthy_panic_threshold);
    let panic_threshold = said.map_or(ENVOY.panic_threshold, |Thousandths(threshold)| threshold);
    Some(Arc::new(HealthPlan { check: check.map(Arc::new), panic_threshold, fail_on_panic }))
}

fn check(conf: &HealthConf, tcp: &TcpCheck) -> CheckPlan {
    let default = CheckPlan::default();
    let number = |said: Option<Positive>, default| said.map_or(default, |Positive(number)| number);
    let interval = conf.interval.map_or(default.interval, |time| time.0);
    let bytes = |Payload(bytes): &Payload| bytes.clone();
    CheckPlan {
        interval,
        unhealthy_interval: conf.unhealthy_interval.map_or(interval, |time| time.0),
        no_traffic_interval: conf.no_traffic_interval.map_or(default.no_traffic_interval, |time| time.0),
        timeout: conf.timeout.map_or(default.timeout, |time| time.0),
        unhealthy_threshold: number(conf.unhealthy_threshold, default.unhealthy_threshold),
        healthy_threshold: number(conf.healthy_threshold, default.healthy_threshold),
        initial_jitter: conf.initial_jitter.map_or(default.initial_jitter, |time| time.0),
        interval_jitter: conf.interval_jitter.map_or(default.interval_jitter, |time| time.0),
        interval_jitter_percent: conf.interval_jitter_percent.map_or(0, |Percent(percent)| percent),
        send: tcp.send.as_ref().map(bytes).unwrap_or_default(),
        receive: tcp.receive.iter().flatten().map(bytes).collect(),
        reuse_connection: conf.reuse_connection.unwrap_or(default.reuse_connection),
        log_failures: conf.always_log.unwrap_or(default.log_failures),
    }
}

/// Returns the probe of the application behind an inbound. The numbers that nothing says are those that Kuma's control
/// plane has for its health discovery.
pub(super) fn of_application(probe: &ServiceProbe) -> Option<Arc<HealthPlan>> {
    probe.tcp?;
    let interval = probe.interval.map_or(Duration::from_secs(1), |time| time.0);
    let check = CheckPlan {
        interval,
        unhealthy_interval: interval,
        no_traffic_interval: interval,
        timeout: probe.timeout.map_or(Duration::from_secs(2), |time| time.0),
        unhealthy_threshold: probe.unhealthy_threshold.unwrap_or(1),
        healthy_threshold: probe.healthy_threshold.unwrap_or(1),
        ..CheckPlan::default()
    };
    Some(Arc::new(HealthPlan { check: Some(Arc::new(check)), panic_threshold: 0, fail_on_panic: false }))
}

/// Returns the rate of an inbound's connections.
pub(super) fn rate(conf: Option<RateConf>) -> Option<RatePlan> {
    let tcp = conf?.local.tcp?;
    let rate = tcp.in_force()?;
    Some(RatePlan { num: rate.num.0, interval: rate.interval.0 })
}

#[cfg(test)]
mod tests;
