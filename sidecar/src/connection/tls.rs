// SPDX-License-Identifier: Apache-2.0
//! TLS of one connection, as the mesh's documents ask.
//!
//! | | before the server is dialled | after |
//! |---|---|---|
//! | inbound, STRICT | hello, handshake, permission: nobody else gets to the application | |
//! | inbound, PERMISSIVE | | whatever the client speaks; of a member: handshake, permission |
//! | outbound to a member | | handshake; its failure is the connection's, never a reason to speak plainly |
//! | outbound to anybody else | | nothing |

use crate::cluster::registry::Running;
use crate::connection::ForwardError;
use crate::connection::life::Life;
use crate::connection::route::Route;
use crate::connection::stream::Stream;
use crate::connection::table::Entry;
use crate::net::addrs::{Direction, OrigDst};
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use crate::plan::permissions::Verdict;
use crate::plan::{Gate, Origin, TlsMode};
use crate::tls::handshake::{self, Shaken};
use crate::tls::sniff::First;
use crate::tls::{Handshake, TlsError, first};
use culvert_mesh::model::spiffe::SpiffeId;
use std::future::poll_fn;
use std::time::Instant;
use tokio::net::TcpStream;

/// What became of both ends.
#[derive(Default)]
pub(crate) struct Ends {
    client: Option<Shaken>,
    server: Option<Shaken>,
}

impl Ends {
    /// The ends as the relay reads and writes them.
    pub(crate) fn over(self, client: TcpStream, server: TcpStream) -> (Stream, Stream) {
        let end = |shaken: Option<Shaken>, tcp| match shaken {
            Some(shaken) => Stream::Tls(shaken.over(tcp).into()),
            None => Stream::Plain(tcp),
        };
        (end(self.client, client), end(self.server, server))
    }
}

/// Before the server is dialled.
pub(crate) async fn admit(
    life: &mut Life,
    running: &Running,
    route: &Route,
    original: OrigDst,
    client: &mut TcpStream,
) -> Result<Ends, ForwardError> {
    let listener = &running.plan.listeners[route.listener];
    let Some(mtls) = &running.plan.mtls else { return Ok(Ends::default()) };
    let gate = mtls.gate(listener);
    if listener.direction == Direction::Outbound || gate.mode == TlsMode::Permissive {
        return Ok(Ends::default());
    }
    if mtls.named_only && listener.origin != Origin::Inbound {
        return Err(ForwardError::NotInbound(original));
    }
    first::strict(client).await?;
    Ok(Ends { client: Some(accept(life, client, gate).await?), server: None })
}

/// After it was.
pub(crate) async fn agree(
    life: &mut Life,
    running: &Running,
    (route, entry): (&Route, &Entry),
    mut ends: Ends,
    (client, server): (&mut TcpStream, &mut TcpStream),
) -> Result<Ends, ForwardError> {
    let Some(mtls) = &running.plan.mtls else { return Ok(ends) };
    let agreeing = async {
        match entry.direction {
            Direction::Inbound if ends.client.is_none() => {
                let gate = mtls.gate(&running.plan.listeners[route.listener]);
                ends.client = sort_out(life, client, server, gate).await?
            }
            Direction::Inbound => {}
            Direction::Outbound => {
                if let Some(member) = running.plan.members.get(&entry.dial().get()) {
                    ends.server = Some(connect(life, entry, server, member.service()).await?);
                }
            }
        }
        Ok(ends)
    };
    let mut registered = None;
    tokio::select! {
        // A connection that is to stop is not to be established.
        biased;
        reason = poll_fn(|cx| entry.poll_stop(cx, &mut registered)) => Err(ForwardError::Stopped(reason)),
        agreed = agreeing => agreed,
    }
}

/// PERMISSIVE: takes the client for what it turns out to be.
async fn sort_out(
    life: &mut Life,
    client: &mut TcpStream,
    server: &TcpStream,
    gate: &Gate,
) -> Result<Option<Shaken>, ForwardError> {
    let spoken = match first::permissive(client, server, life.opened().into()).await? {
        First::MeshTls => return accept(life, client, gate).await.map(Some),
        First::OwnTls => Spoken::OwnTls,
        First::Plain | First::NeedMore => Spoken::Plain,
    };
    life.speaks(spoken, None);
    Ok(None)
}

/// Lets a member in, if it may.
async fn accept(life: &mut Life, client: &mut TcpStream, gate: &Gate) -> Result<Shaken, ForwardError> {
    let tls = &life.proxy().tls;
    let configs = tls.configs().ok_or(TlsError::NoIdentity)?;
    let started = Instant::now();
    let shaken = handshake::accept(client, &configs, tls.under_way(Direction::Inbound)).await;
    let shaken = count(life, Direction::Inbound, started, shaken)?;
    life.speaks(Spoken::MeshTls, Some(shaken.peer.id().clone()));
    let metrics = &life.proxy().metrics.tls;
    match gate.permissions.decide(&shaken.peer, tls.names_services()) {
        Verdict::Allowed => {}
        Verdict::ShadowDenied => {
            metrics.shadow_denied.inc();
            tracing::debug!(peer = %shaken.peer.id(), "a MeshTrafficPermission would refuse it, if it were meant");
        }
        Verdict::Denied => {
            metrics.denied.inc();
            return Err(ForwardError::Forbidden(shaken.peer.id().clone()));
        }
    }
    Ok(shaken)
}

/// Shows ourselves to a member, and sees that it is the one that was dialled.
async fn connect(
    life: &mut Life,
    entry: &Entry,
    server: &mut TcpStream,
    service: &str,
) -> Result<Shaken, ForwardError> {
    let proxy = life.proxy();
    let tls = &proxy.tls;
    let configs = tls.configs().ok_or(TlsError::NoIdentity)?;
    let source = tls.source().filter(|source| source.names_services);
    let expected = source.map(|source| SpiffeId::of_service(&source.trust_domain, service));
    let started = Instant::now();
    let to = entry.dial().get().ip();
    let shaken = {
        let under_way = tls.under_way(Direction::Outbound);
        handshake::connect(server, &configs, to, expected.as_ref(), under_way).await
    };
    let shaken = count(life, Direction::Outbound, started, shaken)?;
    life.speaks(Spoken::MeshTls, Some(shaken.peer.id().clone()));
    Ok(shaken)
}

fn count(
    life: &Life,
    direction: Direction,
    started: Instant,
    shaken: Result<Shaken, TlsError>,
) -> Result<Shaken, TlsError> {
    let metrics = &life.proxy().metrics.tls;
    let result = match &shaken {
        Ok(shaken) => {
            metrics.handshake_seconds(direction).observe(started.elapsed().as_secs_f64());
            if shaken.resumed { Handshake::Resumed } else { Handshake::Full }
        }
        Err(_) => Handshake::Failed,
    };
    metrics.handshakes(direction, result).inc();
    shaken
}

/// How a stream's failure is named: TLS has two that a socket has not.
pub(crate) fn reason_of(error: &std::io::Error, otherwise: CloseReason) -> CloseReason {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => CloseReason::TlsTruncated,
        std::io::ErrorKind::InvalidData => CloseReason::TlsFailure,
        _ => otherwise,
    }
}
