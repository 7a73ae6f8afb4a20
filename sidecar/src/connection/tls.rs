// SPDX-License-Identifier: Apache-2.0
//! TLS of the client's side, as the mesh's documents ask. The server's side is [`crate::cluster::origination`].
//!
//! | | before the server is dialled | after |
//! |---|---|---|
//! | inbound, STRICT | hello, handshake, permission: only members get to the application | |
//! | inbound, PERMISSIVE | | any protocol the client speaks; of a member: handshake, permission |
//! | outbound to a member | | handshake; its failure is the connection's, never a reason to speak plainly |
//! | outbound to a server outside of the mesh | | handshake, where its document wants it; as above |
//! | outbound to another address | | nothing |

use crate::cluster::origination::count;
use crate::cluster::registry::Running;
use crate::connection::accepted::ConnectionInfo;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::proxy::Proxy;
use crate::connection::route::Route;
use crate::net::addrs::{Direction, OrigDst};
use crate::net::limit::Claim;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use crate::plan::tls::permissions::{Peer, Verdict};
use crate::plan::{Gate, ListenerPlan, Origin, Plan, TlsMode};
use crate::tls::first::{self, Expects};
use crate::tls::handshake::{self, Shaken};
use crate::tls::places::{Candidate, Place};
use crate::tls::sniff::First;
use crate::tls::{Configs, TlsError, TlsMetrics};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Looks for the plan that belongs to a handshake's settings, and the time between two: 2 s together, as a large plan takes
/// some 100 ms to be put in force.
const LOOKS: u32 = 400;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

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
        accept(downstream, client, (plan, listener), &place).await.map(Some)
    };
    // Boxed, so that a connection without TLS does not carry the room of a handshake.
    Box::pin(handshake).await
}

/// Returns the gate behind which clients are that may speak TLS, or any other protocol.
pub(crate) fn unknown<'a>(
    plan: &'a Plan,
    listener: &'a ListenerPlan,
) -> Option<(&'a ListenerPlan, &'a Gate)> {
    let mtls = plan.mtls.as_ref().filter(|_| listener.direction == Direction::Inbound)?;
    Some((listener, mtls.gate(listener)))
}

/// Finds out what the client of a PERMISSIVE port speaks, and answers the handshake of a member. A server that is connected by
/// now may speak first: then the client speaks plainly. Without one the client is waited for without end.
pub(crate) async fn recognise(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    server: Option<&TcpStream>,
    running: &Running,
    (listener, gate): (&ListenerPlan, &Gate),
) -> Result<Option<Box<Shaken>>, ForwardError> {
    let &ConnectionInfo { opened, client: from, .. } = downstream.info();
    // Not the addresses from which members came once: an address translation may put plain clients behind one, too.
    let named = running.is_workload(&from.get().ip());
    let expects = if named { Expects::Member } else { Expects::Anyone };
    let first = first::permissive(client, server, opened.into(), expects).await?;
    if matches!(first, First::MeshTls | First::OwnTls) {
        downstream.note_server_name(client);
    }
    let spoken = match first {
        First::MeshTls => {
            let proxy = downstream.proxy();
            let place = take_place(&proxy, downstream)?;
            return accept(downstream, client, (&running.plan, listener), &place).await.map(Some);
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

/// Returns the plan in force, where the connection's own one is not the one that the settings of its handshake belong to: a
/// reload in between may believe peers that the permissions of before were not written for. The new trust is there some
/// milliseconds before its plan; `None` if that does not come.
async fn plan_of(proxy: &Proxy, belongs: impl Fn(&Plan) -> bool) -> Option<Arc<Running>> {
    for _ in 0..LOOKS {
        let running = proxy.running.load_full();
        if belongs(&running.plan) {
            return Some(running);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    None
}

/// Returns true if the settings of a handshake are those of a plan.
fn belong(configs: &Configs, plan: &Plan) -> bool {
    plan.mtls.as_ref().is_some_and(|mtls| configs.is_of(mtls.settings.trust.as_ref()))
}

/// Answers a member's handshake, and lets it in if a permission allows it.
async fn accept(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    (plan, listener): (&Plan, &ListenerPlan),
    place: &Place<'_>,
) -> Result<Box<Shaken>, ForwardError> {
    let proxy = downstream.proxy();
    let (tls, metrics) = (&proxy.tls, &proxy.metrics.tls);
    let configs = tls.configs().ok_or(TlsError::NoIdentity)?;
    let started = Instant::now();
    let shaken = place.held(handshake::accept(client, &configs, place)).await;
    count(metrics, Direction::Inbound, started, &shaken);
    let mut shaken = shaken?;
    downstream.speaks(Spoken::MeshTls, Some(shaken.peer.id().clone()));
    let newer = match belong(&configs, plan) {
        true => None,
        false => plan_of(&proxy, |plan| belong(&configs, plan)).await,
    };
    let judge = newer.as_ref().map_or(plan, |running| &running.plan);
    let gate = judge.mtls.as_ref().filter(|_| belong(&configs, judge)).map(|mtls| mtls.gate(listener));
    if !gate.is_some_and(|gate| permitted(gate, &shaken.peer, configs.names_services(), metrics)) {
        if listener.serve.is_http() {
            // A client of HTTP is told so, request by request.
            shaken.permitted = false;
            return Ok(Box::new(shaken));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry::plan_without_documents;
    use crate::options::Options;
    use clap::Parser;

    #[tokio::test(start_paused = true)]
    async fn the_permissions_that_belong_to_a_handshake_are_awaited_for_a_moment() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let proxy = Proxy::for_tests(config);
        let is_next = |plan: &Plan| plan.documents == 7;
        let comes = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let next = Plan { documents: 7, ..plan_without_documents() };
            proxy.running.store(proxy.registry.open(next));
        };
        let (found, ()) = tokio::join!(plan_of(&proxy, is_next), comes);
        assert!(found.is_some_and(|running| is_next(&running.plan)));
        assert!(plan_of(&proxy, |plan| plan.documents == 8).await.is_none(), "it does not wait for ever");
    }
}
