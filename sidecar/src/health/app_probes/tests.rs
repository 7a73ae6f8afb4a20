// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::app_probes::{AppProbes, DEFAULT_TIMEOUT, HttpGet, MOST_PROBES};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[test]
fn probes_are_written_as_in_a_pods_specification() {
    let probes: AppProbes = r#"{
        "/app-health/web/readyz": {"httpGet": {"path": "/ready?deep=1", "port": 8080, "scheme": "HTTPS",
            "httpHeaders": [{"name": "Host", "value": "web.example"}]}, "timeoutSeconds": 3, "periodSeconds": 5},
        "/app-health/db/livez": {"tcpSocket": {"port": 5432}},
        "/app-health/api/startupz": {"grpc": {"port": 9000, "service": "api"}}
    }"#
    .parse()
    .unwrap();
    assert_eq!(probes.len(), 3);
    let web = probes.get("/app-health/web/readyz").unwrap();
    assert_eq!(web.timeout, Duration::from_secs(3));
    assert_eq!(
        web.kind,
        ProbeKind::Http(HttpGet {
            port: 8080,
            path: "/ready?deep=1".into(),
            tls: true,
            headers: vec![("Host".into(), "web.example".into())],
        })
    );
    assert!(!format!("{probes:?}").contains("web.example"), "values of headers are not shown");
    assert_eq!(probes.get("/app-health/db/livez").unwrap().kind, ProbeKind::Tcp { port: 5432 });
    assert_eq!(probes.get("/app-health/db/livez").unwrap().timeout, DEFAULT_TIMEOUT);
    assert_eq!(probes.get("/app-health/db"), None);
    assert_eq!("{}".parse::<AppProbes>(), Ok(AppProbes::default()));
}

#[test]
fn all_errors_are_reported_at_once() {
    let error = r#"{
        "/app-health/": {"tcpSocket": {"port": 1}},
        "/other": {"tcpSocket": {"port": 1}},
        "/app-health/a": {},
        "/app-health/b": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}},
        "/app-health/c": {"httpGet": {"port": 0, "path": "x y", "host": "192.0.2.1", "scheme": "FTP",
            "httpHeaders": [{"name": "a b", "value": "c"}]}},
        "/app-health/d": {"tcpSocket": {"port": 70000}},
        "/app-health/e": {"exec": {}},
        "/app-health/f": {"tcpSocket": {"port": 1, "host": "example.com"}, "timeoutSeconds": 0}
    }"#
    .parse::<AppProbes>()
    .unwrap_err();
    insta::assert_snapshot!(error.to_string().replace("; ", "\n"));
    for no_json in ["", "[]", "{", "null"] {
        assert!(no_json.parse::<AppProbes>().is_err(), "{no_json}");
    }
    let many: Vec<_> =
        (0..=MOST_PROBES).map(|n| format!(r#""/app-health/{n}": {{"tcpSocket": {{"port": 1}}}}"#)).collect();
    assert!(
        format!("{{{}}}", many.join(","))
            .parse::<AppProbes>()
            .unwrap_err()
            .to_string()
            .starts_with("65 probes")
    );
}

const HTTP_END: &[u8] = b"\r\n\r\n";
/// A port of the sidecar.
const OWN_PORT: u16 = 15020;
/// gRPC's message for the service `api`.
const GRPC_END: &[u8] = b"\x00\x00\x00\x00\x05\x0a\x03api";

/// Starts an application that reads one request, up to its end, and answers it by `says`.
async fn application(request_end: &'static [u8], says: Vec<u8>) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(request_end) && tcp.read_buf(&mut heard).await.unwrap() > 0 {}
        tcp.write_all(&says).await.unwrap();
        // A socket that closes with unread bytes resets, and takes the answer with it.
        tcp.shutdown().await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
        heard
    });
    (port, serving)
}

async fn answer(kind: ProbeKind) -> ProbeReply {
    let own = SidecarPorts::new([OWN_PORT]);
    run(&Probe { kind, timeout: Duration::from_secs(5) }, "127.0.0.1".parse().unwrap(), &own).await
}

fn http(port: u16, headers: &[(&str, &str)]) -> ProbeKind {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    ProbeKind::Http(HttpGet { port, path: "/ready".into(), tls: false, headers })
}

#[tokio::test]
async fn an_http_probe_passes_on_the_applications_status() {
    for (says, status) in [
        ("HTTP/1.1 200 OK\r\n\r\n", 200),
        ("HTTP/1.0 404 Not Found\r\n\r\n", 404),
        ("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", 302),
        ("HTTP/1.1 503\r\n\r\n", 503),
        ("SSH-2.0-x\r\n", 503),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 503),
        ("HTTP/1.1 999 ?\r\n\r\n", 503),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ncut", 503),
        ("", 503),
    ] {
        let (port, heard) = application(HTTP_END, says.into()).await;
        assert_eq!(answer(http(port, &[])).await.status, status, "{says:?}");
        let heard = String::from_utf8(heard.await.unwrap()).unwrap();
        let expected = format!(
            "GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-probe/culvert\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn its_own_headers_replace_the_usual_ones() {
    let (port, heard) = application(HTTP_END, b"HTTP/1.1 200 OK\r\n\r\n".into()).await;
    answer(http(port, &[("host", "web"), ("User-Agent", "me"), ("X-Probe", "1"), ("Accept", "a/b")])).await;
    let heard = String::from_utf8(heard.await.unwrap()).unwrap();
    assert_eq!(
        heard,
        "GET /ready HTTP/1.1\r\nHost: web\r\nUser-Agent: me\r\nX-Probe: 1\r\nAccept: a/b\r\nConnection: close\r\n\r\n"
    );
}

#[tokio::test]
async fn a_header_that_is_empty_is_left_out_and_one_of_the_connection_is_not_the_probes() {
    let (port, heard) = application(HTTP_END, b"HTTP/1.1 200 OK\r\n\r\n".into()).await;
    answer(http(port, &[("accept", ""), ("user-agent", ""), ("Content-Length", "5"), ("connection", "x")]))
        .await;
    let heard = String::from_utf8(heard.await.unwrap()).unwrap();
    assert_eq!(heard, format!("GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"));
}

/// Starts an application that answers each request on a connection of its own. Returns what it heard, in order.
async fn applications(says: impl Fn(u16) -> Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    let says = says(port);
    let serving = tokio::spawn(async move {
        let mut all = Vec::new();
        for answer in says {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(HTTP_END) && tcp.read_buf(&mut heard).await.unwrap() > 0 {}
            tcp.write_all(answer.as_bytes()).await.unwrap();
            all.push(String::from_utf8(heard).unwrap().lines().next().unwrap().to_owned());
        }
        all
    });
    (port, serving)
}

#[tokio::test]
async fn a_redirect_to_the_pod_itself_is_followed_as_by_the_kubelet() {
    let to =
        |location: String| format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let (port, heard) = applications(|port| {
        let there = format!("http://127.0.0.1:{port}/there");
        vec![to("/ready/".into()), to(there), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()]
    })
    .await;
    assert_eq!(answer(http(port, &[])).await.status, 404);
    assert_eq!(heard.await.unwrap(), ["GET /ready HTTP/1.1", "GET /ready/ HTTP/1.1", "GET /there HTTP/1.1"]);

    let (port, heard) = applications(|_| vec![to("/again".into()); 10]).await;
    let got = answer(http(port, &[])).await;
    assert_eq!((got.status, &*got.words), (503, "the application redirects 10 times"));
    assert_eq!(heard.await.unwrap().len(), 10);

    // The status port would ask the application again, and so on.
    let (port, _heard) =
        applications(|_| vec![to(format!("http://127.0.0.1:{OWN_PORT}/app-health/x"))]).await;
    let got = answer(http(port, &[])).await;
    assert_eq!((got.status, &*got.words), (503, "the application redirects to the sidecar's port 15020"));
}

#[tokio::test]
async fn a_tcp_probe_succeeds_if_the_port_is_open() {
    let (port, _serving) = application(b"", Vec::new()).await;
    assert_eq!(answer(ProbeKind::Tcp { port }).await.status, 200);
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let refused = answer(ProbeKind::Tcp { port: free }).await;
    assert_eq!(refused.status, 503);
    assert!(refused.words.contains("refused the connection"), "{}", refused.words);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_is_not_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let unanswered = answer(http(port, &[])).await;
    assert_eq!((unanswered.status, &*unanswered.words), (503, "the application did not answer within 5 s"));
}

/// Frames of a server of gRPC, as tonic's writes them.
fn grpc_answer(status: Option<u8>) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let mut all = frame(4, 0, 0, &[]);
    all.extend(frame(4, 1, 0, &[]));
    all.extend(frame(6, 0, 0, &[7; 8]));
    match status {
        // The default is left out on the wire.
        Some(0) => all.extend([frame(1, 4, 1, &[0x88]), frame(0, 0, 1, &[0, 0, 0, 0, 0])].concat()),
        Some(status) => {
            all.extend(frame(1, 4, 1, &[0x88]));
            // In two pieces, one of them padded.
            all.extend(frame(0, 8, 1, &[2, 0, 0, 0, 0, 9, 9]));
            all.extend(frame(0, 0, 1, &[2, 8, status]));
        }
        None => {}
    }
    all.extend(frame(1, 5, 1, &[0x88]));
    all
}

#[tokio::test]
async fn a_grpc_probe_passes_on_the_status_of_the_health_service() {
    for (says, status, words) in [
        (grpc_answer(Some(1)), 200, "is serving"),
        (grpc_answer(Some(2)), 503, "NOT_SERVING"),
        (grpc_answer(Some(0)), 503, "UNKNOWN"),
        (grpc_answer(None), 503, "does it have that service?"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), 503, "does not speak gRPC"),
        (Vec::new(), 503, "does not speak gRPC"),
    ] {
        let (port, heard) = application(GRPC_END, says).await;
        let got = answer(ProbeKind::Grpc { port, service: "api".into() }).await;
        assert_eq!(got.status, status, "{}", got.words);
        assert!(got.words.contains(words), "{}", got.words);
        let heard = heard.await.unwrap();
        assert!(heard.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(heard.ends_with(GRPC_END));
    }
}
