//! The sidecar's DNS server behind `redirect-dns`: with glibc's resolver and with raw queries, by every engine.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::process::{Process, lab_exec};
use culvert_tests::server::{Server, UdpEcho};
use culvert_tests::{Actor, Family, Lab, Sidecar, eventually};

use crate::documents::replace;
use crate::support::{APP, by_every_engine};

/// A change of resolv.conf is seen within a second; a busy machine takes longer.
const SOON: Duration = Duration::from_secs(10);

/// Bytes before the question of a message.
pub(crate) const HEADER: usize = 12;
/// Types of queries.
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
/// Response codes.
pub(crate) const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// A query for a name.
pub(crate) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[&[0][..], &kind.to_be_bytes(), &[0, 1]].concat());
    message
}

pub(crate) fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub(crate) fn code(message: &[u8]) -> u8 {
    message[3] & 0xf
}

/// Number of records that answer.
pub(crate) fn records(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[6], message[7]])
}

/// The name and the end of a message's question.
pub(crate) fn question(message: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (Vec::new(), HEADER);
    while message[at] != 0 {
        let length = usize::from(message[at]);
        name.push(String::from_utf8_lossy(&message[at + 1..=at + length]).into_owned());
        at += length + 1;
    }
    (name.join("."), at + 5)
}

/// A server's answer. A name that begins with `long` has 200 addresses, more than a datagram holds; one with `none` in it does
/// not exist; all others have one address of each family, which ends in `last`.
fn answer(query: &[u8], by_tcp: bool, last: u8) -> Vec<u8> {
    let (name, end) = question(query);
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let count: u8 = match &name {
        name if name.starts_with("long") => {
            if by_tcp && kind == A {
                200
            } else {
                0
            }
        }
        name if name.contains("none") => 0,
        _ => 1,
    };
    let mut message = query[..end].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | if name.contains("none") { NXDOMAIN } else { 0 };
    message[6..HEADER].fill(0);
    message[7] = count;
    if name.starts_with("long") && !by_tcp {
        message[2] |= 2;
    }
    for at in 0..count {
        let last = if count == 1 { last } else { at };
        message.extend_from_slice(&[&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 30]].concat());
        match kind {
            A => message.extend_from_slice(&[0, 4, 198, 51, 100, last]),
            _ => {
                message.extend_from_slice(&[&[0, 16, 0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[last]].concat())
            }
        }
    }
    message
}

pub(crate) fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

pub(crate) fn write_frame(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], message].concat())
}

/// A DNS server outside of the pod, over both transports.
struct Outside {
    _datagrams: UdpEcho,
    streams: Server,
}

/// An onboarded pod and a server outside in each family.
pub(crate) struct World {
    pub(crate) lab: Lab,
    resolv_conf: PathBuf,
    servers: Vec<Outside>,
}

impl World {
    pub(crate) fn new(engine: &str) -> Result<Self> {
        Self::with(&[("engine", engine)])
    }

    /// One with these annotations besides `redirect-dns`.
    pub(crate) fn with(annotations: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[annotations, &[("redirect-dns", "all")]].concat())?.expect_success();
        let resolv_conf = lab.folder().join("resolv.conf");
        let mut world = Self { lab, resolv_conf, servers: Vec::new() };
        world.names(&[Family::V4.outside()])?;
        for family in Family::BOTH {
            world.serve(family.outside(), 1)?;
        }
        Ok(world)
    }

    /// Writes the pod's resolv.conf.
    pub(crate) fn names(&self, servers: &[IpAddr]) -> Result<()> {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        replace(&self.resolv_conf, &lines)
    }

    /// Starts a server whose addresses end in `last`.
    fn serve(&mut self, at: IpAddr, last: u8) -> Result<()> {
        let socket = self.lab.peer.udp((at, 53))?;
        let datagrams = UdpEcho::answering(socket, move |query| answer(query, false, last))?;
        let streams = self.lab.peer.serve((at, 53), move |mut stream: TcpStream| {
            loop {
                let query = read_frame(&mut stream)?;
                write_frame(&mut stream, &answer(&query, true, last))?;
            }
        })?;
        self.servers.push(Outside { _datagrams: datagrams, streams });
        Ok(())
    }

    pub(crate) fn sidecar(&self) -> Result<Sidecar<'_>> {
        self.settings().start()
    }

    pub(crate) fn settings(&self) -> culvert_tests::pod::sidecar::Settings<'_> {
        let path = self.resolv_conf.display().to_string();
        self.lab.pod.sidecar().options(["--dns-port", "15053", "--resolv-conf", &path])
    }

    pub(crate) fn app(&self) -> Actor<'_> {
        self.lab.pod.as_uid(APP)
    }

    /// Asks by UDP. The answer has to come from the server that was asked.
    pub(crate) fn ask(&self, server: IpAddr, query: &[u8]) -> Result<Vec<u8>> {
        let (answer, sender) = self.app().ask_udp((server, 53), query)?;
        ensure!(sender == (server, 53).into(), "asked {server}, {sender} answered");
        ensure!(id_of(&answer) == id_of(query), "another id");
        Ok(answer)
    }

    pub(crate) fn ask_by_tcp(&self, server: IpAddr, query: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.app().connect((server, 53))?;
        write_frame(&mut stream, query)?;
        Ok(read_frame(&mut stream)?)
    }

    /// Resolves a name with glibc, as an application does. Any server of the machine's own resolv.conf is captured.
    fn getent(&self, name: &str, environment: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
        let program = Path::new("/usr/bin/getent");
        let mut command = lab_exec::command(self.lab.pod.namespace(), APP, None, program)?;
        command.args(["-s", "dns", "ahosts", name]).env_clear().envs(environment.iter().copied());
        let mut process = Process::start(command)?;
        let status = process.wait(Duration::from_secs(60)).context("getent")?;
        Ok((status.code(), process.stdout().text()))
    }
}

/// The last byte of the only address.
pub(crate) fn last_of(answer: &[u8]) -> Result<u8> {
    ensure!(records(answer) == 1, "{} records", records(answer));
    answer.last().copied().context("no bytes")
}

fn an_application_resolves_names_through_the_sidecar(engine: &str) -> Result<()> {
    let world = World::new(engine)?;
    let sidecar = world.sidecar()?;
    // Both families at once, on one socket.
    let (code, addresses) = world.getent("web.test", &[])?;
    ensure!(code == Some(0), "{code:?}");
    for address in ["198.51.100.1", "2001:db8::1"] {
        ensure!(addresses.contains(address), "no {address} in {addresses}");
    }
    ensure!(sidecar.stat("dns.queries.forwarded")? == 2);
    // The search list is the client's own.
    let search = [("LOCALDOMAIN", "none-1.test none-2.test test"), ("RES_OPTIONS", "ndots:5")];
    let before = sidecar.stat("dns.queries.forwarded")?;
    ensure!(world.getent("a.b", &search)?.0 == Some(0));
    ensure!(sidecar.stat("dns.queries.forwarded")? == before + 6, "three names, two families");
    let (code, _) = world.getent("none.test", &[])?;
    ensure!(code == Some(2), "a name that does not exist: {code:?}");
    // The answer is longer than a datagram: glibc asks again by TCP.
    let (code, addresses) = world.getent("long.test", &[])?;
    ensure!(code == Some(0));
    let listed = addresses.lines().filter(|line| line.contains("STREAM")).count();
    ensure!(listed == 200, "{listed} addresses:\n{addresses}");
    ensure!(world.servers[0].streams.accepted() >= 1, "the server was asked by TCP");
    Ok(())
}

fn the_answer_comes_from_the_server_that_the_application_asked(engine: &str) -> Result<()> {
    let world = World::new(engine)?;
    let sidecar = world.sidecar()?;
    let mut id = 1;
    for family in Family::BOTH {
        // Servers in the pod and outside, some of which there are not.
        for server in [family.outside(), family.peer(), family.pod(), family.loopback()] {
            for (kind, name) in [(A, "wEb.TeSt"), (AAAA, "web.test")] {
                id += 1;
                let asked = query(id, name, kind);
                let udp = world.ask(server, &asked).with_context(|| format!("{server} by UDP"))?;
                ensure!(udp == answer(&asked, false, 1), "{server}: {udp:?}");
                let tcp = world.ask_by_tcp(server, &asked).with_context(|| format!("{server} by TCP"))?;
                ensure!(tcp == answer(&asked, true, 1), "{server}: {tcp:?}");
            }
        }
    }
    ensure!(sidecar.stat("dns.queries.forwarded")? == 32);
    ensure!(sidecar.stat("dns.queries.loop")? == 0, "the sidecar's own queries went out");
    Ok(())
}

fn queries_go_to_the_servers_of_resolv_conf_in_either_family(engine: &str) -> Result<()> {
    let mut world = World::new(engine)?;
    world.serve(Family::V6.peer(), 6)?;
    let sidecar = world.sidecar()?;
    let asked = query(1, "web.test", A);
    ensure!(last_of(&world.ask(Family::V4.outside(), &asked)?)? == 1);
    world.names(&[Family::V6.peer()])?;
    eventually!(
        world
            .ask(Family::V4.outside(), &asked)
            .and_then(|answer| last_of(&answer))
            .is_ok_and(|last| last == 6),
        SOON
    );
    ensure!(last_of(&world.ask_by_tcp(Family::V4.outside(), &asked)?)? == 6);
    drop(sidecar);
    // As TCP does, DNS fails with the sidecar.
    let failed = world.app().patience(Duration::from_millis(200)).ask_udp((Family::V4.outside(), 53), &asked);
    ensure!(failed.is_err(), "{failed:?}");
    let refused = world.app().connect((Family::V4.outside(), 53));
    ensure!(matches!(&refused, Err(e) if e.kind() == ErrorKind::ConnectionRefused), "{refused:?}");
    Ok(())
}

by_every_engine! {
    an_application_resolves_names_through_the_sidecar,
    the_answer_comes_from_the_server_that_the_application_asked,
    queries_go_to_the_servers_of_resolv_conf_in_either_family,
}

#[test]
fn a_silent_server_is_passed_over_and_costs_the_next_queries_nothing() -> Result<()> {
    let world = World::new("auto")?;
    // Takes datagrams and never looks at them.
    let silent: UdpSocket = world.lab.peer.udp((Family::V4.peer(), 53))?;
    world.names(&[Family::V4.peer(), Family::V4.outside()])?;
    let sidecar = world.sidecar()?;
    for id in 0..20 {
        let answer = world.ask(Family::V4.outside(), &query(id, "web.test", A))?;
        ensure!(last_of(&answer)? == 1);
    }
    // The first query waited, and one a second tried the server again, without waiting. 20 deadlines would be 40 s.
    let timeouts = sidecar.stat("dns.upstream.timeout")?;
    ensure!((1..20).contains(&timeouts), "{timeouts} timeouts");
    ensure!(sidecar.stat("dns.queries.forwarded")? == 20);
    drop(silent);
    Ok(())
}

#[test]
fn a_sidecar_that_cannot_forward_is_not_ready_and_says_why() -> Result<()> {
    let world = World::new("auto")?;
    fs::write(&world.resolv_conf, "search shop.svc.cluster.local\n")?;
    let mut sidecar = world.settings().start_unready()?;
    eventually!(
        sidecar
            .status("/ready")
            .is_ok_and(|answer| answer.status == 503 && answer.body.contains("names no server")),
        SOON
    );
    let failed = world.ask(Family::V4.outside(), &query(1, "web.test", A))?;
    ensure!(code(&failed) == SERVFAIL && records(&failed) == 0);
    world.names(&[Family::V4.outside()])?;
    sidecar.wait_ready()?;
    ensure!(last_of(&world.ask(Family::V4.outside(), &query(2, "web.test", A))?)? == 1);
    Ok(())
}

#[test]
fn a_sidecar_of_another_uid_asks_itself_once_and_not_for_ever() -> Result<()> {
    let world = World::new("auto")?;
    let sidecar = world.settings().options(["--verify-redirect", "off"]).uid(4000).start()?;
    for (id, by_tcp) in [(1, false), (2, true)] {
        let asked = query(id, "web.test", A);
        let server = Family::V4.outside();
        let failed = if by_tcp { world.ask_by_tcp(server, &asked)? } else { world.ask(server, &asked)? };
        ensure!(code(&failed) == SERVFAIL, "{failed:?}");
    }
    // The only server is asked twice, and each query is known when it comes back.
    let loops = sidecar.stat("dns.queries.loop")?;
    ensure!(loops == 4, "{loops} loops");
    Ok(())
}
