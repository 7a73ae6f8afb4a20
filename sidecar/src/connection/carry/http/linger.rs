// SPDX-License-Identifier: Apache-2.0
//! The end of a connection whose client may still be sending: its bytes are read for a moment, as a close with unread bytes is a
//! reset, which would take the answer from the client.

use crate::cluster::stream::Stream;
use crate::relay::http::{LINGER, LINGER_BYTES};
use crate::relay::with_scratch;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// A client that got FIN and is read on, until its own FIN or a bound.
pub(super) struct Linger {
    /// Made once the client is waited for: most close at once.
    until: Option<Pin<Box<Sleep>>>,
    /// Bytes that may still come.
    left: usize,
}

/// Says the last words to a client, then FIN, and lingers.
pub(super) async fn say_last(client: &mut Stream, words: &[u8]) {
    let mut linger = Linger::new();
    let said = async {
        client.write_all(words).await?;
        client.flush().await?;
        client.shutdown().await
    };
    // A client that takes no few hundred bytes in that time, or is gone, is not waited for.
    if matches!(timeout(LINGER, said).await, Ok(Ok(()))) {
        std::future::poll_fn(|cx| linger.poll(cx, client)).await;
    }
}

// === impl Linger ===

impl Linger {
    pub(super) fn new() -> Self {
        Self { until: None, left: LINGER_BYTES }
    }

    /// Reads and drops, until there is no more to wait for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, client: &mut Stream) -> Poll<()> {
        while self.left > 0 {
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *client).poll_read(cx, &mut buffer))?;
                Poll::Ready(std::io::Result::Ok(buffer.filled().len()))
            });
            match read {
                Poll::Pending => {
                    return self.until.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(n)) => self.left = self.left.saturating_sub(n),
            }
        }
        Poll::Ready(())
    }
}
