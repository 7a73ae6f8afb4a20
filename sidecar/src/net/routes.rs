// SPDX-License-Identifier: Apache-2.0
//! The pod's routes, as far as the addresses of names need them: the networks that an address must not lie in, and the families
//! in which an address of the mesh can be dialled at all.
//!
//! The tables are read from `/proc/net`, which every user may. IPv4's shows the main table alone: a network of another table,
//! to which a rule leads, is not seen.

use crate::net::addrs::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

/// Prefixes up to this length are ways to everywhere: the default route, and the two halves by which VPNs replace it.
const LONGEST_DEFAULT: u8 = 1;

/// An address of each range of the mesh's addresses.
const EXAMPLE_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
const EXAMPLE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, 1);

/// The routes of a pod at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// Networks by the length of their prefix, with their bits at the upper end.
    v4: BTreeMap<u8, BTreeSet<u32>>,
    v6: BTreeMap<u8, BTreeSet<u128>>,
}

impl Routes {
    /// Reads the routes of this network namespace. A table that cannot be read has no network.
    pub(crate) fn read() -> Self {
        let text = |path: &str| match std::fs::read_to_string(Path::new("/proc/net").join(path)) {
            Ok(text) => text,
            // A kernel without the family has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::debug!(%error, path, "cannot read the pod's routes; addresses of the mesh may lie in one of its networks");
                String::new()
            }
        };
        Self::of_texts(&text("route"), &text("ipv6_route"))
    }

    /// Reads tables as the kernel writes them. Lines that are none are passed over.
    fn of_texts(v4: &str, v6: &str) -> Self {
        let mut routes = Self::default();
        for (network, length) in v4.lines().filter_map(line_v4) {
            routes.v4.entry(length).or_default().insert(network & mask_v4(length));
        }
        for (network, length) in v6.lines().filter_map(line_v6) {
            routes.v6.entry(length).or_default().insert(network & mask_v6(length));
        }
        routes
    }

    /// Returns true if a route other than the default leads to the address, or says that there is no way.
    pub(crate) fn covers(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                self.v4.iter().any(|(length, all)| all.contains(&(ip.to_bits() & mask_v4(*length))))
            }
            IpAddr::V6(ip) => {
                self.v6.iter().any(|(length, all)| all.contains(&(ip.to_bits() & mask_v6(*length))))
            }
        }
    }
}

/// Returns true if a connection to an address of the mesh in this family finds a way out now, and so comes to the redirect. It
/// takes some 5 µs, and no look at the tables.
pub(crate) fn reaches_now(family: Family) -> bool {
    reaches(match family {
        Family::V4 => EXAMPLE_V4.into(),
        Family::V6 => EXAMPLE_V6.into(),
    })
}

/// Returns true if the kernel has a way to the address, or does not say.
///
/// It is asked by the connect of a UDP socket, which sends nothing. That looks at all tables, rules and routes that say
/// "unreachable", and finds a source address, just as the application's connect will; resolvers sort addresses by the same
/// test. The tables of `/proc/net` show neither rules nor IPv4 routes of the kind "blackhole" as what they are.
fn reaches(ip: IpAddr) -> bool {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let connected = UdpSocket::bind(SocketAddr::new(any, 0))
        // The port is DNS', but nothing is sent.
        .and_then(|socket| socket.connect(SocketAddr::new(ip, 53)));
    connected.map_or_else(|error| !says_no(&error), |()| true)
}

/// Returns true for an error by which the kernel says that there is no way: no route (ENETUNREACH), one that forbids it
/// (EHOSTUNREACH, EACCES, and EINVAL of a blackhole), no address to send from, or no such family.
fn says_no(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::EACCES
                | Errno::EINVAL
                | Errno::EADDRNOTAVAIL
                | Errno::EAFNOSUPPORT
        )
    )
}

/// Reads `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, of which addresses are words of memory in hexadecimal
/// digits.
fn line_v4(line: &str) -> Option<(u32, u8)> {
    let mut fields = line.split_ascii_whitespace();
    let network = word(fields.nth(1)?)?;
    let mask = word(fields.nth(5)?)?;
    // A mask of the kernel has all its ones at the upper end.
    let length = u8::try_from(mask.leading_ones()).ok()?;
    (length > LONGEST_DEFAULT).then_some((network, length))
}

/// Reads `destination length source length gateway metric references uses flags interface`, in hexadecimal digits.
fn line_v6(line: &str) -> Option<(u128, u8)> {
    let mut fields = line.split_ascii_whitespace();
    let network = fields.next().filter(|digits| digits.len() == 32)?;
    let network = u128::from_str_radix(network, 16).ok()?;
    let length = u8::from_str_radix(fields.next()?, 16).ok().filter(|length| *length <= 128)?;
    (length > LONGEST_DEFAULT).then_some((network, length))
}

/// Reads a word of memory that holds bytes of the network.
fn word(digits: &str) -> Option<u32> {
    let word = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8)?;
    Some(u32::from_be_bytes(word.to_ne_bytes()))
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or_default()
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a pod on a little-endian machine, as the kernel writes it: the default, a /16 of the node, a host route, one half of
    /// everything, a network of class E and one that is unreachable.
    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000F40A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0101A8C0\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
tun0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
eth1\t000000F1\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
*\t000010AC\t00000000\t0201\t0\t0\t0\t0000F0FF\t0\t0\t0
";

    const V6: &str = "\
fd000001000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    /// Turns the tables' words around where the machine is of the other kind.
    fn of_this_machine(text: &str) -> String {
        if cfg!(target_endian = "little") {
            return text.to_owned();
        }
        let turned = |field: &str| match u32::from_str_radix(field, 16) {
            Ok(word) if field.len() == 8 => format!("{:08X}", word.swap_bytes()),
            _ => field.to_owned(),
        };
        text.lines().map(|line| line.split('\t').map(turned).collect::<Vec<_>>().join("\t") + "\n").collect()
    }

    #[test]
    fn all_networks_but_the_ways_to_everywhere_are_covered() {
        let routes = Routes::of_texts(&of_this_machine(V4), V6);
        for (ip, covered) in [
            ("10.244.0.1", true),
            ("10.244.255.255", true),
            ("10.245.0.1", false),
            ("192.168.1.1", true),
            ("192.168.1.2", false),
            ("172.16.0.1", true),
            ("172.32.0.1", false),
            ("241.255.0.1", true),
            ("240.0.0.2", false),
            ("242.0.0.2", false),
            ("::ffff:10.244.0.1", true),
            ("fd00:1::5", true),
            ("fd00:1:0:1::5", false),
            ("fe80::9", true),
            ("::1", true),
            ("::2", false),
            ("fd00:fd00::1", false),
        ] {
            assert_eq!(routes.covers(ip.parse().unwrap()), covered, "{ip}");
        }
    }

    #[test]
    fn a_network_may_be_all_of_a_range_or_one_address_of_it() {
        let line = |network: [u8; 4], mask: [u8; 4]| {
            let [network, mask] = [network, mask].map(u32::from_ne_bytes);
            format!("eth0\t{network:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0\n")
        };
        let routes = Routes::of_texts(&line([240, 0, 0, 0], [240, 0, 0, 0]), "");
        assert!(
            routes.covers("240.0.0.0".parse().unwrap()) && routes.covers("255.255.255.255".parse().unwrap())
        );
        assert!(!routes.covers("239.255.255.255".parse().unwrap()));
        let routes = Routes::of_texts(&line([240, 1, 2, 3], [255; 4]), "");
        assert!(routes.covers("240.1.2.3".parse().unwrap()) && !routes.covers("240.1.2.2".parse().unwrap()));
    }

    #[test]
    fn what_is_no_line_of_a_table_is_passed_over() {
        for (v4, v6) in [
            ("", ""),
            ("Iface\tDestination\n", "\n"),
            ("eth0\t0000F40A\t00000000\t0001\t0\t0\t0\t0000FF\n", "fd00 40\n"),
            ("eth0\tZZZZZZZZ\t00000000\t0001\t0\t0\t0\t0000FFFF\n", &format!("{} 81\n", "f".repeat(32))),
            ("eth0\t0000F40A\n", &format!("{} \n", "f".repeat(32))),
            ("\0\u{e4}\t\t\t", "\u{e4}"),
        ] {
            assert_eq!(Routes::of_texts(v4, v6), Routes::default(), "{v4:?} {v6:?}");
        }
    }

    #[test]
    fn of_unknown_routes_no_network_is_theirs() {
        let unknown = Routes::default();
        assert!(
            !unknown.covers("240.0.0.2".parse().unwrap()) && !unknown.covers("10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn this_machines_own_tables_are_read() {
        let routes = Routes::read();
        assert_eq!(routes, Routes::read());
        // Every kernel with IPv6 has a route for its loopback.
        let addresses = std::fs::read_to_string("/proc/net/if_inet6");
        if addresses.is_ok_and(|text| text.lines().any(|line| line.ends_with(" lo"))) {
            assert!(routes.covers("::1".parse().unwrap()));
        }
        assert!(reaches(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn only_a_no_of_the_kernel_is_one() {
        use nix::errno::Errno;
        for (errno, no) in [
            (Errno::ENETUNREACH, true),
            (Errno::EHOSTUNREACH, true),
            (Errno::EACCES, true),
            (Errno::EINVAL, true),
            (Errno::EADDRNOTAVAIL, true),
            (Errno::EAFNOSUPPORT, true),
            (Errno::EMFILE, false),
            (Errno::EPERM, false),
            (Errno::ENOBUFS, false),
        ] {
            assert_eq!(says_no(&errno.into()), no, "{errno}");
        }
    }
}
