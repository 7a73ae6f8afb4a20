// SPDX-License-Identifier: Apache-2.0
//! The copy loop against mocks whose every read and write may be short, pending or the last, and against real sockets.

mod deaths;
mod http;
mod long;
mod reads;
mod splice;

use super::pipes::PipeMetrics;
use super::*;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Waker;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

/// A small generator (splitmix64): the same seed gives the same run on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A stream with a script: what it says, how it ends, and a mood for each call.
struct Weird {
    says: VecDeque<u8>,
    dies: bool,
    received: Vec<u8>,
    got_fin: bool,
    /// After so many bytes every write fails.
    takes: usize,
    /// True if it passes for a bare socket, which is read on to FIN.
    bare: bool,
    random: Random,
}

impl Weird {
    fn new(says: &[u8], seed: u64) -> Self {
        Self {
            says: says.iter().copied().collect(),
            dies: false,
            received: Vec::new(),
            got_fin: false,
            takes: usize::MAX,
            bare: false,
            random: Random(seed),
        }
    }

    /// Pending, with a wake-up on its way.
    fn moody(&mut self, cx: &mut Context<'_>) -> bool {
        let moody = self.random.one_in(3);
        if moody {
            cx.waker().wake_by_ref();
        }
        moody
    }
}

impl AsyncRead for Weird {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.moody(cx) {
            return Poll::Pending;
        }
        if self.says.is_empty() && self.dies {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = buffer.remaining().min(self.says.len());
        let n = match most {
            0 => 0,
            // All of it now and then, or what comes with FIN would hardly be seen.
            _ if self.random.one_in(2) => most,
            _ => 1 + self.random.below(most),
        };
        let bytes: Vec<u8> = self.says.drain(..n).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Weird {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.got_fin, "written to after FIN");
        assert!(!bytes.is_empty(), "a write of nothing");
        if self.moody(cx) {
            return Poll::Pending;
        }
        let most = bytes.len().min(self.takes - self.received.len().min(self.takes));
        if most == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = 1 + self.random.below(most);
        self.received.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.moody(cx) {
            return Poll::Pending;
        }
        self.got_fin = true;
        Poll::Ready(Ok(()))
    }
}

impl RelayStream for Weird {
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

/// An owner that only takes notes.
struct Notes {
    moved: Moved,
    stop: bool,
    check_due: bool,
    not_read: bool,
    fins: Vec<Side>,
    pipes: Arc<Pipes>,
    modes: Vec<Mode>,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            moved: Moved::default(),
            stop: false,
            check_due: false,
            not_read: false,
            fins: Vec::new(),
            pipes: Pipes::new(0, PipeMetrics::default()),
            modes: Vec::new(),
        }
    }
}

impl Watch for Notes {
    type Stop = ();

    fn poll_stop(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.stop { Poll::Ready(()) } else { Poll::Pending }
    }

    fn moved(&mut self, bytes: Moved) {
        self.moved.to_server += bytes.to_server;
        self.moved.to_client += bytes.to_client;
    }

    fn half_closed(&mut self, by: Side) {
        self.fins.push(by);
    }

    fn not_read(&mut self, not_read: bool) {
        self.not_read = not_read;
    }

    fn check_due(&mut self) -> bool {
        self.check_due
    }

    fn keep_alive(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    fn pipes(&self) -> &Arc<Pipes> {
        &self.pipes
    }

    fn mode(&mut self, mode: Mode) {
        self.modes.push(mode);
    }
}

async fn run<C: RelayStream, S: RelayStream>(client: &mut C, server: &mut S, notes: &mut Notes) -> End<()> {
    let mut relay = Relay::default();
    poll_fn(|cx| relay.poll(cx, client, server, notes)).await
}

fn noise(length: usize, random: &mut Random) -> Vec<u8> {
    (0..length).map(|_| random.next() as u8).collect()
}

#[tokio::test]
async fn every_byte_arrives_in_order_in_every_mood() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let (up, down) = (random.below(200_000), random.below(200_000));
        let (up, down) = (noise(up, &mut random), noise(down, &mut random));
        let mut client = Weird::new(&up, seed ^ 0xc11e);
        let mut server = Weird::new(&down, seed ^ 0x5e27);
        let mut notes = Notes::default();
        let end = run(&mut client, &mut server, &mut notes).await;
        assert!(matches!(end, End::Closed), "seed {seed}: {end:?}");
        assert!(server.received == up && client.received == down, "seed {seed}: bytes differ");
        assert!(server.got_fin && client.got_fin, "seed {seed}: a FIN is missing");
        let moved = Moved { to_server: up.len() as u64, to_client: down.len() as u64 };
        assert_eq!(notes.moved, moved, "seed {seed}");
        assert_eq!(notes.fins.len(), 2, "seed {seed}");
    }
}

#[test]
fn one_wake_up_moves_a_bounded_amount() {
    let (mut client, mut server) = (Eager, Eager);
    let mut relay = Relay::default();
    let mut notes = Notes::default();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(relay.poll(&mut cx, &mut client, &mut server, &mut notes).is_pending());
    assert_eq!(notes.moved.to_server, 1024 * 1024);
    assert_eq!(notes.moved.to_client, 1024 * 1024);
}

/// Always has something to say and takes everything.
struct Eager;

impl AsyncRead for Eager {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buffer.advance(buffer.remaining());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Eager {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl RelayStream for Eager {
    fn pending_error(&self) -> Option<io::Error> {
        None
    }

    fn read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[tokio::test]
async fn a_stop_ends_it_at_once() {
    let mut notes = Notes { stop: true, ..Notes::default() };
    let end = run(&mut Eager, &mut Eager, &mut notes).await;
    assert!(matches!(end, End::Stopped(())));
    assert_eq!(notes.moved, Moved::default());
}

/// A connected pair of real sockets.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (dialled, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A relay between two real connections, the outer ends of which are returned.
async fn real(mut notes: Notes) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(End<()>, Notes)>) {
    let (client, mut inner_client) = pair().await;
    let (mut inner_server, server) = pair().await;
    let task = tokio::spawn(async move {
        let end = run(&mut inner_client, &mut inner_server, &mut notes).await;
        if !matches!(end, End::Closed) {
            for stream in [&inner_client, &inner_server] {
                SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
        (end, notes)
    });
    (client, server, task)
}

#[tokio::test]
async fn half_close_leaves_the_other_half_open() {
    let (mut client, mut server, task) = real(Notes::default()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    let (end, notes) = task.await.unwrap();
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(notes.fins, [Side::Client, Side::Server]);
}

#[tokio::test]
async fn a_reset_becomes_a_reset_in_both_directions() {
    for dying in [Side::Client, Side::Server] {
        let (client, server, task) = real(Notes::default()).await;
        let (dies, mut lives) = if dying == Side::Client { (client, server) } else { (server, client) };
        SockRef::from(&dies).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(dies);
        let error = lives.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{dying:?}");
        let (end, _) = task.await.unwrap();
        assert!(matches!(end, End::Died(side, _) if side == dying), "{dying:?}: {end:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_costs_one_buffer_and_loses_nothing() {
    const LENGTH: usize = 8 << 20;
    let (mut client, mut server, task) = real(Notes::default()).await;
    let sent = noise(LENGTH, &mut Random(7));
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut received = Vec::with_capacity(LENGTH);
    let mut chunk = vec![0; 3001];
    loop {
        let n = server.read(&mut chunk).await.unwrap();
        if n == 0 {
            break;
        }
        received.extend_from_slice(&chunk[..n]);
        tokio::task::yield_now().await;
    }
    assert!(received == expected, "bytes differ");
    drop((server, writing.await.unwrap()));
    assert!(matches!(task.await.unwrap().0, End::Closed));
}

#[tokio::test]
async fn a_reset_behind_a_full_buffer_is_found_by_a_check() {
    // The server's end is not read, so the client is not read either once everything is full.
    let notes = Notes { check_due: true, ..Notes::default() };
    let (mut client, inner_client) = pair().await;
    let (inner_server, server) = pair().await;
    let (mut inner_client, mut inner_server) = (inner_client, inner_server);
    let mut notes = notes;
    let mut relay = Relay::default();
    let chunk = vec![0; 1 << 20];
    let full = async {
        // Fill until neither the relay nor the writer gets on.
        loop {
            let written =
                tokio::time::timeout(std::time::Duration::from_millis(100), client.write(&chunk)).await;
            if written.is_err() {
                return;
            }
        }
    };
    let relaying = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes));
    tokio::select! {
        end = relaying => panic!("ended early: {end:?}"),
        () = full => {}
    }
    SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    // As the sweep does, wake it now and then.
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            let mut polled =
                Box::pin(poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes)));
            if let Ok(end) = tokio::time::timeout(std::time::Duration::from_millis(20), &mut polled).await {
                return end;
            }
        }
    })
    .await
    .expect("the reset was never found");
    assert!(matches!(end, End::Died(Side::Client, _)), "{end:?}");
    assert!(notes.not_read);
    drop(server);
}

#[tokio::test]
async fn a_server_that_went_quiet_is_watched_by_the_kernel() {
    let (_client, mut inner_client) = pair().await;
    let (mut inner_server, _server) = pair().await;
    let mut relay = Relay::default();
    let mut cx = Context::from_waker(Waker::noop());
    for quiet in [false, true] {
        let mut notes = Notes { check_due: quiet, ..Notes::default() };
        assert!(relay.poll(&mut cx, &mut inner_client, &mut inner_server, &mut notes).is_pending());
        assert_eq!(SockRef::from(&inner_server).keepalive().unwrap(), quiet);
    }
}

#[test]
fn an_idle_relay_is_a_few_words() {
    let bytes = std::mem::size_of::<Relay>();
    assert!(bytes <= 72, "{bytes} bytes");
}
