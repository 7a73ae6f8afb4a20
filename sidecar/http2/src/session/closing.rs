// SPDX-License-Identifier: Apache-2.0
//! The end of a session: GOAWAY and resets are written to both sides, for a bounded time.

use crate::link::{Link, Server};
use crate::settings::CLOSING;
use crate::watched::Watched;
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};

/// Closes what is still open.
pub(crate) async fn close<C, S>(
    mut client: Option<h2::server::Connection<Watched<C>, Bytes>>,
    mut server: Option<Box<h2::client::Connection<Watched<S>, Bytes>>>,
    link: &Link,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The crate closes the server's connection once nothing can send a request any more.
    link.set_upstream(Server::Leaving);
    link.client.share.store(usize::MAX, Relaxed);
    link.server.share.store(usize::MAX, Relaxed);
    let both = poll_fn(|cx| {
        if client.as_mut().is_some_and(|client| client.poll_closed(cx).is_ready()) {
            client = None;
        }
        if server.as_mut().is_some_and(|server| Pin::new(&mut **server).poll(cx).is_ready()) {
            server = None;
        }
        if client.is_none() && server.is_none() { Poll::Ready(()) } else { Poll::Pending }
    });
    // A peer that does not read within the time is cut.
    let _ = tokio::time::timeout(CLOSING, both).await;
}
