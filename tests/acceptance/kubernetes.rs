// SPDX-License-Identifier: Apache-2.0
//! The node agent's client for Kubernetes, against an API server in process: what it asks, what it makes of the answers, and
//! that no mishap ends it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use culvert_cni::agent::PodRef;
use culvert_install::kube::events::{Event, Reason, Regarding, Reporter, post};
use culvert_install::kube::{ApiError, Client, Events, Pods, hold, http};
use culvert_tests::api_server::{ApiServer, Fault};
use serde_json::json;

const NODE: &str = "worker-1";
const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");
/// For what takes milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn client(server: &ApiServer) -> Client {
    Client::new(&server.address().ip().to_string(), server.address().port(), server.service_account())
}

/// Runs a test beside a watch of the node's pods.
fn beside_a_watch<F: Future<Output = Result<()>>>(
    server: &ApiServer,
    test: impl FnOnce(&'static Pods) -> F,
) -> Result<()> {
    // As long as the process: the watch and the test borrow it from different tasks.
    let pods: &'static Pods = Box::leak(Box::default());
    let client: &'static Client = Box::leak(Box::new(client(server)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            () = pods.follow(client, NODE) => unreachable!("a watch goes on"),
            result = test(pods) => result,
        }
    })
}

fn reporter() -> Reporter {
    Reporter { component: "culvert-agent", controller: "culvert.dev/agent", instance: NODE.to_owned() }
}

/// Waits in between for what nothing announces.
async fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !condition() {
        ensure!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn pod(name: &str, uid: Option<&str>) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) }
}

#[test]
fn a_nodes_pods_are_known_page_by_page_and_no_others() -> Result<()> {
    let server = ApiServer::local()?;
    for number in 0..120 {
        let name = format!("web-{number}");
        server.pod(
            NODE,
            "shop",
            &name,
            &format!("uid-{number}"),
            &[ON, ("example.com/big", &"x".repeat(5000))],
        );
    }
    server.pod("worker-2", "shop", "elsewhere", "uid", &[ON]);
    beside_a_watch(&server, async |pods| {
        until("all pages", || pods.len() == 120).await?;
        for number in [0, 49, 50, 119] {
            let found =
                pods.annotations(&pod(&format!("web-{number}"), Some(&format!("uid-{number}")))).await;
            assert_eq!(found, Ok([(ON.0.to_owned(), ON.1.to_owned())].into()), "{number}");
        }
        let began = Instant::now();
        let error = pods.annotations(&pod("elsewhere", None)).await.unwrap_err();
        assert!(error.contains("no pod shop/elsewhere on this node"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        Ok(())
    })?;
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.accept.contains("as=PartialObjectMetadata")), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.path.contains("spec.nodeName%3Dworker-1")), "{asked:?}");
    assert_eq!(asked.iter().filter(|asked| !asked.path.contains("watch=1")).count(), 3, "{asked:?}");
    Ok(())
}

#[test]
fn a_pod_that_the_watch_has_yet_to_bring_is_waited_for() -> Result<()> {
    let server = ApiServer::local()?;
    server.pod(NODE, "shop", "db-0", "old", &[]);
    beside_a_watch(&server, async |pods| {
        until("the watch", || server.watches() == 1).await?;
        let (new, next) = (pod("new", Some("uid")), pod("db-0", Some("next")));
        let ask = async { (pods.annotations(&new).await, pods.annotations(&next).await) };
        let bring = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.pod(NODE, "shop", "new", "uid", &[ON]);
            // A StatefulSet's pod comes again under its name: what is known of the old one is not its.
            server.delete_pod("shop", "db-0");
            server.pod(NODE, "shop", "db-0", "next", &[ON]);
        };
        let ((new, next), ()) = tokio::join!(ask, bring);
        assert_eq!((new.map(|found| found.len()), next.map(|found| found.len())), (Ok(1), Ok(1)));
        let error = pods.annotations(&pod("db-0", Some("old"))).await.unwrap_err();
        assert!(error.contains("with uid old"), "{error}");
        server.delete_pod("shop", "new");
        until("the deletion", || pods.len() == 1).await
    })
}

#[test]
fn a_static_pod_is_known_by_the_uid_that_the_kubelet_gives_it() -> Result<()> {
    let server = ApiServer::local()?;
    server.pod(
        NODE,
        "shop",
        "static",
        "of-the-mirror",
        &[ON, ("kubernetes.io/config.hash", "of-the-kubelet")],
    );
    server.pod(NODE, "shop", "huge", "uid", &[("kuma.io/x", &"x".repeat(100_000))]);
    beside_a_watch(&server, async |pods| {
        until("the list", || pods.len() == 2).await?;
        assert!(pods.annotations(&pod("static", Some("of-the-kubelet"))).await.is_ok());
        assert!(pods.annotations(&pod("static", Some("of-the-mirror"))).await.is_ok());
        let error = pods.annotations(&pod("huge", None)).await.unwrap_err();
        assert!(error.contains("bytes long"), "{error}");
        Ok(())
    })
}

#[test]
fn a_broken_watch_restarts_and_keeps_the_known_pods() -> Result<()> {
    let server = ApiServer::local()?;
    server.pod(NODE, "shop", "first", "uid", &[ON]);
    beside_a_watch(&server, async |pods| {
        until("the first watch", || server.watches() == 1).await?;
        type Mishap = fn(&ApiServer);
        let mishaps: [(&str, Mishap); 8] = [
            ("the server ends it", |server| server.end_watches()),
            ("an error in it: 410", |server| server.expire_watches()),
            ("it is refused: 410", |server| {
                server.fail_next("watch=1", Fault::Status(410, None));
                server.end_watches();
            }),
            ("the list is refused: 500", |server| {
                server.fail_next("limit=", Fault::Status(500, None));
                server.expire_watches();
            }),
            ("the list is no JSON", |server| {
                server.fail_next("limit=", Fault::Garbage);
                server.expire_watches();
            }),
            ("the watch is no JSON", |server| {
                server.fail_next("watch=1", Fault::Garbage);
                server.end_watches();
            }),
            ("the list has no end", |server| {
                server.fail_next("limit=", Fault::Endless);
                server.expire_watches();
            }),
            ("the connection is closed", |server| {
                server.fail_next("limit=", Fault::Close);
                server.expire_watches();
            }),
        ];
        for (number, (what, mishap)) in mishaps.into_iter().enumerate() {
            mishap(&server);
            until(what, || server.has_failed()).await?;
            assert!(pods.annotations(&pod("first", None)).await.is_ok(), "{what}");
            let name = format!("after-{number}");
            server.pod(NODE, "shop", &name, "uid", &[ON]);
            until(what, || pods.len() == number + 2).await?;
            until(what, || pods.stale().is_none() && server.watches() == 1).await?;
        }
        Ok(())
    })
}

#[test]
fn a_server_that_wants_to_be_left_alone_is() -> Result<()> {
    let server = ApiServer::local()?;
    server.fail_next("limit=", Fault::Status(429, Some(2)));
    let began = Instant::now();
    beside_a_watch(&server, async |pods| {
        until("the refusal", || server.asked().len() == 1).await?;
        until("the watch", || server.watches() == 1).await?;
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(server.asked().len(), 3, "{:?}", server.asked());
        assert_eq!(pods.stale(), None);
        Ok(())
    })
}

#[test]
fn a_server_that_is_away_changes_nothing() -> Result<()> {
    let server = ApiServer::local()?;
    server.pod(NODE, "shop", "first", "uid", &[ON]);
    beside_a_watch(&server, async |pods| {
        until("the watch", || server.watches() == 1).await?;
        server.away(true);
        until("it is noticed", || pods.stale().is_some()).await?;
        assert!(pods.annotations(&pod("first", Some("uid"))).await.is_ok());
        let began = Instant::now();
        let error = pods.annotations(&pod("unknown", None)).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(1) && error.contains("API server"), "{error}");
        server.pod(NODE, "shop", "second", "uid", &[ON]);
        server.away(false);
        until("it is back", || pods.len() == 2 && pods.stale().is_none()).await
    })
}

#[test]
fn a_token_that_was_rotated_is_read_again() -> Result<()> {
    let server = ApiServer::local()?;
    beside_a_watch(&server, async |pods| {
        until("the watch", || server.watches() == 1).await?;
        server.rotate_token(false)?;
        server.end_watches();
        until("it is noticed", || pods.stale().is_some_and(|why| why.contains("401"))).await?;
        server.tell_token()?;
        until("the new token", || pods.stale().is_none() && server.watches() == 1).await?;
        // The usual way: the new one is there before the old one ends.
        server.rotate_token(true)?;
        server.end_watches();
        until("the next token", || server.watches() == 1).await
    })
}

#[test]
fn a_ca_that_was_renewed_is_read_again_and_no_other_is_trusted() -> Result<()> {
    let server = ApiServer::local()?;
    beside_a_watch(&server, async |pods| {
        until("the watch", || server.watches() == 1).await?;
        let ca = server.rotate_ca()?;
        server.end_watches();
        until("it is noticed", || pods.stale().is_some_and(|why| why.contains("certificate"))).await?;
        let asked = server.asked().len();
        server.tell_ca(&ca)?;
        until("the new CA", || pods.stale().is_none() && server.watches() == 1).await?;
        assert!(server.asked().len() > asked);
        Ok(())
    })
}

#[test]
fn missing_and_broken_credentials_are_named_by_their_file() -> Result<()> {
    let server = ApiServer::local()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (file, text) in
        [("token", Some("a\nb")), ("ca.crt", Some("no certificate")), ("ca.crt", None), ("token", None)]
    {
        let folder = tempfile::tempdir()?;
        for name in ["token", "ca.crt"] {
            std::fs::copy(server.service_account().join(name), folder.path().join(name))?;
        }
        match text {
            Some(text) => std::fs::write(folder.path().join(file), text)?,
            None => std::fs::remove_file(folder.path().join(file))?,
        }
        let client = Client::new("127.0.0.1", server.address().port(), folder.path());
        let error = runtime.block_on(client.call(http::Call::get("/api/v1/nodes/x"))).unwrap_err();
        assert!(
            matches!(&error, ApiError::Credentials { path, .. } if path.ends_with(file)),
            "{file}: {error}"
        );
    }
    Ok(())
}

/// The longest wait of all: ten seconds without an answer.
#[test]
fn a_server_that_says_nothing_is_given_up() -> Result<()> {
    let server = ApiServer::local()?;
    let client = client(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    server.fail_next("nodes", Fault::Silence);
    let began = Instant::now();
    let error = runtime.block_on(client.call(http::Call::get("/api/v1/nodes/x"))).unwrap_err();
    assert!(matches!(error, ApiError::TimedOut), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn the_taint_is_kept_off_and_no_other() -> Result<()> {
    const TAINT: &str = "culvert.dev/agent-not-ready";
    let server = ApiServer::local()?;
    let client = client(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let other = json!({ "key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule" });
    server.node(
        NODE,
        json!([other, { "key": TAINT, "effect": "NoSchedule" }, { "key": TAINT, "effect": "NoExecute" }]),
    );
    server.conflicts(2);
    assert!(runtime.block_on(hold::release_once(&client, NODE, TAINT))?);
    assert_eq!(server.taints(NODE), json!([other]));
    assert!(!runtime.block_on(hold::release_once(&client, NODE, TAINT))?);
    server.node("bare", json!(null));
    assert!(!runtime.block_on(hold::release_once(&client, "bare", TAINT))?);
    assert!(runtime.block_on(hold::release_once(&client, "absent", TAINT)).is_err());

    // Away, then refused, then there.
    server.node(NODE, json!([{ "key": TAINT, "effect": "NoSchedule" }]));
    server.fail_next("nodes", Fault::Close);
    server.fail_next("nodes", Fault::Status(403, None));
    let is_ready = AtomicBool::new(true);
    let is_off = || server.taints(NODE) == json!([]);
    let ready = || std::future::ready(is_ready.load(Ordering::Relaxed));
    let keep = hold::keep_off(&client, NODE, TAINT, Duration::from_millis(50), ready);
    runtime.block_on(async {
        let put_back = async {
            until("the taint is off", is_off).await?;
            // As Karpenter does before a node is registered, and an operator at any time.
            for _ in 0..3 {
                server.node(NODE, json!([{ "key": TAINT, "effect": "NoSchedule" }]));
                until("it is off again", is_off).await?;
            }
            is_ready.store(false, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let ((), done) = tokio::time::timeout(3 * SOON, async { tokio::join!(keep, put_back) }).await?;
        done
    })?;
    assert!(hold::LOOK_EVERY < Duration::from_secs(30));
    let looks = server.asked();
    assert!(looks.iter().any(|asked| asked.path.ends_with("?resourceVersion=0")), "{looks:?}");
    Ok(())
}

#[test]
fn events_are_posted_and_tried_again_but_not_without_end() -> Result<()> {
    let server = ApiServer::local()?;
    let client = client(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (events, queue) = Events::new();
    let event = |name: &str, message: String| Event {
        regarding: Regarding::pod("shop".to_owned(), name.to_owned(), Some(format!("uid-of-{name}"))),
        reason: Reason::warning("RedirectRepaired"),
        message,
        at: SystemTime::UNIX_EPOCH,
    };
    server.fail_next("events", Fault::Status(500, None));
    server.fail_next("events", Fault::Close);
    events.hand_in(event("tried-again", "é".repeat(2000)));
    events.hand_in(event("plain", "put right".to_owned()));
    // Handing in an event never waits, however many there are.
    for _ in 0..1000 {
        events.hand_in(event("more", String::new()));
    }
    drop(events);
    runtime.block_on(async { tokio::time::timeout(SOON * 3, post(&client, &reporter(), queue)).await })?;
    let posted = server.events();
    assert!(posted.len() >= 100 && posted.len() <= 256, "{}", posted.len());
    assert_eq!(posted[0]["involvedObject"]["name"], "tried-again");
    assert!(
        posted[0]["message"].as_str().is_some_and(|message| message.len() <= 1024 && message.ends_with('…'))
    );
    assert_eq!(posted[1]["message"], "put right");
    assert_eq!(posted[1]["involvedObject"]["uid"], "uid-of-plain");
    assert_eq!(posted[1]["source"]["host"], NODE);
    assert_eq!(posted[1]["firstTimestamp"], "1970-01-01T00:00:00Z");

    // No right to: not tried again.
    let (events, queue) = Events::new();
    server.fail_next("events", Fault::Status(403, None));
    events.hand_in(event("refused", String::new()));
    drop(events);
    let before = server.asked().len();
    runtime.block_on(post(&client, &reporter(), queue));
    assert_eq!(server.asked().len(), before + 1);
    Ok(())
}
