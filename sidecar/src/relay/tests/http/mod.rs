// SPDX-License-Identifier: Apache-2.0
//! The gate of HTTP/1 within the relay: the scripts of culvert-http, and real sockets.

#[path = "../../../../http/tests/messages/scripts/mod.rs"]
mod scripts;

mod played;
mod sockets;

use super::*;
use crate::relay::http::{HttpGate, HttpMetrics};

fn gate() -> (HttpGate<()>, Arc<HttpMetrics>) {
    let metrics = Arc::<HttpMetrics>::default();
    (HttpGate::new(Arc::clone(&metrics), ()), metrics)
}
