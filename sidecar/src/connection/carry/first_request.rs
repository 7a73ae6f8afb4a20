// SPDX-License-Identifier: Apache-2.0
//! Waits for a client's first request, before any server is dialled: so a refusal can be said, and a scan of ports reaches no
//! application.

use crate::cluster::stream::Stream;
use crate::relay::http::{HttpGate, Preface, preface};
use crate::relay::with_scratch;
use crate::relay::{Gate, Side};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// Longest time from admission to the end of the first head, where the listener's idle timeout is not shorter. nginx and Apache
/// wait as long; Envoy waits for ever.
const MOST: Duration = Duration::from_secs(60);

/// The client's first bytes.
#[derive(Debug)]
pub(super) enum First {
    /// A request, which waits in the gate.
    Request,
    /// A request that is refused; the answer waits in the gate.
    Refused,
    /// The preface of HTTP/2 and what came with it.
    Http2(Box<[u8]>),
    /// FIN in place of a request.
    Gone,
}

/// Returns the time that a client has for its first request.
pub(super) fn patience(idle_timeout: Option<Duration>) -> Duration {
    idle_timeout.map_or(MOST, |idle| idle.min(MOST))
}

/// Waits for the first request. The caller bounds the wait.
///
/// # Errors
/// If the connection failed.
pub(super) async fn first_request(client: &mut Stream, gate: &mut HttpGate) -> io::Result<First> {
    // Bytes that may become the preface of HTTP/2; the gate sees none of them before it is known that they do not.
    let mut early = Some(Vec::new());
    loop {
        let found = poll_fn(|cx| with_scratch(|scratch| read(cx, client, gate, &mut early, scratch))).await?;
        if let Some(first) = found {
            return Ok(first);
        }
    }
}

/// Reads once, and shows the bytes to the gate.
fn read(
    cx: &mut Context<'_>,
    client: &mut Stream,
    gate: &mut HttpGate,
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
    Poll::Ready(Ok(match () {
        () if gate.is_over() => Some(First::Refused),
        () if gate.asks() => Some(First::Request),
        () if came == 0 => Some(First::Gone),
        () => None,
    }))
}
