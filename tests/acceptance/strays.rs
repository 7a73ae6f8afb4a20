//! One port, two owners: application and sidecar share the pod's addresses, and the kernel remembers its decision about a
//! connection for longer than the connection lives. The next one of the same addresses and ports is decided anew.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::Server;
use culvert_tests::until::{DEADLINE, until_some};
use culvert_tests::{Actor, At, Family, Host, Lab};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{APP, SIDECAR, by_every_engine};

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

const EVERY_END: [End; 6] =
    [End::Reset, End::ClientResets, End::ServerCloses, End::ClientCloses, End::Silence, End::Vanished];

/// A pod whose listeners say which of them took a connection.
struct World {
    lab: Lab,
    arrivals: Receiver<Place>,
    sender: Sender<Place>,
    servers: Vec<Server>,
    /// The last port used, below those that the kernel chooses.
    port: u16,
    wrong: String,
}

impl World {
    fn new(engine: &str, annotations: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
        let (sender, arrivals) = channel();
        Ok(Self { lab, arrivals, sender, servers: Vec::new(), port: 20_000, wrong: String::new() })
    }

    /// Listeners in place of the sidecar's, and a server outside; all end their connections in this way.
    fn serve(&mut self, end: End) -> Result<()> {
        self.servers.clear();
        let sidecar = self.lab.pod.as_uid(SIDECAR);
        let mut listeners = vec![
            (sidecar.listen("[::]:15001")?, Place::Outbound),
            (sidecar.listen("[::]:15006")?, Place::Inbound),
        ];
        for family in Family::BOTH {
            listeners.push((self.lab.peer.listen((family.outside(), 80))?, Place::Server));
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
        self.port += 1;
        let source = (family.pod(), self.port).at();
        let what = format!("{family}: uid {} after uid {}, {end:?}", second.0, first.0);
        if end == End::Silence {
            self.hole(true)?;
        }
        match connect_from(self.lab.pod.as_uid(first.0), source, server, IMPATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset && end == End::Reset => {
                ensure!(self.arrivals.recv_timeout(DEADLINE)? == first.1, "{what}: the first");
            }
            Ok(stream) => {
                let landed = self.arrivals.recv_timeout(DEADLINE)?;
                ensure!(landed == first.1, "{what}: the first landed at {landed:?}");
                if end == End::Vanished {
                    self.hole(true)?;
                }
                end_as_client(stream, end).with_context(|| what.clone())?;
            }
            Err(error) => ensure!(end == End::Silence, "{what}: {error}"),
        }
        if matches!(end, End::Silence | End::Vanished) {
            // The server forgets what it knows, unheard.
            self.serve(End::Reset)?;
            self.hole(false)?;
        }
        let again = || match connect_from(self.lab.pod.as_uid(second.0), source, server, DEADLINE) {
            // The last one's end is not over yet.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => None,
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

    /// Lets the peer hear nothing, as if it had gone, or hear again.
    fn hole(&self, is_there: bool) -> Result<()> {
        let script = match is_there {
            true => "add table inet hole; add chain inet hole in { type filter hook input priority 0; policy drop; }; \
                     add chain inet hole out { type filter hook output priority 0; policy drop; }; \
                     add rule inet hole in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
                     add rule inet hole out icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
            false => "delete table inet hole",
        };
        nft(&self.lab.peer, script)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "an old decision was met:\n{}", self.wrong);
        }
    }
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
        End::ClientCloses => stream.read(&mut [0]).map(drop),
        // Its end is never heard of.
        End::ClientResets | End::Vanished => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.read(&mut [0]).map(drop)
        }
    }
}

fn end_as_client(mut stream: TcpStream, end: End) -> Result<()> {
    match end {
        End::Reset => {
            let seen = stream.read(&mut [0]);
            ensure!(seen.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{seen:?}");
        }
        End::ClientResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        End::ServerCloses => ensure!(stream.read(&mut [0])? == 0, "more than an end came"),
        End::ClientCloses => {
            stream.shutdown(Shutdown::Write)?;
            ensure!(stream.read(&mut [0])? == 0, "more than an end came");
        }
        End::Silence => {}
        End::Vanished => {
            SockRef::from(&stream).set_tcp_user_timeout(Some(IMPATIENCE))?;
            stream.write_all(b"x")?;
            let seen = stream.read(&mut [0]);
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
                if matches!(end, End::Silence | End::Vanished) {
                    continue;
                }
                world.two(family, first, end, second)?;
            }
        }
    }
    Ok(())
}

by_every_engine! {
    a_port_that_was_the_others_is_decided_anew,
}
