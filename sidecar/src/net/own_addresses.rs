// SPDX-License-Identifier: Apache-2.0
//! The addresses of this pod, as the guards and the proof of capture need them.
//!
//! They are read from the kernel at start, and again when a connection arrives for an unknown address: a pod may get one
//! at run time. Whether that address is the pod's, the kernel's routes say: a route of type local makes a whole prefix the
//! pod's own, of which no interface has an address. An address that the pod lost may stay in the set; no connection is
//! redirected for it any more.

use crate::net::addrs::{Family, is_loopback};
use crate::net::local_route;
use arc_swap::ArcSwap;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Shortest time between two readings because of unknown addresses. A reading takes some 50 µs; meanwhile the routes are
/// asked for each connection, which takes some 5 µs.
const MIN_REREAD: Duration = Duration::from_millis(100);

/// A set of addresses, mapped ones as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSet(BTreeSet<IpAddr>);

impl AddressSet {
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Returns the addresses that a peer could reach in this family: neither loopback nor link-local.
    pub(crate) fn reachable(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.0.iter().copied().filter(move |&ip| Family::of(ip) == family && is_reachable(ip))
    }
}

impl FromIterator<IpAddr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().map(|ip| ip.to_canonical()).collect())
    }
}

/// Returns true for an address that a peer could dial without naming an interface.
pub(crate) fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == Ipv6Addr::UNSPECIFIED,
    };
    !is_loopback(ip) && !link_local
}

/// The current addresses, shared by all workers.
#[derive(Debug)]
pub(crate) struct OwnAddresses {
    current: ArcSwap<AddressSet>,
    /// Time of the last reading because of an unknown address.
    asked: Mutex<Option<Instant>>,
    read: fn() -> io::Result<AddressSet>,
    is_local: fn(IpAddr) -> io::Result<bool>,
}

impl OwnAddresses {
    /// Reads the addresses of this network namespace.
    pub(crate) fn from_kernel() -> io::Result<Self> {
        Self::with_kernel(read_kernel, local_route::is_local)
    }

    fn with_kernel(
        read: fn() -> io::Result<AddressSet>,
        is_local: fn(IpAddr) -> io::Result<bool>,
    ) -> io::Result<Self> {
        Ok(Self { current: ArcSwap::from_pointee(read()?), asked: Mutex::new(None), read, is_local })
    }

    /// Returns the addresses as last read.
    pub(crate) fn current(&self) -> Arc<AddressSet> {
        self.current.load_full()
    }

    /// Returns true if the address is the pod's. Asks the kernel before it says no.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        if self.current.load().contains(ip) {
            return true;
        }
        match (self.is_local)(ip) {
            Ok(true) => {
                // So that the next connections to an address that came late need not ask.
                if self.may_ask() {
                    self.refresh();
                }
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(%error, %ip, "cannot ask for the route to an address; the addresses are read instead");
                self.refresh();
                self.current.load().contains(ip)
            }
        }
    }

    /// Reads the addresses again. On failure the old ones stay: to refuse all connections would be worse than to be late.
    pub(crate) fn refresh(&self) {
        match (self.read)() {
            Ok(new) if new == **self.current.load() => {}
            Ok(new) => {
                tracing::debug!(addresses = ?new.0, "the pod's addresses changed");
                self.current.store(Arc::new(new));
            }
            Err(error) => tracing::debug!(%error, "cannot read the pod's addresses; the old ones stay"),
        }
    }

    fn may_ask(&self) -> bool {
        let now = Instant::now();
        // Another worker is reading at this moment, and its result is as good.
        let Ok(mut asked) = self.asked.try_lock() else { return false };
        if asked.is_some_and(|at| now.duration_since(at) < MIN_REREAD) {
            return false;
        }
        *asked = Some(now);
        true
    }
}

fn read_kernel() -> io::Result<AddressSet> {
    let addresses = nix::ifaddrs::getifaddrs()?
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            }
        });
    Ok(addresses.collect())
}

/// Returns the interface that has this link-local address; `None` where none or several have.
pub(super) fn scope_of(ip: Ipv6Addr) -> Option<u32> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?.filter_map(|interface| interface.address);
    let mut scopes = addresses
        .filter_map(|address| address.as_sockaddr_in6().copied())
        .filter(|address| address.ip() == ip)
        .map(|address| address.scope_id());
    scopes.next().filter(|_| scopes.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn set(addresses: &[&str]) -> AddressSet {
        addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()
    }

    #[test]
    fn reachable_leaves_out_what_no_peer_can_dial() {
        let set = set(&["127.0.0.1", "::1", "::6", "10.0.0.2", "169.254.1.1", "fe80::1", "fd00::2"]);
        let v4: Vec<_> = set.reachable(Family::V4).collect();
        let v6: Vec<_> = set.reachable(Family::V6).collect();
        assert_eq!(v4, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(v6, ["fd00::2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn this_machine_has_its_loopback_address() {
        let own = OwnAddresses::from_kernel().unwrap();
        assert!(own.contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn each_unknown_address_is_asked_for_and_all_are_read_not_at_the_peers_pace() {
        static READS: AtomicU32 = AtomicU32::new(0);
        let read = || {
            let nth = READS.fetch_add(1, Ordering::Relaxed);
            Ok(if nth == 0 { set(&["10.0.0.2"]) } else { set(&["10.0.0.2", "10.0.0.3"]) })
        };
        let is_local = |ip: IpAddr| Ok(ip.to_string() != "10.0.0.4");
        let own = OwnAddresses::with_kernel(read, is_local).unwrap();
        for ip in ["10.0.0.3", "10.0.0.5", "198.51.100.77"] {
            assert!(own.contains(ip.parse().unwrap()), "{ip}, after the start");
        }
        for _ in 0..100 {
            assert!(!own.contains("10.0.0.4".parse().unwrap()));
        }
        assert_eq!(READS.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn where_the_kernel_does_not_say_the_addresses_are_read() {
        static READS: AtomicU32 = AtomicU32::new(0);
        let read = || {
            let nth = READS.fetch_add(1, Ordering::Relaxed);
            Ok(if nth == 0 { set(&["10.0.0.2"]) } else { set(&["10.0.0.2", "10.0.0.3"]) })
        };
        let own = OwnAddresses::with_kernel(read, |_| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        assert!(own.contains("10.0.0.3".parse().unwrap()));
        assert!(!own.contains("10.0.0.4".parse().unwrap()));
    }
}
