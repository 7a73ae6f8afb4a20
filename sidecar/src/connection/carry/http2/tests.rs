// SPDX-License-Identifier: Apache-2.0
//! Connections of clients of HTTP/2, from their preface to the closing record.

use crate::connection::carry::tests::{
    PATIENCE, begin_by, closed, counted, ended, never_dialled, next, serving,
};
use crate::connection::proxy::Proxy;
use crate::connection::tests::server;
use crate::net::addrs::Direction::{self, Inbound, Outbound};
use crate::observe::close_reason::CloseReason;
use crate::plan::Serve;
use crate::plan::listener::http::{HttpPlan, HttpTimes};
use bytes::Bytes;
use culvert_http2::http::{HeaderMap, HeaderValue, Request, Response};
use h2::client::SendRequest;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A proxy of this idle timeout, whose listeners serve so.
fn http(arguments: &[&str], serve: Serve, idle_timeout: Option<Duration>) -> Arc<Proxy> {
    serving(arguments, |listener| (listener.serve, listener.idle_timeout) = (serve, idle_timeout))
}

type Client = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn client(stream: TcpStream) -> Client {
    let handshake = timeout(PATIENCE, h2::client::handshake(stream)).await.expect("in time");
    let (sender, connection) = handshake.unwrap();
    (sender, tokio::spawn(connection))
}

/// Answers requests with `ok`, but those to `/held`, whose answer waits for more of the body; ends with the connection.
fn serve_streams(stream: TcpStream) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut requests = 0;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            requests += 1;
            tokio::spawn(async move {
                let held = request.uri().path() == "/held";
                let mut body = request.into_body();
                while held && let Some(Ok(_)) = body.data().await {}
                let mut stream = respond.send_response(Response::new(()), false)?;
                stream.send_data(Bytes::from_static(b"ok"), true)
            });
        }
        requests
    })
}

/// The answer to a request: its status, its fields and its body.
async fn ask(
    sender: &SendRequest<Bytes>,
    path: &str,
    kind: &'static str,
) -> Result<(u16, HeaderMap, Vec<u8>), h2::Error> {
    let mut request = Request::get(format!("http://a{path}")).body(()).unwrap();
    request.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    let mut sender = timeout(PATIENCE, sender.clone().ready()).await.expect("in time")?;
    let (response, _) = sender.send_request(request, true)?;
    let (head, mut body) = timeout(PATIENCE, response).await.expect("in time")?.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("in time") {
        bytes.extend_from_slice(&data?);
    }
    Ok((head.status.as_u16(), head.headers, bytes))
}

/// The memory of an idle connection besides its sockets, its task, its session and its entry in the table.
#[test]
fn a_connection_of_streams_is_small() {
    let bytes = size_of::<super::Http2>();
    assert!(bytes <= 320, "{bytes} bytes");
}

#[tokio::test]
async fn streams_pass_over_one_connection_to_the_server_and_are_counted() {
    for serve in [Serve::Http, Serve::Http2] {
        let proxy = http(&[], serve, None);
        let (server, to) = server(&proxy);
        let (stream, connection) = begin_by(Outbound, &proxy, to).await;
        let (sender, client) = client(stream).await;
        let asking = async move {
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.push(ask(&sender, "/", "text/plain").await.unwrap());
            }
            (sender, answers)
        };
        let asking = tokio::spawn(asking);
        let there = serve_streams(next(&server).await);
        let (sender, answers) = timeout(PATIENCE, asking).await.expect("in time").unwrap();
        assert!(answers.iter().all(|(status, _, body)| *status == 200 && body == b"ok"), "{answers:?}");
        let open = proxy.table.snapshot();
        let (to_server, to_client) = open[0].bytes();
        assert!(to_server > 60 && to_client > 60, "{to_server} {to_client}");
        drop(sender);
        timeout(PATIENCE, client).await.expect("in time").unwrap().unwrap();
        ended(connection).await;
        assert_eq!(timeout(PATIENCE, there).await.expect("in time").unwrap(), 3);
        never_dialled(&server);
        assert_eq!(closed(&proxy, CloseReason::Ok), 1);
        let expected = [
            "http2_connections_total{direction=\"outbound\"} 1",
            "http_member_requests_total{member=\"unknown\",class=\"2xx\"} 3",
            "http_requests_total{class=\"2xx\"} 3",
        ];
        assert_eq!(counted(&proxy, "_http"), expected);
        assert!(proxy.table.is_empty());
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_an_answer_for_each_stream() {
    for (arguments, rule, reason) in [
        (&[][..], "unreachable", CloseReason::ConnectRefused),
        (&["--circuit-breaker-max-connections=0"], "overloaded", CloseReason::Limit),
    ] {
        let proxy = http(arguments, Serve::Http2, None);
        let (server, to) = server(&proxy);
        drop(server);
        let (stream, connection) = begin_by(Outbound, &proxy, to).await;
        let (sender, client) = client(stream).await;
        let (plain, grpc) =
            tokio::join!(ask(&sender, "/", "text/plain"), ask(&sender, "/", "application/grpc"));
        let (status, _, body) = plain.unwrap();
        assert!(status == 503 && body.starts_with(rule.as_bytes()), "{status} {}", body.escape_ascii());
        let (status, fields, body) = grpc.unwrap();
        assert_eq!((status, &fields["grpc-status"], body.len()), (200, &HeaderValue::from_static("14"), 0));
        // GOAWAY ends the client's connection.
        timeout(PATIENCE, client).await.expect("in time").unwrap().unwrap();
        ended(connection).await;
        assert_eq!(closed(&proxy, reason), 1, "{reason}");
        let refusals = format!("http_refusals_total{{rule=\"{rule}\"}} 2");
        let by_member = "http_member_requests_total{member=\"unknown\",class=\"5xx\"} 2";
        let expected = [by_member, &refusals, "http_requests_total{class=\"5xx\"} 2"];
        assert_eq!(counted(&proxy, "_http_"), expected);
        assert!(proxy.table.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_reaches_no_server() {
    let proxy = http(&[], Serve::Http, Some(Duration::from_millis(50)));
    let (server, to) = server(&proxy);
    let (stream, connection) = begin_by(Outbound, &proxy, to).await;
    let (_sender, client) = client(stream).await;
    timeout(PATIENCE, client).await.expect("in time").unwrap().unwrap();
    ended(connection).await;
    never_dialled(&server);
    assert_eq!(closed(&proxy, CloseReason::IdleTimeout), 1);
    assert!(counted(&proxy, "_http_").contains(&"http_silent_total{direction=\"outbound\"} 1".to_owned()));
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let proxy = http(&[], Serve::Http, None);
    let (server, to) = server(&proxy);
    let (mut client, connection) = begin_by(Outbound, &proxy, to).await;
    // The settings of stream 1, which has none.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\x01").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("in time").unwrap();
    assert!(answer.windows(5).any(|bytes| bytes == b"\x08\x07\0\0\0"), "GOAWAY: {}", answer.escape_ascii());
    drop(client);
    ended(connection).await;
    never_dialled(&server);
    assert_eq!(closed(&proxy, CloseReason::HttpRequest), 1);
    let expected = ["http_refusals_total{rule=\"http2_frames\"} 1"];
    assert_eq!(counted(&proxy, "http_refusals"), expected);
}

/// A connection with a request to `/held` under way.
async fn held(direction: Direction, proxy: &Arc<Proxy>) -> (h2::SendStream<Bytes>, Held) {
    let (server, to) = server(proxy);
    let (stream, connection) = begin_by(direction, proxy, to).await;
    let (sender, client) = client(stream).await;
    let request = Request::post("http://a/held").body(()).unwrap();
    let mut ready = timeout(PATIENCE, sender.clone().ready()).await.expect("in time").unwrap();
    let (response, upload) = ready.send_request(request, false).unwrap();
    let there = next(&server).await;
    (upload, Held { response, there, client, connection })
}

struct Held {
    response: h2::client::ResponseFuture,
    there: TcpStream,
    client: JoinHandle<Result<(), h2::Error>>,
    connection: JoinHandle<()>,
}

#[tokio::test]
async fn a_drain_of_inbound_ends_the_connection_behind_its_last_stream() {
    let proxy = http(&[], Serve::Http2, None);
    let (mut upload, Held { response, there, client, connection }) = held(Inbound, &proxy).await;
    let there = serve_streams(there);
    proxy.table.drain_inbound();
    assert!(proxy.table.is_draining(Inbound) && !proxy.table.is_draining(Outbound));
    upload.send_data(Bytes::from_static(b"all"), true).unwrap();
    let response = timeout(PATIENCE, response).await.expect("in time").unwrap();
    let body = timeout(PATIENCE, response.into_body().data()).await.expect("in time").unwrap().unwrap();
    assert_eq!(body, "ok");
    timeout(PATIENCE, client).await.expect("in time").unwrap().unwrap();
    ended(connection).await;
    assert_eq!(timeout(PATIENCE, there).await.expect("in time").unwrap(), 1);
    assert_eq!(proxy.metrics.direction(Inbound).closed(CloseReason::Ok).get(), 1);
    assert!(proxy.table.is_empty());
}

#[tokio::test]
async fn a_stop_cuts_both_sides() {
    let proxy = http(&[], Serve::Http, None);
    let (_upload, Held { response, mut there, connection, .. }) = held(Outbound, &proxy).await;
    // The session has the server by now.
    timeout(PATIENCE, there.read_exact(&mut [0; 24])).await.expect("in time").unwrap();
    proxy.table.stop_all(CloseReason::DrainTimeout);
    ended(connection).await;
    let error = timeout(PATIENCE, response).await.expect("in time").unwrap_err();
    assert_eq!(error.get_io().map(std::io::Error::kind), Some(ErrorKind::ConnectionReset), "{error}");
    let read = timeout(PATIENCE, there.read_to_end(&mut Vec::new())).await.expect("in time");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(closed(&proxy, CloseReason::DrainTimeout), 1);
}

#[tokio::test]
async fn a_server_that_dies_is_a_503_and_a_reset_in_the_record() {
    let proxy = http(&[], Serve::Http, None);
    let (_upload, Held { response, there, connection, client }) = held(Outbound, &proxy).await;
    drop(there);
    let response = timeout(PATIENCE, response).await.expect("in time").unwrap();
    assert_eq!(response.status(), 503);
    drop((response, _upload));
    let _ = timeout(PATIENCE, client).await.expect("in time");
    ended(connection).await;
    assert_eq!(closed(&proxy, CloseReason::ServerReset), 1);
    assert_eq!(counted(&proxy, "http_refusals"), ["http_refusals_total{rule=\"no_answer\"} 1"]);
}

#[tokio::test]
async fn a_response_that_is_late_is_a_504_and_the_connection_goes_on() {
    let times = HttpTimes { request: Some(Duration::from_millis(100)), ..HttpTimes::default() };
    let plan = Arc::new(HttpPlan { times, ..HttpPlan::default() });
    let proxy = serving(&[], |listener| {
        (listener.serve, listener.http) = (Serve::Http2, Some(Arc::clone(&plan)));
    });
    let (sweeping, sweeps) = (Arc::clone(&proxy), || Some(Duration::from_millis(160)));
    let sweeping = tokio::spawn(async move { sweeping.table.keep_swept(sweeps).await });
    let (mut upload, Held { response, there, client, connection }) = held(Outbound, &proxy).await;
    // The server takes it, and never answers.
    upload.send_data(Bytes::new(), true).unwrap();
    let response = timeout(PATIENCE, response).await.expect("in time").unwrap();
    assert_eq!(response.status(), 504);
    let mut body = response.into_body();
    let text = timeout(PATIENCE, body.data()).await.expect("in time").unwrap().unwrap();
    assert!(text.starts_with(b"request_timeout: "), "{}", text.escape_ascii());
    assert_eq!(proxy.table.len(), 1, "its other streams go on");
    assert_eq!(counted(&proxy, "http_refusals"), ["http_refusals_total{rule=\"request_timeout\"} 1"]);
    drop((upload, there));
    let _ = timeout(PATIENCE, client).await;
    ended(connection).await;
    sweeping.abort();
}
