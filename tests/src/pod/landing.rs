//! The landing of a connection, seen without a sidecar: bare listeners in its place and at the real targets.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::SockRef;

use crate::family::{At, unmapped};
use crate::lab::host::{Actor, Host};
use crate::pod::sidecar::UID;
use crate::server::Server;
use crate::until::DEADLINE;

/// The longest that a connection without an answer may take: it is a local network, but a lost first packet is sent again
/// after a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// The place where a connection landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// At the target itself.
    Direct,
    /// With the sidecar's outbound listener, with this original destination.
    Outbound(SocketAddr),
    /// With the sidecar's inbound listener, with this original destination.
    Inbound(SocketAddr),
    /// With one of the sidecar's listeners, but not redirected to it.
    Lost,
    /// Refused by the kernel.
    Refused,
    /// No answer came before the deadline.
    TimedOut,
}

impl fmt::Display for Landed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Outbound(to) => write!(f, "outbound listener, for {to}"),
            Self::Inbound(to) => write!(f, "inbound listener, for {to}"),
            Self::Lost => f.write_str("a listener of the sidecar, not redirected"),
            Self::Refused => f.write_str("refused"),
            Self::TimedOut => f.write_str("no answer"),
        }
    }
}

/// The listener that accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Target,
    Outbound,
    Inbound,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    place: Place,
    client: SocketAddr,
    /// The destination before the redirect, if there was one.
    original: Option<SocketAddr>,
}

/// Listeners that note which connections reach them.
#[derive(Debug)]
pub struct Landing {
    listeners: Vec<Server>,
    arrivals: Receiver<Arrival>,
    sender: Sender<Arrival>,
}

impl Landing {
    /// Takes the sidecar's place in a pod: its ports (inbound, outbound), its uid.
    pub fn in_place_of_sidecar(pod: &Host, inbound: u16, outbound: u16) -> Result<Self> {
        let (sender, arrivals) = channel();
        let mut landing = Self { listeners: Vec::new(), arrivals, sender };
        let sidecar = pod.as_uid(UID);
        for (port, place) in [(inbound, Place::Inbound), (outbound, Place::Outbound)] {
            let listener =
                sidecar.listen(("::", port)).with_context(|| format!("cannot listen on {port}"))?;
            landing.note(listener, place)?;
        }
        Ok(landing)
    }

    /// In place of a sidecar with the default ports.
    pub fn new(pod: &Host) -> Result<Self> {
        Self::in_place_of_sidecar(pod, 15006, 15001)
    }

    /// Listens at a real target as well.
    pub fn target(&mut self, host: &Host, at: impl At) -> Result<()> {
        let at = at.at();
        let listener = host.listen(at).with_context(|| format!("{} cannot listen at {at}", host.name()))?;
        self.note(listener, Place::Target)
    }

    fn note(&mut self, listener: TcpListener, place: Place) -> Result<()> {
        let sender = self.sender.clone();
        let arrived = move |stream: TcpStream| {
            let client = unmapped(stream.peer_addr()?);
            let here = unmapped(stream.local_addr()?);
            let original = original_destination(&stream).filter(|original| *original != here);
            let _ = sender.send(Arrival { place, client, original });
            Ok(())
        };
        self.listeners.push(Server::start(listener, arrived)?);
        Ok(())
    }

    /// Connects and says where that landed.
    pub fn of(&self, actor: Actor<'_>, to: impl At) -> Result<Landed> {
        let to = to.at();
        let stream = match actor.patience(PATIENCE).connect(to) {
            Ok(stream) => stream,
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(Landed::Refused),
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                return Ok(Landed::TimedOut);
            }
            Err(e) => return Err(e).context("cannot connect"),
        };
        let client = unmapped(stream.local_addr()?);
        let arrival = self
            .arrival_of(client, to)
            .with_context(|| format!("{client} was accepted, but by no listener here"))?;
        Ok(match (arrival.place, arrival.original) {
            (Place::Target, _) => Landed::Direct,
            (Place::Outbound, Some(to)) => Landed::Outbound(to),
            (Place::Inbound, Some(to)) => Landed::Inbound(to),
            (Place::Outbound | Place::Inbound, None) => Landed::Lost,
        })
    }

    /// Usually the arrival from the client's own port. Where two connections from one port to two targets are both
    /// redirected to one listener, the kernel gives the second another port.
    fn arrival_of(&self, client: SocketAddr, to: SocketAddr) -> Result<Arrival> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let arrival = self.arrivals.recv_timeout(left)?;
            let renamed = arrival.client.ip() == client.ip() && arrival.original == Some(to);
            if arrival.client == client || renamed {
                return Ok(arrival);
            }
        }
    }

    /// Returns the number of connections that each listener accepted, by its address.
    pub fn accepted(&self) -> HashMap<SocketAddr, usize> {
        self.listeners.iter().map(|l| (l.address(), l.accepted())).collect()
    }
}

/// The destination before the redirect, as the sidecar asks for it. `None` where there was none.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let asked: io::Result<_> = match unmapped(stream.local_addr().ok()?) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    asked.ok()?.as_socket()
}
