//! Traffic that is refused rather than redirected: closed ports, outbound UDP, invalid packets.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::lab::wire::flags::{ACK, FIN, SYN};
use culvert_tests::server::UdpEcho;
use culvert_tests::until::uninterrupted;
use culvert_tests::{Actor, At, Family, Knock, Lab, Landed, Landing, Segment};

use crate::support::{APP, Rows, SIDECAR, by_every_engine};

/// A refusal of the kernel needs no other host; the rest of this time is for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

fn pod_with(engine: &str, annotations: &[(&str, &str)]) -> Result<Lab> {
    let lab = Lab::new()?;
    lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
    Ok(lab)
}

#[test]
fn a_closed_port_is_refused_as_without_a_sidecar() -> Result<()> {
    for engine in ["nftables", "auto"] {
        let lab = pod_with(engine, &[("closed-ports", "refuse")])?;
        let mut landing = Landing::new(&lab.pod)?;
        landing.target(&lab.pod, "[::]:8080")?;
        for family in Family::BOTH {
            landing.target(&lab.pod, (family.pod(), 8081))?;
            landing.target(&lab.pod, (family.loopback(), 9000))?;
            landing.target(&lab.pod, (family.pod(), 15_020))?;
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            let peer = lab.peer.as_root();
            rows.inbound("open on the wildcard", peer, (family.pod(), 8080))?;
            rows.inbound("open on the pod's address", peer, (family.pod(), 8081))?;
            rows.inbound("from outside", peer.from(family.outside()), (family.pod(), 8080))?;
            rows.direct("the status port", peer, (family.pod(), 15_020))?;
            for port in [1, 22, 81, 65_535] {
                rows.row("closed", peer, (family.pod(), port), Landed::Refused)?;
            }
            rows.row("open on loopback alone", peer, (family.pod(), 9000), Landed::Refused)?;
            // It is about peers.
            rows.inbound("the sidecar to a closed port", lab.pod.as_uid(SIDECAR), (family.pod(), 81))?;
            rows.outbound("the application", lab.pod.as_uid(APP), (family.outside(), 81))?;
        }
    }
    Ok(())
}

#[test]
fn a_port_that_opens_later_is_redirected_from_then_on() -> Result<()> {
    let lab = pod_with("nftables", &[("closed-ports", "refuse")])?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        assert_eq!(landing.of(lab.peer.as_root(), (family.pod(), 8080))?, Landed::Refused);
        landing.target(&lab.pod, (family.pod(), 8080))?;
        let to = (family.pod(), 8080);
        assert_eq!(landing.of(lab.peer.as_root(), to)?, Landed::Inbound(to.at()));
    }
    Ok(())
}

#[test]
fn closed_ports_are_refused_beside_lists_too() -> Result<()> {
    for (name, list, direct) in
        [("include-inbound-ports", "8080-8089", 9090), ("exclude-inbound-ports", "9090-9099", 9090)]
    {
        let lab = pod_with("nftables", &[("closed-ports", "refuse"), (name, list)])?;
        let mut landing = Landing::new(&lab.pod)?;
        for family in Family::BOTH {
            landing.target(&lab.pod, (family.pod(), 8080))?;
            landing.target(&lab.pod, (family.pod(), direct))?;
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            rows.inbound(name, lab.peer.as_root(), (family.pod(), 8080))?;
            rows.direct(name, lab.peer.as_root(), (family.pod(), direct))?;
            for closed in [8081, 9091] {
                rows.row(name, lab.peer.as_root(), (family.pod(), closed), Landed::Refused)?;
            }
        }
    }
    Ok(())
}

#[test]
fn iptables_cannot_refuse_closed_ports_and_says_so() -> Result<()> {
    let lab = Lab::new()?;
    for engine in ["iptables", "iptables-nft", "iptables-legacy"] {
        let error = lab.add(&[("closed-ports", "refuse"), ("engine", engine)])?.expect_error(7);
        assert!(error.msg.contains("closed-ports") && error.msg.contains("nftables"), "{}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{engine}");
    }
    Ok(())
}

/// Returns true if the kernel rejects a datagram at once, rather than sending it to the server that answers it.
fn is_rejected(actor: Actor<'_>, to: SocketAddr) -> io::Result<bool> {
    let refused = |e: &io::Error| matches!(e.kind(), ErrorKind::ConnectionRefused);
    let socket = actor.udp((Family::of(to.ip()).any(), 0))?;
    actor.run(|| socket.connect(to))?;
    let start = Instant::now();
    // The kernel may report the error to the sender at once: netfilter's own, or that of the ICMP message.
    match socket.send(b"hello") {
        Err(e) if refused(&e) || e.kind() == ErrorKind::PermissionDenied => {}
        other => drop(other?),
    }
    match uninterrupted(|| socket.recv(&mut [0; 16])) {
        Ok(_) => Ok(false),
        Err(e) if refused(&e) && start.elapsed() < AT_ONCE => Ok(true),
        Err(e) => Err(e),
    }
}

/// UDP servers outside of the pod and in it: at ports 53 and 443 of each address.
fn udp_servers(lab: &Lab) -> Result<Vec<UdpEcho>> {
    let mut servers = Vec::new();
    for family in Family::BOTH {
        for port in [53, 443] {
            for address in [family.outside(), family.peer()] {
                servers.push(UdpEcho::start(lab.peer.udp((address, port))?)?);
            }
            for address in [family.pod(), family.loopback()] {
                servers.push(UdpEcho::start(lab.pod.udp((address, port))?)?);
            }
        }
    }
    Ok(servers)
}

/// Datagrams with whether each is rejected; all are tried before the test fails.
#[derive(Default)]
struct Datagrams(Vec<String>);

impl Datagrams {
    fn row(&mut self, what: &str, actor: Actor<'_>, to: impl At, rejected: bool) -> Result<()> {
        let to = to.at();
        match is_rejected(actor, to) {
            Ok(found) if found == rejected => {}
            other => self.0.push(format!("{what} → {to}: is rejected: {rejected} expected, {other:?}")),
        }
        Ok(())
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

fn udp_past_the_sidecar_is_rejected_at_once(engine: &str) -> Result<()> {
    let lab = pod_with(engine, &[("outbound-udp", "reject")])?;
    let _servers = udp_servers(&lab)?;
    let mut datagrams = Datagrams::default();
    for family in Family::BOTH {
        for address in [family.outside(), family.peer()] {
            datagrams.row("application", lab.pod.as_uid(APP), (address, 443), true)?;
            datagrams.row("root", lab.pod.as_root(), (address, 443), true)?;
            datagrams.row("DNS, not captured", lab.pod.as_uid(APP), (address, 53), true)?;
            datagrams.row("sidecar", lab.pod.as_uid(SIDECAR), (address, 443), false)?;
            datagrams.row("sidecar's DNS", lab.pod.as_uid(SIDECAR), (address, 53), false)?;
        }
        for address in [family.pod(), family.loopback()] {
            datagrams.row("within the pod", lab.pod.as_uid(APP), (address, 443), false)?;
            datagrams.row("within the pod", lab.pod.as_uid(SIDECAR), (address, 53), false)?;
        }
    }
    Ok(())
}

fn captured_dns_and_excluded_networks_and_uids_are_not_rejected(engine: &str) -> Result<()> {
    let annotations = [
        ("outbound-udp", "reject"),
        ("redirect-dns", "all"),
        ("exclude-outbound-cidrs", "10.77.0.1,fd77::/64"),
        ("exclude-outbound-ports-for-uids", "udp:443:2000;tcp:443:2001"),
    ];
    let lab = pod_with(engine, &annotations)?;
    let _servers = udp_servers(&lab)?;
    let mut sidecars = Vec::new();
    for family in Family::BOTH {
        sidecars.push(UdpEcho::start(lab.pod.as_uid(SIDECAR).udp((family.loopback(), 15_053))?)?);
    }
    let mut datagrams = Datagrams::default();
    for family in Family::BOTH {
        datagrams.row("captured DNS", lab.pod.as_uid(APP), (family.outside(), 53), false)?;
        datagrams.row("sidecar's DNS", lab.pod.as_uid(SIDECAR), (family.outside(), 53), false)?;
        for port in [53, 443] {
            datagrams.row("excluded network", lab.pod.as_uid(APP), (family.peer(), port), false)?;
        }
        datagrams.row("excluded uid", lab.pod.as_uid(2000), (family.outside(), 443), false)?;
        datagrams.row("uid excluded for TCP", lab.pod.as_uid(2001), (family.outside(), 443), true)?;
        datagrams.row("application", lab.pod.as_uid(APP), (family.outside(), 443), true)?;
    }
    Ok(())
}

fn rejected_udp_leaves_tcp_and_link_local_neighbours_alone(engine: &str) -> Result<()> {
    let lab = pod_with(engine, &[("outbound-udp", "reject")])?;
    let landing = Landing::new(&lab.pod)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 443))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 443))?;
    }
    drop(rows);
    let (here, there) = (lab.pod.interface_index("eth0")?, lab.peer.interface_index("eth0")?);
    let _server = UdpEcho::start(lab.peer.udp(&*format!("[fe80::1%{there}]:443"))?)?;
    assert!(!is_rejected(lab.pod.as_uid(APP), format!("[fe80::1%{here}]:443").at())?);
    Ok(())
}

fn a_service_of_the_pod_may_answer_where_outbound_udp_is_rejected(engine: &str) -> Result<()> {
    for dns in ["disabled", "all"] {
        let lab = pod_with(engine, &[("outbound-udp", "reject"), ("redirect-dns", dns)])?;
        let _servers = udp_servers(&lab)?;
        for family in Family::BOTH {
            for port in [53, 443] {
                let peer = lab.peer.as_root().patience(Duration::from_secs(2));
                let (answer, _) = peer
                    .ask_udp((family.pod(), port), b"?")
                    .with_context(|| format!("redirect-dns {dns}, port {port}"))?;
                assert_eq!(answer, b"?", "{family}");
            }
        }
    }
    Ok(())
}

/// Packets that belong to no connection: the first has no room in conntrack's states, nor has the second.
fn strays(family: Family, port: u16) -> [Segment; 2] {
    let stray =
        |flags, from: u16| Segment { flags, ..Segment::syn((family.peer(), from), (family.pod(), port)) };
    [stray(SYN | ACK, 4000), stray(FIN | ACK, 4001)]
}

fn invalid_packets_are_dropped_where_that_is_asked_for(engine: &str) -> Result<()> {
    for (annotations, answer) in [
        (&[][..], Knock::Refused),
        (&[("drop-invalid", "disabled")], Knock::Refused),
        (&[("drop-invalid", "enabled")], Knock::Silence),
        (&[("drop-invalid", "true")], Knock::Silence),
    ] {
        let lab = pod_with(engine, annotations)?;
        let mut landing = Landing::new(&lab.pod)?;
        let (wire, pod) = (lab.peer.wire_of("eth0")?, lab.pod.mac("eth0")?);
        for family in Family::BOTH {
            landing.target(&lab.pod, (family.pod(), 15_020))?;
            for port in [8080, 15_020] {
                for stray in strays(family, port) {
                    assert_eq!(wire.knock(pod, stray)?, answer, "{annotations:?}: {stray:?}");
                }
            }
        }
        // Everything else passes.
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
            rows.direct("peer to the status port", lab.peer.as_root(), (family.pod(), 15_020))?;
            rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
            rows.inbound("sidecar to its own pod", lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
        }
    }
    Ok(())
}

fn a_trace_changes_nothing_about_where_connections_land(engine: &str) -> Result<()> {
    let lab = pod_with(engine, &[("trace", "enabled"), ("redirect-dns", "all")])?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("sidecar", lab.pod.as_uid(SIDECAR), (family.outside(), 80))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
    }
    drop(rows);
    lab.del()?.expect_success();
    lab.add(&[("trace", "disabled"), ("engine", engine)])?.expect_success();
    Ok(())
}

by_every_engine! {
    udp_past_the_sidecar_is_rejected_at_once,
    captured_dns_and_excluded_networks_and_uids_are_not_rejected,
    rejected_udp_leaves_tcp_and_link_local_neighbours_alone,
    a_service_of_the_pod_may_answer_where_outbound_udp_is_rejected,
    invalid_packets_are_dropped_where_that_is_asked_for,
    a_trace_changes_nothing_about_where_connections_land,
}
