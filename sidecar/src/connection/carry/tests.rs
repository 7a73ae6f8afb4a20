// SPDX-License-Identifier: Apache-2.0
//! Connections of a listener of HTTP, from accept to the closing record.

use crate::connection::proxy::Proxy;
use crate::connection::tests::{accepted, proxy, server};
use crate::net::addrs::Direction;
use crate::net::original_dst::Redirected;
use crate::observe::close_reason::CloseReason;
use crate::plan::{ListenerPlan, Plan, Serve};
use crate::relay::http::Refusal;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy whose outbound listeners serve HTTP, with this idle timeout.
fn http(arguments: &[&str], idle_timeout: Option<Duration>) -> Arc<Proxy> {
    serving(arguments, |listener| (listener.serve, listener.idle_timeout) = (Serve::Http, idle_timeout))
}

/// A proxy whose listeners were changed.
pub(super) fn serving(arguments: &[&str], change: impl Fn(&mut ListenerPlan)) -> Arc<Proxy> {
    let proxy = proxy(arguments);
    let mut plan = Plan::clone(&proxy.running.load().plan);
    for listener in &mut plan.listeners {
        change(Arc::make_mut(listener));
    }
    proxy.running.store(proxy.registry.open(plan));
    proxy
}

/// A client of a connection that is served to its end.
async fn begin(proxy: &Arc<Proxy>, to: Redirected) -> (TcpStream, JoinHandle<()>) {
    begin_by(Direction::Outbound, proxy, to).await
}

/// A client of a connection of a direction that is served to its end.
pub(super) async fn begin_by(
    direction: Direction,
    proxy: &Arc<Proxy>,
    to: Redirected,
) -> (TcpStream, JoinHandle<()>) {
    let (client, accepted) = accepted(direction).await;
    let beginning = Box::pin(super::super::begin(Arc::clone(proxy), accepted, to));
    let serving = tokio::spawn(async move {
        let Some(mut carry) = beginning.await else { return };
        let end = std::future::poll_fn(|cx| carry.poll_relay(cx)).await;
        carry.end(end);
    });
    (client, serving)
}

/// The next connection of a server.
pub(super) async fn next(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let server = tokio::net::TcpListener::from_std(server.try_clone().unwrap()).unwrap();
    timeout(PATIENCE, server.accept()).await.expect("in time").unwrap().0
}

/// Checks that no connection came to a server.
pub(super) fn never_dialled(server: &TcpListener) {
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

async fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut got)).await.expect("in time").expect("all of it");
    assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// Reads up to FIN.
pub(super) async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("no reset");
    rest.escape_ascii().to_string()
}

pub(super) async fn ended(serving: JoinHandle<()>) {
    timeout(PATIENCE, serving).await.expect("in time").unwrap();
}

pub(super) fn closed(proxy: &Proxy, reason: CloseReason) -> u64 {
    proxy.metrics.direction(Direction::Outbound).closed(reason).get()
}

/// Numbers of `/metrics` that are not 0, of series with this word.
pub(super) fn counted(proxy: &Proxy, word: &str) -> Vec<String> {
    let page = proxy.metrics.registry.text();
    let mut lines: Vec<_> = page
        .lines()
        // Times differ from run to run.
        .filter(|line| line.contains(word) && !line.contains("_seconds"))
        .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
        .map(|line| line.replace("culvert_", "").replace("direction=\"outbound\",", ""))
        .collect();
    lines.sort_unstable();
    lines
}

/// The memory of an idle connection besides its sockets, its task and its entry in the table.
#[test]
fn a_connection_of_messages_is_small() {
    let bytes = size_of::<super::Http>();
    assert!(bytes <= 912, "{bytes} bytes");
}

#[tokio::test]
async fn messages_pass_as_they_came_on_one_connection_to_the_server() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    let (mut client, serving) = begin(&proxy, to).await;
    client.write_all(&GET[..7]).await.unwrap();
    client.write_all(&GET[7..]).await.unwrap();
    let mut there = next(&server).await;
    for _ in 0..3 {
        expect(&mut there, GET).await;
        there.write_all(OK).await.unwrap();
        expect(&mut client, OK).await;
        client.write_all(GET).await.unwrap();
    }
    expect(&mut there, GET).await;
    there.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    drop(there);
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 404 No"));
    drop(client);
    ended(serving).await;
    never_dialled(&server);
    assert_eq!(closed(&proxy, CloseReason::Ok), 1);
    let expected = [
        "http_member_requests_total{member=\"unknown\",class=\"2xx\"} 3",
        "http_member_requests_total{member=\"unknown\",class=\"4xx\"} 1",
        "http_requests_total{class=\"2xx\"} 3",
        "http_requests_total{class=\"4xx\"} 1",
    ];
    assert_eq!(counted(&proxy, "_http_"), expected);
    assert!(proxy.table.is_empty());
}

#[tokio::test]
async fn a_refused_first_request_reaches_no_server_and_is_answered_though_the_client_sends_on() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    let (mut client, serving) = begin(&proxy, to).await;
    let smuggling = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled";
    client.write_all(smuggling).await.unwrap();
    // It has not read the answer yet.
    client.write_all(&[b'x'; 60_000]).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\\r\\n"), "{answer}");
    assert!(answer.contains("length_and_chunked: there are both"), "{answer}");
    drop(client);
    ended(serving).await;
    never_dialled(&server);
    assert_eq!(closed(&proxy, CloseReason::HttpRequest), 1);
    let expected = [
        "http_member_requests_total{member=\"unknown\",class=\"4xx\"} 1",
        "http_refusals_total{rule=\"length_and_chunked\"} 1",
        "http_requests_total{class=\"4xx\"} 1",
    ];
    assert_eq!(counted(&proxy, "_http_"), expected);
}

#[tokio::test]
async fn a_refusal_behind_an_answer_leaves_the_server_in_good_order() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    let (mut client, serving) = begin(&proxy, to).await;
    client.write_all(&[GET, b"GET / HTTP/1.1\r\n\r\n"].concat()).await.unwrap();
    let mut there = next(&server).await;
    expect(&mut there, GET).await;
    there.write_all(OK).await.unwrap();
    expect(&mut client, OK).await;
    assert!(rest(&mut client).await.contains("no_host: "));
    // FIN, no reset: it has answered all that it got.
    assert_eq!(rest(&mut there).await, "");
    drop(client);
    ended(serving).await;
    assert_eq!(closed(&proxy, CloseReason::HttpRequest), 1);
}

#[tokio::test]
async fn a_server_that_has_part_of_a_refused_request_is_reset() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    let (mut client, serving) = begin(&proxy, to).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut there = next(&server).await;
    expect(&mut there, head).await;
    client.write_all(b"5\nhello").await.unwrap();
    assert!(rest(&mut client).await.contains("bare_lf: "));
    let mut got = Vec::new();
    let read = timeout(PATIENCE, there.read_to_end(&mut got)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset, "{}", got.escape_ascii());
    drop(client);
    ended(serving).await;
    assert_eq!(closed(&proxy, CloseReason::HttpRequest), 1);
}

#[tokio::test]
async fn a_malformed_answer_is_a_502_that_names_the_rule() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    let (mut client, serving) = begin(&proxy, to).await;
    client.write_all(GET).await.unwrap();
    let mut there = next(&server).await;
    expect(&mut there, GET).await;
    there.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("status_line: "), "{answer}");
    drop(client);
    ended(serving).await;
    assert_eq!(closed(&proxy, CloseReason::HttpResponse), 1);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_a_503_with_a_reason() {
    for (arguments, rule, reason) in [
        (&[][..], Refusal::Unreachable, CloseReason::ConnectRefused),
        (&["--circuit-breaker-max-connections=0"], Refusal::Overloaded, CloseReason::Limit),
        (&["--circuit-breaker-max-pending-requests=0"], Refusal::Overloaded, CloseReason::Limit),
    ] {
        let proxy = http(arguments, None);
        let (server, to) = server(&proxy);
        drop(server);
        for (request, has_text) in [(GET, true), (b"HEAD / HTTP/1.0\r\n\r\n", false)] {
            let (mut client, serving) = begin(&proxy, to).await;
            client.write_all(request).await.unwrap();
            let answer = rest(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\\r\\n"), "{answer}");
            assert_eq!(answer.contains(&format!("{}: {rule}", rule.name())), has_text, "{answer}");
            drop(client);
            ended(serving).await;
        }
        assert_eq!(closed(&proxy, reason), 2, "{reason}");
        let refusals = format!("http_refusals_total{{rule=\"{}\"}} 2", rule.name());
        assert_eq!(
            counted(&proxy, "_http_"),
            [
                "http_member_requests_total{member=\"unknown\",class=\"5xx\"} 2",
                &refusals,
                "http_requests_total{class=\"5xx\"} 2"
            ]
        );
        assert!(proxy.table.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_reaches_no_server() {
    let proxy = http(&[], Some(Duration::from_millis(50)));
    let (server, to) = server(&proxy);
    // Silent, within a head, gone at once, gone within a head, gone behind the beginning of HTTP/2's preface.
    for (bytes, fin, answer, reason) in [
        (&b""[..], false, "", CloseReason::IdleTimeout),
        (b"GET / HTTP/1.1\r\n", false, "", CloseReason::IdleTimeout),
        (b"", true, "", CloseReason::Ok),
        (b"GET / HT", true, "HTTP/1.1 400 ", CloseReason::HttpRequest),
        (b"PRI * HTTP/2.0\r\n", true, "HTTP/1.1 505 ", CloseReason::HttpRequest),
    ] {
        let before = closed(&proxy, reason);
        let (mut client, serving) = begin(&proxy, to).await;
        client.write_all(bytes).await.unwrap();
        if fin {
            client.shutdown().await.unwrap();
        }
        let got = rest(&mut client).await;
        assert!(got.starts_with(answer) && got.is_empty() == answer.is_empty(), "{got}");
        drop(client);
        ended(serving).await;
        assert_eq!(closed(&proxy, reason) - before, 1, "{}", bytes.escape_ascii());
    }
    never_dialled(&server);
    assert!(counted(&proxy, "_http_").contains(&"http_silent_total{direction=\"outbound\"} 2".to_owned()));
}

#[tokio::test]
async fn a_stop_ends_it_while_it_relays_and_while_it_lingers() {
    let proxy = http(&[], None);
    let (server, to) = server(&proxy);
    for lingers in [false, true] {
        let (mut client, serving) = begin(&proxy, to).await;
        client.write_all(GET).await.unwrap();
        let mut there = next(&server).await;
        expect(&mut there, GET).await;
        if lingers {
            there
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            assert!(rest(&mut client).await.starts_with("HTTP/1.1 200 OK"));
        }
        proxy.table.stop_all(CloseReason::DrainTimeout);
        ended(serving).await;
    }
    assert_eq!(closed(&proxy, CloseReason::DrainTimeout), 2);
}
