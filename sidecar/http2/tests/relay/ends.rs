// SPDX-License-Identifier: Apache-2.0
//! Ends of connections: GOAWAY in both directions, drain, dead servers, clients that leave.

use crate::harness::*;
use bytes::Bytes;
use culvert_http2::{Cause, Failure, How, Settings};
use h2::Reason;
use http::Response;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

#[tokio::test(start_paused = true)]
async fn a_drain_lets_requests_under_way_finish() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let owner = Owner::pass();
    let (upstream, _) = server(move |request, respond| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            hello(request, respond).await;
        }
    });
    let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    within(socket.write_all(&bytes)).await.unwrap();
    rest().await;
    lab.handle.drain();
    let first = find(&mut socket, GOAWAY).await;
    assert_eq!(first.payload, [0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    // A request that crossed the GOAWAY is still served.
    within(socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 3, GET))).await.unwrap();
    let ping = find(&mut socket, PING).await;
    within(socket.write_all(&frame(PING, 1, 0, &ping.payload))).await.unwrap();
    let last = find(&mut socket, GOAWAY).await;
    assert_eq!(last.payload, [0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(lab.handle.streams(), 2);
    go.notify_waiters();
    let mut served = Vec::new();
    while let Some(frame) = next(&mut socket).await {
        if frame.kind == DATA {
            assert_eq!(frame.payload, b"hello");
            served.push(frame.stream);
        }
    }
    served.sort_unstable();
    assert_eq!(served, [1, 3]);
    let end = within(lab.end).await.unwrap();
    assert_eq!((end.cause, end.requests), (Cause::Closed, 2));
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::Complete));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_drains_at_once() {
    let (upstream, _) = server(hello);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let (_sender, connection) = client(socket).await;
    lab.handle.drain();
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(lab.end).await.unwrap(), culvert_http2::End { cause: Cause::Closed, requests: 0 });
    assert_eq!(lab.dials.load(Relaxed), 0);
}

/// Server of the h2 crate that drains when told, and answers requests when told.
fn leaving_server() -> (tokio::io::DuplexStream, Arc<Notify>, Arc<Notify>) {
    let (near, far) = tokio::io::duplex(SOCKET);
    let (leave, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, go) = (Arc::clone(&leave), Arc::clone(&answer));
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let go = Arc::clone(&go);
                        tokio::spawn(async move {
                            go.notified().await;
                            hello(request, respond).await;
                        });
                    }
                    _ => return,
                },
                () = told.notified() => connection.graceful_shutdown(),
            }
        }
    });
    (near, leave, answer)
}

#[tokio::test(start_paused = true)]
async fn a_servers_goaway_reaches_the_client_and_requests_finish() {
    let (upstream, leave, answer) = leaving_server();
    let owner = Owner::pass();
    let (lab, socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    let (sender, connection) = client(socket).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    rest().await;
    leave.notify_one();
    rest().await;
    assert!(sender.send_request(get("/"), true).is_err(), "the client knows");
    answer.notify_one();
    let mut response = within(response).await.unwrap();
    assert_eq!(within(read_all(response.body_mut())).await.unwrap().0, b"hello");
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ServerGone);
    assert_eq!(owner.outcomes()[0].how, How::Complete);
}

/// A server that took only the first stream: what it did not look at may be repeated.
#[tokio::test(start_paused = true)]
async fn requests_above_the_servers_last_stream_are_refused() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let owner = Owner::pass();
    let (_lab, socket) = session(owner.clone(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        waiting.push(sender.send_request(get("/"), true).unwrap().0);
    }
    tokio::spawn(async move {
        greet(&mut far).await;
        for _ in 0..3 {
            find(&mut far, HEADERS).await;
        }
        far.write_all(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
        // Status 200 of the first one.
        far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])).await.unwrap();
        while next(&mut far).await.is_some() {}
    });
    let mut refused = 0;
    let mut served = 0;
    for response in waiting {
        match within(response).await {
            Ok(response) => served += usize::from(response.status() == 200),
            Err(error) => refused += usize::from(error.reason() == Some(Reason::REFUSED_STREAM)),
        }
    }
    assert_eq!((served, refused), (1, 2));
    rest().await;
    assert_eq!(owner.outcomes().iter().filter(|outcome| outcome.how == How::Refused).count(), 2);
}

/// Server that dies when it got a request, behind the head of a response or before it.
fn dying_server(begun: bool) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(SOCKET);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let mut kept = Vec::new();
        while kept.len() < 3 {
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            if begun {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"part"), false).unwrap();
                kept.push((respond, Some(stream)));
            } else {
                kept.push((respond, None));
            }
        }
        let _ = tokio::time::timeout(std::time::Duration::from_millis(5), connection.accept()).await;
    });
    near
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_503_before_the_head_and_a_reset_behind_it() {
    for begun in [false, true] {
        let owner = Owner::pass();
        let (lab, socket) = session(owner.clone(), Settings::default(), Ok(dying_server(begun)));
        let (sender, connection) = client(socket).await;
        let mut waiting = Vec::new();
        for content in ["text/plain", "application/grpc", "text/plain"] {
            let mut sender = within(sender.clone().ready()).await.unwrap();
            let mut request = post("/");
            request.headers_mut().insert("content-type", content.parse().unwrap());
            waiting.push(sender.send_request(request, true).unwrap().0);
        }
        let mut statuses = Vec::new();
        for response in waiting {
            let mut response = within(response).await.unwrap();
            statuses.push((response.status().as_u16(), response.headers().get("grpc-status").is_some()));
            if begun {
                let error = within(read_all(response.body_mut())).await.unwrap_err();
                assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
            }
        }
        let expected = if begun { [(200, false); 3] } else { [(503, false), (200, true), (503, false)] };
        assert_eq!(statuses, expected);
        drop(sender);
        within(connection).await.unwrap().unwrap();
        assert_eq!(within(lab.end).await.unwrap().cause, Cause::ServerGone);
        assert!(
            owner.outcomes().iter().all(|outcome| outcome.how == How::Failed(Failure::Died)),
            "{:?}",
            owner.outcomes()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_while_idle_is_told_to_the_client() {
    let (upstream, leave, answer) = leaving_server();
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let (sender, connection) = client(socket).await;
    answer.notify_one();
    fetch(&sender, get("/")).await.unwrap();
    leave.notify_one();
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ServerGone);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_no_http2_is_502() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let (_lab, socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    within(far.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")).await.unwrap();
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_resets_its_streams_at_the_server() {
    let reset = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&reset);
    let owner = Owner::pass();
    let (upstream, _) = server(move |request, mut respond| {
        let kept = Arc::clone(&kept);
        async move {
            let _request = request;
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            kept.lock().unwrap().push(reason.ok());
        }
    });
    let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, POST));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET));
    within(socket.write_all(&bytes)).await.unwrap();
    rest().await;
    drop(socket);
    within(lab.end).await.unwrap();
    rest().await;
    assert_eq!(*reset.lock().unwrap(), [Some(Reason::CANCEL), Some(Reason::CANCEL)]);
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::ClientGone), "{:?}", owner.outcomes());
    assert_eq!(owner.journal.lock().unwrap().permits, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_closes_the_books() {
    let owner = Owner::pass();
    let (lab, sender, seen) = lab(owner.clone(), silent).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (_response, _) = sender.send_request(get("/"), true).unwrap();
    rest().await;
    assert_eq!(seen.load(Relaxed), 1);
    lab.end.abort();
    rest().await;
    assert_eq!(owner.outcomes()[0].how, How::Dropped);
    assert_eq!(lab.handle.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_reads_nothing_does_not_hold_the_end() {
    // The socket to the server holds 100 bytes: not even the preface and the settings with a request.
    let (near, _far) = tokio::io::duplex(100);
    let (lab, mut socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let mut bytes = greeting();
    for number in 0..20 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, GET));
    }
    within(socket.write_all(&bytes)).await.unwrap();
    rest().await;
    drop(socket);
    within(lab.end).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clients_goaway_lets_its_requests_finish_and_reaches_the_server() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let owner = Owner::pass();
    let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(near));
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    bytes.extend(frame(GOAWAY, 0, 0, &[0; 8]));
    within(socket.write_all(&bytes)).await.unwrap();
    greet(&mut far).await;
    find(&mut far, HEADERS).await;
    rest().await;
    assert_eq!(lab.handle.streams(), 1);
    far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])).await.unwrap();
    assert_eq!(find(&mut socket, HEADERS).await.payload[0], 0x88);
    let goaway = find(&mut far, GOAWAY).await;
    assert_eq!(goaway.payload, [0; 8], "NO_ERROR");
    drop((socket, far));
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::Closed);
    assert_eq!(owner.outcomes()[0].how, How::Complete);
}

/// The end comes while all is at rest: no stream and no byte of the client leads to another look.
#[tokio::test(start_paused = true)]
async fn a_server_that_just_closes_while_idle_is_told_to_the_client() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let (sender, connection) = client(socket).await;
    tokio::spawn(async move {
        greet(&mut far).await;
        let stream = find(&mut far, HEADERS).await.stream;
        far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    });
    fetch(&sender, get("/")).await.unwrap();
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ServerGone);
}
