// SPDX-License-Identifier: Apache-2.0
//! Queries by TCP.

use super::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A server that takes connections and answers the queries on them, after `before` other messages.
async fn upstream(before: usize, count: u8) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::from_std({
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    })
    .unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    tokio::spawn({
        let accepted = Arc::clone(&accepted);
        async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    while let Ok(Some(query)) = frame::read(&mut stream).await {
                        let good = answer(&query, query[HEADER + 1], count);
                        for _ in 0..before {
                            let mut wrong = good.clone();
                            wrong[0] ^= 1;
                            frame::write(&mut stream, &wrong).await.unwrap();
                        }
                        let _ = frame::write(&mut stream, &good).await;
                    }
                });
            }
        }
    });
    (address, accepted)
}

async fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    timeout(PATIENCE, frame::read(stream)).await.expect("an answer").unwrap()
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_by_tcp() {
    let (address, socket) = loop {
        let (address, _) = upstream(1, 200).await;
        if let Ok(socket) = UdpSocket::bind(address).await {
            break (address, socket);
        }
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut truncated = answer(&buffer[..length], 0, 0);
            truncated[2] |= 2;
            socket.send_to(&truncated, from).await.unwrap();
        }
    });
    let world = World::new(&[address], NEVER);
    let asked = query(5, "a.test", 1);
    let short = world.ask(&asked).await;
    assert_eq!((short[2] & 2, short[7]), (2, 0), "truncated");
    for at in [world.v4(), world.v6()] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        frame::write(&mut stream, &asked).await.unwrap();
        let whole = next(&mut stream).await.unwrap();
        assert_eq!(whole, answer(&asked, b'a', 200));
        assert!(whole.len() > 3000);
    }
}

#[tokio::test]
async fn many_queries_on_one_connection_need_not_wait_for_each_other() {
    let (address, accepted) = upstream(0, 1).await;
    let world = World::new(&[address], NEVER);
    let named = mesh(&[("web.mesh", 30, &["192.0.2.7"], &[])]);
    world.dns.names.store(Arc::new(Names::of(named, Reach::ALL)));
    let stream = TcpStream::connect(world.v4()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let sent = tokio::spawn(async move {
        let mut bytes = Vec::new();
        for id in 0..300 {
            let name = if id % 3 == 0 { "web.mesh" } else { "a.test" };
            let query = query(id, name, 1);
            bytes.extend_from_slice(&u16::try_from(query.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&query);
        }
        // In pieces that end anywhere.
        for piece in bytes.chunks(37) {
            writing.write_all(piece).await.unwrap();
        }
        // The client has no more to ask, and still gets all answers.
        writing.shutdown().await.unwrap();
    });
    let mut ids = Vec::new();
    while let Some(reply) = timeout(PATIENCE, frame::read(&mut reading)).await.expect("an answer").unwrap() {
        assert_eq!(last_of(&reply), if id_of(&reply).is_multiple_of(3) { 7 } else { b'a' });
        ids.push(id_of(&reply));
    }
    sent.await.unwrap();
    ids.sort_unstable();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    assert_eq!(accepted.load(Ordering::SeqCst), 200, "a connection for each query that is passed on");
    assert_eq!((world.count(Answered::Mesh), world.count(Answered::Forwarded)), (100, 200));
}

#[tokio::test]
async fn a_client_that_does_not_speak_dns_is_closed() {
    let world = World::new(&[], NEVER);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 3, 1, 2, 3]] {
        let mut stream = TcpStream::connect(world.v4()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // "GE" is a length of 18,245 bytes, which never come.
        stream.shutdown().await.unwrap();
        let end = timeout(PATIENCE, frame::read(&mut stream)).await.expect("an end");
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    }
}

#[tokio::test]
async fn a_server_that_ends_the_connection_is_passed_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_up = listener.local_addr().unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let (good, _) = upstream(0, 1).await;
    let world = World::new(&[hangs_up, good], NEVER);
    let mut stream = TcpStream::connect(world.v4()).await.unwrap();
    frame::write(&mut stream, &query(1, "a.test", 1)).await.unwrap();
    assert_eq!(last_of(&next(&mut stream).await.unwrap()), b'a');
    assert_eq!(world.outcome(metrics::Outcome::Unreachable), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let world = World::with(&[], NEVER, |dns| dns.connections = Limit::new(2));
    let asked = query(1, "a.test", 1);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.v4()).await.unwrap();
        frame::write(&mut stream, &asked).await.unwrap();
        assert!(next(&mut stream).await.is_some());
        held.push(stream);
    }
    let mut third = TcpStream::connect(world.v4()).await.unwrap();
    let end = timeout(PATIENCE, frame::read(&mut third)).await.expect("an end");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(world.v4()).await.unwrap();
            let _ = frame::write(&mut stream, &asked).await;
            if let Ok(Some(_)) = frame::read(&mut stream).await {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("a place is free again");
}
