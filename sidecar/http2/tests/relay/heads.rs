// SPDX-License-Identifier: Apache-2.0
//! Heads: fields and pseudo-fields as they came, informational responses, sizes, CONNECT.

use crate::harness::*;
use bytes::Bytes;
use culvert_http2::{Decision, Edits, How, Settings};
use http::{HeaderValue, Method, Request, Response, Version};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

/// Server that keeps the heads it sees.
type Heads = Arc<Mutex<Vec<Request<()>>>>;

async fn watching(owner: Owner) -> (Lab, h2::client::SendRequest<Bytes>, Heads) {
    let heads = Heads::default();
    let kept = Arc::clone(&heads);
    let (lab, sender, _) = lab(owner, move |request, respond| {
        let (parts, body) = request.into_parts();
        kept.lock().unwrap().push(Request::from_parts(parts, ()));
        hello(Request::new(body), respond)
    })
    .await;
    (lab, sender, heads)
}

#[tokio::test(start_paused = true)]
async fn heads_pass_as_they_came() {
    let (_lab, sender, heads) = watching(Owner::pass()).await;
    let rows = [
        ("GET", "http://web:8080/a/../b//c%2F?x=%zz&y"),
        ("POST", "https://web/"),
        ("OPTIONS", "http://web/*"),
        ("PURGE", "http://[::1]:80/p"),
    ];
    for (method, uri) in rows {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header("x-a", "1")
            .header("cookie", "a=1")
            .header("x-b", "")
            .header("x-a", "2")
            .header("te", "trailers");
        let (response, body, _) = fetch(&sender, request.body(()).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), &body[..]), (200, &b"hello"[..]));
        let seen = heads.lock().unwrap().pop().unwrap();
        assert_eq!((seen.method().as_str(), seen.uri().to_string().as_str()), (method, uri));
        let values: Vec<_> = seen.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(
            (seen.headers()["cookie"].as_bytes(), seen.headers()["x-b"].as_bytes()),
            (&b"a=1"[..], &b""[..])
        );
        assert_eq!((seen.headers()["te"].as_bytes(), seen.headers().len()), (&b"trailers"[..], 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_field_stands_for_the_authority() {
    let (_lab, sender, heads) = watching(Owner::pass()).await;
    let request = Request::get("/a?b").version(Version::HTTP_11).header("host", "web").body(()).unwrap();
    fetch(&sender, request).await.unwrap();
    let seen = heads.lock().unwrap().pop().unwrap();
    assert_eq!((seen.uri().authority(), seen.uri().to_string().as_str()), (None, "/a?b"));
    assert_eq!(seen.headers()["host"], "web");
}

#[tokio::test(start_paused = true)]
async fn edits_take_out_and_set_fields() {
    let owner = Owner::new(|_, _| {
        let set = vec![("x-forwarded-client-cert".parse().unwrap(), HeaderValue::from_static("By=web"))];
        Decision::Pass(Edits { remove: vec!["x-kuma-tags".parse().unwrap()], set })
    });
    let (_lab, sender, heads) = watching(owner).await;
    let mut request = get("/");
    for (name, value) in [
        ("x-kuma-tags", "1"),
        ("x-kuma-tags", "2"),
        ("x_kuma-tags", "3"),
        ("x_kuma_tags", "4"),
        ("x_kuma_tags", "5"),
        ("x-forwarded-client-cert", "forged"),
        ("x_forwarded_client_cert", "forged"),
        ("x-forwarded_client-cert", "forged"),
        ("x-forwarded_client-cert", "forged again"),
        ("x-a", "1"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    fetch(&sender, request).await.unwrap();
    let seen = heads.lock().unwrap().pop().unwrap();
    assert_eq!(seen.headers().len(), 2, "{:?}", seen.headers());
    assert_eq!(
        (&seen.headers()["x-forwarded-client-cert"], &seen.headers()["x-a"]),
        (&HeaderValue::from_static("By=web"), &HeaderValue::from_static("1"))
    );
}

#[tokio::test(start_paused = true)]
async fn edits_that_make_a_request_invalid_are_answered() {
    let owner = Owner::new(|_, _| {
        Decision::Pass(Edits {
            remove: vec![],
            set: vec![("connection".parse().unwrap(), HeaderValue::from_static("close"))],
        })
    });
    let (_lab, sender, heads) = watching(owner).await;
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 500);
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_reset_and_never_seen() {
    let owner = Owner::pass();
    let (lab, sender, seen) = lab(owner.clone(), hello).await;
    let mut requests = vec![get("/"), get("/")];
    requests[0].headers_mut().insert("host", HeaderValue::from_static("shop"));
    requests[1].headers_mut().append("host", HeaderValue::from_static("web"));
    requests[1].headers_mut().append("host", HeaderValue::from_static("web"));
    for request in requests {
        let error = fetch(&sender, request).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR));
    }
    assert_eq!(owner.journal.lock().unwrap().refused, ["host_differs", "two_hosts"]);
    assert_eq!((seen.load(Relaxed), lab.dials.load(Relaxed)), (0, 0));
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 200, "the connection goes on");
}

#[tokio::test(start_paused = true)]
async fn informational_responses_pass() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        for status in [100, 103] {
            let interim = Response::builder().status(status).header("link", "</a.css>").body(()).unwrap();
            respond.send_informational(interim).unwrap();
        }
        hello(request, respond).await;
    })
    .await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (mut response, _) = sender.send_request(get("/"), true).unwrap();
    for status in [100, 103] {
        let interim =
            within(std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap();
        assert_eq!(
            (interim.status().as_u16(), interim.headers()["link"].as_bytes()),
            (status, &b"</a.css>"[..])
        );
    }
    assert_eq!(within(response).await.unwrap().status(), 200);
    assert_eq!(owner.journal.lock().unwrap().fields, (0, 3), "each head moved");
}

#[tokio::test(start_paused = true)]
async fn too_many_informational_responses_are_a_fault_of_the_server() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |request, mut respond| async move {
        for _ in 0..17 {
            let _ = respond.send_informational(Response::builder().status(103).body(()).unwrap());
        }
        hello(request, respond).await;
    })
    .await;
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn header_lists_pass_up_to_60_kib() {
    let (lab, socket) = {
        let (upstream, _) = server(|request, mut respond| async move {
            let size = request.headers()["x-big"].len();
            let response =
                Response::builder().header("x-size", size).header("x-big", &request.headers()["x-big"]);
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        });
        session(Owner::pass(), Settings::default(), Ok(upstream))
    };
    let (sender, _) = client(socket).await;
    for (size, status) in [(60_000, 200), (61_000, 200), (62_000, 431), (100_000, 431), (60_000, 200)] {
        let mut request = get("/");
        request.headers_mut().insert("x-big", HeaderValue::from_bytes(&vec![b'a'; size]).unwrap());
        match fetch(&sender, request).await {
            Ok((response, ..)) => assert_eq!(response.status(), status, "{size} bytes"),
            Err(error) => panic!("{size} bytes: {error}"),
        }
    }
    assert_eq!(lab.dials.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_with_a_longer_header_list_is_answered_with_502() {
    let owner = Owner::pass();
    let (_lab, sender, _) = lab(owner.clone(), |_, mut respond| async move {
        let response =
            Response::builder().header("x-big", HeaderValue::from_bytes(&vec![b'a'; 62_000]).unwrap());
        let _ = respond.send_response(response.body(()).unwrap(), true);
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 502);
    assert_eq!(owner.outcomes()[0].how, How::Failed(culvert_http2::Failure::Protocol));
}

#[tokio::test(start_paused = true)]
async fn connect_is_a_stream_of_data() {
    let (_lab, sender, _) = lab(Owner::pass(), |request, respond| async move {
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::CONNECT, "db:5432"));
        echo(request, respond).await;
    })
    .await;
    let request = Request::builder().method(Method::CONNECT).uri("db:5432").body(()).unwrap();
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    let mut answer = within(response).await.unwrap().into_body();
    for text in ["one", "two"] {
        stream.send_data(Bytes::from(text), false).unwrap();
        assert_eq!(within(answer.data()).await.unwrap().unwrap(), text);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(within(read_all(&mut answer)).await.unwrap().0, b"");
}

#[tokio::test(start_paused = true)]
async fn extended_connect_is_offered_once_the_server_offers_it() {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let (upstream, _) = server_with(&builder, |request, respond| async move {
        if request.method() == Method::CONNECT {
            assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
            assert_eq!(request.uri().to_string(), "http://web/chat");
        }
        echo(request, respond).await;
    });
    let (_lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let (sender, _) = client(socket).await;
    assert!(!sender.is_extended_connect_protocol_enabled());
    fetch(&sender, get("/")).await.unwrap();
    rest().await;
    assert!(sender.is_extended_connect_protocol_enabled());
    let mut request = Request::builder().method(Method::CONNECT).uri("http://web/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    let mut answer = within(response).await.unwrap().into_body();
    stream.send_data(Bytes::from("ping"), false).unwrap();
    assert_eq!(within(answer.data()).await.unwrap().unwrap(), "ping");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_were_read_before_come_first() {
    let (upstream, _) = server(hello);
    let (mut near, far) = tokio::io::duplex(SOCKET);
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    let rest = bytes.split_off(30);
    let session = culvert_http2::Session::new(Owner::pass(), Settings::default());
    tokio::spawn(async move { session.relay(far, Bytes::from(bytes), async { Ok(upstream) }).await });
    within(near.write_all(&rest)).await.unwrap();
    assert_eq!(find(&mut near, DATA).await.payload, b"hello");
}

#[test]
fn a_session_is_small_before_it_is_boxed() {
    let (near, far) = tokio::io::duplex(SOCKET);
    let session = culvert_http2::Session::new(Owner::pass(), Settings::default());
    let relay = session.relay(far, Bytes::new(), async { Ok(near) });
    assert!(size_of_val(&relay) <= 5 * 1024, "{} bytes", size_of_val(&relay));
}

#[tokio::test(start_paused = true)]
async fn responses_without_a_body_keep_their_length() {
    let (_lab, sender, _) = lab(Owner::pass(), |request, mut respond| async move {
        let status = request.uri().path()[1..].parse::<u16>().unwrap();
        let response = Response::builder().status(status).header("content-length", "5").body(()).unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    for (method, path, status) in [("HEAD", "/200", 200), ("GET", "/304", 304)] {
        let request = Request::builder().method(method).uri(format!("http://web{path}")).body(()).unwrap();
        let (response, body, _) = fetch(&sender, request).await.unwrap();
        assert_eq!((response.status().as_u16(), body.len()), (status, 0));
        assert_eq!(response.headers()["content-length"], "5");
    }
}
