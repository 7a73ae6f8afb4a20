// SPDX-License-Identifier: Apache-2.0
//! The two small web servers: status for kubelet and Prometheus, admin for people on loopback.

mod certs;
mod dump;
mod envoy;
mod overview;
mod pages;
mod prometheus;
mod query;
mod reply;
mod server;
mod transport;

pub(crate) use envoy::rfc3339;
pub use pages::App;
pub use server::{Pages, serve};
