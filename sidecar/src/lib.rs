// SPDX-License-Identifier: Apache-2.0
//! culvert's sidecar: a transparent proxy.
//!
//! ```text
//! accept ─▶ original destination ─▶ guards ─▶ route ─▶ permits ─▶ connect ─▶ relay ─▶ one closing record
//! ```
//!
//! [`connection`] is that line as code; what it asks, mesh documents ([`resources`]) decide. [`run::run`] puts the parts
//! together and takes them apart again.

pub mod access_log;
pub mod addrs;
pub mod admin;
pub mod capture;
pub mod cgroup;
pub mod close_reason;
pub mod config;
pub mod connection;
pub mod destinations;
pub mod dial;
pub mod documents;
mod doors;
pub mod drain;
pub mod guard;
pub mod history;
mod last_words;
mod life;
pub mod limits;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod mishaps;
pub mod options;
pub mod original_dst;
pub mod own_addresses;
pub mod plan;
pub mod probes;
pub mod proxy;
pub mod readiness;
pub mod relay;
pub mod reload;
pub mod resources;
pub mod route;
pub mod run;
pub mod running;
mod secure;
pub mod stats;
pub mod stream;
pub mod table;
mod throttle;
pub mod tls;
pub mod traffic_log;
mod upstream;
pub mod validate;
pub mod wait;
pub mod workers;

/// Exit code for what whoever starts the sidecar has to change: an option, a port in use, a file that cannot be written.
/// (`EX_USAGE` of sysexits.)
pub const EXIT_USAGE: u8 = 64;

/// Exit code of `wait` when what it waits for did not come about in time.
pub const EXIT_NOT_IN_TIME: u8 = 1;
