// SPDX-License-Identifier: Apache-2.0
//! The two small web servers: status for kubelet and Prometheus, admin for people on loopback.

mod ask;
mod certs;
mod dump;
mod envoy;
mod overview;
mod pages;
mod prometheus;
mod query;
mod reply;
mod server;
pub mod stats;
mod transport;

pub use ask::Ask;
pub use pages::App;
pub use server::{Pages, serve};
