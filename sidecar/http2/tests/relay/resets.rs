// SPDX-License-Identifier: Apache-2.0
//! RST_STREAM in both directions, and answers that come before the request's body is over.

use crate::harness::*;
use bytes::Bytes;
use culvert_http2::{Failure, How, Settings};
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

const CODES: [Reason; 4] = [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::NO_ERROR];

#[tokio::test(start_paused = true)]
async fn a_clients_reset_reaches_the_server_with_its_code() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let owner = Owner::pass();
    let kept = Arc::clone(&seen);
    let (_lab, sender, _) = lab(owner.clone(), move |request, mut respond| {
        let kept = Arc::clone(&kept);
        async move {
            let _body = if request.uri().path() == "/begun" {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
                kept.lock().unwrap().push(reason);
                None
            } else {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                kept.lock().unwrap().push(reason);
                Some(request)
            };
        }
    })
    .await;
    for path in ["/silent", "/begun"] {
        for code in CODES {
            for over in [false, true] {
                let mut sender = within(sender.clone().ready()).await.unwrap();
                let (mut response, mut stream) = sender.send_request(post(path), over).unwrap();
                if path == "/begun" {
                    within(&mut response).await.unwrap();
                }
                rest().await;
                stream.send_reset(code);
                rest().await;
                let name = format!("{path} {code:?} {over}");
                assert_eq!(seen.lock().unwrap().pop(), Some(code), "{name}");
                assert_eq!(owner.outcomes().last().unwrap().how, How::ClientReset(code), "{name}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_servers_reset_reaches_the_client_with_its_code() {
    for code in CODES {
        let owner = Owner::pass();
        let (_lab, sender, _) = lab(owner.clone(), move |request, mut respond| async move {
            if request.uri().path() == "/begun" {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"part"), false).unwrap();
                rest().await;
                stream.send_reset(code);
            } else {
                respond.send_reset(code);
            }
        })
        .await;
        let error = fetch(&sender, get("/silent")).await.unwrap_err();
        assert_eq!(error.reason(), Some(code), "before the head");
        let mut sender = within(sender.ready()).await.unwrap();
        let (response, _) = sender.send_request(get("/begun"), true).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), "part");
        let error = within(body.data()).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(code), "after the head");
        let outcomes = owner.outcomes();
        assert!(outcomes.iter().all(|outcome| outcome.how == How::ServerReset(code)), "{outcomes:?}");
    }
}

/// A server that answers before it read the body, and resets the rest with NO_ERROR.
#[tokio::test(start_paused = true)]
async fn an_early_answer_survives_the_end_of_the_upload() {
    let owner = Owner::pass();
    let (_lab, sender, seen) = lab(owner.clone(), |request, mut respond| async move {
        let size = if request.uri().path() == "/big" { 1_000_000 } else { 5 };
        let mut stream =
            respond.send_response(Response::builder().status(413).body(()).unwrap(), false).unwrap();
        // The crate resets with NO_ERROR once the request's body is dropped unread and the answer is over.
        drop(request);
        if send_all(&mut stream, Bytes::from(vec![7; size])).await.is_ok() {
            let trailers =
                HeaderMap::from_iter([("x-why".parse().unwrap(), HeaderValue::from_static("size"))]);
            let _ = stream.send_trailers(trailers);
        }
    })
    .await;
    for (path, size) in [("/small", 5), ("/big", 1_000_000)] {
        for upload in [0, 100, 100_000, 2_000_000] {
            let mut sender = within(sender.clone().ready()).await.unwrap();
            let (response, mut stream) = sender.send_request(post(path), false).unwrap();
            let uploading = tokio::spawn(async move {
                let sent = send_all(&mut stream, Bytes::from(vec![1; upload])).await;
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                (sent.is_ok(), reset.unwrap())
            });
            let response = within(response).await.unwrap();
            assert_eq!(response.status(), 413, "{path} {upload}");
            let (body, trailers) = within(read_all(&mut response.into_body())).await.unwrap();
            assert_eq!(
                (body.len(), &trailers.unwrap()["x-why"]),
                (size, &HeaderValue::from_static("size")),
                "{path} {upload}"
            );
            assert_eq!(within(uploading).await.unwrap().1, Reason::NO_ERROR, "{path} {upload}");
        }
    }
    rest().await;
    assert_eq!((seen.load(Relaxed), owner.outcomes().len()), (8, 8));
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::Complete));
}

/// A server may end its response, and go on reading.
#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_behind_the_response() {
    let read = Arc::new(Mutex::new(0));
    let kept = Arc::clone(&read);
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), move |request, mut respond| {
        let kept = Arc::clone(&kept);
        async move {
            respond.send_response(Response::new(()), true).unwrap();
            let (body, _) = read_all(&mut request.into_body()).await.unwrap();
            *kept.lock().unwrap() = body.len();
        }
    })
    .await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 200);
    within(send_all(&mut stream, Bytes::from(vec![1; 500_000]))).await.unwrap();
    stream.send_data(Bytes::new(), true).unwrap();
    rest().await;
    assert_eq!(*read.lock().unwrap(), 500_000);
    assert_eq!((owner.outcomes()[0].how, owner.outcomes()[0].received), (How::Complete, 500_000));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_response_is_the_servers_fault() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        let response = Response::builder().header("content-length", "3").body(()).unwrap();
        // More than the length on one path, and a length without a body on the other.
        if let Ok(mut stream) = respond.send_response(response, request.uri().path() == "/head") {
            let _ = stream.send_data(Bytes::from_static(b"four"), true);
        }
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(fetch(&sender, get("/head")).await.unwrap().0.status(), 502);
    let error = fetch(&sender, get("/body")).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    rest().await;
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::Failed(Failure::Protocol)));
}

/// Data that crosses the reset behind an early answer, on more streams than the h2 crate counts in a connection's life.
#[tokio::test(start_paused = true)]
async fn late_data_of_thousands_of_early_answers_is_no_flood() {
    let (upstream, _) = server(|request, mut respond| async move {
        drop(request);
        let _ = respond.send_response(Response::new(()), true);
    });
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let (mut reader, mut writer) = tokio::io::split(socket);
    within(writer.write_all(&greeting())).await.unwrap();
    for number in 0..3_000_u32 {
        let stream = 2 * number + 1;
        within(writer.write_all(&frame(HEADERS, END_HEADERS, stream, POST))).await.unwrap();
        let answer = find(&mut reader, HEADERS).await;
        assert_eq!((answer.stream, answer.flags & END_STREAM), (stream, END_STREAM));
        let late = [frame(DATA, 0, stream, b"late"), frame(DATA, END_STREAM, stream, b"later")].concat();
        within(writer.write_all(&late)).await.unwrap();
    }
    rest().await;
    assert!(!lab.end.is_finished());
}

/// The same on the server's side: clients that leave responses in their middle.
#[tokio::test(start_paused = true)]
async fn late_data_of_thousands_of_left_responses_is_no_flood() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let settings = Settings { resets: u32::MAX, ..Settings::default() };
    let (lab, socket) = session(Owner::pass(), settings, Ok(near));
    let (sender, _) = client(socket).await;
    let serving = tokio::spawn(async move {
        greet(&mut far).await;
        let mut left = std::collections::HashSet::new();
        while left.len() < 3_000 {
            let Frame { kind, stream, .. } = next(&mut far).await.unwrap();
            if kind == HEADERS {
                far.write_all(&frame(HEADERS, END_HEADERS, stream, &[0x88])).await.unwrap();
            } else if kind == RESET && left.insert(stream) {
                let late =
                    [frame(DATA, 0, stream, b"late"), frame(DATA, END_STREAM, stream, b"later")].concat();
                far.write_all(&late).await.unwrap();
            }
        }
        far
    });
    for _ in 0..3_000 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(get("/"), true).unwrap();
        let _body = within(response).await.unwrap();
        stream.send_reset(Reason::CANCEL);
    }
    let _far = within(serving).await.unwrap();
    rest().await;
    assert!(!lab.end.is_finished());
}

/// A client that has the whole response may reset the rest of its request.
#[tokio::test(start_paused = true)]
async fn a_reset_behind_the_whole_response_is_no_failure() {
    let seen = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&seen);
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), move |request, mut respond| {
        let kept = Arc::clone(&kept);
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"whole"), true).unwrap();
            let _request = request;
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            *kept.lock().unwrap() = Some(reason);
        }
    })
    .await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    let mut response = within(response).await.unwrap();
    assert_eq!(within(read_all(response.body_mut())).await.unwrap().0, b"whole");
    rest().await;
    assert!(owner.outcomes().is_empty(), "the request goes on");
    stream.send_reset(Reason::CANCEL);
    rest().await;
    assert_eq!(*seen.lock().unwrap(), Some(Reason::CANCEL));
    assert_eq!(owner.outcomes()[0].how, How::Complete);
}
