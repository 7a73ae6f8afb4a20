// SPDX-License-Identifier: Apache-2.0
//! Local answers, delays, servers that cannot be reached.

use crate::harness::*;
use bytes::Bytes;
use culvert_http2::{Cause, Decision, Edits, How, Reply, Settings};
use http::{HeaderValue, Request, StatusCode};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

fn grpc() -> Request<()> {
    let mut request = post("/shop.Cart/Add");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    request
}

#[tokio::test(start_paused = true)]
async fn answers_are_plain_or_grpc() {
    let owner = Owner::new(|_, _| {
        let mut reply = Reply::new(StatusCode::TOO_MANY_REQUESTS, "local_rate_limited");
        reply.fields.push(("x-limit".parse().unwrap(), HeaderValue::from_static("5")));
        Decision::Answer(reply)
    });
    let (lab, sender, seen) = lab(owner.clone(), hello).await;
    let (response, body, _) = fetch(&sender, get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), &body[..]), (429, &b"local_rate_limited"[..]));
    assert_eq!(response.headers()["x-limit"], "5");
    let (response, body, trailers) = fetch(&sender, grpc()).await.unwrap();
    assert_eq!((response.status().as_u16(), body.len(), trailers), (200, 0, None));
    let fields = response.headers();
    assert_eq!(
        (&fields["content-type"], &fields["grpc-status"]),
        (&HeaderValue::from_static("application/grpc"), &HeaderValue::from_static("14"))
    );
    assert_eq!(fields["grpc-message"], "local_rate_limited");
    let outcomes = owner.outcomes();
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.how).collect::<Vec<_>>(),
        [How::Answered, How::Answered]
    );
    assert_eq!(outcomes[0].status, Some(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!((seen.load(Relaxed), lab.dials.load(Relaxed)), (0, 0), "the server is not asked");
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_an_upload_with_no_error() {
    let owner = Owner::new(|_, _| Decision::Answer(Reply::new(StatusCode::FORBIDDEN, "RBAC: access denied")));
    let (_lab, sender, _) = lab(owner, hello).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    let mut response = within(response).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(within(read_all(response.body_mut())).await.unwrap().0, b"RBAC: access denied");
    let reset = within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, h2::Reason::NO_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_followed_by_another_decision() {
    let owner = Owner::new(|_, asked| match asked {
        1 => Decision::Delay(Duration::from_secs(5)),
        _ => Decision::Pass(Edits::default()),
    });
    let (_lab, sender, seen) = lab(owner.clone(), hello).await;
    let began = Instant::now();
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 200);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(6), "{took:?}");
    let outcome = owner.outcomes()[0];
    assert!(outcome.forwarded.unwrap() - outcome.began >= Duration::from_secs(5));
    assert_eq!(seen.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_a_delay_never_reaches_the_server() {
    let owner = Owner::new(|_, _| Decision::Delay(Duration::from_secs(3600)));
    let (lab, sender, _) = lab(owner.clone(), hello).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    rest().await;
    assert_eq!(lab.handle.streams(), 1);
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    rest().await;
    assert_eq!((lab.handle.streams(), lab.dials.load(Relaxed)), (0, 0));
    assert_eq!(owner.outcomes()[0].how, How::ClientReset(h2::Reason::CANCEL));
    assert_eq!(owner.journal.lock().unwrap().permits, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_an_answer_to_all_and_then_goaway() {
    let owner = Owner::pass();
    let refused = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "connection refused");
    let (lab, socket) = session(owner.clone(), Settings::default(), Err(refused));
    let (mut sender, connection) = client(socket).await;
    let mut waiting = Vec::new();
    for request in [get("/"), grpc(), get("/")] {
        sender = within(sender.ready()).await.unwrap();
        waiting.push(sender.send_request(request, true).unwrap().0);
    }
    drop(sender);
    let mut statuses = Vec::new();
    for response in waiting {
        let response = within(response).await.unwrap();
        statuses.push((
            response.status().as_u16(),
            response.headers().get("grpc-status").map(|value| value.as_bytes().to_vec()),
        ));
    }
    assert_eq!(statuses, [(503, None), (200, Some(b"14".to_vec())), (503, None)]);
    within(connection).await.unwrap().unwrap();
    let end = within(lab.end).await.unwrap();
    assert_eq!((end.cause, end.requests), (Cause::ServerGone, 3));
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::Unreachable));
    assert_eq!(lab.dials.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn overdue_requests_are_answered_or_reset() {
    let owner = Owner::pass();
    let (lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        if request.uri().path() == "/begun" {
            let _stream = respond.send_response(http::Response::new(()), false).unwrap();
            std::future::pending::<()>().await;
        }
        silent(request, respond).await;
    })
    .await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (begun, _) = sender.send_request(get("/begun"), true).unwrap();
    let mut begun = within(begun).await.unwrap();
    let (silent, _) = sender.send_request(get("/silent"), true).unwrap();
    lab.handle.sweep();
    rest().await;
    assert_eq!(lab.handle.streams(), 2, "none is overdue");
    owner.journal.lock().unwrap().overdue =
        Some(Reply::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout"));
    rest().await;
    assert_eq!(lab.handle.streams(), 2, "no sweep came");
    lab.handle.sweep();
    assert_eq!(within(silent).await.unwrap().status(), 504);
    let error = within(begun.body_mut().data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    rest().await;
    assert!(owner.outcomes().iter().all(|outcome| outcome.how == How::Overdue));
    assert_eq!(lab.handle.streams(), 0);
}

/// The time of a request runs from its end on, also while it waits for the server.
#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_the_server_are_heard_of_once_they_are_whole() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let (first, served) = tokio::sync::oneshot::channel::<()>();
    let served = std::sync::Arc::new(tokio::sync::Mutex::new(Some(served)));
    let (upstream, seen) = server_with(&builder, move |request, respond| {
        let served = std::sync::Arc::clone(&served);
        async move {
            if let Some(served) = served.lock().await.take() {
                let _ = served.await;
            }
            echo(request, respond).await;
        }
    });
    let owner = Owner::pass();
    let (lab, socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    let (sender, _) = client(socket).await;
    let received = || owner.journal.lock().unwrap().received;
    let mut open = Vec::new();
    // The first one has the only slot.
    for (request, bytes, over, whole) in [
        (get("/"), 0, true, 1),
        (get("/"), 0, true, 2),
        (post("/"), 10, true, 3),
        (post("/"), 10, false, 3),
        (post("/"), 60_000, true, 4),
    ] {
        let name = format!("{} {bytes} {over}", request.method());
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(request, bytes == 0).unwrap();
        if bytes > 0 {
            within(send_all(&mut stream, Bytes::from(vec![1; bytes]))).await.unwrap();
        }
        if bytes > 0 && over {
            stream.send_trailers(http::HeaderMap::new()).unwrap();
        }
        rest().await;
        assert_eq!((received(), seen.load(Relaxed)), (whole, 1), "{name}");
        open.push((response, stream, bytes));
    }
    open[3].1.send_data(Bytes::new(), true).unwrap();
    rest().await;
    assert_eq!((received(), lab.handle.streams()), (5, 5));
    first.send(()).unwrap();
    for (response, _, bytes) in open {
        let mut body = within(response).await.unwrap().into_body();
        assert_eq!(within(read_all(&mut body)).await.unwrap().0.len(), bytes);
    }
    assert_eq!(received(), 5, "each is heard of once");
}

#[tokio::test(start_paused = true)]
async fn statuses_of_grpc_are_noted() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        let status = HeaderValue::from_static("5");
        let mut response = http::Response::new(());
        if request.uri().path() == "/head" {
            response.headers_mut().insert("grpc-status", status);
            let _ = respond.send_response(response, true);
            return;
        }
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(b"message"), false).unwrap();
        stream.send_trailers(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)])).unwrap();
    })
    .await;
    for path in ["/head", "/trailers"] {
        fetch(&sender, get(path)).await.unwrap();
    }
    rest().await;
    assert_eq!(
        owner.outcomes().iter().map(|outcome| outcome.grpc_status).collect::<Vec<_>>(),
        [Some(5), Some(5)]
    );
}
