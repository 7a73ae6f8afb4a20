// SPDX-License-Identifier: Apache-2.0
//! Connects to servers outside of the mesh, by plans as documents make them.

use super::*;
use crate::cluster::connect::{Attempts, ConnectError, Event, Upstream, connect};
use crate::cluster::origination::Origination;
use crate::cluster::registry::{Cluster, Registry, plan_without_documents};
use crate::cluster::stream::Stream;
use crate::connection::proxy::Proxy;
use crate::net::addrs::{ClientAddr, OrigDst};
use crate::net::limit::Claim;
use crate::net::own_sockets::Returned;
use crate::observe::close_reason::CloseReason;
use crate::options::Options;
use crate::plan::external::{Authorities, Verification, stand_in};
use crate::plan::{MOST_ATTEMPTS, Origin, OutlierPlan, Plan};
use crate::tls::outside_tests::{Server, settings};
use clap::Parser;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn proxy() -> Proxy {
    Proxy::for_tests(Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap())
}

fn endpoint(address: SocketAddr, tls: Option<&ExternalTls>) -> ExternalEndpoint {
    let tls = tls.cloned().map(Arc::new);
    ExternalEndpoint {
        address,
        host: ExternalHost::Address,
        tls,
        priority: 0,
        document: "MeshExternalService out".into(),
    }
}

fn socket(path: &Path, tls: Option<&ExternalTls>) -> ExternalEndpoint {
    ExternalEndpoint { host: ExternalHost::Socket(path.into()), ..endpoint(stand_in(path), tls) }
}

/// A plan with one cluster that has these endpoints.
fn plan(endpoints: Vec<ExternalEndpoint>) -> Plan {
    let mut plan = plan_without_documents();
    plan.clusters.push(Arc::new(ClusterPlan {
        name: "out".into(),
        origin: Origin::Outbound,
        upstream: Discovery::External(endpoints),
        thresholds: Default::default(),
        connect_timeout: Some(Duration::from_secs(5)),
        most_attempts: MOST_ATTEMPTS,
        outlier: Some(OutlierPlan::default()),
        balance: Default::default(),
        health: None,
    }));
    plan
}

fn open(registry: &Registry, endpoints: Vec<ExternalEndpoint>) -> Arc<Cluster> {
    let running = registry.open(plan(endpoints));
    Arc::clone(running.clusters.iter().find(|cluster| &*cluster.plan.name == "out").unwrap())
}

/// Connects, and returns the number of attempts that failed too.
async fn connected(proxy: &Proxy, cluster: &Cluster) -> (Result<Upstream, ConnectError>, usize) {
    let client = ClientAddr::new("10.0.0.2:4000".parse().unwrap());
    let original = OrigDst::new("240.0.0.9:80".parse().unwrap());
    let attempts = Attempts::begin(cluster, original, None, (Claim::Full, client)).unwrap();
    let origination = Origination { mesh: true, tls: &proxy.tls, metrics: &proxy.metrics.tls };
    let mut failed = 0;
    let report = |event: Event<'_>| failed += usize::from(matches!(event, Event::Failed(_)));
    let upstream = connect(attempts, origination, (&proxy.own_sockets, Returned::Never), report).await;
    (upstream, failed)
}

/// Says four bytes to a server that echoes, and hears them.
async fn talk(stream: &mut Stream) {
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn a_server_whose_handshake_fails_is_followed_by_the_next_and_comes_last_from_then_on() {
    let (good, bad) = (Server::new(&["a.test"]), Server::new(&["a.test"]));
    let tls = settings("a.test", Verification::Names(good.these(), vec![]));
    // The first by address is tried first; ports are the kernel's choice.
    let mut servers = [(good.start(), true), (bad.start(), false)];
    servers.sort_unstable();
    let endpoints = servers.iter().map(|(address, _)| endpoint(*address, Some(&tls))).collect();
    let (proxy, registry) = (proxy(), Registry::default());
    let cluster = open(&registry, endpoints);
    let mut failed = 0;
    for _ in 0..4 {
        let (upstream, failures) = connected(&proxy, &cluster).await;
        let mut upstream = upstream.unwrap();
        assert!(upstream.peer.is_none() && matches!(upstream.stream, Stream::Tls(_)));
        talk(&mut upstream.stream).await;
        failed += failures;
    }
    assert_eq!(failed, 1, "it is ejected then");
    let counters = cluster.state.outsiders.get().unwrap();
    assert_eq!((counters.failed.get(), counters.full.get(), counters.resumed.get()), (1, 1, 3));
    let totals = &proxy.metrics.tls.outside;
    assert_eq!((totals.failed.get(), totals.full.get(), totals.resumed.get()), (1, 1, 3));
}

#[tokio::test]
async fn each_failure_has_its_reason_and_nothing_leaves_without_tls() {
    let server = Server::new(&["a.test"]);
    let address = server.start();
    let proxy = proxy();
    let other = Server::new(&["a.test"]).these();
    for (name, verification, reason) in [
        ("another authority", Verification::Names(other, vec![]), CloseReason::TlsUntrusted),
        ("another name", Verification::Names(server.these(), vec![]), CloseReason::TlsIdentity),
    ] {
        let tls =
            settings(if reason == CloseReason::TlsIdentity { "b.test" } else { "a.test" }, verification);
        let cluster = open(&Registry::default(), vec![endpoint(address, Some(&tls))]);
        let (upstream, failed) = connected(&proxy, &cluster).await;
        let error = upstream.err().expect("it is refused");
        assert_eq!((error.reason(), failed), (reason, 1), "{name}: {error}");
    }
    // Without authorities of the system.
    let tls = settings("a.test", Verification::Authorities(Authorities::System));
    let opened = HashMap::from([(Arc::new(tls.clone()), Err(OutsideFault::NoRoots))]);
    let counters = OnceLock::new();
    let outsider = Outsider::new(&endpoint(address, Some(&tls)), &counters, &opened);
    let lacking = outsider.tls.expect("it has TLS");
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let origination = Origination { mesh: false, tls: &proxy.tls, metrics: &proxy.metrics.tls };
    let to = crate::net::addrs::DialAddr::new(address);
    let shaken = origination.handshake_outside(&mut tcp, to, &lacking, Duration::from_secs(5)).await;
    assert!(matches!(shaken.err(), Some(crate::tls::TlsError::NotSetUp(OutsideFault::NoRoots))));
    assert_eq!(counters.get().unwrap().failed.get(), 1);
}

#[tokio::test]
async fn a_unix_socket_is_called_as_a_host_is_with_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let proxy = proxy();
    let cluster = open(&Registry::default(), vec![socket(&path, None)]);
    let (upstream, failed) = connected(&proxy, &cluster).await;
    let error = upstream.err().expect("there is no socket");
    assert_eq!((error.reason(), failed), (CloseReason::ConnectUnreachable, 1));
    assert!(error.to_string().contains("app.sock"), "{error}");
    // A socket in front of the server, which forwards its bytes.
    let server = Server::new(&["a.test"]);
    let (behind, listener) = (server.start(), tokio::net::UnixListener::bind(&path).unwrap());
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(behind).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let tls = settings("a.test", Verification::Names(server.these(), vec![]));
    let cluster = open(&Registry::default(), vec![socket(&path, Some(&tls))]);
    let (upstream, _) = connected(&proxy, &cluster).await;
    talk(&mut upstream.unwrap().stream).await;
}

#[tokio::test]
async fn sessions_outlive_a_reload_that_keeps_the_settings_and_no_other() {
    let server = Server::new(&["a.test", "b.test"]);
    let address = server.start();
    let (proxy, registry) = (proxy(), Registry::default());
    let of = |name: &str| {
        let tls = settings(name, Verification::Names(server.these(), vec![]));
        vec![endpoint(address, Some(&tls))]
    };
    let resumed =
        |cluster: &Cluster| cluster.state.outsiders.get().map_or(0, |counters| counters.resumed.get());
    let first = open(&registry, of("a.test"));
    talk(&mut connected(&proxy, &first).await.0.unwrap().stream).await;
    assert_eq!(resumed(&first), 0);
    let second = open(&registry, of("a.test"));
    drop(first);
    talk(&mut connected(&proxy, &second).await.0.unwrap().stream).await;
    assert_eq!(resumed(&second), 1, "the same settings");
    let third = open(&registry, of("b.test"));
    talk(&mut connected(&proxy, &third).await.0.unwrap().stream).await;
    assert_eq!(resumed(&third), 1, "others");
}
