// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 for a few short pages, with every size, time and number bounded: the status port can be reached by any peer.

use super::reply::Reply;
use crate::listener::Backoff;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Connections at a time. One more closes the oldest: a peer that hoards connections then cannot keep the kubelet from
/// asking, as it could if the newest were turned away.
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
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a status or admin connection");
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        };
        backoff.reset();
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
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
        open.push_back(task.abort_handle());
    }
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
