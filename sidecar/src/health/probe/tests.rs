// SPDX-License-Identifier: Apache-2.0
//! Checks of real servers.

use super::*;
use crate::health::tests::{proxy, web};
use crate::net::addrs::DialAddr;
use crate::net::limit::Limit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

#[test]
fn an_answer_has_to_have_each_segment_behind_the_one_before() {
    for (came, segments, found) in [
        (&["foobaz"][..], &["baz"][..], true),
        (&["ba", "z"], &["baz"], true),
        (&["b", "a", "z"], &["ba", "z"], true),
        (&["xxbayyzx"], &["ba", "z"], true),
        (&["zba"], &["ba", "z"], false),
        (&["baba", "z"], &["ba", "ba", "z"], true),
        (&["ba"], &["ba", "ba"], false),
        (&["bab", "b"], &["ba", "ba"], false),
        (&["bab", "aba"], &["ba", "ba"], true),
        (&["", "foo"], &["bar"], false),
        (&["anything"], &[], true),
    ] {
        let bytes: Vec<_> = segments.iter().map(|segment| segment.as_bytes().to_vec()).collect();
        let mut expected = Expected { segments: &bytes, from: 0 };
        let mut all = Vec::new();
        let is_found = came.iter().any(|part| {
            all.extend_from_slice(part.as_bytes());
            expected.are_in(&all)
        });
        assert_eq!(is_found, found, "{came:?} {segments:?}");
    }
}

/// A server that answers each read with `answers`, and ends after `most` of them.
async fn server(answer: &'static [u8], most: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, listener) = (listener.local_addr().unwrap(), TcpListener::from_std(listener).unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                for _ in 0..most {
                    if matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {
                        return;
                    }
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    (address, accepted)
}

/// A proxy whose cluster `web` has this endpoint, with this check.
fn checking(mesh: &str, address: SocketAddr, conf: &str) -> Arc<Proxy> {
    proxy(mesh, &[address], conf)
}

fn job(proxy: &Proxy, kept: Option<Kept>) -> Job {
    let web = web(proxy);
    let endpoint = &web.endpoints()[0];
    Job {
        key: (web.state.id, endpoint.address),
        number: 1,
        to: DialAddr::new(endpoint.address),
        source: None,
        behind: Some(endpoint.behind.clone()),
        check: Arc::clone(web.check().unwrap()),
        kept,
    }
}

async fn made(proxy: &Arc<Proxy>, kept: Option<Kept>) -> Result<Option<Kept>, CheckError> {
    let outcome = check(Arc::clone(proxy), job(proxy, kept)).await.outcome;
    let keep = |connection| Kept { connection, _place: Limit::new(1).try_acquire().unwrap() };
    outcome.map(|connection| connection.map(keep))
}

#[tokio::test]
async fn a_server_passes_by_its_answer_and_not_by_another() {
    let (address, _) = server(b"...ba..z", 9).await;
    for (conf, passes) in [
        ("tcp: {}", true),
        ("tcp: {send: foo}", true),
        ("tcp: {send: foo, receive: [ba, z]}", true),
        ("timeout: 300ms, tcp: {send: foo, receive: [baz]}", false),
        ("timeout: 300ms, tcp: {receive: [ba]}", false),
    ] {
        let proxy = checking("", address, conf);
        match made(&proxy, None).await {
            Ok(_) => assert!(passes, "{conf}"),
            Err(CheckError::TimedOut(_)) => assert!(!passes, "{conf}"),
            Err(error) => panic!("{conf}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_as_long_as_the_server_keeps_it() {
    const CONF: &str = "tcp: {send: foo, receive: [baz]}";
    let (address, accepted) = server(b"baz and more", 2).await;
    let proxy = checking("", address, CONF);
    let mut kept = None;
    for (check, connections) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        kept = made(&proxy, kept).await.unwrap();
        assert!(kept.is_some());
        assert_eq!(accepted.load(Ordering::SeqCst), connections, "check {check}");
    }
    let proxy = checking("", address, &format!("reuseConnection: false, {CONF}"));
    assert!(made(&proxy, None).await.unwrap().is_none());
    let proxy = checking("", address, "tcp: {}");
    assert!(made(&proxy, None).await.unwrap().is_none(), "a connect that expects no answer");
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_and_a_missing_identity_is_ours() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = made(&checking("", free, "tcp: {}"), None).await.unwrap_err();
    assert!(matches!(error, CheckError::Dial(_)) && !error.is_ours(), "{error}");
    const MTLS: &str = "{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}}\n";
    let (address, _) = server(b"", 1).await;
    let error = made(&checking(MTLS, address, "tcp: {}"), None).await.unwrap_err();
    assert!(error.is_ours(), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let (address, _) = server(&[b'x'; 256 * 1024], 9).await;
    let proxy = checking("", address, "timeout: 60s, tcp: {send: foo, receive: [y]}");
    let error = made(&proxy, None).await.unwrap_err();
    assert!(matches!(error, CheckError::TooMuch), "{error}");
}
