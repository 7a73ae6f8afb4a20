// SPDX-License-Identifier: Apache-2.0
//! Bodies, trailers, windows.

use crate::harness::*;
use bytes::Bytes;
use culvert_http2::{How, Settings};
use http::{HeaderMap, HeaderValue, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[tokio::test(start_paused = true)]
async fn bodies_of_many_sizes_pass_both_ways_with_trailers() {
    let owner = Owner::pass();
    let (lab, sender, _) = lab(owner.clone(), echo).await;
    let sizes = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 262_144, 262_145, 1_000_000, 10_000_000];
    for size in sizes {
        let body = Bytes::from((0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(post("/echo"), false).unwrap();
        let sent = body.clone();
        let upload = tokio::spawn(async move {
            send_all(&mut stream, sent).await.unwrap();
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
            stream.send_trailers(trailers).unwrap();
        });
        let mut answer = within(response).await.unwrap().into_body();
        let (bytes, trailers) = within(read_all(&mut answer)).await.unwrap();
        within(upload).await.unwrap();
        assert!(bytes == body, "{size} bytes");
        assert_eq!(trailers.unwrap()["x-sum"], "7", "{size} bytes");
    }
    rest().await;
    let total = sizes.iter().sum::<usize>();
    let outcomes = owner.outcomes();
    assert!(outcomes.iter().all(|outcome| outcome.how == How::Complete), "{outcomes:?}");
    assert_eq!(
        outcomes.iter().map(|outcome| (outcome.received, outcome.sent)).collect::<Vec<_>>(),
        sizes.map(|size| (size as u64, size as u64))
    );
    assert_eq!(owner.journal.lock().unwrap().moved, (total, total));
    let trailers = sizes.len();
    assert_eq!(owner.journal.lock().unwrap().fields, (trailers, 2 * trailers), "with the responses' heads");
    assert_eq!(owner.journal.lock().unwrap().received, sizes.len(), "each request was sent as a whole");
    assert_eq!(
        (lab.handle.streams(), lab.dials.load(Relaxed), owner.journal.lock().unwrap().permits),
        (0, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_passes_in_portions_and_holds_no_other_back() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        let slow = request.uri().path() == "/slow";
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        send_all(&mut stream, Bytes::from(vec![7; if slow { 95_000 } else { 9_000 }])).await.unwrap();
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    owner.journal.lock().unwrap().portion = Some(10_000);
    let began = tokio::time::Instant::now();
    let (slow, quick) = tokio::join!(fetch(&sender, get("/slow")), async {
        let quick = fetch(&sender, get("/quick")).await;
        (quick, began.elapsed())
    });
    assert_eq!(slow.unwrap().1.len(), 95_000);
    // The server's frames do not fit the portions, so a portion may be smaller than it may be.
    let took = began.elapsed();
    assert!((9 * TURN..20 * TURN).contains(&took), "{took:?}");
    let (quick, took) = quick;
    assert_eq!((quick.unwrap().1.len(), owner.journal.lock().unwrap().received), (9_000, 2));
    assert!(took < 2 * TURN, "{took:?}");
}

/// Four frames of 16 KiB are as much as the connection's window of a plain client.
#[tokio::test(start_paused = true)]
async fn bytes_that_wait_for_their_budget_leave_the_window_to_others() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let _ = send_all(&mut stream, Bytes::from(vec![7; 60_000])).await;
        let _ = stream.send_data(Bytes::new(), true);
    })
    .await;
    owner.journal.lock().unwrap().portion = Some(1);
    let mut slowed = Vec::new();
    for _ in 0..4 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, _) = sender.send_request(get("/slow"), true).unwrap();
        slowed.push(within(response).await.unwrap().into_body());
    }
    rest().await;
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(fetch(&sender, get("/free")).await.unwrap().1.len(), 60_000);
    }
    assert!(began.elapsed() < TURN, "{:?}", began.elapsed());
    for mut body in slowed {
        assert_eq!(within(body.data()).await.unwrap().unwrap().len(), 1, "a portion");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_streams_share_the_windows() {
    let (_lab, sender, seen) = lab(Owner::pass(), echo).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100_u8 {
        let sender = sender.clone();
        tasks.spawn(async move {
            let mut sender = within(sender.ready()).await.unwrap();
            let (response, mut stream) = sender.send_request(post("/echo"), false).unwrap();
            let body = Bytes::from(vec![number; 300_000]);
            let sent = body.clone();
            let upload = tokio::spawn(async move {
                send_all(&mut stream, sent).await.unwrap();
                stream.send_data(Bytes::new(), true).unwrap();
            });
            let mut answer = within(response).await.unwrap().into_body();
            assert!(within(read_all(&mut answer)).await.unwrap().0 == body);
            within(upload).await.unwrap();
        });
    }
    while let Some(done) = within(tasks.join_next()).await {
        done.unwrap();
    }
    assert_eq!(seen.load(Relaxed), 100);
}

/// Server that sends 10 MB on each stream, and counts what its windows and sockets took.
fn flood(counter: &Arc<AtomicUsize>) -> tokio::io::DuplexStream {
    let counter = Arc::clone(counter);
    let (upstream, _) = server(move |_, mut respond| {
        let counter = Arc::clone(&counter);
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..1_000 {
                if send_all(&mut stream, Bytes::from(vec![1; 10_000])).await.is_err() {
                    return;
                }
                counter.fetch_add(10_000, Relaxed);
            }
        }
    });
    upstream
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_no_credit_holds_a_bounded_amount() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(flood(&sent)));
    // Small windows of the client: all that the server may send stays in the relay.
    let (sender, _) = client(socket).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        held.push(within(response).await.unwrap());
    }
    rest().await;
    assert_eq!(lab.handle.streams(), 100);
    let bound = Settings::default().connection_window as usize + 2 * SOCKET + 100 * 10_000;
    let taken = sent.load(Relaxed);
    assert!(taken > 1_000_000 && taken < bound, "{taken} bytes of 1 GB");
    // Those that are read then go on.
    drop(held.split_off(1));
    let mut last = held.pop().unwrap().into_body();
    for _ in 0..300 {
        let data = within(last.data()).await.unwrap().unwrap();
        last.flow_control().release_capacity(data.len()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_holds_a_bounded_amount() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (lab, mut socket) = session(Owner::pass(), Settings::default(), Ok(flood(&sent)));
    // Windows of 1 GiB, and a socket that is not read: only the relay's own bound holds the server back.
    let wide = [&[0, 4][..], &(1_u32 << 30).to_be_bytes()].concat();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &wide)].concat();
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    for number in 0..200 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, GET));
    }
    within(tokio::io::AsyncWriteExt::write_all(&mut socket, &bytes)).await.unwrap();
    rest().await;
    assert_eq!(lab.handle.streams(), 200);
    let settings = Settings::default();
    let bound = 3 * settings.connection_window as usize + 2 * SOCKET;
    let taken = sent.load(Relaxed);
    assert!(taken > 1_000_000 && taken < bound, "{taken} bytes of 2 GB, bound {bound}");
    // The client reads again: all goes on.
    let (mut reader, _writer) = tokio::io::split(socket);
    let mut data = 0;
    while data < 20_000_000 {
        let frame = next(&mut reader).await.expect("data goes on");
        if frame.kind == DATA {
            data += frame.payload.len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_server_does_not_read_holds_a_bounded_amount() {
    let (lab, sender, _) = lab(Owner::pass(), silent).await;
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..50 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let _response = response;
            for _ in 0..1_000 {
                send_all(&mut stream, Bytes::from(vec![1; 10_000])).await.unwrap();
                taken.fetch_add(10_000, Relaxed);
            }
        });
    }
    rest().await;
    let taken = taken.load(Relaxed);
    let bound = Settings::default().connection_window as usize + 2 * SOCKET + 65_535 + 50 * 10_000;
    assert!(taken > 1_000_000 && taken < bound, "{taken} bytes of 500 MB");
    assert_eq!(lab.handle.streams(), 50);
}

/// Server that reads nothing, with windows of 1 GiB.
#[tokio::test(start_paused = true)]
async fn a_server_that_reads_nothing_holds_a_bounded_amount() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..50 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let _response = response;
            while send_all(&mut stream, Bytes::from(vec![1; 10_000])).await.is_ok() {
                taken.fetch_add(10_000, Relaxed);
            }
        });
    }
    let wide = [&[0, 4][..], &(1_u32 << 30).to_be_bytes()].concat();
    let mut preface = [0; 24];
    within(tokio::io::AsyncReadExt::read_exact(&mut far, &mut preface)).await.unwrap();
    let greeting =
        [frame(SETTINGS, 0, 0, &wide), frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())].concat();
    within(tokio::io::AsyncWriteExt::write_all(&mut far, &greeting)).await.unwrap();
    rest().await;
    let bound = 3 * Settings::default().connection_window as usize + 2 * SOCKET;
    let held = taken.load(Relaxed);
    assert!(held > 1_000_000 && held < bound, "{held} bytes, bound {bound}");
    assert_eq!(lab.handle.streams(), 50);
    // The server reads again: all goes on.
    let mut data = 0;
    while data < 20_000_000 {
        let frame = next(&mut far).await.expect("data goes on");
        if frame.kind == DATA {
            data += frame.payload.len();
        }
    }
}

/// The h2 crate ends a connection with some 8,000 small frames that are not read.
#[tokio::test(start_paused = true)]
async fn small_messages_to_a_slow_reader_are_no_flood() {
    const MESSAGES: usize = 20_000;
    let owner = Owner::pass();
    let (upstream, _) = server(|_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        for _ in 0..MESSAGES {
            send_all(&mut stream, Bytes::from_static(b"0123456789")).await.unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let (_lab, socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    // Each stream has its window: those that are not read must not hold those that are.
    let mut builder = h2::client::Builder::new();
    let (sender, _) = client_with(socket, builder.initial_connection_window_size(1 << 20)).await;
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        slow.push(within(response).await.unwrap().into_body());
    }
    // All that the windows allow is on its way, and the relay holds a part of it.
    rest().await;
    let held = owner.journal.lock().unwrap().moved.1;
    assert!(held < 10 * MESSAGES * 10, "the client's windows are full");
    for mut body in slow {
        assert_eq!(within(read_all(&mut body)).await.unwrap().0.len(), MESSAGES * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_small_messages_is_no_flood() {
    // The whole response lies in the server's socket before the relay reads its first byte.
    let (near, mut far) = tokio::io::duplex(4 << 20);
    let (_lab, socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    greet(&mut far).await;
    find(&mut far, HEADERS).await;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    for _ in 0..20_000 {
        bytes.extend(frame(DATA, 0, 1, b"0123456789"));
    }
    bytes.extend(frame(DATA, END_STREAM, 1, b""));
    within(tokio::io::AsyncWriteExt::write_all(&mut far, &bytes)).await.unwrap();
    let mut body = within(response).await.unwrap().into_body();
    assert_eq!(within(read_all(&mut body)).await.unwrap().0.len(), 200_000);
}

#[tokio::test(start_paused = true)]
async fn sockets_may_take_a_few_bytes_at_a_time() {
    // The crate sends its settings before it reads the preface, so they must have room.
    for size in [64, 100, 1_000] {
        let (upstream, _) = server_over(size, &h2::server::Builder::new(), echo);
        let (_lab, socket) = session_over(size, Owner::pass(), Settings::default(), Ok(upstream));
        let (sender, _) = client(socket).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 1..20_usize {
            let sender = sender.clone();
            tasks.spawn(async move {
                let mut sender = within(sender.ready()).await.unwrap();
                let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
                let body = Bytes::from(vec![number as u8; number * 1_000]);
                let sent = body.clone();
                tokio::spawn(async move {
                    send_all(&mut stream, sent).await.unwrap();
                    stream.send_trailers(HeaderMap::new()).unwrap();
                });
                let mut answer = within(response).await.unwrap().into_body();
                assert!(within(read_all(&mut answer)).await.unwrap().0 == body);
            });
        }
        while let Some(done) = within(tasks.join_next()).await {
            done.unwrap();
        }
    }
}
