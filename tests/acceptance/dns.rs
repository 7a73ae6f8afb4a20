//! The annotation `redirect-dns`: which server answers a pod's DNS, in both families and by every engine.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Behaviour, Server, UdpEcho};
use culvert_tests::until::{DEADLINE, once_free, uninterrupted};
use culvert_tests::{Actor, At, Family, Host, Lab};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{APP, SIDECAR, by_every_engine, read_all};

/// The DNS servers outside of the pod.
const SERVER: &str = "the server outside";
/// A server of the pod itself, such as systemd-resolved.
const LOCAL: &str = "the server in the pod";
/// The sidecar's DNS server.
const SIDECARS: &str = "the sidecar's server";
/// The sidecar's outbound listener.
const OUTBOUND: &str = "the outbound listener";
/// The sidecar's inbound listener.
const INBOUND: &str = "the inbound listener";
/// The kernel, which knows of no such server.
const NOBODY: &str = "nobody";

/// A server of the pod on loopback, in each family.
fn resolver(family: Family) -> IpAddr {
    match family {
        Family::V4 => "127.0.0.53".parse().expect("an address"),
        Family::V6 => family.loopback(),
    }
}

#[derive(Clone, Copy)]
enum By {
    Udp,
    Tcp,
}

impl By {
    const BOTH: [Self; 2] = [Self::Udp, Self::Tcp];
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// A pod in a world where each server of port 53 says who it is.
struct World {
    lab: Lab,
    datagrams: Vec<UdpEcho>,
    streams: Vec<Server>,
    wrong: String,
}

impl World {
    fn new(engine: &str, annotations: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
        let mut world = Self { lab, datagrams: Vec::new(), streams: Vec::new(), wrong: String::new() };
        for (at, name) in [("[::]:15001", OUTBOUND), ("[::]:15006", INBOUND)] {
            let listener = world.lab.pod.as_uid(SIDECAR).serve(at, says(name))?;
            world.streams.push(listener);
        }
        for family in Family::BOTH {
            for address in [family.outside(), family.peer()] {
                world.server(|lab| lab.peer.as_root(), (address, 53), SERVER)?;
            }
            for address in [resolver(family), family.pod()] {
                world.server(|lab| lab.pod.as_root(), (address, 53), LOCAL)?;
            }
        }
        Ok(world)
    }

    /// The pod has a sidecar that answers DNS at its port.
    fn with_sidecar(engine: &str, annotations: &[(&str, &str)]) -> Result<Self> {
        let mut world = Self::new(engine, annotations)?;
        world.sidecar(15_053)?;
        Ok(world)
    }

    fn sidecar(&mut self, port: u16) -> Result<()> {
        for family in Family::BOTH {
            self.server(|lab| lab.pod.as_uid(SIDECAR), (family.loopback(), port), SIDECARS)?;
        }
        Ok(())
    }

    fn server(
        &mut self,
        whose: impl Fn(&Lab) -> Actor<'_>,
        at: (IpAddr, u16),
        name: &'static str,
    ) -> Result<()> {
        let actor = whose(&self.lab);
        let stream = actor.serve(at, says(name))?;
        let datagrams = UdpEcho::answering(actor.udp(at)?, |_| name.into())?;
        self.streams.push(stream);
        self.datagrams.push(datagrams);
        Ok(())
    }

    /// One row: who asks which server, and who has to answer.
    fn row(&mut self, uid: u32, by: By, server: impl At, expected: &str) -> Result<()> {
        let server = server.at();
        let answer = match asked(self.lab.pod.as_uid(uid), by, server) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => NOBODY.to_owned(),
            other => other.with_context(|| format!("uid {uid}, {by} → {server}"))?,
        };
        if answer != expected {
            writeln!(self.wrong, "uid {uid}, {by} → {server}: expected {expected}, {answer} answered")?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "another server answered:\n{}", self.wrong);
        }
    }
}

/// The server that answers. The UDP socket is connected: it takes an answer only from the server that it asked.
fn asked(actor: Actor<'_>, by: By, server: SocketAddr) -> io::Result<String> {
    match by {
        By::Tcp => read_all(actor.connect(server)?),
        By::Udp => {
            let socket = actor.udp((Family::of(server.ip()).any(), 0))?;
            actor.run(|| socket.connect(server))?;
            socket.send(b"who are you?")?;
            let mut answer = [0; 64];
            let length = uninterrupted(|| socket.recv(&mut answer))?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        }
    }
}

/// Says a name and closes.
fn says(name: &'static str) -> impl Behaviour {
    move |mut stream| stream.write_all(name.as_bytes())
}

/// Servers outside of the pod and in it.
fn servers(family: Family) -> [(IpAddr, &'static str); 4] {
    [(family.outside(), SERVER), (family.peer(), SERVER), (resolver(family), LOCAL), (family.pod(), LOCAL)]
}

fn whatever_server_an_application_asks_the_sidecar_answers(engine: &str) -> Result<()> {
    let mut world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        for by in By::BOTH {
            for uid in [0, APP, SIDECAR - 1, SIDECAR + 1] {
                for (server, _) in servers(family) {
                    world.row(uid, by, (server, 53), SIDECARS)?;
                }
            }
        }
    }
    Ok(())
}

fn the_answer_comes_from_the_server_that_was_asked(engine: &str) -> Result<()> {
    let world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        for (server, _) in servers(family) {
            let (answer, sender) = world.lab.pod.as_uid(APP).ask_udp((server, 53), b"?")?;
            assert_eq!(
                (String::from_utf8(answer)?.as_str(), sender),
                (SIDECARS, SocketAddr::new(server, 53))
            );
        }
    }
    Ok(())
}

fn the_sidecars_own_dns_goes_out(engine: &str) -> Result<()> {
    let mut world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        for (server, name) in servers(family) {
            world.row(SIDECAR, By::Udp, (server, 53), name)?;
        }
        for server in [family.outside(), family.peer()] {
            world.row(SIDECAR, By::Tcp, (server, 53), SERVER)?;
        }
    }
    Ok(())
}

fn only_the_named_servers_are_captured(engine: &str) -> Result<()> {
    let named = "192.0.2.10, 2001:db8::10, 127.0.0.53, ::1";
    let mut world = World::with_sidecar(engine, &[("redirect-dns", named)])?;
    for family in Family::BOTH {
        for by in By::BOTH {
            world.row(APP, by, (family.outside(), 53), SIDECARS)?;
            world.row(APP, by, (resolver(family), 53), SIDECARS)?;
            world.row(APP, by, (family.pod(), 53), LOCAL)?;
            world.row(SIDECAR, by, (family.outside(), 53), SERVER)?;
        }
        // What is not captured goes the way of everything: UDP there, TCP through the sidecar.
        world.row(APP, By::Udp, (family.peer(), 53), SERVER)?;
        world.row(APP, By::Tcp, (family.peer(), 53), OUTBOUND)?;
    }
    Ok(())
}

fn servers_in_excluded_networks_are_asked_directly(engine: &str) -> Result<()> {
    let excluded = ("exclude-outbound-cidrs", "192.0.2.0/24, 2001:db8::10, 127.0.0.53");
    for dns in ["all", "192.0.2.10,2001:db8::10,10.77.0.1,fd77::1,127.0.0.53,::1"] {
        let mut world = World::with_sidecar(engine, &[("redirect-dns", dns), excluded])?;
        for by in By::BOTH {
            for family in Family::BOTH {
                world.row(APP, by, (family.outside(), 53), SERVER)?;
                world.row(APP, by, (family.peer(), 53), SIDECARS)?;
            }
            world.row(APP, by, "127.0.0.53:53", LOCAL)?;
            world.row(APP, by, "[::1]:53", SIDECARS)?;
        }
    }
    Ok(())
}

fn uids_excluded_for_a_protocol_and_the_port_ask_directly(engine: &str) -> Result<()> {
    // Exclusions, with who then answers UDP and TCP.
    for (exclusions, udp, tcp) in [
        ("udp:53:1000", SERVER, SIDECARS),
        ("tcp:53:1000", SIDECARS, SERVER),
        ("tcp,udp:50-60:999-1001", SERVER, SERVER),
        ("*:*:1000", SERVER, SERVER),
        ("53:1000", SERVER, SERVER),
        ("1000", SERVER, SERVER),
        ("tcp:80:1000;udp:53:900-1100", SERVER, SIDECARS),
        ("*:80,443,52,54-65535:1000;udp:53:1001-2000;*:53:1-999", SIDECARS, SIDECARS),
    ] {
        let annotations = [("redirect-dns", "all"), ("exclude-outbound-ports-for-uids", exclusions)];
        let mut world = World::with_sidecar(engine, &annotations)?;
        for family in Family::BOTH {
            world.row(APP, By::Udp, (family.outside(), 53), udp)?;
            world.row(APP, By::Tcp, (family.outside(), 53), tcp)?;
            for by in By::BOTH {
                world.row(70_000, by, (family.outside(), 53), SIDECARS)?;
            }
        }
    }
    Ok(())
}

fn dns_port_says_where_the_sidecar_answers(engine: &str) -> Result<()> {
    let mut world = World::new(engine, &[("redirect-dns", "all"), ("dns-port", "7053")])?;
    world.sidecar(7053)?;
    for family in Family::BOTH {
        for by in By::BOTH {
            world.row(APP, by, (family.outside(), 53), SIDECARS)?;
            world.row(APP, by, (family.loopback(), 15_053), NOBODY)?;
        }
    }
    Ok(())
}

fn dns_is_left_alone_unless_asked_for(engine: &str) -> Result<()> {
    for annotations in [&[][..], &[("redirect-dns", "disabled")], &[("dns-port", "7053")]] {
        let mut world = World::with_sidecar(engine, annotations)?;
        for family in Family::BOTH {
            for (server, name) in servers(family) {
                world.row(APP, By::Udp, (server, 53), name)?;
            }
            world.row(APP, By::Tcp, (family.outside(), 53), OUTBOUND)?;
            world.row(APP, By::Tcp, (resolver(family), 53), LOCAL)?;
        }
    }
    Ok(())
}

fn dns_is_captured_where_other_connections_are_not(engine: &str) -> Result<()> {
    let annotations =
        [("redirect-dns", "all"), ("redirect-outbound", "disabled"), ("redirect-inbound", "disabled")];
    let mut world = World::with_sidecar(engine, &annotations)?;
    for family in Family::BOTH {
        for by in By::BOTH {
            world.row(APP, by, (family.outside(), 53), SIDECARS)?;
            world.row(SIDECAR, by, (family.outside(), 53), SERVER)?;
        }
    }
    Ok(())
}

fn datagrams_to_other_ports_are_not_dns(engine: &str) -> Result<()> {
    let mut world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        for port in [52, 54, 853, 5353] {
            world.server(|lab| lab.peer.as_root(), (family.outside(), port), SERVER)?;
            world.row(APP, By::Udp, (family.outside(), port), SERVER)?;
        }
    }
    Ok(())
}

fn a_peer_that_asks_a_server_in_the_pod_is_heard(engine: &str) -> Result<()> {
    let world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        assert_eq!(asked(world.lab.peer.as_root(), By::Udp, (family.pod(), 53).into())?, LOCAL);
        assert_eq!(asked(world.lab.peer.as_root(), By::Tcp, (family.pod(), 53).into())?, INBOUND);
    }
    Ok(())
}

fn an_application_that_asks_from_port_53_is_answered_by_the_sidecar(engine: &str) -> Result<()> {
    let mut world = World::with_sidecar(engine, &[("redirect-dns", "all")])?;
    for family in Family::BOTH {
        world
            .lab
            .pod
            .add_address("eth0", if family == Family::V4 { "10.77.0.9/24" } else { "fd77::9/64" })?;
    }
    for source in ["10.77.0.9:53", "[fd77::9]:53"] {
        let server = (Family::of(source.at().ip()).outside(), 53).at();
        let socket = world.lab.pod.udp(source)?;
        world.lab.pod.as_root().run(|| socket.connect(server))?;
        socket.send(b"?")?;
        let mut answer = [0; 64];
        let length = uninterrupted(|| socket.recv(&mut answer))?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        if answer != SIDECARS {
            writeln!(world.wrong, "from {source}: {answer} answered")?;
        }
    }
    Ok(())
}

/// Queries of each kind that are in flight at once.
const QUERIES: u16 = 1000;

fn thousands_of_queries_at_once_are_each_answered_by_the_right_server(engine: &str) -> Result<()> {
    may_open_files(8192)?;
    let lab = Lab::new()?;
    lab.add(&[("engine", engine), ("redirect-dns", "all")])?.expect_success();
    for family in Family::BOTH {
        let server = (family.outside(), 53).at();
        let _outside = patient_server(lab.peer.as_root(), server, b'B')?;
        let _sidecars = patient_server(lab.pod.as_uid(SIDECAR), (family.loopback(), 15_053).at(), b'A')?;
        let (low, high) = (20_000, 20_000 + QUERIES);
        // A captured query leaves an entry in the kernel's connection tracking for 30 s. A client that gets the same port
        // for the same server meanwhile, the sidecar above all, must not follow it.
        for (round, application, sidecar) in
            [("first", low, high), ("ports exchanged", high, low), ("exchanged again", low, high)]
        {
            let applications = queries(&lab.pod, APP, family, application, server)?;
            let sidecars = queries(&lab.pod, SIDECAR, family, sidecar, server)?;
            for ((from, query), (_, own)) in applications.iter().zip(&sidecars) {
                query.send(&from.to_be_bytes())?;
                own.send(&from.to_be_bytes())?;
            }
            let wrong = |queries: &[(u16, UdpSocket)], by| {
                queries.iter().filter(|(_, query)| !is_answered(query, by)).count()
            };
            assert_eq!(
                (wrong(&applications, b'A'), wrong(&sidecars, b'B')),
                (0, 0),
                "{family}, {round}: queries of the application and of the sidecar without the right answer"
            );
        }
    }
    Ok(())
}

/// Connected sockets of a uid from successive ports.
fn queries(
    pod: &Host,
    uid: u32,
    family: Family,
    first: u16,
    server: SocketAddr,
) -> Result<Vec<(u16, UdpSocket)>> {
    pod.as_uid(uid).run(|| {
        (first..first + QUERIES)
            .map(|port| {
                let socket = once_free(|| UdpSocket::bind((family.pod(), port)))?;
                socket.set_read_timeout(Some(DEADLINE))?;
                socket.connect(server)?;
                Ok((port, socket))
            })
            .collect()
    })
}

/// Returns true if the one datagram that waits, or comes, begins with the server's letter.
fn is_answered(query: &UdpSocket, by: u8) -> bool {
    let mut answer = [0; 8];
    matches!(uninterrupted(|| query.recv(&mut answer)), Ok(length) if length == 3 && answer[0] == by)
}

/// A server with room for all queries: what is lost is lost on the way.
fn patient_server(actor: Actor<'_>, at: SocketAddr, letter: u8) -> Result<UdpEcho> {
    let socket = actor.udp(at)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    UdpEcho::answering(socket, move |question| [&[letter], question].concat())
}

/// Lets this process have so many files open; a terminal's usual limit is 1,024.
fn may_open_files(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard >= wanted, "the limit of open files is {hard}: this test needs {wanted}");
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

by_every_engine! {
    whatever_server_an_application_asks_the_sidecar_answers,
    the_answer_comes_from_the_server_that_was_asked,
    the_sidecars_own_dns_goes_out,
    only_the_named_servers_are_captured,
    servers_in_excluded_networks_are_asked_directly,
    uids_excluded_for_a_protocol_and_the_port_ask_directly,
    dns_port_says_where_the_sidecar_answers,
    dns_is_left_alone_unless_asked_for,
    dns_is_captured_where_other_connections_are_not,
    datagrams_to_other_ports_are_not_dns,
    a_peer_that_asks_a_server_in_the_pod_is_heard,
    an_application_that_asks_from_port_53_is_answered_by_the_sidecar,
    thousands_of_queries_at_once_are_each_answered_by_the_right_server,
}
