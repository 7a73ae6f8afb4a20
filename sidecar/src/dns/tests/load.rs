// SPDX-License-Identifier: Apache-2.0
//! Many queries at once.

use super::*;
use tokio::sync::{mpsc, oneshot};

/// Queries in flight at once.
const QUERIES: usize = 1000;
/// Queries that are sent before the next are: as many as the kernel keeps for a socket of any size.
const BATCH: usize = 50;

#[tokio::test]
async fn a_thousand_queries_at_once_each_get_their_own_answer() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (release, released) = oneshot::channel::<()>();
    // Takes all queries before it answers the first, in the opposite order.
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let mut queries = Vec::new();
        while queries.len() < QUERIES {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            queries.push((buffer[..length].to_vec(), from));
            arrived.send(()).unwrap();
        }
        released.await.unwrap();
        for (query, from) in queries.iter().rev() {
            socket.send_to(&answer(query, query[HEADER + 2], 1), *from).await.unwrap();
        }
    });
    let world = World::new(&[address], NEVER);
    // Ten queries a socket, so that ids matter too.
    let mut clients = Vec::new();
    for _ in 0..QUERIES / 10 {
        clients.push(client(world.v4()).await);
    }
    for batch in (0..QUERIES).collect::<Vec<_>>().chunks(BATCH) {
        for &at in batch {
            let id = u16::try_from(at).unwrap();
            clients[at % clients.len()].send(&query(id, &name_of(id), 1)).await.unwrap();
        }
        for _ in batch {
            timeout(PATIENCE, arrivals.recv()).await.expect("the query arrives").unwrap();
        }
    }
    assert_eq!(world.dns.metrics.active.get(), QUERIES as i64);
    release.send(()).unwrap();
    for client in &clients {
        for _ in 0..10 {
            let reply = received(client).await;
            let asked = query(id_of(&reply), &name_of(id_of(&reply)), 1);
            assert!(answers(&reply, &asked), "{reply:?}");
            assert_eq!(last_of(&reply), asked[HEADER + 2]);
        }
    }
    assert_eq!(world.count(Answered::Forwarded), QUERIES as u64);
    assert_eq!(world.dns.metrics.active.get(), 0);
}

/// A name whose second byte on the wire differs from query to query.
fn name_of(id: u16) -> String {
    format!("x{}{id}.test", char::from(b'a' + (id % 26) as u8))
}

#[tokio::test]
async fn two_queries_of_one_socket_may_be_answered_in_any_order() {
    // As glibc, musl and Go ask for both families.
    let server =
        Upstream::answering("127.0.0.1:0", |query| vec![answer(query, query[query.len() - 3], 1)]).await;
    let world = World::new(&[server.address], NEVER);
    let client = client(world.v6()).await;
    for round in 0..20 {
        client.send(&query(2 * round, "a.test", 1)).await.unwrap();
        client.send(&query(2 * round + 1, "a.test", 28)).await.unwrap();
        let mut replies = [received(&client).await, received(&client).await];
        replies.sort_by_key(|reply| id_of(reply));
        assert_eq!(replies.each_ref().map(|reply| id_of(reply)), [2 * round, 2 * round + 1]);
        assert_eq!(replies.each_ref().map(|reply| last_of(reply)), [1, 28]);
    }
}

#[tokio::test]
async fn a_client_with_too_many_queries_is_told_so_and_leaves_room_for_others() {
    let silent = Upstream::silent().await;
    let world = World::with(&[silent.address], NEVER, |dns| {
        dns.in_flight = InFlight::new(4, dns.metrics.active.clone());
    });
    let greedy = client(world.v4()).await;
    let asked = query(9, "a.test", 1);
    for _ in 0..3 {
        greedy.send(&asked).await.unwrap();
    }
    let refusal = received(&greedy).await;
    assert!(answers(&refusal, &asked));
    assert_eq!((code(&refusal), world.count(Answered::Overflow)), (SERVFAIL, 1));
    let modest = client(world.v4()).await;
    modest.send(&asked).await.unwrap();
    timeout(PATIENCE, async {
        while silent.count() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("another client's query is passed on");
    assert_eq!((world.dns.metrics.active.get(), world.count(Answered::Overflow)), (3, 1));
}
