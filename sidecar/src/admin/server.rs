// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 for a few short pages, with every size, time and number bounded: the status port can be reached by any peer.

use super::reply::Reply;
use crate::net::backoff::Backoff;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Connections at a time. One more closes the oldest of whoever has most: a peer that hoards connections then neither keeps
/// the kubelet from asking, as it could if the newest were turned away, nor cuts off a probe that is being answered.
const MAX_CONNECTIONS: usize = 64;

/// How long a request's head may take to arrive, and a kept connection to ask again.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may last at all; a scraper opens a new one now and then.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Request heads of more bytes are refused. 8 KiB is the least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Pages to serve.
pub trait Pages: Send + Sync + 'static {
    /// Answers a request, of which only the head is read.
    fn answer(&self, request: &hyper::Request<Incoming>) -> impl Future<Output = Reply> + Send + use<Self>;
}

/// Serves pages for ever.
pub async fn serve<P: Pages>(listener: TcpListener, pages: P) {
    let pages = Arc::new(pages);
    let mut open: VecDeque<(IpAddr, AbortHandle)> = VecDeque::new();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                tracing::debug!(%error, "cannot accept a status or admin connection");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        };
        backoff.reset();
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some((_, oldest)) = oldest_of_most(&open).and_then(|at| open.remove(at))
        {
            oldest.abort();
        }
        let pages = Arc::clone(&pages);
        let service = service_fn(move |request| {
            let reply = pages.answer(&request);
            async move { Ok::<_, Infallible>(reply.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let task = tokio::spawn(async move {
            // Errors are the peer's: it went away, or does not speak HTTP.
            let _ = tokio::time::timeout(MAX_AGE, connection).await;
        });
        open.push_back((peer, task.abort_handle()));
    }
}

/// The place of the oldest connection of the address that has most; of several such, the one whose oldest is oldest.
fn oldest_of_most<T>(open: &VecDeque<(IpAddr, T)>) -> Option<usize> {
    let mut most = None;
    for (at, (ip, _)) in open.iter().enumerate() {
        if open.iter().take(at).any(|(earlier, _)| earlier == ip) {
            continue;
        }
        let count = open.iter().filter(|(other, _)| other == ip).count();
        if most.is_none_or(|(_, before)| count > before) {
            most = Some((at, count));
        }
    }
    most.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    struct Nothing;

    impl Pages for Nothing {
        fn answer(&self, _: &hyper::Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
            std::future::ready(super::super::reply::text(hyper::StatusCode::OK, "nothing"))
        }
    }

    #[test]
    fn whoever_has_most_gives_way() {
        let open = |last: &[u8]| -> VecDeque<(IpAddr, ())> {
            last.iter().map(|&last| ([10, 0, 0, last].into(), ())).collect()
        };
        for (who, gives_way) in
            [(&[][..], None), (&[1, 2, 2, 2], Some(1)), (&[1, 2, 3], Some(0)), (&[3, 1, 2, 1], Some(1))]
        {
            assert_eq!(oldest_of_most(&open(who)), gives_way, "{who:?}");
        }
    }

    /// On a clock that runs ahead whenever nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(TcpListener::from_std(listener).unwrap(), Nothing));
        for head in ["", "GET / HTTP/1.1\r\nHost: local"] {
            let start = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(start.elapsed() <= MAX_AGE, "{head:?}: {:?}", start.elapsed());
        }
        serving.abort();
    }
}
