// SPDX-License-Identifier: Apache-2.0
//! The number of times that a wake-up asks the runtime for bytes.

use super::*;

/// An endpoint whose bytes come in pieces, none of them behind another. It takes what it is given, and counts the reads.
struct Counted {
    says: VecDeque<&'static [u8]>,
    /// True if the next read finds the next piece.
    ready: bool,
    bare: bool,
    reads: usize,
    received: Vec<u8>,
}

impl Counted {
    fn new(says: &[&'static [u8]], bare: bool) -> Self {
        let says = says.iter().copied().collect();
        Self { says, ready: true, bare, reads: 0, received: Vec::new() }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        let ready = std::mem::take(&mut self.ready);
        let Some(piece) = self.says.pop_front().filter(|_| ready) else { return Poll::Pending };
        buffer.put_slice(piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.received.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl RelayStream for Counted {
    fn pending_error(&self) -> Option<io::Error> {
        None
    }

    fn read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn splices(&self) -> bool {
        self.bare
    }
}

/// Each read costs some 150 instructions, of the 5,400 of a small request.
#[test]
fn a_side_that_has_said_all_is_asked_once_for_more() {
    // An endpoint over a socket is not read ahead, as it may have more than fits; so it is asked by the next round.
    for (bare, server_bare) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut client = Counted::new(&[b"request"], bare);
        let mut server = Counted::new(&[], server_bare);
        let mut relay = Relay::default();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(relay.poll(cx, &mut client, &mut server, &mut Notes::default()).is_pending());
        assert_eq!(server.received, b"request");
        let most = if bare && !server_bare { 3 } else { 2 };
        assert_eq!((client.reads, server.reads), (most, 1), "{bare} {server_bare}");
    }
}
