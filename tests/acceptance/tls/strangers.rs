//! Strangers that take places: of handshakes, of the circuit breaker, of the limit of open files, of the status port. No
//! member is refused, and no other stranger.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::tls::{Client, MESH};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Actor, At, Host, Sidecar, eventually, http};

use super::{GREETING, SERVER, SOON, SPEAKS, WAITS, World, talks};

/// Until a flood is there, on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// Connects in the promise of the page: 30 of members that documents name, and 30 of members that none names.
const CONNECTS: usize = 30;

/// Connections that a stranger opens and holds as long as it can.
struct Flood<'a> {
    from: Actor<'a>,
    to: SocketAddr,
    /// Said in turn, each on a connection of its own.
    says: &'a [&'a [u8]],
    holds: usize,
    /// The number of connections after which it opens no more.
    most: usize,
    opened: AtomicUsize,
    over: AtomicBool,
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl<'a> Flood<'a> {
    fn new(from: Actor<'a>, to: impl At, says: &'a [&'a [u8]], holds: usize) -> Self {
        let (opened, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { from, to: to.at(), says, holds, most: holds, opened, over }
    }

    /// Goes on with some 600 a second.
    fn going_on(self) -> Self {
        /// Fewer than the files that this process may open.
        const MOST: usize = 9000;
        Self { most: MOST, ..self }
    }

    /// Runs `work` beside the flood, once it has opened as many as it holds.
    fn beside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        thread::scope(|scope| {
            // After a panic too: the scope waits for the flood.
            let _ends = Ends(&self.over);
            scope.spawn(|| self.from.run(|| self.run()));
            eventually!(self.opened.load(Relaxed) >= self.holds, A_WHILE);
            work()
        })
    }

    fn run(&self) {
        let mut open = Vec::new();
        while !self.over.load(Relaxed) {
            let nth = self.opened.load(Relaxed);
            if nth >= self.holds {
                // The rest of the machine's time is the members'.
                thread::park_timeout(Duration::from_micros(1500));
            }
            if nth >= self.most {
                continue;
            }
            if let Ok(mut stream) = TcpStream::connect_timeout(&self.to, SOON)
                && stream.write_all(self.says[nth % self.says.len()]).is_ok()
            {
                open.push(stream);
            }
            self.opened.store(nth + 1, Relaxed);
        }
    }
}

/// The failures of so many connects, one after the other.
fn failures(mut connect: impl FnMut(usize) -> Result<()>) -> Vec<String> {
    (0..CONNECTS).filter_map(|nth| connect(nth).err()).map(|error| format!("{error:#}")).collect()
}

fn closed_by_limit(sidecar: &Sidecar<'_>) -> u64 {
    sidecar.stat("listener_manager.inbound.closed.limit").unwrap_or_default()
}

/// Both halves of the promise: members that documents name, and members that no document names, which come from an address
/// each. Returns the failures of both.
fn members(world: &World, port: u16) -> Result<[Vec<String>; 2]> {
    let client = Client::new(&[MESH], Some(&world.authority.service("web")?))?;
    let named = failures(|_| talks(world.member(port)?));
    let unnamed = failures(|nth| {
        let from = world.lab.peer.as_root().from(unnamed(nth));
        talks(client.over(from.connect((SERVER, port))?)?)
    });
    Ok([named, unnamed])
}

fn unnamed(nth: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, 100 + u8::try_from(nth).expect("a few")])
}

fn add_unnamed(host: &Host) -> Result<()> {
    (0..CONNECTS).try_for_each(|nth| host.add_address("eth0", &format!("{}/24", unnamed(nth))))
}

#[test]
fn half_handshakes_of_one_address_refuse_no_member() -> Result<()> {
    let world = World::new("STRICT", "")?;
    add_unnamed(&world.lab.peer)?;
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let hello = Client::new(&[MESH], Some(&world.authority.service("web")?))?.hello()?;
    // Whole hellos that nothing follows, half ones, and silence: each is a place.
    let says = [&hello[..], &hello[..], &hello[..], &hello[..], &hello[..hello.len() / 2], b""];
    let flood = Flood::new(world.lab.peer.as_root(), (SERVER, WAITS), &says, 3600).going_on();
    let failed = flood.beside(|| {
        // All 2,048 places are taken.
        eventually!(closed_by_limit(&sidecar) > 0, A_WHILE);
        members(&world, WAITS)
    })?;
    println!(
        "{} of the flood, {} closed by the limit",
        flood.opened.load(Relaxed),
        closed_by_limit(&sidecar)
    );
    assert_eq!(failed, [[""; 0]; 2], "members that documents name, and others");
    Ok(())
}

#[test]
fn connections_of_a_stranger_leave_places_of_the_breaker_to_all_others() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    add_unnamed(&world.lab.peer)?;
    let sidecar = world.server_sidecar(&["--circuit-breaker-max-connections", "64"])?;
    let (_client, _servers) = (world.client_sidecar()?, world.servers()?);
    let hello = Client::new(&[MESH], Some(&world.authority.service("web")?))?.hello()?;
    let says = [&hello[..], b"plain", b""];
    // 64 places: an eighth is kept for members, and of the others the stranger leaves an eighth.
    let active = || sidecar.stat("cluster.localhost_8082.upstream_cx_active");
    let flood = Flood::new(world.lab.peer.as_root(), (SERVER, WAITS), &says, 120);
    let failed = flood.beside(|| {
        eventually!(active().is_ok_and(|active| active >= 49), A_WHILE);
        let failed = members(&world, WAITS)?;
        let other = world.lab.peer.as_root().from(unnamed(0));
        talks(other.connect((SERVER, WAITS))?).context("a plain stranger")?;
        // At the same time, too.
        let mut held = Vec::new();
        for nth in 0..12 {
            let mut stream = world.member(WAITS)?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0; GREETING.len() + 1]).with_context(|| format!("the {nth}th of 12"))?;
            held.push(stream);
        }
        Ok(failed)
    })?;
    assert_eq!(failed, [[""; 0]; 2], "members that documents name, and others");
    Ok(())
}

#[test]
fn the_addresses_of_a_64_are_one_stranger_to_the_breaker() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let sidecar = world.server_sidecar(&["--circuit-breaker-max-connections", "64"])?;
    let _server = world.lab.pod.as_uid(crate::support::APP).serve(("::", 8090), echo())?;
    let to: SocketAddr = "[fd77::2]:8090".parse()?;
    let peer = &world.lab.peer;
    let active = || sidecar.stat("cluster.inbound_passthrough_ipv6.upstream_cx_active");
    let mut held = Vec::new();
    for nth in 1..=80 {
        let from = format!("fd78::{nth:x}");
        peer.add_address("lo", &format!("{from}/128"))?;
        held.extend(peer.as_root().from(from.as_str()).connect(to));
    }
    eventually!(active().is_ok_and(|active| active == 49), A_WHILE);
    peer.add_address("lo", "fd79::1/128")?;
    let mut other = peer.as_root().from("fd79::1").connect(to)?;
    other.write_all(b"x")?;
    other.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn connections_of_a_stranger_leave_places_of_the_open_files_to_all_others() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    add_unnamed(&world.lab.peer)?;
    let mut sidecar =
        world.lab.pod.sidecar().options(world.options("server")).open_files(300).start_unready()?;
    sidecar.wait_ready()?;
    let (_client, _servers) = (world.client_sidecar()?, world.servers()?);
    let says: [&[u8]; 1] = [b""];
    // 300 files are 84 connections of each direction.
    let flood = Flood::new(world.lab.peer.as_root(), (SERVER, SPEAKS), &says, 120);
    let failed = flood.beside(|| {
        eventually!(closed_by_limit(&sidecar) > 0, A_WHILE);
        members(&world, WAITS)
    })?;
    assert_eq!(failed, [[""; 0]; 2], "members that documents name, and others");
    Ok(())
}

#[test]
fn a_64_full_of_addresses_closes_no_other_connection_to_the_status_port() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let _sidecar = world.server_sidecar(&[])?;
    let peer = &world.lab.peer;
    let to: SocketAddr = "[fd77::2]:15020".parse()?;
    let ready = |stream: &TcpStream| -> Result<()> {
        let mut stream = stream.try_clone()?;
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: pod\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        ensure!(&head == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&head));
        // The rest of it is read before the next question, or it would be taken for its answer.
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        while uninterrupted(|| stream.read(&mut [0; 4096])).is_ok_and(|n| n > 0) {}
        Ok(stream.set_read_timeout(Some(A_WHILE))?)
    };
    let kept = peer.as_root().connect(to)?;
    ready(&kept)?;
    let mut hoard = Vec::new();
    for nth in 1..=100 {
        let from = format!("fd78::{nth:x}");
        peer.add_address("lo", &format!("{from}/128"))?;
        hoard.push(peer.as_root().from(from.as_str()).connect(to)?);
    }
    // The hundredth has been accepted once a later one is answered.
    assert_eq!(http::get(peer.as_root().connect(to)?, "/live")?.status, 200);
    ready(&kept).context("the connection that was there before")
}
