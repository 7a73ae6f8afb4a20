// SPDX-License-Identifier: Apache-2.0
//! A TLS stream as one end of a relay.

use super::authority::Authority;
use super::handshakes::{pair, streams};
use crate::cluster::stream::Stream;
use crate::relay::pipes::Pipes;
use crate::relay::{End, LONG_SCRATCH_BYTES, Mode, Moved, Relay, SCRATCH_BYTES, Side, Watch};
use crate::tls::TlsStream;
use socket2::SockRef;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn members() -> (TlsStream, TlsStream) {
    let authority = Authority::new();
    streams(&authority.configs("web"), &authority.configs("db")).await
}

/// Bytes that show any loss, repetition or change.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn bytes_of_any_number_arrive_as_they_were() {
    let (mut near, mut far) = members().await;
    for bytes in [1, 2, 16_383, 16_384, 16_385, 65_536, 65_537, 3_000_000] {
        let sent = payload(bytes);
        let writing = async {
            near.write_all(&sent).await.unwrap();
            near.flush().await.unwrap();
        };
        let mut got = vec![0; bytes];
        let ((), read) = tokio::join!(writing, far.read_exact(&mut got));
        read.unwrap();
        assert!(got == sent, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_reader_that_takes_little_at_a_time_gets_all() {
    let (mut near, mut far) = members().await;
    let sent = payload(100_000);
    near.write_all(&sent[..60_000]).await.unwrap();
    near.flush().await.unwrap();
    let writing = async {
        near.write_all(&sent[60_000..]).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let reading = async {
        let mut got = Vec::new();
        let mut little = [0; 7];
        loop {
            match far.read(&mut little).await.unwrap() {
                0 => return got,
                n => got.extend_from_slice(&little[..n]),
            }
        }
    };
    let ((), got) = tokio::join!(writing, reading);
    assert!(got == sent);
}

#[tokio::test]
async fn half_a_close_is_half_a_close() {
    let (mut near, mut far) = members().await;
    near.write_all(b"that was all").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = String::new();
    far.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "that was all");
    // The other way still goes.
    far.write_all(b"an answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut got = String::new();
    near.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "an answer");
}

#[tokio::test]
async fn a_fin_without_a_close_notify_is_no_end() {
    let (mut near, mut far) = members().await;
    near.write_all(b"the first half").await.unwrap();
    near.flush().await.unwrap();
    SockRef::from(near.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = vec![0; 14];
    far.read_exact(&mut got).await.unwrap();
    let error = far.read(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn two_reads_go_on_at_once_where_there_is_room() {
    let (mut near, mut far) = members().await;
    let sent = payload(4_000_000);
    let writing = async {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut got, mut longest) = (Vec::new(), 0);
        let mut room = vec![0; LONG_SCRATCH_BYTES];
        loop {
            let n = far.read(&mut room).await.unwrap();
            longest = longest.max(n);
            match n {
                0 => return (got, longest),
                n => got.extend_from_slice(&room[..n]),
            }
        }
    };
    let ((), (got, longest)) = tokio::join!(writing, reading);
    assert!(got == sent);
    assert!(longest > SCRATCH_BYTES, "{longest} bytes at most were read at once");
}

#[tokio::test]
async fn an_end_that_fills_a_read_to_the_last_byte_is_an_end() {
    let (mut near, mut far) = members().await;
    SockRef::from(far.tcp()).set_recv_buffer_size(1 << 20).unwrap();
    // Four records with 22 bytes around each; the fifth is the close_notify, of 24.
    let sent = payload(SCRATCH_BYTES - 24);
    near.write_all(&sent).await.unwrap();
    near.shutdown().await.unwrap();
    let all = SCRATCH_BYTES + 4 * 22;
    let mut peeked = vec![0; all + 1];
    while far.tcp().peek(&mut peeked).await.unwrap() < all {
        tokio::task::yield_now().await;
    }
    assert_eq!(far.tcp().peek(&mut peeked).await.unwrap(), all);
    let mut room = vec![0; LONG_SCRATCH_BYTES];
    assert_eq!(far.read(&mut room).await.unwrap(), sent.len());
    assert!(room[..sent.len()] == sent);
    assert_eq!(far.read(&mut room).await.unwrap(), 0);
}

#[tokio::test]
async fn bytes_that_were_changed_on_the_way_are_an_error_after_those_before() {
    let (mut near, mut far) = members().await;
    near.write_all(b"good").await.unwrap();
    near.flush().await.unwrap();
    SockRef::from(near.tcp())
        .send(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .unwrap();
    let mut got = [0; 4];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"good");
    let error = far.read(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

/// A watch that stops nothing.
struct NoOwner(Arc<Pipes>);

impl Watch for NoOwner {
    type Stop = std::convert::Infallible;

    fn poll_stop(&mut self, _: &mut Context<'_>) -> Poll<Self::Stop> {
        Poll::Pending
    }
    fn moved(&mut self, _: Moved) {}
    fn half_closed(&mut self, _: Side) {}
    fn not_read(&mut self, _: bool) {}
    fn check_due(&mut self) -> bool {
        false
    }
    fn keep_alive(&self) -> Option<Duration> {
        None
    }
    fn pipes(&self) -> &Arc<Pipes> {
        &self.0
    }
    fn mode(&mut self, mode: Mode) {
        assert_eq!(mode, Mode::default(), "TLS cannot be spliced");
    }
}

type Relayed = tokio::task::JoinHandle<Result<(), (Side, std::io::ErrorKind)>>;

fn relay(mut client: Stream, mut server: Stream) -> Relayed {
    tokio::spawn(async move {
        let mut relay = Relay::default();
        let metrics = crate::connection::metrics::Metrics::default();
        let mut owner = NoOwner(Pipes::new(8, metrics.pipes.clone()));
        let end = poll_fn(|cx| relay.poll(cx, &mut client, &mut server, &mut owner)).await;
        match end {
            End::Closed => Ok(()),
            End::Died(side, error) => {
                for end in [&client, &server] {
                    let _ = SockRef::from(end.tcp()).set_linger(Some(Duration::ZERO));
                }
                Err((side, error.kind()))
            }
            End::Stopped(never) => match never {},
        }
    })
}

/// Plain at both ends, TLS in between: two relays, as two sidecars are.
async fn two_relays() -> (TcpStream, TcpStream, [Relayed; 2]) {
    let (near, far) = members().await;
    let (application, accepted) = pair().await;
    let (dialled, server) = pair().await;
    let outbound = relay(Stream::Plain(accepted), Stream::Tls(near.into()));
    let inbound = relay(Stream::Tls(far.into()), Stream::Plain(dialled));
    (application, server, [outbound, inbound])
}

#[tokio::test]
async fn through_two_relays_a_stream_is_what_it_was() {
    let (mut application, mut server, relays) = two_relays().await;
    let sent = payload(5_000_000);
    let echo = async {
        let mut got = Vec::new();
        // Slower than the writer, so that everything on the way fills up.
        let mut piece = vec![0; 10_000];
        loop {
            match server.read(&mut piece).await.unwrap() {
                0 => break,
                n => got.extend_from_slice(&piece[..n]),
            }
            tokio::task::yield_now().await;
        }
        server.write_all(&got).await.unwrap();
        server.shutdown().await.unwrap();
    };
    let asking = async {
        application.write_all(&sent).await.unwrap();
        application.shutdown().await.unwrap();
        let mut got = Vec::new();
        application.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(echo, asking);
    assert!(got == sent);
    for relay in relays {
        assert_eq!(relay.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn small_messages_do_not_wait_for_others() {
    let (mut application, mut server, _relays) = two_relays().await;
    for round in 0..100u8 {
        application.write_u8(round).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_u8(round).await.unwrap();
        assert_eq!(application.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn a_reset_comes_through_as_a_reset() {
    let (mut application, mut server, relays) = two_relays().await;
    application.write_u8(1).await.unwrap();
    server.read_u8().await.unwrap();
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let error = application.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    for relay in relays {
        assert!(relay.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_server_that_answers_and_resets_mid_upload_is_read_to_its_last_byte() {
    let (near, mut far) = members().await;
    let (mut application, accepted) = pair().await;
    let relay = relay(Stream::Plain(accepted), Stream::Tls(near.into()));
    // NoOwner reads it, so at last the session keeps what the socket does not take.
    let chunk = vec![1; 1 << 20];
    while tokio::time::timeout(Duration::from_millis(200), application.write_all(&chunk)).await.is_ok() {}
    far.write_all(b"too much").await.unwrap();
    far.flush().await.unwrap();
    SockRef::from(far.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    let mut answer = Vec::new();
    let error = application.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!(String::from_utf8_lossy(&answer), "too much");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(relay.await.unwrap(), Err((Side::Server, _))));
}

/// Memory of an idle TLS connection besides its socket, without the overhead of the allocator.
#[tokio::test]
async fn idle_it_holds_no_buffer() {
    let (mut near, mut far) = members().await;
    let sent = payload(1_000_000);
    let mut got = vec![0; sent.len()];
    let writing = async {
        near.write_all(&sent).await.unwrap();
        near.flush().await.unwrap();
    };
    let ((), read) = tokio::join!(writing, far.read_exact(&mut got));
    read.unwrap();
    assert_eq!((near.buffered(), far.buffered()), (0, 0));
}
