// SPDX-License-Identifier: Apache-2.0
//! Active checks of a cluster's endpoints, or of the application behind an inbound.

use std::sync::Arc;
use std::time::Duration;

/// Health of a cluster's endpoints, as far as documents say anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// The check of each endpoint; `None` = none is checked.
    pub check: Option<Arc<CheckPlan>>,
    /// Share of the endpoints in service below which health does not count, in thousandths of a percent; 0 = it always
    /// counts.
    pub panic_threshold: u32,
    /// True: below that share no endpoint gets connections, in place of all.
    pub fail_on_panic: bool,
}

/// A check by TCP: a connect, with TLS where the cluster has it, and perhaps bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPlan {
    /// Time between two checks of an endpoint.
    pub interval: Duration,
    /// The same after a check that failed.
    pub unhealthy_interval: Duration,
    /// The same as long as the cluster had no connection.
    pub no_traffic_interval: Duration,
    /// Time for a check.
    pub timeout: Duration,
    /// Checks in a row that fail before an endpoint gets no more connections.
    pub unhealthy_threshold: u32,
    /// Checks in a row that succeed before it gets connections again.
    pub healthy_threshold: u32,
    /// Longest wait before the first check.
    pub initial_jitter: Duration,
    /// Longest time that chance adds to an interval.
    pub interval_jitter: Duration,
    /// The same as a share of the interval, in percent.
    pub interval_jitter_percent: u32,
    /// Bytes that are sent where an answer is expected.
    pub send: Vec<u8>,
    /// Bytes that the answer has, in this order. Empty: a connect is enough.
    pub receive: Vec<Vec<u8>>,
    /// True: checks that expect an answer use one connection after the other.
    pub reuse_connection: bool,
    /// True: each check that fails is logged.
    pub log_failures: bool,
}

impl Default for CheckPlan {
    /// Kuma's numbers where a MeshHealthCheck says none.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            unhealthy_interval: Duration::from_secs(60),
            no_traffic_interval: Duration::from_secs(60),
            timeout: Duration::from_secs(15),
            unhealthy_threshold: 5,
            healthy_threshold: 1,
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            send: Vec::new(),
            receive: Vec::new(),
            reuse_connection: true,
            log_failures: false,
        }
    }
}
