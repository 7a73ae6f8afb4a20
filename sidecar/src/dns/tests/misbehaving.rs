// SPDX-License-Identifier: Apache-2.0
//! Servers that answer wrongly, late, twice, from another address, or never.

use super::*;
use crate::dns::metrics::Outcome;
use tokio::sync::Notify;

#[tokio::test]
async fn an_answer_with_another_id_or_question_is_ignored() {
    let server = Upstream::answering("127.0.0.1:0", |query| {
        let good = answer(query, 1, 1);
        let with = |at: usize, byte: u8| {
            let mut wrong = answer(query, 66, 1);
            wrong[at] ^= byte;
            wrong
        };
        vec![
            with(0, 1),
            with(1, 0x80),
            // The query itself, another name, type and class.
            query.to_vec(),
            with(HEADER + 1, 1),
            with(query.len() - 3, 1),
            with(query.len() - 1, 1),
            good[..HEADER].to_vec(),
            good[..5].to_vec(),
            Vec::new(),
            good,
        ]
    })
    .await;
    let world = World::new(&[server.address], NEVER);
    assert_eq!(last_of(&world.ask(&query(1, "a.test", 1)).await), 1);
    assert_eq!(world.dns.metrics.upstream.ignored.get(), 9);
    assert_eq!(server.count(), 1, "asked once");
}

#[tokio::test]
async fn an_answer_from_another_address_or_port_never_arrives() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        for at in ["127.0.0.1:0".to_owned(), format!("127.0.0.2:{}", address.port())] {
            let forger = UdpSocket::bind(at).await.unwrap();
            // The kernel may refuse it at once.
            let _ = forger.send_to(&answer(&buffer[..length], 66, 1), from).await;
        }
        socket.send_to(&answer(&buffer[..length], 1, 1), from).await.unwrap();
    });
    let world = World::new(&[address], NEVER);
    assert_eq!(last_of(&world.ask(&query(1, "a.test", 1)).await), 1);
    assert_eq!(world.dns.metrics.upstream.ignored.get(), 0, "the kernel let none through");
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_passed_on_once() {
    let server =
        Upstream::answering("127.0.0.1:0", |query| vec![answer(query, 1, 1), answer(query, 2, 1)]).await;
    let world = World::new(&[server.address], NEVER);
    let client = client(world.v4()).await;
    for id in [1, 2] {
        client.send(&query(id, "a.test", 1)).await.unwrap();
        let reply = received(&client).await;
        assert_eq!((id_of(&reply), last_of(&reply)), (id, 1));
    }
}

#[tokio::test]
async fn a_server_that_is_late_is_heard_while_the_next_one_is_asked() {
    let second_is_asked = Arc::new(Notify::new());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let late = socket.local_addr().unwrap();
    tokio::spawn({
        let second_is_asked = Arc::clone(&second_is_asked);
        async move {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            second_is_asked.notified().await;
            socket.send_to(&answer(&buffer[..length], 1, 1), from).await.unwrap();
        }
    });
    let silent = Upstream::answering("127.0.0.1:0", move |_| {
        second_is_asked.notify_one();
        Vec::new()
    })
    .await;
    // Long, as the second one has no more time than this to be asked.
    let world = World::new(&[late, silent.address], SHORT * 4);
    assert_eq!(last_of(&world.ask(&query(1, "a.test", 1)).await), 1);
    assert_eq!((world.outcome(Outcome::Timeout), world.outcome(Outcome::Answered)), (1, 1));
    assert_eq!(silent.count(), 1);
}

#[tokio::test]
async fn a_server_that_never_answers_costs_one_query_its_deadline_and_no_other() {
    let (silent, good) = (Upstream::silent().await, Upstream::good(2).await);
    let world = World::new(&[silent.address, good.address], SHORT);
    let began = std::time::Instant::now();
    for id in 0..50 {
        assert_eq!(last_of(&world.ask(&query(id, "a.test", 1)).await), 2);
    }
    // One query waited. Once a second another one tried the silent server, without waiting.
    let trials = 1 + began.elapsed().as_secs();
    assert!(silent.count() as u64 <= 1 + trials, "{} queries, {trials} trials", silent.count());
    assert_eq!(good.count(), 50);
    assert!(world.outcome(Outcome::Timeout) <= 1 + trials);
}

#[tokio::test]
async fn a_server_that_comes_back_is_asked_first_again() {
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let first = Upstream::answering("127.0.0.1:0", {
        let works = Arc::clone(&works);
        move |query| if works.load(Ordering::SeqCst) { vec![answer(query, 1, 1)] } else { Vec::new() }
    })
    .await;
    let second = Upstream::good(2).await;
    let world = World::new(&[first.address, second.address], SHORT);
    assert_eq!(last_of(&world.ask(&query(0, "a.test", 1)).await), 2);
    works.store(true, Ordering::SeqCst);
    let again = async {
        while last_of(&world.ask(&query(1, "a.test", 1)).await) != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the first server is asked again");
}

#[tokio::test]
async fn a_server_without_a_program_is_passed_over_at_once() {
    // A socket that takes datagrams of one peer alone keeps the port from others, and refuses ours.
    let elsewhere = client((Ipv4Addr::LOCALHOST, 9).into()).await;
    let gone = elsewhere.local_addr().unwrap();
    let good = Upstream::good(2).await;
    let world = World::new(&[gone, good.address], NEVER);
    for id in 0..3 {
        assert_eq!(last_of(&world.ask(&query(id, "a.test", 1)).await), 2);
    }
    assert!(world.outcome(Outcome::Unreachable) >= 1);
    assert_eq!(world.outcome(Outcome::Timeout), 0);
}

#[tokio::test]
async fn an_error_of_one_server_is_an_answer_only_where_no_other_helps() {
    let failing = |code: u8| {
        Upstream::answering("127.0.0.1:0", move |query| {
            let mut reply = answer(query, 0, 0);
            reply[3] = code;
            vec![reply]
        })
    };
    let (fails, refuses, unknown) = (failing(SERVFAIL).await, failing(5).await, failing(3).await);
    let good = Upstream::good(2).await;
    let world = World::new(&[fails.address, good.address], NEVER);
    assert_eq!(last_of(&world.ask(&query(1, "a.test", 1)).await), 2);
    let world = World::new(&[refuses.address, fails.address], NEVER);
    assert_eq!(code(&world.ask(&query(2, "a.test", 1)).await), 5, "the first one's");
    assert_eq!(world.count(Answered::Forwarded), 1);
    // A name that does not exist is a good answer.
    let world = World::new(&[unknown.address, good.address], NEVER);
    assert_eq!(code(&world.ask(&query(3, "a.test", 1)).await), 3);
}

#[tokio::test]
async fn where_no_server_answers_the_client_hears_of_it() {
    let silent = [Upstream::silent().await, Upstream::silent().await];
    let servers = [silent[0].address, silent[1].address];
    for servers in [&servers[..], &servers[..1]] {
        let world = World::new(servers, SHORT);
        let asked = query(1, "a.test", 1);
        let reply = world.ask(&asked).await;
        assert!(answers(&reply, &asked));
        assert_eq!((code(&reply), world.count(Answered::Failed)), (SERVFAIL, 1));
    }
    assert_eq!((silent[0].count(), silent[1].count()), (3, 1), "the only server is asked twice");
}

#[tokio::test]
async fn a_query_of_the_sidecars_own_that_comes_back_is_refused() {
    let world = World::new(&[], NEVER);
    world.dns.servers.store(Arc::new(Servers::default().follow(&[world.v4()], |_| false)));
    assert_eq!(code(&world.ask(&query(1, "a.test", 1)).await), SERVFAIL);
    // As the only server it is asked twice, and neither query goes round.
    assert_eq!(world.count(Answered::Loop), 2);
}

#[tokio::test]
async fn an_answer_that_is_longer_than_its_client_takes_is_cut() {
    let server = Upstream::answering("127.0.0.1:0", |query| vec![answer(query, 1, 60)]).await;
    let world = World::new(&[server.address], NEVER);
    let plain = query(7, "a.test", 1);
    let mut with_edns = plain.clone();
    with_edns[HEADER - 1] = 1;
    with_edns.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    // The second one takes 1,232 bytes.
    let cut = world.ask(&plain).await;
    assert_eq!((cut[2] & 2, cut[7], cut.len()), (2, 0, plain.len()));
    assert_eq!(world.ask(&with_edns).await, answer(&with_edns, 1, 60));
}
