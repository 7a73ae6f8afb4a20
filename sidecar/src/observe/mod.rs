// SPDX-License-Identifier: Apache-2.0
//! Logs, close reasons, history and states for people to read.

pub mod access_log;
pub mod capture;
pub mod close_reason;
pub mod documents;
pub mod failures;
pub mod flush;
pub mod history;
pub mod logging;
pub mod readiness;
pub mod spoken;
pub mod traffic_log;
