// SPDX-License-Identifier: Apache-2.0
//! Waits for a client's first request, before any server is dialled: so a refusal can be said, and a scan of ports reaches no
//! application.

use super::Gate;
use crate::cluster::stream::Stream;
use crate::connection::carry::filters::Due;
use crate::connection::downstream::Downstream;
use crate::relay::http::{Preface, Refusal, preface};
use crate::relay::with_scratch;
use crate::relay::{Gate as _, Side};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Longest time from admission to the end of the first head, where the listener's idle timeout is not shorter. nginx and Apache
/// wait as long; Envoy waits for ever.
const MOST: Duration = Duration::from_secs(60);

/// The client's first bytes.
#[derive(Debug)]
pub(super) enum First {
    /// A request, which waits in the gate.
    Request,
    /// The connection is over before a server was needed; an answer may wait in the gate.
    Over,
    /// The preface of HTTP/2 and what came with it.
    Http2(Box<[u8]>),
    /// FIN in place of a request.
    Gone,
    /// No request came in time.
    Silent,
}

/// Returns the time that a client has for its first request.
pub(super) fn patience(idle_timeout: Option<Duration>) -> Duration {
    idle_timeout.map_or(MOST, |idle| idle.min(MOST))
}

/// Waits for the first request that is for a server, and answers those before it that are not. The client has `patience` for
/// each request, and for the first until then.
///
/// # Errors
/// If the connection failed.
pub(super) async fn first_request(
    downstream: &mut Downstream,
    client: &mut Stream,
    gate: &mut Gate,
    (mut until, patience): (Instant, Duration),
) -> io::Result<First> {
    // Bytes that may become the preface of HTTP/2; the gate sees none of them before it is known that they do not.
    let mut early = Some(Vec::new());
    loop {
        let mut came = match gate.waits_until() {
            Some(at) => {
                // A client that goes away meanwhile is noticed behind the wait.
                sleep_until(at.into()).await;
                gate.go_on(at.max(std::time::Instant::now()));
                found(gate, true)
            }
            None => {
                let reading =
                    poll_fn(|cx| with_scratch(|scratch| read(cx, client, gate, &mut early, scratch)));
                match timeout_at(until, reading).await {
                    Ok(found) => found?,
                    Err(_) => return Ok(late(gate)),
                }
            }
        };
        // An answer of the last words is said with FIN.
        while came.is_none()
            && let Some(answer) = gate.take_ready(Side::Server)
        {
            let said = async {
                client.write_all(&answer).await?;
                client.flush().await
            };
            until = Instant::now() + patience;
            timeout_at(until, said).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
            downstream.log_requests(gate.rules_mut().take_ended());
            if let Some((at, Due::Old)) = gate.rules().due()
                && at <= std::time::Instant::now()
            {
                gate.finish();
            }
            came = found(gate, true);
        }
        if let Some(first) = came {
            return Ok(first);
        }
        let in_head = gate.is_in_request_head();
        if let Some(times) = gate.rules_mut().times() {
            times.note_bytes(0, in_head, std::time::Instant::now());
            if let Some((at, Due::Late(Refusal::HeaderTimeout))) = times.due() {
                until = until.min(at.into());
            }
        }
    }
}

/// Ends the wait for a request: one that has begun is told so, where documents limit its time.
fn late(gate: &mut Gate) -> First {
    match gate.rules().due() {
        Some((at, Due::Late(rule))) if at <= std::time::Instant::now() => {
            gate.is_late(rule);
            First::Over
        }
        _ => First::Silent,
    }
}

/// Returns what the client's bytes have come to.
fn found(gate: &Gate, more: bool) -> Option<First> {
    match () {
        () if gate.is_over() => Some(First::Over),
        () if gate.asks() => Some(First::Request),
        () if !more => Some(First::Gone),
        () => None,
    }
}

/// Reads once, and shows the bytes to the gate.
fn read(
    cx: &mut Context<'_>,
    client: &mut Stream,
    gate: &mut Gate,
    early: &mut Option<Vec<u8>>,
    scratch: &mut [u8],
) -> Poll<io::Result<Option<First>>> {
    let kept = match early {
        Some(early) => {
            scratch[..early.len()].copy_from_slice(early);
            early.len()
        }
        None => gate.kept(Side::Client, scratch),
    };
    let mut buffer = ReadBuf::new(&mut scratch[kept..]);
    ready!(Pin::new(client).poll_read(cx, &mut buffer))?;
    let came = buffer.filled().len();
    let bytes = &mut scratch[..kept + came];
    if early.is_some() {
        match preface(bytes) {
            Preface::Whole => return Poll::Ready(Ok(Some(First::Http2((&*bytes).into())))),
            Preface::Part if came > 0 => {
                *early = Some(bytes.to_vec());
                return Poll::Ready(Ok(None));
            }
            Preface::Part | Preface::Other => *early = None,
        }
    }
    if !bytes.is_empty() {
        gate.offer(bytes);
    }
    if came == 0 {
        gate.fin(Side::Client);
    }
    // A client that half-closed may still wait for an answer, or for a request to go on.
    let more = came > 0 || gate.waits_until().is_some();
    Poll::Ready(Ok(found(gate, more)))
}
