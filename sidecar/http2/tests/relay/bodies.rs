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
    assert_eq!(
        (lab.handle.streams(), lab.dials.load(Relaxed), owner.journal.lock().unwrap().permits),
        (0, 1, 0)
    );
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
