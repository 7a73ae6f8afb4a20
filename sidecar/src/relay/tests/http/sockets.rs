// SPDX-License-Identifier: Apache-2.0
//! The gate over real sockets: what only a kernel shows.

use super::super::splice::{PATIENCE, splicing};
use super::*;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A relay of messages between two real connections, the outer ends of which are returned.
async fn messages(
    mut notes: Notes,
) -> (TcpStream, TcpStream, JoinHandle<(End<()>, Notes, Relay<HttpGate<()>>)>) {
    let (client, mut inner_client) = pair().await;
    let (mut inner_server, server) = pair().await;
    let task = tokio::spawn(async move {
        let mut relay = Relay::through(gate().0);
        let end = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes)).await;
        (end, notes, relay)
    });
    (client, server, task)
}

async fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut got)).await.expect("in time").expect("all of it");
    assert!(got == expected, "{}", got[..got.len().min(400)].escape_ascii());
}

async fn expect_fin(stream: &mut TcpStream) {
    let n = timeout(PATIENCE, stream.read(&mut [0])).await.expect("in time").expect("no reset");
    assert_eq!(n, 0, "a byte in place of FIN");
}

#[tokio::test]
async fn long_bodies_are_spliced_and_the_next_message_is_seen() {
    const BODY: usize = 10 << 20;
    let (notes, metrics) = splicing(2);
    let (mut client, mut server, task) = messages(notes).await;
    let body = noise(BODY, &mut Random(3));
    let post =
        [format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n").as_bytes(), &body].concat();
    let ok = [format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes(), &body].concat();
    for round in 1..=3 {
        tokio::join!(async { client.write_all(&post).await.unwrap() }, expect(&mut server, &post));
        tokio::join!(async { server.write_all(&ok).await.unwrap() }, expect(&mut client, &ok));
        // One pipe a body and direction at least: their lengths are said, so a full read is proof enough.
        assert!(metrics.started.get() >= 2 * round, "{}", metrics.started.get());
        // What follows goes through the gate again.
        client.write_all(GET).await.unwrap();
        expect(&mut server, GET).await;
        server.write_all(OK).await.unwrap();
        expect(&mut client, OK).await;
    }
    client.write_all(b"GET /smuggled HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
    let (end, notes, relay) = task.await.unwrap();
    assert!(matches!(end, End::Closed) && relay.gate().is_to_linger());
    assert!(notes.modes.contains(&Mode { splices_to_server: true, splices_to_client: false }));
    assert!(notes.modes.contains(&Mode { splices_to_server: false, splices_to_client: true }));
    expect_fin(&mut server).await;
}

#[tokio::test]
async fn a_chunked_body_of_long_chunks_is_spliced_chunk_by_chunk() {
    const CHUNK: usize = 4 << 20;
    let (notes, metrics) = splicing(2);
    let (mut client, mut server, task) = messages(notes).await;
    let data = noise(CHUNK, &mut Random(4));
    let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &data, b"\r\n"].concat();
    let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let ok = [head, &chunk, &chunk, &chunk, b"0\r\nX-Sum: 1\r\n\r\n"].concat();
    client.write_all(GET).await.unwrap();
    expect(&mut server, GET).await;
    tokio::join!(async { server.write_all(&ok).await.unwrap() }, expect(&mut client, &ok));
    assert!(metrics.started.get() >= 3, "{}", metrics.started.get());
    client.write_all(GET).await.unwrap();
    expect(&mut server, GET).await;
    drop((client, server));
    task.await.unwrap();
}

#[tokio::test]
async fn a_tunnel_is_spliced_both_ways_and_half_closes() {
    const BYTES: usize = 8 << 20;
    let (notes, metrics) = splicing(2);
    let (mut client, mut server, task) = messages(notes).await;
    let ask: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let agree: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    // What follows at once is held until the server has agreed.
    client.write_all(&[ask, b"\0early"].concat()).await.unwrap();
    expect(&mut server, ask).await;
    server.write_all(agree).await.unwrap();
    expect(&mut client, agree).await;
    expect(&mut server, b"\0early").await;
    let bulk = noise(BYTES, &mut Random(5));
    tokio::join!(async { server.write_all(&bulk).await.unwrap() }, expect(&mut client, &bulk));
    tokio::join!(async { client.write_all(&bulk).await.unwrap() }, expect(&mut server, &bulk));
    assert!(metrics.started.get() >= 2, "{}", metrics.started.get());
    client.shutdown().await.unwrap();
    expect_fin(&mut server).await;
    server.write_all(b"words behind FIN").await.unwrap();
    expect(&mut client, b"words behind FIN").await;
    drop(server);
    expect_fin(&mut client).await;
    let (end, notes, relay) = task.await.unwrap();
    assert!(matches!(end, End::Closed) && !relay.gate().is_over());
    assert_eq!(notes.fins, [Side::Client, Side::Server]);
}

#[tokio::test]
async fn more_pipelined_requests_than_are_let_through_arrive_one_by_one() {
    let (mut client, mut server, task) = messages(Notes::default()).await;
    client.write_all(&GET.repeat(40)).await.unwrap();
    expect(&mut server, &GET.repeat(16)).await;
    for n in 0..40 {
        server.write_all(OK).await.unwrap();
        expect(&mut client, OK).await;
        if n < 24 {
            expect(&mut server, GET).await;
        }
    }
    client.shutdown().await.unwrap();
    expect_fin(&mut server).await;
    drop(server);
    expect_fin(&mut client).await;
    assert!(matches!(task.await.unwrap().0, End::Closed));
}

#[tokio::test]
async fn an_early_answer_passes_while_the_body_is_still_sent() {
    let (mut client, mut server, task) = messages(Notes::default()).await;
    let head: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
    client.write_all(&[head, &[b'x'; 10]].concat()).await.unwrap();
    expect(&mut server, &[head, &[b'x'; 10]].concat()).await;
    let early: &[u8] = b"HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    server.write_all(early).await.unwrap();
    expect(&mut client, early).await;
    client.write_all(&[b'x'; 90]).await.unwrap();
    expect(&mut server, &[b'x'; 90]).await;
    // The body was the last that either may say.
    expect_fin(&mut server).await;
    expect_fin(&mut client).await;
    let (end, _, relay) = task.await.unwrap();
    assert!(matches!(end, End::Closed) && relay.gate().is_to_linger());
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    for dying in [Side::Client, Side::Server] {
        let (mut client, mut server, task) = messages(Notes::default()).await;
        client.write_all(GET).await.unwrap();
        expect(&mut server, GET).await;
        let dies = if dying == Side::Client { client } else { server };
        SockRef::from(&dies).set_linger(Some(Duration::ZERO)).unwrap();
        drop(dies);
        let end = timeout(PATIENCE, task).await.unwrap().unwrap().0;
        assert!(matches!(end, End::Died(side, _) if side == dying), "{dying:?}: {end:?}");
    }
}

#[tokio::test]
async fn a_held_client_that_vanishes_is_found_by_a_check() {
    let (mut client, mut inner_client) = pair().await;
    let (mut inner_server, mut server) = pair().await;
    let mut relay = Relay::through(gate().0);
    let mut notes = Notes { check_due: true, ..Notes::default() };
    let ask: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    client.write_all(&[ask, b"more"].concat()).await.unwrap();
    let relaying = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes));
    tokio::select! {
        end = relaying => panic!("ended early: {end:?}"),
        () = expect(&mut server, ask) => {}
    }
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    // As the sweep does, wake it now and then.
    let end = timeout(PATIENCE, async {
        loop {
            let polled = poll_fn(|cx| relay.poll(cx, &mut inner_client, &mut inner_server, &mut notes));
            if let Ok(end) = timeout(Duration::from_millis(20), polled).await {
                return end;
            }
        }
    });
    let end = end.await.expect("the reset was never found");
    assert!(matches!(end, End::Died(Side::Client, _)), "{end:?}");
    assert!(notes.not_read);
}
