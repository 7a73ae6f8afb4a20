// SPDX-License-Identifier: Apache-2.0
//! From an admitted connection to its first request, and to the server that it asks for.

use super::first_request::{First, first_request, patience};
use super::linger::say_last;
use super::requests::Requests;
use super::{Gate, Http, Refused, dynamic};
use crate::cluster::stream::Stream;
use crate::connection::admission::Admitted;
use crate::connection::carry::Carry;
use crate::connection::carry::filters::{Change, Filters, Setting, Told};
use crate::connection::carry::http2::{self, Preface};
use crate::connection::carry::tcp::{self, Connected};
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::tls;
use crate::net::addrs::Direction;
use crate::observe::close_reason::CloseReason;
use crate::relay::http::{HttpGate, HttpMetrics, Refusal};
use crate::relay::{Gate as _, Relay, Side};
use crate::tls::handshake::Shaken;
use culvert_mesh::model::spiffe::SpiffeId;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// In metrics the member that no certificate and no document names.
const UNKNOWN: &str = "unknown";

/// Field that tells an application who calls.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Waits for the first request and connects to a server; `None` once the connection has ended.
pub(in crate::connection) async fn connect(
    mut downstream: Downstream,
    mut client: TcpStream,
    mut admitted: Admitted,
) -> Option<Carry> {
    let metrics = Arc::clone(&downstream.shared().metrics.http[downstream.info().direction]);
    let patience = patience(admitted.route.listener.plan.idle_timeout);
    let until = Instant::now() + patience;
    let recognised = timeout_at(until, recognise(&mut downstream, &mut client, &mut admitted)).await;
    let session = match recognised {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            downstream.refuse(client, &error);
            return None;
        }
        Err(_) => return silent(downstream, Stream::Plain(client), &metrics).await,
    };
    let setting = setting(&downstream, &admitted, session.as_deref(), Arc::clone(&metrics));
    let changes = changes(&downstream, &admitted, session.as_deref());
    let forbidden = session.as_deref().filter(|shaken| !shaken.permitted);
    let forbidden = forbidden.map(|shaken| ForwardError::Forbidden(shaken.peer.id().clone()));
    let mut client = Stream::of(client, session);
    let mut gate = HttpGate::new(Arc::clone(&metrics), Requests::new(Filters::new(setting), &changes));
    let first = first_request(&mut downstream, &mut client, &mut gate, (until, patience)).await;
    match (first, forbidden) {
        (Ok(First::Http2(bytes)), forbidden) => {
            let filters = gate.into_rules().into_filters();
            let preface = Preface { bytes, filters, changes, forbidden, patience };
            return http2::connect(downstream, client, admitted, preface).await;
        }
        (first, Some(error)) => forbid(downstream, client, &mut gate, error, first.is_ok()).await,
        (Ok(First::Request), None) => match dial(&mut downstream, admitted, gate.rules().late()).await {
            Ok(mut connected) => {
                gate.rules().judged_by(connected.take_judge());
                let (server, session) = connected.begin(downstream);
                let relay = Relay::through(gate);
                return Some(Carry::Messages(Box::new(Http::new(client, server, relay, session))));
            }
            Err(error) => no_server(downstream, client, gate, error).await,
        },
        (Ok(First::Over), None) => over(downstream, client, &mut gate).await,
        (Ok(First::Gone), None) => {
            say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
            drop(client);
            log(&mut downstream, &mut gate, CloseReason::Ok);
            downstream.end(CloseReason::Ok, None);
        }
        (Ok(First::Silent), None) => return silent(downstream, client, &metrics).await,
        (Err(error), None) => {
            let reason = tls::reason_of(&error, CloseReason::ClientReset);
            log(&mut downstream, &mut gate, reason);
            reset(downstream, client, reason, &error);
        }
    }
    None
}

/// Ends a connection whose gate has ended it, with the answer that is ready.
async fn over(mut downstream: Downstream, mut client: Stream, gate: &mut Gate) {
    say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
    drop(client);
    let refused = Refused::of(gate);
    log(&mut downstream, gate, CloseReason::Ok);
    downstream.end(refused.as_ref().map_or(CloseReason::Ok, Refused::reason), dynamic(&refused));
}

/// The end of a connection to a server, or of the wait for one.
enum NoServer {
    Failed(ForwardError),
    /// The request had no more time.
    Late(Refusal),
}

/// Connects to a server, in the time that the first request has.
async fn dial(
    downstream: &mut Downstream,
    admitted: Admitted,
    late: Option<(std::time::Instant, Refusal)>,
) -> Result<Connected, NoServer> {
    let connecting = tcp::connect(downstream, None, admitted);
    match late {
        Some((at, rule)) => match timeout_at(at.into(), connecting).await {
            Ok(connected) => connected.map_err(NoServer::Failed),
            Err(_) => Err(NoServer::Late(rule)),
        },
        None => connecting.await.map_err(NoServer::Failed),
    }
}

/// Finds out if the client speaks TLS, and answers a member's handshake. A client of HTTP speaks first, so no server is needed.
async fn recognise(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    admitted: &mut Admitted,
) -> Result<Option<Box<Shaken>>, ForwardError> {
    let session = admitted.session.take();
    let running = &admitted.running;
    match tls::unknown(&running.plan, &admitted.route.listener.plan).filter(|_| session.is_none()) {
        Some(gate) => tls::recognise(downstream, client, None, running, gate).await,
        None => Ok(session),
    }
}

/// Returns what is the same for all requests of the connection.
fn setting(
    downstream: &Downstream,
    admitted: &Admitted,
    session: Option<&Shaken>,
    metrics: Arc<HttpMetrics>,
) -> Setting {
    let proxy = downstream.shared();
    let listener = Arc::clone(&admitted.route.listener);
    let setting = Setting {
        cluster: admitted.route.cluster.as_ref().map(|cluster| Arc::clone(&cluster.state)),
        peer: session.map(|shaken| shaken.peer.clone()),
        names_services: proxy.tls.configs().is_some_and(|configs| configs.names_services()),
        address: downstream.info().client.get().ip(),
        logs: downstream.is_logged(),
        told: Box::new(told(downstream, admitted, session)),
        forbidden: session.is_some_and(|shaken| !shaken.permitted),
        listener,
        metrics,
        rates: None,
    };
    setting.with_rates(admitted.running.trial.as_deref(), &proxy.metrics.trial.requests_limited)
}

/// Returns the changes of each head.
fn changes(downstream: &Downstream, admitted: &Admitted, session: Option<&Shaken>) -> Vec<Change> {
    let mut changes = Vec::new();
    if downstream.info().direction == Direction::Inbound {
        // Sidecars of Kong Mesh tell each other so who calls, and everyone can write it.
        changes.push(Change { field: "x-kuma-tags", value: None });
        if admitted.running.plan.mtls.is_some() {
            let configs = downstream.shared().tls.configs();
            // Applications believe it, so it says the member that proved who it is, or nothing.
            let own = configs.as_ref().and_then(|configs| configs.own());
            changes
                .push(Change { field: CLIENT_CERT, value: session.map(|shaken| client_cert(shaken, own)) });
        }
    }
    changes
}

/// Returns the places in which its requests are told, with the other member: the caller, or the service that is called.
fn told(downstream: &Downstream, admitted: &Admitted, session: Option<&Shaken>) -> Told {
    let proxy = downstream.shared();
    let info = downstream.info();
    let member = match info.direction {
        Direction::Inbound => caller(downstream, admitted, session),
        Direction::Outbound => {
            let member = admitted.route.member.as_ref().map(|member| member.service().into());
            admitted.route.listener.plan.service.clone().or(member)
        }
    };
    let member = member.filter(|name| !name.is_empty());
    let address = || match info.direction {
        Direction::Inbound => info.client.get().ip().to_string().into(),
        Direction::Outbound => info.orig_dst.map(|to| to.to_string()).unwrap_or_default().into(),
    };
    let answers = proxy.metrics.http[info.direction].by_member.of(member.as_deref().unwrap_or(UNKNOWN));
    Told {
        book: Arc::clone(&proxy.requests),
        peer: member.unwrap_or_else(address),
        answers,
        lost_lines: proxy.metrics.traffic_log.dropped.clone(),
        seconds: proxy.metrics.direction(info.direction).http_seconds.clone(),
        because: None,
    }
}

/// Returns the member that calls: by its certificate, or by the document that has its address.
fn caller(downstream: &Downstream, admitted: &Admitted, session: Option<&Shaken>) -> Option<Arc<str>> {
    let Some(shaken) = session else {
        let address = downstream.info().client.get().ip();
        return admitted.running.caller_at(address).map(|member| member.service().into());
    };
    let names_services =
        downstream.shared().tls.configs().as_ref().is_some_and(|configs| configs.names_services());
    let id = shaken.peer.id();
    Some(if names_services { id.path() } else { id.as_str() }.into())
}

/// Returns the value of x-forwarded-client-cert, as Envoy writes it: who was called, by which certificate, of whom.
fn client_cert(shaken: &Shaken, own: Option<&SpiffeId>) -> String {
    let mut value = own.map(|own| format!("By={own};")).unwrap_or_default();
    if let Some(digest) = shaken.fingerprint() {
        value.push_str("Hash=");
        for byte in digest.as_ref() {
            // Writing to a String does not fail.
            let _ = write!(value, "{byte:02x}");
        }
        value.push(';');
    }
    value + "URI=" + shaken.peer.id().as_str()
}

/// Ends a connection whose client sent no whole request in time. It is not reset: clients open spare connections.
async fn silent(downstream: Downstream, mut client: Stream, metrics: &HttpMetrics) -> Option<Carry> {
    metrics.silent.inc();
    say_last(&mut client, &[]).await;
    drop(client);
    downstream.end(CloseReason::IdleTimeout, None);
    None
}

/// Writes the requests to the traffic log that ended before a server was connected.
fn log(downstream: &mut Downstream, gate: &mut Gate, reason: CloseReason) {
    let rules = gate.rules_mut();
    rules.abandon(reason);
    downstream.log_requests(rules.take_ended());
}

/// Ends the connection of a member that may not call. Its request was answered, if it was one.
async fn forbid(
    mut downstream: Downstream,
    mut client: Stream,
    gate: &mut Gate,
    error: ForwardError,
    answers: bool,
) {
    log(&mut downstream, gate, error.reason());
    if !answers || !gate.is_over() {
        return reset(downstream, client, error.reason(), &error);
    }
    say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
    drop(client);
    downstream.end(error.reason(), Some(&error));
}

/// Answers the first request in place of a server, or resets the client where the connection was refused, not the request.
async fn no_server(mut downstream: Downstream, mut client: Stream, mut gate: Gate, why: NoServer) {
    let error = match why {
        NoServer::Late(rule) => {
            gate.is_late(rule);
            say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
            drop(client);
            let refused = Refused::of(&gate);
            log(&mut downstream, &mut gate, CloseReason::HttpResponse);
            downstream.end(CloseReason::HttpResponse, dynamic(&refused));
            return;
        }
        NoServer::Failed(error) => error,
    };
    let Some(rule) = error.answer() else {
        log(&mut downstream, &mut gate, error.reason());
        return reset(downstream, client, error.reason(), &error);
    };
    gate.rules_mut().because(&error);
    gate.fail(rule);
    say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
    drop(client);
    log(&mut downstream, &mut gate, error.reason());
    downstream.end(error.reason(), Some(&error));
}

fn reset(downstream: Downstream, client: Stream, reason: CloseReason, error: &dyn Error) {
    client.reset();
    drop(client);
    downstream.end(reason, Some(error));
}
