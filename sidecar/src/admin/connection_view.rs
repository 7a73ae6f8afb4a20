// SPDX-License-Identifier: Apache-2.0
//! A connection as JSON, for `/connections` and the page.

use crate::connection::table::{ConnectionState, Entry};
use serde::Serialize;
use std::time::Instant;

/// A connection as the admin interface shows it.
#[derive(Serialize)]
pub(super) struct ConnectionView {
    id: u64,
    direction: &'static str,
    src: String,
    orig_dst: String,
    dial: String,
    cluster: String,
    age: f64,
    bytes_sent: u64,
    bytes_recv: u64,
    state: ConnectionState,
    relay_to_server: &'static str,
    relay_to_client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

impl ConnectionView {
    pub(super) fn of(entry: &Entry, now: Instant) -> Self {
        let (bytes_sent, bytes_recv) = entry.bytes();
        let mode = entry.mode();
        Self {
            id: entry.info.id,
            direction: entry.info.direction.name(),
            src: entry.info.client.to_string(),
            orig_dst: entry.info.orig_dst.map(|addr| addr.to_string()).unwrap_or_default(),
            dial: entry.dial().to_string(),
            cluster: entry.cluster.name.to_string(),
            age: now.saturating_duration_since(entry.info.opened).as_secs_f64(),
            bytes_sent,
            bytes_recv,
            state: entry.state(),
            relay_to_server: relay_name(mode.splices_to_server),
            relay_to_client: relay_name(mode.splices_to_client),
            tls: entry.known().map(|known| known.spoken.name()),
            peer: entry.known().and_then(|known| known.peer.as_ref()).map(ToString::to_string),
        }
    }
}

fn relay_name(splices: bool) -> &'static str {
    if splices { "splice" } else { "copy" }
}
