// SPDX-License-Identifier: Apache-2.0
//! The two small web servers: status for kubelet and Prometheus, admin for people on loopback.

mod app;
mod certs;
mod checks;
mod connection_view;
mod dump;
mod envoy;
mod outside;
mod overview;
mod pages;
mod prometheus;
mod query;
mod reply;
mod requests;
mod stats;
mod transport;

pub(crate) use app::{App, DrainRequest};
