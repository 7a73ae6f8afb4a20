// SPDX-License-Identifier: Apache-2.0
//! The DNS server of the pod: names of the mesh from a table, everything else from the servers of the pod's resolv.conf.
//!
//! ```text
//! application ─▶ rules (redirect-dns) ─▶ UDP or TCP on loopback ─▶ decide ─▶ a name of the mesh: answered here
//!                                                                        ─▶ any other: relayed to a server and back
//! ```
//! A name that the mesh may have, and that no document says, is asked for at a [`NameSource`] before it is relayed.
//!
//! A relayed message keeps its bytes but for the id. The server that an application asked cannot be had: the kernel tells the
//! original destination of TCP alone, so both transports use the pod's servers. The sidecar's own queries leave by its uid.

pub mod answer;
mod ask;
mod frame;
mod in_flight;
pub(crate) mod listen;
pub(crate) mod log;
mod loops;
pub mod message;
pub mod metrics;
pub mod names;
pub(crate) mod resolv_conf;
mod servers;
mod tcp;
mod udp;
pub(crate) mod watch;

use crate::dns::answer::{Bounds, Decision};
use crate::dns::ask::{ServerAnswer, Way};
use crate::dns::in_flight::{InFlight, Slot};
use crate::dns::log::{QueryLogger, QueryRecord};
use crate::dns::message::{SERVFAIL, error_reply, id_of};
use crate::dns::metrics::{Answered, DnsMetrics};
use crate::dns::names::Names;
use crate::dns::servers::Servers;
use crate::net::limit::Limit;
use arc_swap::ArcSwap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Time for a server's answer before the next server is asked as well. glibc and musl wait 5 s for us, so two servers fit in.
const DEADLINE: Duration = Duration::from_secs(2);

/// Queries in flight at a server, each with a socket of its own. dnsmasq has 150, systemd-resolved 2,048.
const MOST_IN_FLIGHT: usize = 2048;

/// Open files for each query in flight: the rest is for connections.
const FILES_PER_QUERY: u64 = 8;

/// TCP connections of clients. A resolver opens one for a truncated answer and closes it.
const MOST_CONNECTIONS: u32 = 256;

/// Protocol by which a query came, and by which it is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The state that queries share. Made once, at the start.
#[derive(Debug)]
pub(crate) struct Dns {
    /// The names of the mesh. Exchanged on the main thread after the plan, or when a route came or went; each query loads it
    /// once.
    names: ArcSwap<Names>,
    /// Told by a reload, on the main thread, once another plan is in force. The task that exchanges `names` waits for it there.
    pub(crate) plan_changed: Notify,
    /// The servers of resolv.conf. Exchanged on the main thread when the file changes; each relayed query loads it once.
    servers: ArcSwap<Servers>,
    /// The file that names the servers. Read on the main thread.
    resolv_conf: PathBuf,
    /// The port of this server on loopback, which is never a server to ask; 0 = off.
    port: u16,
    /// The places of relayed queries. Workers take them and give them back.
    in_flight: Arc<InFlight>,
    /// The places of TCP connections. Workers take them and give them back.
    connections: Arc<Limit>,
    /// The means of asking servers: ids, counters, and the queries that the sidecar itself has sent. Workers use it.
    way: Arc<Way>,
    /// The log of queries. Workers hand over records; a thread of its own writes them.
    pub(crate) log: QueryLogger,
    /// Knows names that documents do not say yet; `None` without a controller.
    source: Option<Arc<dyn NameSource>>,
    metrics: DnsMetrics,
}

/// Knows names of the mesh that no document says yet.
pub(crate) trait NameSource: Debug + Send + Sync {
    /// Returns true if all that is known of a name is in force. Notes that the name is in use.
    fn knows(&self, host: &Arc<str>) -> bool;

    /// Returns true once that is so; false where it was not in time.
    fn ask(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// The arrival of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    by: Transport,
    client: SocketAddr,
    /// Time at which it came, where a log asks for it.
    began: Option<Instant>,
}

/// Fate of the bytes that a client sent.
#[derive(Debug)]
enum Fate {
    /// Nothing is said to bytes that are no query.
    Silence,
    Reply(Vec<u8>),
    /// The query has a place in flight.
    Relay(Slot),
}

impl Dns {
    /// Makes the state without names and servers. `open_files` are those that the process may have.
    pub(crate) fn new(
        port: u16,
        resolv_conf: PathBuf,
        open_files: u64,
        (metrics, log): (DnsMetrics, QueryLogger),
        source: Option<Arc<dyn NameSource>>,
    ) -> Self {
        let files = usize::try_from(open_files / FILES_PER_QUERY).unwrap_or(MOST_IN_FLIGHT);
        Self {
            names: ArcSwap::default(),
            plan_changed: Notify::new(),
            servers: ArcSwap::default(),
            resolv_conf,
            port,
            in_flight: InFlight::new(files.clamp(1, MOST_IN_FLIGHT), metrics.active.clone()),
            connections: Limit::new(MOST_CONNECTIONS),
            way: Arc::new(Way::new(DEADLINE, metrics.upstream.clone())),
            log,
            source,
            metrics,
        }
    }

    /// Returns the servers of resolv.conf with their states, for the page.
    pub(crate) fn servers(&self) -> Vec<(SocketAddr, &'static str)> {
        self.servers.load().states(Instant::now())
    }

    /// Decides about the bytes that a client sent.
    fn decide(&self, query: &[u8], by: Transport, client: SocketAddr) -> Fate {
        let arrival = self.arrival(by, client);
        match answer::decide(query, bounds(by), &self.names.load()) {
            Decision::Drop => {
                self.metrics.queries[Answered::Dropped].inc();
                Fate::Silence
            }
            Decision::Reply { bytes, answered } => {
                self.note(query, arrival, (answered, &bytes), None);
                self.is_used(query);
                Fate::Reply(bytes)
            }
            Decision::Relay => self.place(query, arrival),
        }
    }

    /// Takes a place in flight for a query, unless it is one of the sidecar's own or there is none.
    fn place(&self, query: &[u8], arrival: Arrival) -> Fate {
        let way = &self.way;
        let refused = if way.own.contains(arrival.client.port(), id_of(query)) || way.probes.arrived(query) {
            Answered::Loop
        } else {
            match self.in_flight.enter(arrival.client) {
                Some(place) => return Fate::Relay(place),
                None => Answered::Overflow,
            }
        };
        let reply = error_reply(query, SERVFAIL);
        self.note(query, arrival, (refused, &reply), None);
        Fate::Reply(reply)
    }

    /// Notes the use of a name that was asked for.
    fn is_used(&self, query: &[u8]) {
        if let Some(source) = &self.source
            && let Some(host) = self.names.load().may_be(query)
        {
            source.knows(&host);
        }
    }

    /// Answers with a name that the source of names knows and no document said until now.
    async fn asked(&self, query: &[u8], by: Transport) -> Option<(Answered, Vec<u8>)> {
        let source = self.source.as_ref()?;
        let host = self.names.load().may_be(query)?;
        // One that is known by now may not have been when the query was decided about first.
        if !source.knows(&host) && !source.ask(host).await {
            return None;
        }
        match answer::decide(query, bounds(by), &self.names.load()) {
            Decision::Reply { bytes, answered } => Some((answered, bytes)),
            Decision::Drop | Decision::Relay => None,
        }
    }

    /// Asks the servers, and returns the reply for the client.
    async fn relay(&self, query: &[u8], by: Transport, client: SocketAddr) -> Vec<u8> {
        let arrival = self.arrival(by, client);
        if let Some((answered, reply)) = self.asked(query, by).await {
            self.note(query, arrival, (answered, &reply), None);
            return reply;
        }
        let servers = self.servers.load_full();
        let (answered, reply, server) = match ask::ask(query, by, &servers, &self.way).await {
            Some(ServerAnswer { bytes, server }) => {
                let bytes = if by == Transport::Udp { answer::cut_to_client(query, bytes) } else { bytes };
                (Answered::Forwarded, bytes, Some(server))
            }
            None if servers.come_back(Instant::now()) => (Answered::Loop, error_reply(query, SERVFAIL), None),
            None => (Answered::Failed, error_reply(query, SERVFAIL), None),
        };
        self.note(query, arrival, (answered, &reply), server);
        reply
    }

    /// Notes the time where there is a log for it: each look at the clock costs some 30 ns.
    fn arrival(&self, by: Transport, client: SocketAddr) -> Arrival {
        Arrival { by, client, began: self.log.is_on().then(Instant::now) }
    }

    /// Counts a query that was answered, and logs it where that is asked for.
    fn note(&self, query: &[u8], arrival: Arrival, answer: (Answered, &[u8]), server: Option<SocketAddr>) {
        self.metrics.queries[answer.0].inc();
        if self.log.is_on() {
            self.log.record(QueryRecord::of(query, arrival, answer, server));
        }
    }
}

fn bounds(by: Transport) -> Bounds {
    match by {
        Transport::Udp => Bounds::Datagram,
        Transport::Tcp => Bounds::Stream,
    }
}

#[cfg(test)]
mod tests;
