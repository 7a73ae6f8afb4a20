// SPDX-License-Identifier: Apache-2.0
//! Active checks and rates of connections in Envoy's shape.

use super::dump::duration;
use crate::cluster::health::EndpointHealth;
use crate::plan::Origin;
use crate::plan::health::{CheckPlan, HealthPlan};
use crate::plan::listener::rate::RatePlan;
use serde_json::{Value, json};

/// Adds the checks of a cluster's endpoints, and what happens where too few are well.
pub(super) fn of_cluster(cluster: &mut Value, health: &HealthPlan, origin: Origin) {
    if let Some(check) = &health.check {
        cluster["health_checks"] = json!([of_endpoint(check)]);
    }
    // No share of the one application behind an inbound can be in service.
    if origin != Origin::Inbound {
        let percent = f64::from(health.panic_threshold) / 1000.0;
        cluster["common_lb_config"]["healthy_panic_threshold"] = json!({ "value": percent });
    }
    if health.fail_on_panic {
        cluster["common_lb_config"]["zone_aware_lb_config"] = json!({"fail_traffic_on_panic": true});
    }
}

fn of_endpoint(check: &CheckPlan) -> Value {
    let CheckPlan {
        interval,
        unhealthy_interval,
        no_traffic_interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        send,
        receive,
        reuse_connection,
        log_failures,
    } = check;
    let mut tcp = json!({});
    if !send.is_empty() {
        tcp["send"] = payload(send);
    }
    if !receive.is_empty() {
        tcp["receive"] = receive.iter().map(|bytes| payload(bytes)).collect();
    }
    let mut shown = json!({
        "timeout": duration(*timeout),
        "interval": duration(*interval),
        "no_traffic_interval": duration(*no_traffic_interval),
        "unhealthy_threshold": unhealthy_threshold,
        "healthy_threshold": healthy_threshold,
        "tcp_health_check": tcp,
    });
    for (name, time, default) in [
        ("unhealthy_interval", unhealthy_interval, interval),
        ("initial_jitter", initial_jitter, &std::time::Duration::ZERO),
        ("interval_jitter", interval_jitter, &std::time::Duration::ZERO),
    ] {
        if time != default {
            shown[name] = duration(*time).into();
        }
    }
    if *interval_jitter_percent != 0 {
        shown["interval_jitter_percent"] = (*interval_jitter_percent).into();
    }
    if !reuse_connection {
        shown["reuse_connection"] = false.into();
    }
    if *log_failures {
        shown["always_log_health_check_failures"] = true.into();
    }
    shown
}

/// Envoy's text is in hexadecimal digits.
fn payload(bytes: &[u8]) -> Value {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "text": text })
}

/// Returns the filter of a listener whose rate is limited, under the name that Kuma gives it.
pub(super) fn rate_limit(RatePlan { num, interval }: RatePlan) -> Value {
    const EXTENSION: &str = "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";
    json!({
        "name": EXTENSION,
        "typed_config": {
            "@type": format!("type.googleapis.com/{EXTENSION}"),
            "stat_prefix": "tcp_rate_limit",
            "token_bucket": {"max_tokens": num, "tokens_per_fill": num, "fill_interval": duration(interval)},
        },
    })
}

/// Returns an endpoint's `health_status`.
pub(super) fn status(health: &EndpointHealth) -> Value {
    let mut status = json!({});
    if health.unhealthy {
        status["failed_active_health_check"] = true.into();
    }
    if health.ejected {
        status["failed_outlier_check"] = true.into();
    }
    if !health.unhealthy && !health.ejected {
        status["eds_health_status"] = "HEALTHY".into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_check_has_envoys_fields_and_its_bytes_in_hexadecimal_digits() {
        let check = CheckPlan {
            interval: Duration::from_secs(10),
            unhealthy_interval: Duration::from_secs(2),
            interval_jitter_percent: 10,
            send: b"foo".to_vec(),
            receive: vec![b"ba".to_vec(), b"z".to_vec()],
            reuse_connection: false,
            ..CheckPlan::default()
        };
        let health =
            HealthPlan { check: Some(Arc::new(check)), panic_threshold: 61_000, fail_on_panic: true };
        let mut cluster = json!({"name": "web"});
        of_cluster(&mut cluster, &health, Origin::Outbound);
        let expected = json!({
            "name": "web",
            "health_checks": [{
                "timeout": "15s", "interval": "10s", "no_traffic_interval": "60s", "unhealthy_interval": "2s",
                "unhealthy_threshold": 5, "healthy_threshold": 1, "interval_jitter_percent": 10, "reuse_connection": false,
                "tcp_health_check": {"send": {"text": "666f6f"}, "receive": [{"text": "6261"}, {"text": "7a"}]},
            }],
            "common_lb_config": {
                "healthy_panic_threshold": {"value": 61.0},
                "zone_aware_lb_config": {"fail_traffic_on_panic": true},
            },
        });
        assert_eq!(cluster, expected);
    }
}
