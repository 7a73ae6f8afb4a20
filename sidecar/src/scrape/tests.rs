// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::admin::DrainRequest;
use crate::observe::logging::LogControl;
use crate::observe::readiness::Readiness;
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Instant as StdInstant;
use tokio::sync::mpsc;

#[test]
fn applications_get_a_share_of_the_scrapers_time() {
    for (said, expected) in [
        (None, 8.0),
        (Some("10"), 8.0),
        (Some("10.000000"), 8.0),
        (Some("5"), 4.0),
        (Some("0.5"), 0.4),
        (Some("3600"), 8.0),
        (Some("0"), 8.0),
        (Some("-1"), 8.0),
        (Some("nan"), 8.0),
        (Some("inf"), 8.0),
        (Some("soon"), 8.0),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(said) = said {
            headers.insert(TIMEOUT, HeaderValue::from_static(said));
        }
        assert_eq!(within(&headers), Duration::from_secs_f64(expected), "{said:?}");
    }
}

#[test]
fn a_port_is_open_to_every_peer_unless_the_mesh_is_strict() {
    let config = Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
    for (mtls, open) in [
        ("", true),
        (", mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: PERMISSIVE}]}", true),
        (", mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}", false),
    ] {
        let loaded = read_with_mesh(&config, &format!("{{type: Mesh, name: default{mtls}}}"), "mesh.yaml");
        assert_eq!(is_open(&compile(&config, &loaded.found).unwrap()), open, "{mtls}");
    }
}

/// Serves one connection: reads a request's head, and answers with these bytes.
fn answering(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut buffer = [0; 1024];
        while !head.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            head.extend_from_slice(&buffer[..read]);
        }
        // A client that has seen enough goes away.
        let _ = stream.write_all(&answer);
    });
    at
}

#[tokio::test]
async fn an_applications_answer_is_taken_or_told_apart() {
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes();
    let large = |bytes: usize| [ok("\r\n"), vec![b'a'; bytes]].concat();
    for (name, answer, expected) in [
        ("length", ok("Content-Length: 4\r\n\r\na 1\n"), Ok(4)),
        ("until the end", ok("\r\na 1\n"), Ok(4)),
        ("chunks", ok("Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n"), Ok(4)),
        ("nothing", Vec::new(), Err(ScrapeFailure::Broken)),
        ("cut", ok("Content-Length: 5\r\n\r\na 1\n"), Err(ScrapeFailure::Broken)),
        ("no HTTP", b"a 1\n".to_vec(), Err(ScrapeFailure::Broken)),
        ("404", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), Err(ScrapeFailure::Status)),
        (
            "elsewhere",
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Err(ScrapeFailure::Status),
        ),
        (
            "no UTF-8",
            ok("Content-Length: 1\r\n\r\n").into_iter().chain([0xff]).collect(),
            Err(ScrapeFailure::Malformed),
        ),
        ("as large as may be", large(fetch::MOST), Ok(fetch::MOST)),
        ("larger", large(fetch::MOST + 1), Err(ScrapeFailure::TooLarge)),
    ] {
        let at = answering(answer);
        let fetched = fetch::fetch(at, "/metrics", &ByteBudget::new(MOST_SENT)).await;
        assert_eq!(fetched.map(|text| text.len()), expected, "{name}");
    }
    let small = fetch::fetch(answering(large(1000)), "/metrics", &ByteBudget::new(100)).await;
    assert_eq!(small, Err(ScrapeFailure::TooLarge), "all together");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = fetch::fetch(closed, "/metrics", &ByteBudget::new(100)).await;
    assert_eq!(nobody, Err(ScrapeFailure::Unreachable));
}

#[tokio::test]
async fn an_application_that_is_too_large_takes_nothing_from_the_others() {
    let labels = SeriesLabels::new(&[("mesh", "m".into())], None);
    // Each line is 14 bytes with its label.
    let (large, small) = ("a 1\n".repeat(100_000), "a 1\n".repeat(10_000));
    let left = Mutex::new(1 << 20);
    let read = |text| read_within(&left, text, &labels);
    let (one, two, three, four) = tokio::join!(read(&large), read(&small), read(&large), read(&small));
    assert_eq!(one.map(|_| ()), Err(ScrapeFailure::TooLarge));
    assert_eq!(three.map(|_| ()), Err(ScrapeFailure::TooLarge));
    let both = two.unwrap().memory() + four.unwrap().memory();
    assert_eq!(*left.lock().await, (1 << 20) - both);
}

/// A port of metrics, with the end of its requests to drain.
fn scraper() -> (Scraper, mpsc::Receiver<DrainRequest>) {
    let config = Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
    let policy = "---\n{type: MeshMetric, name: m, spec: {default: {backends: [{type: Prometheus, prometheus: {}}]}}}\n";
    let loaded = read_with_mesh(&config, policy, "mesh.yaml");
    let plan = compile(&config, &loaded.found).unwrap();
    let proxy = Arc::new(Proxy::with_plan(config, plan));
    let readiness = Readiness::new(proxy.metrics.readiness.clone());
    let (drain, asks) = mpsc::channel(1);
    let app = App { proxy, readiness, drain, log: LogControl::detached(), started: StdInstant::now() };
    (Scraper::new(app), asks)
}

#[tokio::test]
async fn readers_that_are_slow_keep_no_other_from_an_answer() {
    let (scraper, _asks) = scraper();
    let mut unread = Vec::new();
    for number in 0..20 {
        let reply = scraper.answer(Duration::from_secs(1)).await;
        assert_eq!(reply.status(), StatusCode::OK, "{number}");
        unread.push(reply);
    }
    assert!(scraper.held.available_permits() < MOST_HELD / KIB - 20, "each counts");
    drop(unread);
    assert_eq!(scraper.held.available_permits(), MOST_HELD / KIB);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_read_yet_is_bounded() {
    let (mut scraper, _asks) = scraper();
    scraper.held = Arc::new(Semaphore::new(1));
    let busy = scraper.answer(Duration::from_secs(1)).await;
    assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
}
