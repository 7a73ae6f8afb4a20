// SPDX-License-Identifier: Apache-2.0
//! The network that limits count as one peer.

use std::net::{IpAddr, Ipv6Addr};

/// Returns the network of a peer: its IPv4 address, or the /64 of its IPv6 address, all of whose addresses one host may use.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    /// Bits behind the first 64, which a host chooses itself.
    const HOST: u128 = u64::MAX as u128;
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !HOST).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_a_network_and_an_ipv6_address_is_one_of_many() {
        for (address, network) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ] {
            assert_eq!(network_of(address.parse().unwrap()), network.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
