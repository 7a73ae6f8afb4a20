//! Requests of HTTP as the admin tells of them: routes and their times, failures in words, members, a page in a browser.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::Behaviour;
use culvert_tests::{Sidecar, eventually};
use serde_json::Value;
use socket2::SockRef;

use crate::documents::SOON;
use crate::http_clients::browser::dom;
use crate::http_ports::{GET, Way, World, rest};

/// Time that a slow answer takes, and the time that documents leave one.
const SLOW: Duration = Duration::from_millis(300);
const TIMES: &str = "{type: MeshTimeout, name: t, spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 900ms}}}], \
                     from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 900ms}}}]}}\n---\n\
                     {type: Dataplane, name: friend, networking: {address: 10.77.0.1, inbound: [{port: 1, tags: {kuma.io/service: friend}}]}}\n";

/// An application whose answer depends on the path. Each answer ends its connection.
fn moody() -> impl Behaviour {
    |mut stream: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let status = match path {
            "/closes" => return Ok(()),
            "/late" => return stream.read_to_end(&mut Vec::new()).map(|_| ()),
            "/slow" => {
                // The client says nothing more, so this takes all the time.
                stream.set_read_timeout(Some(SLOW))?;
                let waited = stream.read(&mut [0]);
                if waited.is_ok() {
                    return Ok(());
                }
                200
            }
            path if path.starts_with("/bad/") => 503,
            path if path.starts_with("/lost/") => 404,
            _ => 200,
        };
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    }
}

/// The whole answer to a request on a connection of its own.
fn ask(world: &World, way: Way, target: &str) -> Result<String> {
    let mut client = world.connect(way)?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer hush\r\nCookie: hush\r\nConnection: close\r\n\r\n"
    );
    client.write_all(request.as_bytes())?;
    rest(&mut client)
}

/// Drives requests that end in every way.
fn drive(world: &World, way: Way) -> Result<()> {
    for number in 0..20 {
        ask(world, way, &format!("/users/{number}?token=hush"))?;
    }
    for (target, status) in
        [("/bad/1?token=hush", 503), ("/bad/2", 503), ("/lost/7", 404), ("/slow", 200), ("/late", 504)]
    {
        let answer = ask(world, way, target)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{way:?} {target}: {answer}");
    }
    ensure!(ask(world, way, "/closes")?.is_empty(), "{way:?}: the client hears what the server said");
    let mut client = world.connect(way)?;
    client.write_all(b"GET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")?;
    ensure!(rest(&mut client)?.starts_with("HTTP/1.1 400 "), "{way:?}");
    Ok(())
}

fn requests(sidecar: &Sidecar<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&sidecar.admin("/requests")?.body)?)
}

/// Finds the failure of a path, or of bytes that were no request.
fn failure(all: &Value, way: Way, path: &str) -> Option<Value> {
    let is = |one: &&Value| one["direction"] == way.name() && one["path"] == path;
    all["failures"].as_array()?.iter().find(is).cloned()
}

fn route(all: &Value, way: Way, path: &str) -> Option<Value> {
    let is = |one: &&Value| one["direction"] == way.name() && one["path"] == path && one["method"] == "GET";
    all["routes"].as_array()?.iter().find(is).cloned()
}

/// A request whose client leaves before the answer.
fn leave(world: &World, sidecar: &Sidecar<'_>, way: Way) -> Result<()> {
    let mut client = world.connect(way)?;
    client.write_all(b"GET /late HTTP/1.1\r\nHost: shop\r\n\r\n")?;
    let active = format!("http.{}.downstream_rq_active: 1\n", prefix(way));
    eventually!(sidecar.admin("/stats").is_ok_and(|stats| stats.body.contains(&active)), SOON);
    // FIN alone would be a half-close: the client may wait for its answer.
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    let left = format!("http.{}.downstream_rq_rx_reset: 1\n", prefix(way));
    eventually!(sidecar.admin("/stats").is_ok_and(|stats| stats.body.contains(&left)), SOON);
    Ok(())
}

fn prefix(way: Way) -> &'static str {
    match way {
        Way::Inbound => "localhost_8080",
        Way::Outbound => "web",
    }
}

#[test]
fn routes_have_their_times_and_each_failure_is_told_in_words() -> Result<()> {
    let world = World::new()?;
    fs::write(world.folder.join("policy.yaml"), TIMES)?;
    let sidecar = world.sidecar(&[])?;
    for (way, peer, cluster, server) in [
        (Way::Inbound, "friend", "localhost:8080", "the application"),
        (Way::Outbound, "web", "web", "the server"),
    ] {
        let _server = world.serve(way, moody())?;
        drive(&world, way)?;
        leave(&world, &sidecar, way)?;
        let mut all = Value::Null;
        eventually!(
            {
                all = requests(&sidecar).unwrap_or_default();
                route(&all, way, "/late").is_some_and(|late| late["requests"] == 2)
            },
            SOON
        );
        let users = route(&all, way, "/users/*").with_context(|| format!("{all}"))?;
        assert_eq!(
            (&users["requests"], &users["failed"], &users["cluster"]),
            (&20.into(), &0.into(), &cluster.into())
        );
        assert_eq!(users["statuses"], serde_json::json!({"2xx": 20}));
        let slow = route(&all, way, "/slow").context("no slow route")?;
        ensure!(slow["p99"].as_f64().is_some_and(|p99| (300.0..900.0).contains(&p99)), "{slow}");
        ensure!(users["p50"].as_f64() < slow["p50"].as_f64(), "{users} {slow}");
        assert_eq!(route(&all, way, "/lost/*").context("no lost route")?["failed"], 0, "404 is an answer");
        for (path, status, why) in [
            ("/bad/2", 503.into(), format!("{server} answered 503")),
            ("/closes", Value::Null, format!("{server} closed the connection before it answered")),
            // Bytes that break a rule have no path.
            (
                "",
                400.into(),
                "it broke a rule of HTTP, two_hosts: the request has two Host fields".to_owned(),
            ),
        ] {
            let found = failure(&all, way, path).with_context(|| format!("{path}: {all}"))?;
            assert_eq!(
                (&found["status"], &found["why"], &found["peer"]),
                (&status, &why.into(), &peer.into()),
                "{path}"
            );
        }
        let bad = failure(&all, way, "/bad/2").context("no failure")?;
        assert_eq!(
            (&bad["count"], &bad["authority"], &bad["method"]),
            (&2.into(), &"shop".into(), &"GET".into())
        );
        let late: Vec<_> = all["failures"].as_array().context("no failures")?.iter().collect();
        let late = late.iter().filter(|one| one["path"] == "/late" && one["direction"] == way.name());
        let why: Vec<_> = late.map(|one| one["why"].as_str().unwrap_or_default()).collect();
        assert_eq!(
            why,
            [
                "the client went away before the answer",
                "the answer was not whole within requestTimeout, 900ms"
            ]
        );
        let page = sidecar.metrics()?;
        for (class, count) in [("2xx", 21), ("4xx", 2), ("5xx", 3)] {
            let line = format!(
                "culvert_http_member_requests_total{{direction=\"{}\",member=\"{peer}\",class=\"{class}\"}} {count}\n",
                way.name()
            );
            ensure!(page.contains(&line), "{line}: {page}");
        }
    }
    for page in ["/requests", "/overview"] {
        let text = sidecar.admin(page)?.body;
        ensure!(!text.contains("hush") && !text.contains("token"), "{page} has a secret: {text}");
    }
    in_a_browser(&world)
}

/// The page draws what the JSON says, with no script or style from elsewhere.
fn in_a_browser(world: &World) -> Result<()> {
    let more = ["--enable-logging=stderr", "--virtual-time-budget=3000"];
    let dom = dom(world, Way::Outbound, "http://127.0.0.1:9901/", &more)?;
    for part in [
        "data-state=\"live\"",
        "<td class=\"path\">GET /users/*</td>",
        "<td class=\"wrap\">the application answered 503</td>",
        "<td class=\"path\">GET shop/bad/2</td>",
        "that ended in the last ",
    ] {
        ensure!(dom.contains(part), "{part} is not in the page: {dom}");
    }
    ensure!(!dom.contains("<div id=\"http\" hidden") && !dom.contains("Content Security Policy"), "{dom}");
    Ok(())
}

#[test]
fn a_rule_that_answered_is_told_by_its_document() -> Result<()> {
    for (policy, status, why) in [
        (
            "{type: MeshFaultInjection, name: f, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 418, percentage: 100}}]}}]}}",
            418,
            "MeshFaultInjection f aborted it",
        ),
        (
            "{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, interval: 1h}}}}}]}}",
            429,
            "it was above the rate of requests, 1 in 3600s, of MeshRateLimit r",
        ),
        (
            "{type: MeshTimeout, name: t, spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 1h}}}]}}",
            503,
            "10.77.0.2:8080 refused the connection",
        ),
    ] {
        let world = World::new()?;
        fs::write(world.folder.join("policy.yaml"), policy)?;
        let sidecar = world.sidecar(&[])?;
        let server = if status == 503 { None } else { Some(world.serve(Way::Inbound, moody())?) };
        for _ in 0..2 {
            ask(&world, Way::Inbound, "/a/1")?;
        }
        drop(server);
        let mut found = None;
        eventually!(
            {
                found = requests(&sidecar).ok().and_then(|all| failure(&all, Way::Inbound, "/a/1"));
                found.is_some()
            },
            SOON
        );
        let found = found.context("no failure")?;
        ensure!(
            found["status"] == status && found["why"].as_str().is_some_and(|words| words.contains(why)),
            "{policy}: {found}"
        );
    }
    Ok(())
}

#[test]
fn a_pod_without_a_port_of_http_has_no_part_of_it_on_its_page() -> Result<()> {
    let world = World::new()?;
    world.speaks("tcp")?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, moody())?;
    let mut client = world.connect(Way::Inbound)?;
    client.write_all(GET.as_bytes())?;
    ensure!(rest(&mut client)?.starts_with("HTTP/1.1 200 "), "relayed as bytes");
    let overview: Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
    assert_eq!(overview["requests"], Value::Null);
    assert_eq!(requests(&sidecar)?["routes_total"], 0);
    Ok(())
}
