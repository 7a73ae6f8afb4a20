// SPDX-License-Identifier: Apache-2.0
//! Addresses, ports and uids that stand for "any other": no setting of a policy names them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_cni::redirect::policy::{DNS_SERVER_PORT, DnsCapture, Policy, Ports};
use ipnet::IpNet;

/// Addresses of the pod.
pub(crate) const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2))];
/// Loopback addresses other than the sidecar's.
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Samples for "any other" under one policy.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// An address of each family outside of the pod.
    pub outside: [IpAddr; 2],
    /// An address of each family of a peer.
    pub peer: [IpAddr; 2],
    /// A port, if any is left.
    pub port: Option<u16>,
    /// Uid of an application.
    pub uid: u32,
}

impl Sample {
    /// Chooses values that no setting of `policy` names.
    pub(crate) fn of(policy: &Policy) -> Self {
        let Policy { inbound, outbound, dns, virtual_interfaces, .. } = policy;
        let mut destinations = outbound.exclude_destinations.clone();
        destinations.extend(virtual_interfaces.iter().map(|interface| interface.net));
        if let DnsCapture::Servers(servers) = &dns.capture {
            destinations.extend(servers.iter().map(|server| IpNet::from(*server)));
        }
        Self {
            outside: outside(&destinations),
            peer: outside(&inbound.exclude_sources),
            port: port(policy),
            uid: uid(policy),
        }
    }
}

/// An address inside `net`.
pub(crate) fn inside(net: IpNet) -> IpAddr {
    net.hosts().next().unwrap_or_else(|| net.addr())
}

/// Addresses of both families in none of `nets`. If `nets` cover everything, any address: their rows then say the
/// same.
fn outside(nets: &[IpNet]) -> [IpAddr; 2] {
    let free = |address: &IpAddr| !nets.iter().any(|net| net.contains(address));
    // Networks for documentation come first, which people know from examples.
    let v4 = |first: u8| IpAddr::from([first, 0, 2, 1]);
    let v6 = |group: u16| IpAddr::from([0x2001, 0xdb8_u16.wrapping_add(group), 0, 0, 0, 0, 0, 1]);
    let mut v4s = [192].into_iter().chain(1..127).chain(128..224).map(v4);
    let mut v6s = (0..=u16::MAX).map(v6);
    [v4s.find(|address| free(address)).unwrap_or(v4(192)), v6s.find(|address| free(address)).unwrap_or(v6(0))]
}

fn port(policy: &Policy) -> Option<u16> {
    let Policy { inbound, outbound, dns, .. } = policy;
    let uids = outbound.exclude_uids.iter().map(|exclusion| &exclusion.ports);
    let lists: Vec<&Ports> = [
        &inbound.include_ports,
        &inbound.exclude_ports,
        &inbound.kuma_ports,
        &outbound.include_ports,
        &outbound.exclude_ports,
    ]
    .into_iter()
    .chain(uids)
    .collect();
    let taken =
        [inbound.status_port.get(), inbound.port.get(), outbound.port.get(), dns.port.get(), DNS_SERVER_PORT];
    let free = |port: &u16| !taken.contains(port) && !lists.iter().any(|list| list.contains(*port));
    [8080].into_iter().chain(1..=u16::MAX).find(free)
}

/// Not found by counting: a range of uids may contain all of them.
fn uid(policy: &Policy) -> u32 {
    let ranges = || policy.outbound.exclude_uids.iter().map(|exclusion| &exclusion.uids);
    let proxy = policy.proxy_uid.get();
    let free = |uid: &u32| *uid != proxy && *uid != u32::MAX && !ranges().any(|range| range.contains(uid));
    let behind = ranges().map(|range| *range.end()).chain([proxy, 1000]).map(|uid| uid.saturating_add(1));
    [1000, 0].into_iter().chain(behind).find(free).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use culvert_cni::redirect::policy::{Protocol, Ranges, UidExclusion};

    use super::*;

    #[test]
    fn samples_avoid_what_settings_name() {
        let mut policy = Policy::default();
        policy.outbound.exclude_destinations =
            vec!["192.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        policy.outbound.exclude_ports = Ranges::new(vec![8080..=8080, 1..=10]);
        policy.outbound.exclude_uids =
            vec![UidExclusion { protocols: vec![Protocol::Tcp], ports: Ports::default(), uids: 0..=4999 }];
        let sample = Sample::of(&policy);
        assert_eq!(sample.outside.map(|address| address.to_string()), ["1.0.2.1", "2001:db9::1"]);
        assert_eq!(sample.peer[0].to_string(), "192.0.2.1");
        assert_eq!((sample.port, sample.uid), (Some(11), 5000));
    }

    #[test]
    fn where_everything_is_named_the_search_ends() {
        let mut policy = Policy::default();
        policy.outbound.exclude_destinations = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        policy.outbound.exclude_ports = Ranges::new(vec![1..=65535]);
        policy.outbound.exclude_uids =
            vec![UidExclusion { protocols: vec![], ports: Ports::default(), uids: 0..=u32::MAX - 1 }];
        let sample = Sample::of(&policy);
        assert_eq!((sample.port, sample.uid), (None, 1000));
        assert_eq!(inside("10.0.0.0/8".parse().unwrap()).to_string(), "10.0.0.1");
        assert_eq!(inside("10.0.0.7/32".parse().unwrap()).to_string(), "10.0.0.7");
    }
}
