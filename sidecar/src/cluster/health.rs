// SPDX-License-Identifier: Apache-2.0
//! Health of a cluster's endpoints by active checks: what the checks count, and what the pages show.

use crate::metrics::{Counter, metrics};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

metrics! {
    /// Active checks of one cluster. Envoy's gauge `healthy` is counted when it is read.
    #[derive(Default)]
    pub(crate) struct CheckMetrics {
        attempts: Counter => "cluster.{cluster}.health_check.attempt";
        successes: Counter => "cluster.{cluster}.health_check.success";
        failures: Counter => "cluster.{cluster}.health_check.failure";
        /// All of them, as TCP has no other failures.
        network_failures: Counter => "cluster.{cluster}.health_check.network_failure";
    }
}

metrics! {
    /// Active checks of all clusters and applications.
    pub(crate) struct CheckTotals {
        passed: Counter = "health_checks", "Active checks of endpoints and applications, by result" { result: "passed" };
        failed: Counter = "health_checks" { result: "failed" };
        /// This host or sidecar lacked something, which says nothing of the endpoint.
        not_made: Counter = "health_checks" { result: "not_made" };
    }
}

/// Active checks of a cluster, for as long as its name lives.
#[derive(Debug, Default)]
pub(crate) struct ClusterHealth {
    /// Made by the first check: of a thousand clusters few are checked.
    metrics: OnceLock<CheckMetrics>,
    /// True while the application behind an inbound does not pass its probe.
    pub(super) application_down: AtomicBool,
}

/// Standing of an endpoint on the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndpointHealth {
    pub(crate) address: SocketAddr,
    /// It comes after all others, as it failed or its answer is overdue.
    pub(crate) ejected: bool,
    /// It fails its active checks.
    pub(crate) unhealthy: bool,
    /// It is checked, so that the pages show it though no connection dialled it.
    pub(crate) checked: bool,
}

impl EndpointHealth {
    /// Envoy's flags.
    pub(crate) fn flags(&self) -> &'static str {
        match (self.unhealthy, self.ejected) {
            (true, true) => "/failed_active_hc/failed_outlier_check",
            (true, false) => "/failed_active_hc",
            (false, true) => "/failed_outlier_check",
            (false, false) => "healthy",
        }
    }
}

impl ClusterHealth {
    pub(crate) fn metrics(&self) -> &CheckMetrics {
        self.metrics.get_or_init(CheckMetrics::default)
    }

    pub(super) fn application_is_down(&self) -> bool {
        self.application_down.load(Relaxed)
    }
}
