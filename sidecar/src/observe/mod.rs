// SPDX-License-Identifier: Apache-2.0
//! State for operators: readiness, logs, close reasons, history, requests and recent failures.

pub mod access_log;
pub(crate) mod capture;
pub mod close_reason;
pub(crate) mod documents;
pub(crate) mod failures;
pub(crate) mod flush;
pub(crate) mod history;
pub(crate) mod log_file;
pub mod logging;
pub mod one_line;
pub(crate) mod readiness;
pub(crate) mod requests;
pub(crate) mod scrapes;
pub mod spoken;
pub mod traffic_log;
