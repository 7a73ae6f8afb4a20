//! One port, two owners: application and sidecar share the pod's addresses, and the kernel remembers its decision about a
//! connection for longer than the connection lives. The next one of the same addresses and ports is decided anew.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::family::unmapped;
use culvert_tests::server::Server;
use culvert_tests::until::{DEADLINE, uninterrupted, until_some};
use culvert_tests::{Actor, At, Family, Host, Lab};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{APP, SIDECAR, by_every_engine, scaled};

/// A uid whose connections are excluded.
const EXCLUDED: u32 = 4321;
/// Shorter than the kernel's own wait for an answer.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// A listener that took a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Server,
    Outbound,
    Inbound,
}

/// The end of the connection that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server resets it.
    Reset,
    /// The client resets it.
    ClientResets,
    /// The server closes first.
    ServerCloses,
    /// The client closes first, so its port waits for stragglers.
    ClientCloses,
    /// No answer ever came.
    Silence,
    /// The other end went without a word, and the client gave up.
    Vanished,
}

impl End {
    /// Returns true if no segment said that the connection is over.
    fn is_unfinished(self) -> bool {
        matches!(self, Self::Silence | Self::Vanished)
    }
}

const EVERY_END: [End; 6] =
    [End::Reset, End::ClientResets, End::ServerCloses, End::ClientCloses, End::Silence, End::Vanished];

/// A pod whose listeners say which of them took a connection.
struct World<'a> {
    engine: &'a str,
    /// True if the first connection of each two comes while no rules are there.
    rules_were_gone: bool,
    lab: Lab,
    arrivals: Receiver<Place>,
    sender: Sender<Place>,
    servers: Vec<Server>,
    /// The last port used, below those that the kernel chooses.
    port: u16,
    wrong: String,
}

impl<'a> World<'a> {
    fn new(engine: &'a str, annotations: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
        let (sender, arrivals) = channel();
        Ok(Self {
            engine,
            rules_were_gone: false,
            lab,
            arrivals,
            sender,
            servers: Vec::new(),
            port: 20_000,
            wrong: String::new(),
        })
    }

    /// Listeners in place of the sidecar's, and a server outside; all end their connections in this way.
    fn serve(&mut self, end: End) -> Result<()> {
        self.servers.clear();
        let sidecar = self.lab.pod.as_uid(SIDECAR);
        let mut listeners = vec![
            (listener(sidecar, "[::]:15001")?, Place::Outbound),
            (listener(sidecar, "[::]:15006")?, Place::Inbound),
        ];
        for family in Family::BOTH {
            listeners.push((listener(self.lab.peer.as_root(), (family.outside(), 80))?, Place::Server));
        }
        for (listener, place) in listeners {
            let sender = self.sender.clone();
            let behaviour = move |stream: TcpStream| {
                let _ = sender.send(place);
                end_as_server(stream, end)
            };
            self.servers.push(Server::start(listener, behaviour)?);
        }
        Ok(())
    }

    /// A connection of `first` that ends so, then one of `second` from the same port to the same server.
    fn two(&mut self, family: Family, first: (u32, Place), end: End, second: (u32, Place)) -> Result<()> {
        self.serve(end)?;
        let server = (family.outside(), 80).at();
        if self.rules_were_gone {
            self.lab.del()?.expect_success();
        }
        self.port += 1;
        let source = (family.pod(), self.port).at();
        let what = format!("{family}: uid {} after uid {}, {end:?}", second.0, first.0);
        if end == End::Silence {
            hole(&self.lab.peer, true)?;
        }
        match connect_from(self.lab.pod.as_uid(first.0), source, server, IMPATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset && end == End::Reset => {
                ensure!(self.arrivals.recv_timeout(DEADLINE)? == first.1, "{what}: the first");
            }
            Ok(stream) => {
                let landed = self.arrivals.recv_timeout(DEADLINE)?;
                ensure!(landed == first.1, "{what}: the first landed at {landed:?}");
                if end == End::Vanished {
                    hole(&self.lab.peer, true)?;
                }
                end_as_client(stream, end).with_context(|| what.clone())?;
            }
            Err(error) => ensure!(end == End::Silence, "{what}: {error}"),
        }
        if end.is_unfinished() {
            // The server forgets what it knows, unheard.
            self.serve(End::Reset)?;
            hole(&self.lab.peer, false)?;
        }
        if self.rules_were_gone {
            self.lab.add(&[("engine", self.engine)])?.expect_success();
        }
        let again = || match connect_from(self.lab.pod.as_uid(second.0), source, server, DEADLINE) {
            // The last one's end is not over yet.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => None,
            // The kernel still holds the unfinished connection; what would follow it is refused.
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused
                    && (end.is_unfinished() || self.rules_were_gone) =>
            {
                None
            }
            other => Some(other),
        };
        let again = until_some(DEADLINE, again).with_context(|| format!("{what}: port is never free"))?;
        let landed = match again {
            // A reset may come with the end of the handshake.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _open => self.arrivals.recv_timeout(DEADLINE).map_err(|_| io::Error::from(ErrorKind::TimedOut)),
        };
        match landed {
            Ok(place) if place == second.1 => {}
            other => writeln!(self.wrong, "{what}: expected {:?}, got {other:?}", second.1)?,
        }
        Ok(())
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "an old decision was met:\n{}", self.wrong);
        }
    }
}

/// Lets a host hear nothing, as if it had gone, or hear again.
fn hole(host: &Host, is_there: bool) -> Result<()> {
    let script = match is_there {
        true => {
            "add table inet hole; add chain inet hole in { type filter hook input priority 0; policy drop; }; \
             add chain inet hole out { type filter hook output priority 0; policy drop; }; \
             add rule inet hole in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
             add rule inet hole out icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
        }
        false => "delete table inet hole",
    };
    nft(host, script)
}

/// Listens where a listener was a moment ago. A program that another test just started may hold it until it is executed.
fn listener(actor: Actor<'_>, at: impl At) -> Result<TcpListener> {
    let at = at.at();
    until_some(DEADLINE, || actor.listen(at).ok()).with_context(|| format!("{at} is never free"))
}

fn nft(host: &Host, script: &str) -> Result<()> {
    let ran = host.namespace().run(|| Command::new("nft").arg(script).output())?;
    ensure!(ran.status.success(), "nft {script}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

fn connect_from(
    actor: Actor<'_>,
    source: SocketAddr,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    actor.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.connect_timeout(&to.into(), patience)?;
        Ok(socket.into())
    })
}

fn end_as_server(mut stream: TcpStream, end: End) -> io::Result<()> {
    match end {
        End::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        End::ServerCloses | End::Silence => Ok(()),
        End::ClientCloses => uninterrupted(|| stream.read(&mut [0])).map(drop),
        // Its end is never heard of.
        End::ClientResets | End::Vanished => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            uninterrupted(|| stream.read(&mut [0])).map(drop)
        }
    }
}

fn end_as_client(mut stream: TcpStream, end: End) -> Result<()> {
    match end {
        End::Reset => {
            let seen = uninterrupted(|| stream.read(&mut [0]));
            ensure!(seen.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{seen:?}");
        }
        End::ClientResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        End::ServerCloses => ensure!(uninterrupted(|| stream.read(&mut [0]))? == 0, "more than an end came"),
        End::ClientCloses => {
            stream.shutdown(Shutdown::Write)?;
            ensure!(uninterrupted(|| stream.read(&mut [0]))? == 0, "more than an end came");
        }
        End::Silence => {}
        End::Vanished => {
            SockRef::from(&stream).set_tcp_user_timeout(Some(IMPATIENCE))?;
            stream.write_all(b"x")?;
            let seen = uninterrupted(|| stream.read(&mut [0]));
            ensure!(seen.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut), "{seen:?}");
        }
    }
    Ok(())
}

fn a_port_that_was_the_others_is_decided_anew(engine: &str) -> Result<()> {
    let mut world = World::new(engine, &[("exclude-outbound-ports-for-uids", "*:4321")])?;
    let (app, sidecar, excluded) =
        ((APP, Place::Outbound), (SIDECAR, Place::Server), (EXCLUDED, Place::Server));
    for family in Family::BOTH {
        for (first, second) in [(sidecar, app), (app, sidecar), (excluded, app), (app, excluded)] {
            for end in EVERY_END {
                // What goes to the sidecar's own listener is always answered.
                if first == app && end.is_unfinished() {
                    continue;
                }
                world.two(family, first, end, second)?;
            }
        }
    }
    Ok(())
}

/// Rules that are removed, and put back: what went out directly meanwhile is no precedent. The pod's own NAT keeps conntrack
/// at work all the time.
fn a_port_that_was_used_without_rules_is_decided_anew(engine: &str) -> Result<()> {
    let mut world = World::new(engine, &[])?;
    world.lab.del()?.expect_success();
    nft(
        &world.lab.pod,
        "add table inet own; add chain inet own out { type nat hook output priority -100; }; \
         add rule inet own out tcp dport 4444 redirect to :5555",
    )?;
    // By default 10 s, for which a reset connection's successor is refused here.
    world.lab.pod.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
    world.rules_were_gone = true;
    for family in Family::BOTH {
        for end in EVERY_END {
            world.two(family, (APP, Place::Server), end, (APP, Place::Outbound))?;
        }
    }
    Ok(())
}

/// The outcome of many connections that the server resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Storm {
    relayed: usize,
    /// Reached the server past the sidecar.
    strays: usize,
    /// Did not reach it.
    failed: usize,
}

impl std::iter::Sum for Storm {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            relayed: a.relayed + b.relayed,
            strays: a.strays + b.strays,
            failed: a.failed + b.failed,
        })
    }
}

/// Says the client's port, waits for a byte and resets.
fn tells_port_and_resets(mut stream: TcpStream) -> io::Result<()> {
    let client = unmapped(stream.peer_addr()?);
    stream.write_all(&client.port().to_be_bytes())?;
    stream.read_exact(&mut [0])?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Two sockets of a pod never have the same addresses and ports at a time: if the server sees the application's own port, the
/// connection is the application's own.
fn attempts(actor: Actor<'_>, server: SocketAddr, count: usize) -> Storm {
    actor.run(|| {
        let one = || -> io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&server, DEADLINE / 5)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut port = [0; 2];
            stream.read_exact(&mut port)?;
            stream.write_all(b"x")?;
            // The next attempt comes after the reset.
            let _ = uninterrupted(|| stream.read(&mut [0]));
            Ok(stream.local_addr()?.port() == u16::from_be_bytes(port))
        };
        let mut storm = Storm::default();
        for _ in 0..count {
            match one() {
                Ok(false) => storm.relayed += 1,
                Ok(true) => storm.strays += 1,
                Err(_) => storm.failed += 1,
            }
        }
        storm
    })
}

/// So many attempts by so many threads at a server that resets each.
fn storm(lab: &Lab, family: Family, threads: usize, count: usize) -> Result<Storm> {
    let server = (family.outside(), 80).at();
    let listener = listener(lab.peer.as_root(), server)?;
    Ok(thread::scope(|scope| {
        for _ in 0..threads {
            let listener = listener.try_clone().expect("a second descriptor");
            scope.spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = tells_port_and_resets(stream);
                }
            });
        }
        let clients: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| attempts(lab.pod.as_uid(APP), server, count / threads)))
            .collect();
        let storm = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
        // Ends every accept.
        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        storm
    }))
}

/// A dependency that is away answers nothing. What the sidecar gave up is no precedent when it is back.
fn a_server_that_was_silent_is_reached_through_the_sidecar_only(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    lab.pod.set_sysctl("net.ipv4.ip_local_port_range", "40000 40199")?;
    let _sidecar = lab.pod.sidecar().options(["--connect-timeout", "50ms"]).start()?;
    for family in Family::BOTH {
        hole(&lab.peer, true)?;
        let while_away = storm(&lab, family, 8, 160)?;
        assert_eq!(while_away, Storm { failed: 160, ..Storm::default() }, "{family}");
        hole(&lab.peer, false)?;
        let mut strays = 0;
        let all_are_relayed = || {
            let storm = storm(&lab, family, 8, 160).ok()?;
            println!("{engine}, {family}, back again: {storm:?}");
            strays += storm.strays;
            (storm.relayed == 160 || strays > 0).then_some(())
        };
        let relayed = until_some(DEADLINE * 2, all_are_relayed);
        assert_eq!((strays, relayed), (0, Some(())), "{family}");
    }
    Ok(())
}

fn a_server_that_resets_everything_is_reached_through_the_sidecar_only(engine: &str) -> Result<()> {
    let count = scaled(400);
    let mut wrong = String::new();
    for threads in [2, 8, 32] {
        let lab = Lab::new()?;
        lab.add(&[("engine", engine)])?.expect_success();
        if count <= 400 {
            // So few ports that they soon come round again.
            lab.pod.set_sysctl("net.ipv4.ip_local_port_range", "40000 40199")?;
        }
        let _sidecar = lab.pod.sidecar().start()?;
        for family in Family::BOTH {
            let storm = storm(&lab, family, threads, count)?;
            let line = format!("{engine}, {family}, {threads} threads: {storm:?}");
            println!("{line}");
            // Among so few ports the sidecar may take a client for its own socket that just ended on the same port; it then ends
            // the connection rather than let it pass.
            if storm.strays > 0 || storm.failed * 10 > count {
                writeln!(wrong, "{line}")?;
            }
        }
    }
    assert!(wrong.is_empty(), "not all went through the sidecar:\n{wrong}");
    Ok(())
}

/// As an operator sees it: the one connection that the sidecar has no record of.
fn the_port_of_a_sidecars_dead_connection_is_relayed_for_the_application(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let server = lab.peer.serve((family.outside(), 80), tells_port_and_resets)?;
        let total = format!("cluster.outbound_passthrough_{name}.upstream_cx_total");
        let exchange = |source: SocketAddr| -> Result<u16> {
            let mut stream = connect_from(lab.pod.as_uid(APP), source, server.address(), DEADLINE)?;
            let mut port = [0; 2];
            stream.read_exact(&mut port)?;
            stream.write_all(b"x")?;
            let ended = uninterrupted(|| stream.read(&mut [0]));
            ensure!(ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
            Ok(u16::from_be_bytes(port))
        };
        let port = exchange((family.pod(), 0).at())?;
        assert_ne!(exchange((family.pod(), port).at())?, port, "{family}: it went past the sidecar");
        assert_eq!(sidecar.stat(&total)?, 2, "{family}");
    }
    Ok(())
}

by_every_engine! {
    a_server_that_resets_everything_is_reached_through_the_sidecar_only,
    a_server_that_was_silent_is_reached_through_the_sidecar_only,
    the_port_of_a_sidecars_dead_connection_is_relayed_for_the_application,
    a_port_that_was_the_others_is_decided_anew,
    a_port_that_was_used_without_rules_is_decided_anew,
}
