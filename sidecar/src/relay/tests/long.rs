// SPDX-License-Identifier: Apache-2.0
//! Bulk streams that TLS goes over, in long pieces: against mocks that read in records, take all that they are given and
//! keep it for a while, or take a part, or fail.

use super::*;
use std::cell::Cell;
use std::rc::Rc;

/// One end of a relay: a session over a socket, or the bare socket at the other end of it.
struct Records {
    weird: Weird,
    bare: bool,
    /// Bytes that it took and has not sent yet.
    within: VecDeque<u8>,
    /// True if it was slow to take the last piece.
    slow: Rc<Cell<bool>>,
    /// The same of the end that hears what this one says.
    reader_slow: Rc<Cell<bool>>,
    /// Pieces that were read with more room than others get.
    long: usize,
    /// Number of long reads that were followed by one with the usual room.
    fell_back: usize,
    was_long: bool,
}

impl Records {
    /// Once in so many calls it is Pending, reads less than there is, or takes less than it was given.
    const MOODY: usize = 16;

    fn pair(up: &[u8], down: &[u8], seed: u64, bare: Option<Side>) -> (Self, Self) {
        let (client_slow, server_slow) = <(Rc<Cell<bool>>, Rc<Cell<bool>>)>::default();
        let end = |says: &[u8], seed, side, slow: &Rc<Cell<bool>>, reader_slow: &Rc<Cell<bool>>| Self {
            weird: Weird::new(says, seed),
            bare: bare == Some(side),
            within: VecDeque::new(),
            slow: Rc::clone(slow),
            reader_slow: Rc::clone(reader_slow),
            long: 0,
            fell_back: 0,
            was_long: false,
        };
        (
            end(up, seed ^ 0xc11e, Side::Client, &client_slow, &server_slow),
            end(down, seed ^ 0x5e27, Side::Server, &server_slow, &client_slow),
        )
    }

    fn moody(&mut self, cx: &mut Context<'_>) -> bool {
        let moody = self.weird.random.one_in(Self::MOODY);
        if moody {
            cx.waker().wake_by_ref();
        }
        moody
    }

    fn portion(&mut self, most: usize) -> usize {
        if most > 0 && self.weird.random.one_in(Self::MOODY) {
            1 + self.weird.random.below(most)
        } else {
            most
        }
    }

    /// Gets rid of so much of what it took.
    fn let_go(&mut self, n: usize) {
        let gone = self.within.drain(..n);
        self.weird.received.extend(gone);
    }

    fn received(&mut self) -> &[u8] {
        self.let_go(self.within.len());
        &self.weird.received
    }
}

impl AsyncRead for Records {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        assert!(room <= LONG_SCRATCH_BYTES);
        if self.reader_slow.get() {
            assert!(room <= SCRATCH_BYTES, "{room} bytes are read for one who is slow");
        }
        if self.moody(cx) {
            return Poll::Pending;
        }
        if self.weird.says.is_empty() && self.weird.dies {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // Complete records of any size fill no buffer to the last byte.
        let most = if self.bare { room } else { room - self.weird.random.below(100) };
        let most = most.min(self.weird.says.len());
        let n = self.portion(most);
        buffer.put_slice(&self.weird.says.drain(..n).collect::<Vec<_>>());
        let long = n > SCRATCH_BYTES;
        self.long += usize::from(long);
        if !self.bare {
            self.fell_back += usize::from(self.was_long && room == SCRATCH_BYTES);
            self.was_long = long;
        }
        // The next read is for a reader that took this one.
        self.reader_slow.set(false);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.weird.got_fin, "written to after FIN");
        assert!(!bytes.is_empty(), "a write of nothing");
        if self.weird.received.len() >= self.weird.takes {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A session takes nothing while it keeps something.
        ready!(self.as_mut().poll_flush(cx))?;
        if self.moody(cx) {
            self.slow.set(true);
            return Poll::Pending;
        }
        let n = self.portion(bytes.len());
        self.slow.set(n < bytes.len());
        self.within.extend(&bytes[..n]);
        if self.bare {
            self.let_go(n);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.weird.received.len() >= self.weird.takes {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let most = self.within.len();
        let n = self.portion(most);
        self.let_go(n);
        if self.within.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.slow.set(true);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.weird).poll_shutdown(cx)
    }
}

impl RelayStream for Records {
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

/// The ends that are bare: none, as if both were sessions, or one.
const BARE: [Option<Side>; 3] = [None, Some(Side::Client), Some(Side::Server)];

#[tokio::test]
async fn every_byte_of_long_pieces_arrives_in_order_in_every_mood() {
    for bare in BARE {
        let (mut long, mut fell_back) = ([0; 2], [0; 2]);
        for seed in 0..6 {
            let mut random = Random(seed);
            let (up, down) = ((2 << 20) + random.below(3 << 20), (2 << 20) + random.below(3 << 20));
            let (up, down) = (noise(up, &mut random), noise(down, &mut random));
            let (mut client, mut server) = Records::pair(&up, &down, seed, bare);
            let mut notes = Notes { check_due: seed % 2 == 1, ..Notes::default() };
            let end = run(&mut client, &mut server, &mut notes).await;
            assert!(matches!(end, End::Closed), "{bare:?}, seed {seed}: {end:?}");
            assert!(
                server.received() == up && client.received() == down,
                "{bare:?}, seed {seed}: bytes differ"
            );
            // The second FIN is left to the close of both.
            for end in [&client, &server] {
                assert!(end.weird.got_fin || end.bare, "{bare:?}, seed {seed}: a FIN is missing");
            }
            let moved = Moved { to_server: up.len() as u64, to_client: down.len() as u64 };
            assert_eq!(notes.moved, moved, "{bare:?}, seed {seed}");
            assert!(notes.modes.is_empty(), "{bare:?}, seed {seed}: it was spliced");
            for (at, end) in [&client, &server].into_iter().enumerate() {
                long[at] += end.long;
                fell_back[at] += end.fell_back;
            }
        }
        for (at, side) in [Side::Client, Side::Server].into_iter().enumerate() {
            assert!(long[at] > 20, "bare {bare:?}: {side:?} was hardly read in long pieces: {}", long[at]);
            assert!(
                fell_back[at] > 3 || bare == Some(side),
                "bare {bare:?}: reading {side:?} hardly ever fell back: {}",
                fell_back[at]
            );
        }
    }
}

#[tokio::test]
async fn a_death_amid_long_pieces_loses_nothing_that_was_said_before() {
    for bare in BARE {
        let mut long = 0;
        for seed in 0..6 {
            let mut random = Random(seed);
            let (up, down) = (noise(3 << 20, &mut random), noise((2 << 20) + seed as usize, &mut random));
            // The server says all that it has to say and dies of a reset.
            let (mut client, mut server) = Records::pair(&up, &down, seed, bare);
            server.weird.dies = true;
            let end = run(&mut client, &mut server, &mut Notes::default()).await;
            assert!(matches!(end, End::Died(Side::Server, _)), "{bare:?}, seed {seed}: {end:?}");
            assert!(client.received() == down, "{bare:?}, seed {seed}: the answer is not whole");
            assert!(!client.weird.got_fin, "{bare:?}, seed {seed}: a reset became a FIN");
            assert!(up.starts_with(server.received()), "{bare:?}, seed {seed}: bytes differ");
            // Or it takes nothing more at some time, and is read to its last byte.
            let (mut client, mut server) = Records::pair(&up, &down, seed, bare);
            server.weird.takes = (1 << 20) + random.below(1 << 20);
            let end = run(&mut client, &mut server, &mut Notes::default()).await;
            assert!(matches!(end, End::Died(Side::Server, _)), "{bare:?}, seed {seed}: {end:?}");
            assert!(client.received() == down, "{bare:?}, seed {seed}: the answer is not whole");
            assert!(up.starts_with(server.received()), "{bare:?}, seed {seed}: bytes differ");
            long += client.long + server.long;
        }
        assert!(long > 12, "bare {bare:?}: hardly anything was read in long pieces: {long}");
    }
}
