// SPDX-License-Identifier: Apache-2.0
//! Sockets without policy: addresses, bind, accept, dial, original destination, limits, clock.

pub mod accept;
pub mod addrs;
pub mod backoff;
pub mod bind;
pub mod clock;
pub mod dial;
pub mod limit;
pub mod original_dst;
pub mod own_addresses;
pub mod throttle;
