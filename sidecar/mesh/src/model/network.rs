// SPDX-License-Identifier: Apache-2.0
//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that have the same first bits. One of mapped IPv6 addresses is the IPv4 range that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

const BITS_V4: u8 = 32;
const BITS_V6: u8 = 128;
/// First bits that all mapped addresses share.
const BITS_MAPPED: u8 = BITS_V6 - BITS_V4;

impl Network {
    /// Returns the range of a single address.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: if address.is_ipv4() { BITS_V4 } else { BITS_V6 } }
    }

    /// Reads `10.0.0.0/8`. Bits behind the length do not count, as in Kuma; `None` for other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (mut address, mut length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
        if length > if address.is_ipv4() { BITS_V4 } else { BITS_V6 } {
            return None;
        }
        if let (IpAddr::V6(_), IpAddr::V4(v4)) = (address, address.to_canonical())
            && length >= BITS_MAPPED
        {
            (address, length) = (v4.into(), length - BITS_MAPPED);
        }
        Some(Self { address: first_bits(address, length), length })
    }

    /// Returns the first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the number of bits that its addresses share.
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if *self == Self::host(self.address) { Ok(()) } else { write!(f, "/{}", self.length) }
    }
}

/// Returns the address with all bits behind the first `length` ones 0.
pub fn first_bits(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(BITS_V4.saturating_sub(length).into()).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(BITS_V6.saturating_sub(length).into()).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_its_first_address_and_the_bits_that_all_share() {
        for (text, range) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("1.2.3.4/24", "1.2.3.0/24"),
            ("1.2.3.4/32", "1.2.3.4"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/0", "0.0.0.0/0"),
            ("fd00::1/8", "fd00::/8"),
            ("::/0", "::/0"),
            ("0:0:0:0:0:0:0:1/128", "::1"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), range, "{text}");
        }
        assert_eq!(Network::host("::ffff:10.0.0.1".parse().unwrap()), Network::parse("10.0.0.1/32").unwrap());
        assert_eq!(Network::host("::1".parse().unwrap()), Network::parse("::1/128").unwrap());
    }

    #[test]
    fn other_text_is_no_range() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "::1/129",
            "::1/256",
            "fe80::1%eth0/64",
            "example.com/8",
            "10.0.0.0/ 8",
        ] {
            assert_eq!(Network::parse(text), None, "{text:?}");
        }
    }
}
