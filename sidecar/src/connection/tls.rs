// SPDX-License-Identifier: Apache-2.0
//! TLS of the client's side, as the mesh's documents ask. The server's side is [`crate::cluster::origination`].
//!
//! | | before the server is dialled | after |
//! |---|---|---|
//! | inbound, STRICT | hello, handshake, permission: only members get to the application | |
//! | inbound, PERMISSIVE | | any protocol the client speaks; of a member: handshake, permission |
//! | outbound to a member | | handshake; its failure is the connection's, never a reason to speak plainly |
//! | outbound to another address | | nothing |

use crate::cluster::origination::count;
use crate::connection::accepted::ConnectionInfo;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::proxy::Proxy;
use crate::connection::route::Route;
use crate::net::addrs::{Direction, OrigDst};
use crate::net::limit::Claim;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use crate::plan::permissions::{Peer, Verdict};
use crate::plan::{Gate, Origin, Plan, TlsMode};
use crate::tls::first::{self, Expects};
use crate::tls::handshake::{self, Shaken};
use crate::tls::places::{Candidate, Place};
use crate::tls::sniff::First;
use crate::tls::{TlsError, TlsMetrics};
use std::time::Instant;
use tokio::net::TcpStream;

/// Lets in members only where the mesh is STRICT; `None` where the client need not speak TLS before the server is dialled.
pub(crate) async fn admit(
    downstream: &mut Downstream,
    plan: &Plan,
    route: &Route,
    original: OrigDst,
    client: &mut TcpStream,
) -> Result<Option<Box<Shaken>>, ForwardError> {
    let listener = &route.listener.plan;
    let Some(mtls) = &plan.mtls else { return Ok(None) };
    let gate = mtls.gate(listener);
    if listener.direction == Direction::Outbound || gate.mode == TlsMode::Permissive {
        return Ok(None);
    }
    if mtls.named_only && !matches!(listener.origin, Origin::Inbound | Origin::Prometheus) {
        return Err(ForwardError::NotInbound(original));
    }
    let handshake = async {
        let proxy = downstream.proxy();
        let place = take_place(&proxy, downstream)?;
        // The client, which may stay silent, holds the place from here on.
        place.held(first::strict(client)).await?;
        downstream.note_server_name(client);
        accept(downstream, client, gate, &place).await.map(Some)
    };
    // Boxed, so that a connection without TLS does not carry the room of a handshake.
    Box::pin(handshake).await
}

/// Finds out what the client of a PERMISSIVE port speaks, and answers the handshake of a member. The server is connected
/// by now: where it speaks first, the client speaks plainly.
pub(crate) async fn recognise(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    server: &TcpStream,
    plan: &Plan,
    gate: &Gate,
) -> Result<Option<Box<Shaken>>, ForwardError> {
    let &ConnectionInfo { opened, client: from, .. } = downstream.info();
    // Not the addresses from which members came once: an address translation may put plain clients behind one, too.
    let named = plan.workloads.contains(&from.get().ip());
    let expects = if named { Expects::Member } else { Expects::Anyone };
    let first = first::permissive(client, server, opened.into(), expects).await?;
    if matches!(first, First::MeshTls | First::OwnTls) {
        downstream.note_server_name(client);
    }
    let spoken = match first {
        First::MeshTls => {
            let proxy = downstream.proxy();
            let place = take_place(&proxy, downstream)?;
            return accept(downstream, client, gate, &place).await.map(Some);
        }
        First::OwnTls => Spoken::OwnTls,
        First::Plain | First::NeedMore => Spoken::Plain,
    };
    if gate.shadow.as_ref().is_some_and(|shadow| shadow.mode == TlsMode::Strict) {
        downstream.proxy().metrics.tls.shadow_not_member.inc();
    }
    downstream.speaks(spoken, None);
    Ok(None)
}

fn take_place<'a>(proxy: &'a Proxy, downstream: &Downstream) -> Result<Place<'a>, TlsError> {
    let &ConnectionInfo { client, claim, .. } = downstream.info();
    let candidate = Candidate { address: client.get().ip(), known: claim == Claim::Full };
    proxy.tls.places(Direction::Inbound).take(candidate)
}

/// Answers a member's handshake, and lets it in if a permission allows it.
async fn accept(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    gate: &Gate,
    place: &Place<'_>,
) -> Result<Box<Shaken>, ForwardError> {
    let proxy = downstream.proxy();
    let (tls, metrics) = (&proxy.tls, &proxy.metrics.tls);
    let configs = tls.configs().ok_or(TlsError::NoIdentity)?;
    let started = Instant::now();
    let shaken = place.held(handshake::accept(client, &configs, place)).await;
    count(metrics, Direction::Inbound, started, &shaken);
    let shaken = shaken?;
    downstream.speaks(Spoken::MeshTls, Some(shaken.peer.id().clone()));
    if !permitted(gate, &shaken.peer, configs.names_services(), metrics) {
        return Err(ForwardError::Forbidden(shaken.peer.id().clone()));
    }
    downstream.is_member();
    tls.acquaintances.meet(downstream.info().client.get().ip());
    Ok(Box::new(shaken))
}

/// Returns true if a member may call, and counts what it may not, or may only for now.
fn permitted(gate: &Gate, peer: &Peer, names_services: bool, metrics: &TlsMetrics) -> bool {
    let verdict = gate.permissions.decide(peer, names_services);
    let would =
        gate.shadow.as_ref().map_or(verdict, |shadow| shadow.permissions.decide(peer, names_services));
    let may = verdict != Verdict::Denied;
    match (may, would != Verdict::Denied) {
        (false, would) => {
            metrics.denied.inc();
            if would {
                metrics.shadow_allowed.inc();
            }
        }
        (true, false) => {
            metrics.shadow_denied.inc();
            tracing::debug!(peer = %peer.id(), "a MeshTrafficPermission on trial would refuse it");
        }
        (true, true) if verdict == Verdict::ShadowDenied => {
            metrics.shadow_denied.inc();
            tracing::debug!(peer = %peer.id(), "a MeshTrafficPermission would refuse it, if it were meant");
        }
        (true, true) => {}
    }
    may
}

/// Returns the close reason of a stream's failure: TLS has two that a socket has not.
pub(crate) fn reason_of(error: &std::io::Error, otherwise: CloseReason) -> CloseReason {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => CloseReason::TlsTruncated,
        std::io::ErrorKind::InvalidData => CloseReason::TlsFailure,
        _ => otherwise,
    }
}
