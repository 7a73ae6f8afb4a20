// SPDX-License-Identifier: Apache-2.0
//! Addresses that never leave a pod.

use std::net::{IpAddr, Ipv6Addr};

/// Source of the sidecar's inbound hop over IPv6. The plugin puts it on `lo`.
pub const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Returns true for an address that never leaves the pod: 127.0.0.0/8, `::1`, and `::6`, which is the sidecar's own.
pub fn is_loopback(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip == INBOUND_SOURCE_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_every_address_that_never_leaves_the_pod() {
        for (ip, expected) in [
            ("127.0.0.1", true),
            ("127.0.0.6", true),
            ("127.255.255.254", true),
            ("::1", true),
            ("::6", true),
            ("::ffff:127.0.0.1", true),
            ("::5", false),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_loopback(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
