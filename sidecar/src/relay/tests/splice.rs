// SPDX-License-Identifier: Apache-2.0
//! Bulk streams through pipes: against a mock that splices by hand, and on real sockets. And urgent bytes, which the
//! kernel does not splice.

use super::*;
use std::time::Duration;

/// Longest that anything here may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn splicing(most: u32) -> (Notes, PipeMetrics) {
    let metrics = PipeMetrics::default();
    (Notes { pipes: Pipes::new(most, metrics.clone()), ..Notes::default() }, metrics)
}

/// A stream that can be spliced, and that mostly says as much as it is let.
struct Bulky {
    weird: Weird,
    /// Positions where splicing stops as in front of an urgent byte: 0 or "would block", though more comes.
    stumbles: bool,
    /// After so many bytes from pipes every splice fails.
    takes_spliced: usize,
}

impl Bulky {
    fn new(says: &[u8], seed: u64) -> Self {
        Self { weird: Weird::new(says, seed), stumbles: true, takes_spliced: usize::MAX }
    }

    /// Nine times in ten all there is, else a part.
    fn portion(&mut self, most: usize) -> usize {
        if most == 0 || !self.weird.random.one_in(10) { most } else { 1 + self.weird.random.below(most) }
    }
}

impl AsyncRead for Bulky {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.weird.random.one_in(20) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = buffer.remaining().min(self.weird.says.len());
        let n = self.portion(most);
        let bytes: Vec<u8> = self.weird.says.drain(..n).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bulky {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.weird.random.one_in(20) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let n = self.portion(bytes.len());
        self.weird.received.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.weird).poll_shutdown(cx)
    }
}

/// As the mock is shared with the relay, its state changes behind a plain reference.
struct Shared(std::cell::RefCell<Bulky>);

impl Shared {
    fn new(bulky: Bulky) -> Self {
        Self(std::cell::RefCell::new(bulky))
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.get_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().0.get_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.get_mut()).poll_shutdown(cx)
    }
}

impl RelayStream for Shared {
    fn pending_error(&self) -> Option<io::Error> {
        None
    }

    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bulky = self.0.borrow_mut();
        if bulky.weird.says.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = buffer.len().min(bulky.weird.says.len());
        let n = bulky.portion(most);
        for (to, byte) in buffer.iter_mut().zip(bulky.weird.says.drain(..n)) {
            *to = byte;
        }
        Ok(n)
    }

    fn splices(&self) -> bool {
        true
    }

    fn splice_into(&self, pipe: &mut Pipe, most: u64) -> io::Result<usize> {
        assert!(pipe.is_empty(), "spliced into a pipe that holds something");
        let mut bulky = self.0.borrow_mut();
        if bulky.stumbles && bulky.weird.random.one_in(8) {
            return if bulky.weird.random.one_in(2) { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        // Less than any pipe takes, so that the mock need not know its size.
        let most = bulky.weird.says.len().min(60_000).min(usize::try_from(most).unwrap_or(usize::MAX));
        let n = bulky.portion(most);
        let bytes: Vec<u8> = bulky.weird.says.drain(..n).collect();
        pipe.by_hand(|_, write, held| {
            assert_eq!(nix::unistd::write(write, &bytes).unwrap_or(0), n);
            *held = n;
        });
        Ok(n)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.borrow_mut().weird.random.one_in(2) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let mut bulky = self.0.borrow_mut();
        if bulky.weird.random.one_in(20) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if bulky.takes_spliced == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut n = 0;
        pipe.by_hand(|read, _, held| {
            let most = bulky.portion(*held).min(bulky.takes_spliced);
            let mut bytes = vec![0; most];
            n = nix::unistd::read(read, &mut bytes).unwrap();
            bulky.weird.received.extend_from_slice(&bytes[..n]);
            *held -= n;
        });
        bulky.takes_spliced -= n;
        Poll::Ready(Ok(n))
    }
}

#[tokio::test]
async fn every_byte_arrives_in_order_in_every_mood_of_splice() {
    let mut spliced = 0;
    for seed in 0..12 {
        let mut random = Random(seed);
        let (up, down) = (random.below(4 << 20), random.below(4 << 20));
        let (up, down) = (noise(up, &mut random), noise(down, &mut random));
        let mut client = Shared::new(Bulky::new(&up, seed ^ 0xc11e));
        let mut server = Shared::new(Bulky::new(&down, seed ^ 0x5e27));
        let (mut notes, metrics) = splicing(1 + (seed % 2) as u32);
        let end = run(&mut client, &mut server, &mut notes).await;
        assert!(matches!(end, End::Closed), "seed {seed}: {end:?}");
        let (client, server) = (client.0.into_inner().weird, server.0.into_inner().weird);
        assert!(server.received == up && client.received == down, "seed {seed}: bytes differ");
        // The second FIN is left to the close of both.
        assert!(server.got_fin != client.got_fin, "seed {seed}: one side hears FIN from the relay");
        let moved = Moved { to_server: up.len() as u64, to_client: down.len() as u64 };
        assert_eq!(notes.moved, moved, "seed {seed}");
        assert_eq!(metrics.in_use.get(), 0, "seed {seed}: a pipe was kept");
        spliced += metrics.started.get();
    }
    assert!(spliced > 12, "hardly anything was spliced: {spliced}");
}

#[tokio::test]
async fn a_sink_that_dies_of_a_splice_takes_the_pipes_bytes_with_it() {
    for seed in 0..20 {
        let up = noise(4 << 20, &mut Random(seed));
        let mut client = Shared::new(Bulky::new(&up, seed));
        let mut server = Bulky::new(b"", seed ^ 1);
        server.takes_spliced = 200_001;
        server.weird.dies = true;
        let mut server = Shared::new(server);
        let (mut notes, metrics) = splicing(1);
        let mut relay = Relay::default();
        let end = poll_fn(|cx| relay.poll(cx, &mut client, &mut server, &mut notes)).await;
        drop(relay);
        let server = server.0.into_inner().weird;
        assert!(up.starts_with(&server.received), "seed {seed}: bytes differ");
        if matches!(end, End::Died(Side::Server, _)) && metrics.started.get() > 0 {
            // The next pipe gives out the same bytes that went into it.
            let mut pipe = notes.pipes.take().unwrap();
            pipe.by_hand(|read, _, _| assert!(nix::unistd::read(read, &mut [0]).is_err(), "seed {seed}"));
        }
        assert_eq!(metrics.in_use.get(), 0, "seed {seed}");
    }
}

/// Sends so much through a relay whose reader never waits for long; the reader's bytes.
async fn transfer(mut notes: Notes, sent: &[u8]) -> (Vec<u8>, End<()>, Notes) {
    let (mut client, mut inner_client) = pair().await;
    let (mut inner_server, mut server) = pair().await;
    let mut received = Vec::with_capacity(sent.len());
    let ((), read, end) = tokio::time::timeout(PATIENCE, async {
        tokio::join!(
            async {
                client.write_all(sent).await.unwrap();
                client.shutdown().await.unwrap();
            },
            async {
                let read = server.read_to_end(&mut received).await;
                server.shutdown().await.unwrap();
                read
            },
            run(&mut inner_client, &mut inner_server, &mut notes)
        )
    })
    .await
    .unwrap();
    assert_eq!(read.unwrap(), sent.len());
    (received, end, notes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_stream_is_spliced_and_arrives_whole() {
    let sent = noise(24 << 20, &mut Random(11));
    let (notes, metrics) = splicing(2);
    let (received, end, notes) = transfer(notes, &sent).await;
    assert!(matches!(end, End::Closed), "{end:?}");
    assert!(received == sent, "bytes differ");
    assert_eq!(notes.moved.to_server, sent.len() as u64);
    assert!(metrics.started.get() > 0, "it was never spliced");
    assert!(notes.modes.contains(&Mode { splices_to_server: true, splices_to_client: false }));
    assert_eq!(metrics.in_use.get(), 0);
}

#[tokio::test]
async fn without_a_pipe_it_arrives_too_and_is_counted() {
    let sent = noise(16 << 20, &mut Random(12));
    let (notes, metrics) = splicing(0);
    let (received, _, notes) = transfer(notes, &sent).await;
    assert!(received == sent, "bytes differ");
    assert!(notes.modes.is_empty());
    // Once a mebibyte at most.
    let fallbacks = metrics.fallbacks[pipes::Fallback::AllInUse].get();
    assert!(fallbacks <= 16, "{fallbacks}");
}

#[tokio::test]
async fn a_conversation_of_small_messages_never_takes_a_pipe() {
    let (notes, metrics) = splicing(2);
    let (mut client, mut server, task) = real(notes).await;
    let mut buffer = vec![0; 4096];
    for _ in 0..600 {
        client.write_all(&buffer).await.unwrap();
        server.read_exact(&mut buffer).await.unwrap();
        server.write_all(&buffer).await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
    }
    drop((client, server));
    task.await.unwrap();
    assert_eq!(metrics.started.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_byte_in_a_spliced_stream_is_neither_lost_nor_the_end() {
    let (mut notes, metrics) = splicing(1);
    let (mut client, mut inner_client) = pair().await;
    let (mut inner_server, mut server) = pair().await;
    SockRef::from(&inner_client).set_out_of_band_inline(true).unwrap();
    let task = tokio::spawn(async move {
        // As the sweep does to a connection that fell silent.
        let mut sweep = tokio::time::interval(Duration::from_millis(20));
        let mut relay = Relay::default();
        poll_fn(|cx| {
            notes.check_due = sweep.poll_tick(cx).is_ready();
            if notes.check_due {
                cx.waker().wake_by_ref();
            }
            relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes)
        })
        .await
    });
    let chunk = vec![7; 8 << 20];
    let expected = 3 * chunk.len() + 2;
    let writing = tokio::spawn(async move {
        for part in 0..3 {
            client.write_all(&chunk).await.unwrap();
            if part < 2 {
                client.writable().await.unwrap();
                while SockRef::from(&client).send_out_of_band(b"U").is_err() {
                    tokio::task::yield_now().await;
                }
            }
        }
        client.shutdown().await.unwrap();
        client
    });
    let mut received = Vec::new();
    tokio::time::timeout(PATIENCE, server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received.len(), expected);
    assert_eq!(received.iter().filter(|&&byte| byte == b'U').count(), 2);
    drop((server, writing.await.unwrap()));
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert!(metrics.started.get() > 0, "it was never spliced");
    assert_eq!(metrics.in_use.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_of_a_spliced_stream_is_stopped_and_its_pipe_is_not_pooled() {
    let (mut notes, metrics) = splicing(1);
    let pipes = Arc::clone(&notes.pipes);
    let (mut client, mut inner_client) = pair().await;
    let (mut inner_server, mut server) = pair().await;
    let stalled = async {
        // Read enough for it to be bulk, then never again.
        let mut buffer = vec![0; 256 * 1024];
        let mut taken = 0;
        while taken < 8 << 20 {
            taken += server.read(&mut buffer).await.unwrap();
        }
    };
    let chunk = vec![1; 1 << 20];
    let writing = tokio::spawn(async move { while client.write_all(&chunk).await.is_ok() {} });
    let mut relay = Relay::default();
    {
        let relaying = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes));
        tokio::pin!(relaying);
        tokio::select! {
            end = &mut relaying => panic!("ended early: {end:?}"),
            () = stalled => {}
        }
        // Until everything is full.
        let end = tokio::time::timeout(Duration::from_millis(500), &mut relaying).await;
        assert!(end.is_err(), "ended early: {end:?}");
    }
    assert!(metrics.started.get() > 0);
    // As the sweep does to a connection that moved nothing for the idle timeout.
    notes.stop = true;
    let end = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes)).await;
    assert!(matches!(end, End::Stopped(())));
    drop(relay);
    assert_eq!(metrics.in_use.get(), 0);
    let mut pipe = pipes.take().unwrap();
    pipe.by_hand(|read, _, _| {
        assert!(nix::unistd::read(read, &mut [0]).is_err(), "a pooled pipe held bytes")
    });
    drop((inner_client, inner_server));
    writing.await.unwrap();
}

#[tokio::test]
async fn an_urgent_byte_stays_in_the_stream_and_what_follows_is_not_stuck() {
    let (mut client, mut inner_client) = pair().await;
    let (mut inner_server, mut server) = pair().await;
    SockRef::from(&inner_client).set_out_of_band_inline(true).unwrap();
    client.write_all(b"ab").await.unwrap();
    assert_eq!(SockRef::from(&client).send_out_of_band(b"U").unwrap(), 1);
    client.write_all(b"cd").await.unwrap();
    let mut notes = Notes { check_due: true, ..Notes::default() };
    let mut relay = Relay::default();
    let mut received = [0; 5];
    tokio::select! {
        end = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes)) => panic!("{end:?}"),
        read = server.read_exact(&mut received) => { read.unwrap(); }
    }
    assert_eq!(&received, b"abUcd");
}
