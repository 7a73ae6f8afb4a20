// SPDX-License-Identifier: Apache-2.0
//! One check: a connect, with TLS where the cluster's connections have it, and bytes where an answer is expected.

use crate::cluster::endpoint::Behind;
use crate::cluster::origination::Origination;
use crate::cluster::stream::Stream;
use crate::connection::proxy::Proxy;
use crate::health::job::{CheckError, Done, Job, Kept, MOST_BYTES, Opened};
use crate::net::dial;
use crate::net::own_sockets::Returned;
use crate::plan::health::CheckPlan;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

/// Room of a read.
const READ_BYTES: usize = 4096;

/// Makes a check.
pub(super) async fn check(proxy: Arc<Proxy>, mut job: Job) -> Done {
    let (within, kept) = (job.check.timeout, job.kept.take());
    let outcome = tokio::time::timeout(within, Box::pin(probe(&proxy, &job, kept))).await;
    let outcome = outcome.unwrap_or(Err(CheckError::TimedOut(within)));
    Done { key: job.key, number: job.number, outcome }
}

async fn probe(proxy: &Proxy, job: &Job, kept: Option<Kept>) -> Result<Option<Opened>, CheckError> {
    let tls = match &job.behind {
        Some(Behind::Member(_)) => proxy.running.load().plan.mtls.is_some(),
        Some(Behind::Outsider(outsider)) => outsider.tls.is_some(),
        None => false,
    };
    if let Some(mut kept) = kept
        && kept.connection.tls == tls
        && is_open(&mut kept.connection.stream).await
    {
        match exchange(&mut kept.connection.stream, &job.check).await {
            Ok(()) => return Ok(Some(kept.connection)),
            // The server ended it meanwhile, as servers do with idle connections: a new one shows whether it is well.
            Err(CheckError::Closed | CheckError::Io(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let mut opened = open(proxy, job, tls).await?;
    let expects = !job.check.receive.is_empty();
    if expects {
        exchange(&mut opened.stream, &job.check).await?;
    }
    if expects && job.check.reuse_connection {
        return Ok(Some(opened));
    }
    // In order, so that the member's sidecar takes it for no cut stream. What comes of it changes nothing.
    let _ = opened.stream.shutdown().await;
    Ok(None)
}

async fn open(proxy: &Proxy, job: &Job, tls: bool) -> Result<Opened, CheckError> {
    // As a connection of the cluster is dialled; see `cluster::connect`.
    let socket = match &job.behind {
        Some(Behind::Outsider(outsider)) => outsider.host.socket(),
        Some(Behind::Member(_)) | None => None,
    };
    let (mut tcp, noted) = match (socket, job.source) {
        (Some(path), _) => (dial::dial_socket(path).await?, None),
        (None, Some(_)) => (dial::dial(job.to, job.source, None).await?, None),
        (None, None) => {
            let (tcp, noted) = dial::dial_noted(job.to, &proxy.own_sockets, Returned::Never).await?;
            (tcp, Some(noted))
        }
    };
    let origination = Origination { mesh: tls, tls: &proxy.tls, metrics: &proxy.metrics.tls };
    let within = job.check.timeout;
    let stream = match &job.behind {
        Some(Behind::Member(member)) if tls => {
            let shaken = origination.handshake(&mut tcp, job.to, member, within).await?;
            Stream::Tls(shaken.over(tcp).into())
        }
        Some(Behind::Outsider(outsider)) => match &outsider.tls {
            Some(tls) => {
                let shaken = origination.handshake_outside(&mut tcp, job.to, tls, within).await?;
                Stream::Tls(shaken.over(tcp).into())
            }
            None => Stream::Plain(tcp),
        },
        Some(Behind::Member(_)) | None => Stream::Plain(tcp),
    };
    Ok(Opened { noted, stream, tls })
}

/// Returns true if the peer did not end the stream, after taking what is left of an earlier answer.
async fn is_open(stream: &mut Stream) -> bool {
    for _ in 0..MOST_BYTES / READ_BYTES {
        let mut room = [0; READ_BYTES];
        let mut surplus = ReadBuf::new(&mut room);
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut surplus))).await;
        match read {
            Poll::Pending => return true,
            Poll::Ready(Ok(())) if !surplus.filled().is_empty() => {}
            Poll::Ready(_) => return false,
        }
    }
    false
}

/// Sends the check's bytes, and reads until the answer has those that it expects.
async fn exchange(stream: &mut Stream, check: &CheckPlan) -> Result<(), CheckError> {
    if !check.send.is_empty() {
        stream.write_all(&check.send).await.map_err(CheckError::Io)?;
        stream.flush().await.map_err(CheckError::Io)?;
    }
    let mut came = Vec::new();
    let mut expected = Expected { segments: &check.receive, from: 0 };
    while !expected.are_in(&came) {
        if came.len() >= MOST_BYTES {
            return Err(CheckError::TooMuch);
        }
        came.reserve(READ_BYTES);
        match stream.read_buf(&mut came).await {
            Ok(0) => return Err(CheckError::Closed),
            Ok(_) => {}
            Err(error) => return Err(CheckError::Io(error)),
        }
    }
    Ok(())
}

/// Segments that an answer has to have, each behind the one before, with anything between.
struct Expected<'c> {
    /// Those that were not found yet.
    segments: &'c [Vec<u8>],
    /// The place from which the first of them is looked for, so that no byte is looked at for each read.
    from: usize,
}

impl Expected<'_> {
    /// Looks on in an answer that may have grown, and returns true once all are found.
    fn are_in(&mut self, came: &[u8]) -> bool {
        while let Some((segment, rest)) = self.segments.split_first() {
            let at = came[self.from..].windows(segment.len()).position(|window| window == segment.as_slice());
            let Some(at) = at else {
                self.from = self.from.max((came.len() + 1).saturating_sub(segment.len()));
                return false;
            };
            self.from += at + segment.len();
            self.segments = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests;
