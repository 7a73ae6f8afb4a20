// SPDX-License-Identifier: Apache-2.0
//! Many reviews at once, by HTTP/1.1 and by HTTP/2 as API servers send them, and the handler's own histogram and memory.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Cluster, Injector, SERVER_NAME, client, pod, review};

/// Reviews at once, and rounds of them.
const AT_ONCE: usize = 200;
const ROUNDS: usize = 20;

type Http2 = (
    h2::client::SendRequest<hyper::body::Bytes>,
    h2::client::Connection<tokio_rustls::client::TlsStream<TcpStream>, hyper::body::Bytes>,
);

/// Opens a connection of HTTP/2.
async fn http2(injector: &Injector, bundle: &str) -> Result<Http2> {
    let mut config = client(bundle)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(injector.webhook).await?;
    let name = ServerName::try_from(SERVER_NAME)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "no HTTP/2");
    // Windows as Go's: with h2's own, answers would come in bits.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 30).initial_window_size(4 << 20);
    Ok(builder.handshake::<_, hyper::body::Bytes>(stream).await?)
}

/// The head of a review.
fn head() -> Result<http::Request<()>> {
    let request = http::Request::post("https://culvert-injector.mesh.svc/inject?timeout=5s");
    Ok(request.header("content-type", "application/json").body(())?)
}

/// Sends reviews over one connection of HTTP/2, so many at a time.
async fn by_http2(injector: &Injector, bundle: &str, at_once: usize, rounds: usize) -> Result<()> {
    let (sender, connection) = http2(injector, bundle).await?;
    let connection = tokio::spawn(connection);
    let body = review(&pod()).to_string();
    for _ in 0..rounds {
        let mut all = JoinSet::new();
        for _ in 0..at_once {
            let (sender, body) = (sender.clone(), body.clone());
            all.spawn(async move {
                let mut sender = sender.ready().await?;
                let (answer, mut stream) = sender.send_request(head()?, false)?;
                stream.send_data(body.into(), true)?;
                let answer = answer.await?;
                ensure!(answer.status() == 200, "{answer:?}");
                let mut body = answer.into_body();
                let mut bytes = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    bytes.extend_from_slice(&data);
                }
                let answer: Value = serde_json::from_slice(&bytes)?;
                ensure!(answer["response"]["patch"].is_string(), "{answer}");
                Ok(())
            });
        }
        while let Some(done) = all.join_next().await {
            done??;
        }
    }
    connection.abort();
    Ok(())
}

/// The upper bound of the histogram's bucket with this part of all reviews, in seconds.
fn quantile(injector: &Injector, part: f64) -> Result<f64> {
    let page = injector.page("/metrics")?.body;
    let count = injector.metric("culvert_injector_review_seconds_count")?;
    let bucket = |line: &str| {
        let (bound, below) =
            line.strip_prefix("culvert_injector_review_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((bound.parse::<f64>().unwrap_or(f64::INFINITY), below.parse::<f64>().ok()?))
    };
    let reached = page.lines().filter_map(bucket).find(|(_, below)| *below >= part * count);
    Ok(reached.context("no bucket")?.0)
}

/// The most memory that it had at a time, in KiB, and the part of it that is the program's own file.
fn resident(injector: &Injector) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", injector.process.pid()))?;
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
        Ok::<u64, anyhow::Error>(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((of("VmHWM:")?, of("RssFile:")?))
}

#[test]
fn two_hundred_reviews_at_once_are_answered_in_time_and_in_little_memory() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(by_http2(&injector, &cluster.bundle()?, AT_ONCE, ROUNDS))?;
    let reviews = injector.metric("culvert_injector_review_seconds_count")?;
    assert_eq!(reviews, (AT_ONCE * ROUNDS) as f64);
    let (median, p99) = (quantile(&injector, 0.5)?, quantile(&injector, 0.99)?);
    let (memory, file) = resident(&injector)?;
    println!(
        "{reviews} reviews, {AT_ONCE} at once: median ≤ {median} s, p99 ≤ {p99} s by its histogram; peak {memory} KiB, of which \
         {file} KiB are the program"
    );
    // Far above both aims (p99 5 ms, 20 MiB with a release build): a busy machine stops it anywhere, and a debug build is large.
    ensure!(median <= 0.05, "median {median} s");
    ensure!(memory - file <= 16 << 10, "{memory} KiB, of which {file} KiB are the program");
    Ok(())
}

/// More heads of reviews than there are places, and no body: their connections are cut, and others are answered.
#[test]
fn a_peer_that_hoards_places_loses_its_connections_and_others_are_answered() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let bundle = cluster.bundle()?;
    let (hoards, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let hoard = scope.spawn(|| -> Result<bool> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (mut held, mut connections) = (Vec::new(), JoinSet::new());
                for _ in 0..3 {
                    let (sender, connection) = http2(&injector, &bundle).await?;
                    connections.spawn(connection);
                    for _ in 0..240 {
                        let mut sender = sender.clone().ready().await?;
                        held.push(sender.send_request(head()?, false)?);
                    }
                }
                hoards.send(())?;
                // Without a cut it would be ten minutes.
                let ended = tokio::time::timeout(Duration::from_secs(20), connections.join_next()).await;
                Ok(ended.is_ok())
            })
        });
        ready.recv()?;
        let response = cluster.review(&injector, &review(&pod()))?;
        ensure!(response["allowed"] == true && response["patch"].is_string(), "{response}");
        let ended = hoard.join().map_err(|_| anyhow!("the hoard panicked"))??;
        ensure!(ended, "no connection was cut");
        Ok(())
    })
}

/// Ten containers with three probes and two hooks each.
#[test]
fn a_pod_of_ten_containers_is_answered_in_time() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let probe = json!({ "httpGet": { "path": "/", "port": "http" } });
    let container = |index: usize| {
        json!({ "name": format!("c{index}"), "image": "registry.example.com/web",
                "ports": [{ "name": "http", "containerPort": 8000 + index }],
                "readinessProbe": probe, "livenessProbe": probe, "startupProbe": probe,
                "lifecycle": { "preStop": probe, "postStart": probe } })
    };
    let mut pod = pod();
    pod["spec"]["containers"] = (0..10).map(container).collect();
    for _ in 0..100 {
        let after = cluster.admitted(&injector, &pod)?;
        ensure!(
            after["spec"]["containers"][9]["lifecycle"]["preStop"]["httpGet"]["port"] == 15020,
            "{after}"
        );
    }
    let (median, p99) = (quantile(&injector, 0.5)?, quantile(&injector, 0.99)?);
    println!("a pod of ten containers: median ≤ {median} s, p99 ≤ {p99} s by its histogram");
    // Aim: 1 ms with a release build.
    ensure!(median <= 0.05, "median {median} s");
    Ok(())
}
