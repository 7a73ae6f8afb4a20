// SPDX-License-Identifier: Apache-2.0
//! A query at the servers of the pod: to one after the other until one helps.
//!
//! Each query has a socket and an id of its own. The kernel draws the port, and takes answers from the server's address alone;
//! the id and the question are compared here. A server that is late is still heard while the next one is asked.

use crate::dns::Transport;
use crate::dns::frame;
use crate::dns::in_flight::OwnQueries;
use crate::dns::loops::{Leave, LoopProbes, PodServer};
use crate::dns::message::{answers, id_of, is_unhelpful, set_id};
use crate::dns::metrics::{DnsUpstreamMetrics, Outcome};
use crate::dns::servers::{Order, Server, Servers};
use crate::relay::with_scratch;
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};

/// Everything that a query needs on its way to a server.
#[derive(Debug)]
pub(crate) struct Way {
    /// Time for an answer before the next server is asked as well.
    pub(crate) deadline: Duration,
    pub(crate) own: OwnQueries,
    pub(crate) probes: LoopProbes,
    ids: Ids,
    metrics: DnsUpstreamMetrics,
}

/// Draws ids. A keyed hash of a count is as good as chance to all who do not have the key, and costs no system call.
#[derive(Debug, Default)]
struct Ids {
    key: RandomState,
    count: AtomicU64,
}

/// An answer, with the query's id.
#[derive(Debug)]
pub(crate) struct ServerAnswer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) server: SocketAddr,
}

/// A query at one server, until it ends.
type Exchange = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

// === impl Ids ===

impl Ids {
    fn next(&self) -> u16 {
        let [high, low, ..] = self.secret().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    fn secret(&self) -> u64 {
        self.key.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl Way ===

impl Way {
    pub(crate) fn new(deadline: Duration, metrics: DnsUpstreamMetrics) -> Self {
        Self {
            deadline,
            own: OwnQueries::default(),
            probes: LoopProbes::default(),
            ids: Ids::default(),
            metrics,
        }
    }

    /// Begins to ask a server.
    fn attempt(self: &Arc<Self>, server: &Arc<Server>, query: &Arc<[u8]>, by: Transport) -> Exchange {
        let (way, server, query) = (Arc::clone(self), Arc::clone(server), Arc::clone(query));
        Box::pin(async move {
            let Some(in_pod) = &server.in_pod else { return way.ask_one(&server, &query, by).await };
            let Leave { asked, probe } = in_pod.enter(&query, Instant::now())?;
            if probe {
                let (way, in_pod) = (Arc::clone(&way), Arc::clone(in_pod));
                tokio::spawn(way.probe(in_pod, server.address, Arc::clone(&query)));
            }
            let answer = way.ask_one(&server, &query, by).await;
            drop(asked);
            answer
        })
    }

    /// Finds out if queries to a server of the pod come back. One that does is told by [`LoopProbes::arrived`].
    async fn probe(self: Arc<Self>, in_pod: Arc<PodServer>, server: SocketAddr, query: Arc<[u8]>) {
        let Some(probe) = self.probes.begin(&in_pod, &query, self.ids.secret()) else { return };
        if let Ok(Ok(_)) = tokio::time::timeout(self.deadline, self.by_udp(server, &probe.query)).await {
            in_pod.answered(Instant::now());
        }
    }

    /// Asks a server until it answers or fails, for ever if it is silent.
    async fn ask_one(&self, server: &Server, query: &[u8], by: Transport) -> Option<Vec<u8>> {
        let began = Instant::now();
        let result = match by {
            Transport::Udp => self.by_udp(server.address, query).await,
            Transport::Tcp => self.by_tcp(server.address, query).await,
        };
        match result {
            Ok(answer) => {
                server.is_back();
                self.metrics.outcomes[Outcome::Answered].inc();
                let took = began.elapsed();
                self.metrics.seconds.observe(took.as_secs_f64());
                self.metrics.micros.inc_by(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(server = %server.address, %error, "cannot ask the DNS server");
                self.metrics.outcomes[Outcome::Unreachable].inc();
                if !is_own_shortage(&error) {
                    server.is_away(Instant::now());
                }
                None
            }
        }
    }

    /// Notes that a server was silent for the deadline.
    fn silent(&self, server: &Server) {
        server.is_away(Instant::now());
        self.metrics.outcomes[Outcome::Timeout].inc();
    }

    async fn by_udp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = connected(server)?;
        let mut query = query.to_vec();
        set_id(&mut query, self.ids.next());
        let _own = self.own.note(socket.local_addr()?.port(), id_of(&query));
        socket.send(&query).await?;
        let receive = || {
            with_scratch(|scratch| {
                let length = (&*SockRef::from(&socket)).read(scratch)?;
                Ok(answers(&scratch[..length], &query).then(|| scratch[..length].to_vec()))
            })
        };
        loop {
            // Errors too: that nothing listens there comes as one, without anything to read.
            match socket.async_io(Interest::READABLE | Interest::ERROR, receive).await? {
                Some(answer) => return Ok(answer),
                None => _ = self.metrics.ignored.inc(),
            }
        }
    }

    async fn by_tcp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        let mut query = query.to_vec();
        set_id(&mut query, self.ids.next());
        let _own = self.own.note(stream.local_addr()?.port(), id_of(&query));
        frame::write(&mut stream, &query).await?;
        loop {
            match frame::read(&mut stream).await? {
                Some(answer) if answers(&answer, &query) => return Ok(answer),
                Some(_) => _ = self.metrics.ignored.inc(),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Opens a socket that takes datagrams from this server alone. Its port is drawn by the kernel.
fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

/// Returns true for an error that says nothing about the server: no file or no memory is left here.
fn is_own_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL)
    )
}

/// Asks the servers, and returns an answer, or nothing where none answered.
pub(crate) async fn ask(
    query: &[u8],
    by: Transport,
    servers: &Servers,
    way: &Arc<Way>,
) -> Option<ServerAnswer> {
    let Order { trial, present, away } = servers.order(Instant::now());
    let shared: Arc<[u8]> = query.into();
    if let Some(server) = trial {
        let (way, exchange) = (Arc::clone(way), way.attempt(&server, &shared, by));
        // Its answer brings the server back; nothing else hangs on it.
        tokio::spawn(async move {
            if tokio::time::timeout(way.deadline, exchange).await.is_err() {
                way.silent(&server);
            }
        });
    }
    let mut exchanges = Exchanges::default();
    let mut turns: Vec<&[Arc<Server>]> = present.chunks(1).collect();
    if !away.is_empty() {
        turns.push(&away);
    }
    for (at, turn) in turns.iter().enumerate() {
        // An error that a server gave is worth more than the wait for those that are away.
        if at == present.len() && exchanges.unhelpful.is_some() {
            break;
        }
        let begin = |server: &Arc<Server>| RunningExchange {
            exchange: way.attempt(server, &shared, by),
            server: Arc::clone(server),
            turn: at,
        };
        exchanges.running.extend(turn.iter().map(begin));
        let is_last = at + 1 == turns.len();
        match tokio::time::timeout(way.deadline, exchanges.first(at, is_last)).await {
            Ok(Some(answer)) => return Some(answer.to(query)),
            Ok(None) => {}
            // The next turn begins, and what runs goes on.
            Err(_) => exchanges.of_turn(at).for_each(|server| way.silent(server)),
        }
    }
    exchanges.unhelpful.map(|answer| answer.to(query))
}

impl ServerAnswer {
    /// Puts the query's id in.
    fn to(mut self, query: &[u8]) -> Self {
        set_id(&mut self.bytes, id_of(query));
        self
    }
}

/// A server that is being asked.
struct RunningExchange {
    exchange: Exchange,
    server: Arc<Server>,
    /// Number of the turn in which it began.
    turn: usize,
}

/// The servers that are being asked.
#[derive(Default)]
struct Exchanges {
    running: Vec<RunningExchange>,
    /// The first answer that does not help, for a query that no server helps with.
    unhelpful: Option<ServerAnswer>,
}

impl Exchanges {
    /// Returns the first answer that helps, or nothing once all of this turn have ended; in the last turn, all of any turn.
    async fn first(&mut self, turn: usize, is_last: bool) -> Option<ServerAnswer> {
        poll_fn(|context| {
            let mut at = 0;
            while let Some(running) = self.running.get_mut(at) {
                match running.exchange.as_mut().poll(context) {
                    Poll::Pending => at += 1,
                    Poll::Ready(ended) => {
                        let server = self.running.swap_remove(at).server.address;
                        let answer = ended.map(|bytes| ServerAnswer { bytes, server });
                        match answer {
                            Some(answer) if !is_unhelpful(&answer.bytes) => return Poll::Ready(Some(answer)),
                            Some(answer) => _ = self.unhelpful.get_or_insert(answer),
                            None => {}
                        }
                    }
                }
            }
            let waits = |running: &RunningExchange| is_last || running.turn == turn;
            if self.running.iter().any(waits) { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// Returns the servers of a turn that have not ended.
    fn of_turn(&self, turn: usize) -> impl Iterator<Item = &Server> {
        self.running.iter().filter(move |running| running.turn == turn).map(|running| &*running.server)
    }
}
