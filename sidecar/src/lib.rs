// SPDX-License-Identifier: Apache-2.0
//! culvert's sidecar: a transparent proxy.
//!
//! ```text
//! accept ─▶ original destination ─▶ guards ─▶ limits ─▶ route ─▶ (TLS) ─▶ connect ─▶ relay ─▶ one closing record
//! ```
//!
//! [`connection`] is that line as code; mesh documents ([`culvert_mesh`], compiled to a [`plan`]) decide what it asks. [`process::run`] puts the parts
//! together and takes them apart again.
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 12 | `process` | run, workers, the list of services, drain, the prober of capture, reload; `validate`, `inspect`, `resolve` and `wait` |
//! | 11 | `scrape` | the ports that MeshMetrics open: own metrics by profile, applications' metrics joined |
//! | 10 | `admin` | the status port and the admin, the page, statistics under Envoy's names |
//! | 9 | `health` | active checks of endpoints and applications; a kubelet's probes of the application |
//! | 8 | `connection` | one accepted connection: guards, admission, route, look-up, TLS, relay; the table of open ones |
//! | 7 | `control` | the stream from the controller: documents about the pod and about destinations, and certificates |
//! | 7 | `cluster` | clusters by name, their endpoints, limits and counters |
//! | 6 | `tls` | sessions, identities, the first bytes of a stream |
//! | 6 | `dns` | the DNS server: names of the mesh, and a relay to the servers of the pod |
//! | 5 | `relay` | bytes from one stream to another; no policy |
//! | 4 | `plan` | the compiled configuration as plain data, from options and mesh documents |
//! | 3 | `observe` | close reasons, logs, history, readiness, recent failures |
//! | 2 | `options` | command line and environment → configuration |
//! | 1 | `net` | sockets without policy |
//! | 0 | `metrics` | declaring a metric in one line: OpenMetrics name, help, Envoy's names |

mod admin;
mod cluster;
mod connection;
mod control;
pub mod dns;
mod health;
mod metrics;
pub mod net;
pub mod observe;
pub mod options;
pub mod plan;
pub mod process;
mod relay;
mod scrape;
pub mod tls;

// For the fuzz targets alone.
#[doc(hidden)]
pub use cluster::registry::Registry;
#[doc(hidden)]
pub use connection::route::route;

/// Exit code for a start that fails until an operator changes something: an option, a port in use, a file that cannot be
/// written. (`EX_USAGE` of sysexits.)
pub const EXIT_USAGE: u8 = 64;

/// Exit code of `resolve` for a name that does not exist.
pub const EXIT_NOT_FOUND: u8 = 1;

/// Exit code of `wait` when the sidecar was not ready in time.
pub const EXIT_NOT_IN_TIME: u8 = 1;
