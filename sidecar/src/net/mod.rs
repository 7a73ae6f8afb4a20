// SPDX-License-Identifier: Apache-2.0
//! Sockets without policy: addresses, bind, accept, dial, original destination, limits, clock.

pub(crate) mod accept;
pub mod addrs;
pub(crate) mod backoff;
pub(crate) mod bind;
pub(crate) mod clock;
pub(crate) mod dial;
pub(crate) mod limit;
mod local_route;
pub(crate) mod original_dst;
pub(crate) mod own_addresses;
pub(crate) mod own_sockets;
pub(crate) mod resolve;
pub(crate) mod routes;
pub(crate) mod throttle;
