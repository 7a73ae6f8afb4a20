// SPDX-License-Identifier: Apache-2.0
//! Kinds of connections that a policy distinguishes (the rows of the plugin's page), each with a first packet to try.
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use culvert_cni::redirect::explain::{Connection, Origin};
use culvert_cni::redirect::policy::{
    ClosedPorts, DNS_SERVER_PORT, DnsCapture, HOP_SOURCE_V4, HOP_SOURCE_V6, Policy, Ports, Protocol, Toggle,
    UidExclusion, VirtualInterface,
};

use super::sample::{LOOPBACK, OWN, Sample, inside};

/// One kind of connection.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Opener of the connection.
    pub from: String,
    /// Its destination.
    pub to: String,
    /// One connection of each family that has this kind.
    pub connections: Vec<Connection>,
    /// Settings that matter if the deciding rule names none.
    pub settings: &'static [&'static str],
    /// Explanation if no rule fits.
    pub unsaid: Unsaid,
}

/// Reason why no rule fits.
#[derive(Debug, Clone)]
pub(crate) struct Unsaid {
    /// The reason in words.
    pub because: String,
    /// Settings that matter.
    pub settings: &'static [&'static str],
}

const HOPS: [IpAddr; 2] = [IpAddr::V4(HOP_SOURCE_V4), IpAddr::V6(HOP_SOURCE_V6)];
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// A loopback address other than 127.0.0.1, as resolvers on loopback use.
const OTHER_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// Interface of the pod; any name that is no virtual interface works.
const INTERFACE: &str = "eth0";

/// Kinds of connections under `policy`, the application's first.
pub(crate) fn cases(policy: &Policy) -> Vec<Case> {
    let world = World { policy, sample: Sample::of(policy) };
    let mut all = world.of_application();
    all.extend(world.of_excluded_uids());
    all.extend(world.of_dns());
    all.extend(world.of_sidecar());
    all.extend(world.of_peers());
    all.extend(world.of_virtual_interfaces());
    all
}

struct World<'a> {
    policy: &'a Policy,
    sample: Sample,
}

use Protocol::{Tcp, Udp};

impl World<'_> {
    fn of_application(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let outbound = &policy.outbound;
        let app = |to: &str, protocol, destinations: &[IpAddr], port| {
            from_process("the application", sample.uid, to, protocol, destinations, port)
        };
        let port = sample.port.unwrap_or(80);
        let mut all = vec![
            app("loopback", Tcp, &[OTHER_LOOPBACK, LOOPBACK[1]], port),
            app("the pod's own address", Tcp, &OWN, port),
            app("link-local (fe80::/10)", Tcp, &[LINK_LOCAL], port),
        ];
        for net in &outbound.exclude_destinations {
            all.push(app(&format!("{net}, TCP"), Tcp, &[inside(*net)], port).outbound(policy));
        }
        for range in outbound.include_ports.iter().chain(outbound.exclude_ports.iter()) {
            let to = format!("TCP {}", words(range));
            all.push(app(&to, Tcp, &sample.outside, *range.start()).outbound(policy));
        }
        if let Some(port) = sample.port {
            let to = other("TCP outside of the pod", !all_ports(policy).is_empty());
            all.push(app(&to, Tcp, &sample.outside, port).outbound(policy));
        }
        let udp = app("UDP outside of the pod, but DNS", Udp, &sample.outside, port);
        all.push(Case { settings: &["outbound-udp"], ..udp });
        all
    }

    fn of_excluded_uids(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let mut all = Vec::new();
        for UidExclusion { protocols, ports, uids } in &policy.outbound.exclude_uids {
            let from = match uids.start() == uids.end() {
                true => format!("uid {}", uids.start()),
                false => format!("uids {}-{}", uids.start(), uids.end()),
            };
            // A range may contain the sidecar's uid, which has rules of its own.
            let uid = uids.clone().find(|uid| *uid != policy.proxy_uid.get()).unwrap_or(*uids.start());
            for protocol in protocols {
                let row = |to: &str, port| {
                    let case = from_process(&from, uid, to, *protocol, &sample.outside, port);
                    match protocol {
                        Tcp => case.outbound(policy),
                        Udp => Case { settings: &["outbound-udp"], ..case },
                    }
                };
                all.extend(
                    ports.iter().map(|range| row(&format!("{protocol} {}", words(range)), *range.start())),
                );
                if ports.is_empty() {
                    all.push(row(&format!("{protocol}, any port"), sample.port.unwrap_or(80)));
                    if policy.dns.capture != DnsCapture::Off {
                        all.push(row(&format!("DNS over {protocol}"), DNS_SERVER_PORT));
                    }
                }
            }
        }
        all
    }

    fn of_dns(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let ask = |to: &str, protocol, servers: &[IpAddr]| {
            let case = from_process("the application", sample.uid, to, protocol, servers, DNS_SERVER_PORT);
            match (protocol, policy.dns.capture == DnsCapture::Off) {
                (Udp, _) => Case { settings: &["redirect-dns"], ..case },
                (Tcp, true) => case.outbound(policy),
                (Tcp, false) => {
                    Case { settings: &["redirect-dns", "redirect-outbound"], ..case.outbound(policy) }
                }
            }
        };
        let mut all = Vec::new();
        for protocol in [Udp, Tcp] {
            let any = match &policy.dns.capture {
                DnsCapture::Servers(servers) => {
                    let of = |server: &IpAddr| {
                        ask(&format!("DNS server {server}, {protocol}"), protocol, &[*server])
                    };
                    all.extend(servers.iter().map(of));
                    "another DNS server"
                }
                DnsCapture::Off | DnsCapture::All => "a DNS server",
            };
            all.push(ask(&format!("{any}, {protocol}"), protocol, &sample.outside));
            if policy.dns.capture != DnsCapture::Off {
                let on_loopback = [OTHER_LOOPBACK, LOOPBACK[1]];
                all.push(ask(&format!("a DNS server on loopback, {protocol}"), protocol, &on_loopback));
                for net in &policy.outbound.exclude_destinations {
                    all.push(ask(&format!("a DNS server in {net}, {protocol}"), protocol, &[inside(*net)]));
                }
            }
        }
        let uid = policy.proxy_uid.get();
        let to = "a DNS server, UDP";
        all.push(from_process(&self.sidecar(), uid, to, Udp, &sample.outside, DNS_SERVER_PORT));
        all
    }

    fn of_sidecar(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let (from, uid) = (self.sidecar(), policy.proxy_uid.get());
        let sidecar = |to: &str, protocol, destinations: &[IpAddr]| {
            let port = sample.port.unwrap_or(80);
            let case = from_process(&from, uid, to, protocol, destinations, port);
            Case { settings: &["redirect-inbound"], ..case }
        };
        let mut hop = sidecar("the pod's own address", Tcp, &OWN);
        hop.from = format!("{from}, from 127.0.0.6 or ::6");
        for (connection, source) in hop.connections.iter_mut().zip(HOPS) {
            connection.source = source;
        }
        vec![
            hop,
            sidecar("127.0.0.1, ::1", Tcp, &LOOPBACK),
            sidecar("127.0.0.6, ::6 and other loopback", Tcp, &HOPS),
            sidecar("the pod's own address", Tcp, &OWN),
            Case { settings: &[], ..sidecar("TCP outside of the pod", Tcp, &sample.outside) },
            Case { settings: &[], ..sidecar("UDP outside of the pod", Udp, &sample.outside) },
        ]
    }

    fn of_peers(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let inbound = &policy.inbound;
        let port = sample.port.unwrap_or(80);
        let peer = |to: &str, destinations: &[IpAddr], port| {
            from_peer("a peer", INTERFACE, &sample.peer, to, destinations, port)
        };
        let mut all = vec![
            peer("127.0.0.0/8, ::1 (forged)", &LOOPBACK, port),
            peer("::6 (forged)", &[HOPS[1]], port),
            peer("status-port", &OWN, inbound.status_port.get()).inbound(policy),
        ];
        let lists = [&inbound.kuma_ports, &inbound.include_ports, &inbound.exclude_ports];
        for range in lists.into_iter().flat_map(|ports| ports.iter()) {
            all.push(peer(&format!("TCP {}", words(range)), &OWN, *range.start()).inbound(policy));
        }
        for net in &inbound.exclude_sources {
            let from = format!("a peer in {net}");
            let (source, own) = (inside(*net), OWN.map(|own| own).into_iter());
            let own: Vec<_> = own.filter(|own| own.is_ipv4() == source.is_ipv4()).collect();
            let case = from_peer(&from, INTERFACE, &[source], "TCP", &own, port);
            all.push(case.inbound(policy));
        }
        if let Some(port) = sample.port {
            let has_lists = lists.iter().any(|list| !list.is_empty());
            all.push(peer(&other("TCP of the pod", has_lists), &OWN, port).inbound(policy));
            let mut closed = peer("TCP where nobody listens", &OWN, port).inbound(policy);
            closed.connections.iter_mut().for_each(|connection| connection.is_listened = false);
            if inbound.closed_ports == ClosedPorts::Refuse && inbound.redirect.is_enabled() {
                closed.unsaid = unsaid("closed-ports: the kernel refuses it", &["closed-ports"]);
            }
            all.push(closed);
        }
        let mut udp = peer("UDP", &OWN, port);
        udp.connections.iter_mut().for_each(|connection| connection.protocol = Udp);
        all.push(udp);
        all.push(peer("another address (forwarded)", &sample.outside, port));
        all
    }

    fn of_virtual_interfaces(&self) -> Vec<Case> {
        let Self { policy, sample } = self;
        let mut all = Vec::new();
        for VirtualInterface { name, is_prefix, net } in &policy.virtual_interfaces {
            let from = format!("arriving on {name}{}", if *is_prefix { "+" } else { "" });
            let interface = if *is_prefix { format!("{name}0") } else { name.clone() };
            let port = sample.port.unwrap_or(80);
            let case = |to: &str, destinations: &[IpAddr]| {
                let case = from_peer(&from, &interface, &sample.peer, to, destinations, port);
                Case { unsaid: Self::outbound_unsaid(policy), ..case }
            };
            all.push(case(&format!("TCP outside of {net}"), &sample.outside));
            all.push(case(&format!("TCP inside of {net}"), &[inside(*net)]));
        }
        all
    }

    fn sidecar(&self) -> String {
        format!("the sidecar (uid {})", self.policy.proxy_uid.get())
    }

    fn outbound_unsaid(policy: &Policy) -> Unsaid {
        let list = ("include-outbound-ports", &["include-outbound-ports"][..]);
        left_alone(
            policy.outbound.redirect,
            &policy.outbound.include_ports,
            ("redirect-outbound is disabled", &["redirect-outbound"]),
            list,
        )
    }
}

impl Case {
    /// Marks a connection that the outbound settings concern.
    fn outbound(self, policy: &Policy) -> Self {
        Self { settings: &["redirect-outbound"], unsaid: World::outbound_unsaid(policy), ..self }
    }

    /// Marks a connection that the inbound settings concern.
    fn inbound(self, policy: &Policy) -> Self {
        let list = ("include-inbound-ports", &["include-inbound-ports"][..]);
        let unsaid = left_alone(
            policy.inbound.redirect,
            &policy.inbound.include_ports,
            ("redirect-inbound is disabled", &["redirect-inbound"]),
            list,
        );
        Self { settings: &["redirect-inbound"], unsaid, ..self }
    }
}

/// Reason why nothing is redirected if no rule fits: the direction is off, or the ports are listed and this one is
/// not.
fn left_alone(
    redirect: Toggle,
    included: &Ports,
    off: (&str, &'static [&'static str]),
    (list, listed): (&str, &'static [&'static str]),
) -> Unsaid {
    match (redirect, included.is_empty()) {
        (Toggle::Disabled, _) => unsaid(off.0, off.1),
        (Toggle::Enabled, false) => unsaid(&format!("not in {list}"), listed),
        (Toggle::Enabled, true) => nothing(),
    }
}

fn from_process(
    from: &str,
    uid: u32,
    to: &str,
    protocol: Protocol,
    destinations: &[IpAddr],
    port: u16,
) -> Case {
    let connection = |destination: &IpAddr| Connection {
        origin: Origin::Process(uid),
        protocol,
        source: source(*destination),
        destination: *destination,
        destination_is_own: is_own(*destination),
        destination_port: port,
        is_listened: true,
    };
    case(from, to, destinations.iter().map(connection).collect())
}

fn from_peer(
    from: &str,
    interface: &str,
    sources: &[IpAddr],
    to: &str,
    destinations: &[IpAddr],
    port: u16,
) -> Case {
    let connection = |destination: &IpAddr| {
        let source = sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4())?;
        Some(Connection {
            origin: Origin::Peer(interface.to_owned()),
            protocol: Tcp,
            source: *source,
            destination: *destination,
            destination_is_own: is_own(*destination),
            destination_port: port,
            is_listened: true,
        })
    };
    case(from, to, destinations.iter().filter_map(connection).collect())
}

fn case(from: &str, to: &str, connections: Vec<Connection>) -> Case {
    Case { from: from.to_owned(), to: to.to_owned(), connections, settings: &[], unsaid: nothing() }
}

fn unsaid(because: &str, settings: &'static [&'static str]) -> Unsaid {
    Unsaid { because: because.to_owned(), settings }
}

fn nothing() -> Unsaid {
    unsaid("no rule is about it", &[])
}

/// Source address that the kernel would choose for this destination.
fn source(destination: IpAddr) -> IpAddr {
    let family = usize::from(destination.is_ipv6());
    if destination.is_loopback() { LOOPBACK[family] } else { OWN[family] }
}

fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || OWN.contains(&address) || HOPS.contains(&address)
}

fn all_ports(policy: &Policy) -> Vec<RangeInclusive<u16>> {
    policy.outbound.include_ports.iter().chain(policy.outbound.exclude_ports.iter()).cloned().collect()
}

fn other(what: &str, has_lists: bool) -> String {
    if has_lists { format!("{what}, other ports") } else { what.to_owned() }
}

fn words(range: &RangeInclusive<u16>) -> String {
    match range.start() == range.end() {
        true => format!("port {}", range.start()),
        false => format!("ports {}-{}", range.start(), range.end()),
    }
}
