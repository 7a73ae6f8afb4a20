// SPDX-License-Identifier: Apache-2.0
//! The sidecar's metrics that a MeshMetric shows: a profile, what it leaves out and what it adds, and what counted at all.

use crate::plan::scrape::{NameSelector, Profile, Selection};
use crate::scrape::exposition::{MetricFamilies, MetricFamily};

/// Our series of the profile Basic: traffic, errors, refusals and limits, and what dashboards show. METRICS.md has the same.
pub(super) const BASIC: [&str; 31] = [
    "culvert_ready",
    "culvert_build_info",
    "culvert_config_reload_failed_total",
    "culvert_config_stale",
    "culvert_connections_opened_total",
    "culvert_connections_active",
    "culvert_connections_closed_total",
    "culvert_connection_duration_seconds",
    "culvert_bytes_total",
    "culvert_listener_overflow_total",
    "culvert_loop_rejected_total",
    "culvert_upstream_connections_total",
    "culvert_upstream_connections_active",
    "culvert_connect_duration_seconds",
    "culvert_connect_failures_total",
    "culvert_connect_timeouts_total",
    "culvert_connection_overflow_total",
    "culvert_pending_overflow_total",
    "culvert_retry_overflow_total",
    "culvert_ejections_total",
    "culvert_no_endpoint_total",
    "culvert_inbound_spoken_total",
    "culvert_tls_handshakes_total",
    "culvert_permission_denied_total",
    "culvert_permission_shadow_denied_total",
    "culvert_mode_shadow_denied_total",
    "culvert_certificate_expiry_timestamp_seconds",
    "culvert_identity_reload_failed_total",
    "culvert_application_scrape_failures_total",
    "culvert_scrapes_refused_total",
    "culvert_scrapes_busy_total",
];

/// Parts of the names under which Envoy's statistics belong to Kuma's profile Basic.
const BASIC_PARTS: [&str; 29] = [
    "rq_time",
    "cx_length_ms",
    "cx_count",
    "_rq",
    "bytes",
    "timeout",
    "health_check",
    "lb_healthy_panic",
    "cx_destroy",
    "error",
    "fail",
    "reset",
    "eject",
    "overflow",
    "cancelled",
    "max_duration_reached",
    "no_cluster",
    "no_route",
    "no_filter_chain",
    "reject",
    "denied",
    "days_until_first_cert_expiring",
    "rbac",
    "cx_active",
    "cx_connect",
    "circuit_breakers",
    "cx_total",
    "ssl_handshake",
    "ssl_context_update_by_sds",
];

/// Beginnings of such names.
const BASIC_STARTS: [&str; 5] = [
    "envoy_server",
    "envoy_control_plane",
    "envoy_cluster_membership",
    "envoy_dns_filter",
    "envoy_dns_cares",
];

/// Begins the value of a label of Kuma's own listeners and clusters, as those of a MeshMetric's port. Basic is without them.
const INTERNAL: &str = "=\"_kuma";

/// Keeps what a selection shows.
pub(super) fn choose(families: &mut MetricFamilies, selection: &Selection) {
    families.choose(|family| {
        if !shows(selection, &family.name) {
            return false;
        }
        if selection.profile == Profile::Basic {
            keep_lines(family, |line| !line.contains(INTERNAL));
        }
        if !selection.include_unused {
            drop_unused(family);
        }
        !family.samples.is_empty()
    });
}

/// Returns true for a family that is shown. What is included is shown, even if it is excluded too.
fn shows(selection: &Selection, name: &str) -> bool {
    let Selection { profile, exclude, include, include_unused: _ } = selection;
    let fits = |selectors: &[NameSelector]| selectors.iter().any(|one| one.fits(name));
    let in_profile = match profile {
        Profile::All => true,
        Profile::Basic => is_basic(name),
        Profile::None => false,
    };
    fits(include) || (in_profile && !fits(exclude))
}

fn is_basic(name: &str) -> bool {
    if name.starts_with("culvert_") {
        return BASIC.contains(&name);
    }
    BASIC_PARTS.iter().any(|part| name.contains(part))
        || BASIC_STARTS.iter().any(|start| name.starts_with(start))
}

fn keep_lines(family: &mut MetricFamily, keep: impl Fn(&str) -> bool) {
    let lines = family.samples.split_inclusive('\n').filter(|line| keep(line));
    family.samples = lines.collect();
}

/// Leaves out counters and histograms that never counted. A gauge stays: that it is 0 says something.
fn drop_unused(family: &mut MetricFamily) {
    match family.kind.as_deref() {
        Some("gauge") => {}
        Some("histogram" | "summary") => drop_empty_histograms(family),
        _ => keep_lines(family, |line| !is_zero(line)),
    }
}

/// Lines of one histogram stand together: sum, count, buckets.
fn drop_empty_histograms(family: &mut MetricFamily) {
    let (sum, count) = (format!("{}_sum{{", family.name), format!("{}_count{{", family.name));
    let (mut kept, mut group, mut used) = (String::new(), String::new(), true);
    for line in family.samples.split_inclusive('\n') {
        if line.starts_with(&sum) {
            if used {
                kept.push_str(&group);
            }
            group.clear();
            used = true;
        }
        if line.starts_with(&count) {
            used = !is_zero(line);
        }
        group.push_str(line);
    }
    if used {
        kept.push_str(&group);
    }
    family.samples = kept;
}

/// Returns true for a sample of 0. The sidecar's own have no time stamp, so the value stands at the end.
fn is_zero(line: &str) -> bool {
    line.trim_end()
        .rsplit_once(' ')
        .is_some_and(|(_, value)| value.parse().is_ok_and(|value: f64| value == 0.0))
}

#[cfg(test)]
mod tests;
