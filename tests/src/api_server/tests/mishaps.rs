// SPDX-License-Identifier: Apache-2.0
use std::io::{Read, Write};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    MAPS, MERGE, PODS, Watch, call, connect, get, map, patch, read, refusal, request, send, server, version,
};
use crate::api_server::Fault;
use crate::eventually;
use crate::http;
use crate::until::DEADLINE;

#[test]
fn requests_are_kept_with_their_bodies() -> Result<()> {
    let server = server()?;
    send(&server, "POST", MAPS, &map("a", json!({ "x": "1" })))?;
    call(&server, "GET", &format!("{MAPS}/a?resourceVersion=0"), "accept: application/json\r\n", "")?;
    let asked = server.requests();
    let words: Vec<String> = asked.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(words, [format!("POST {MAPS}"), format!("GET {MAPS}/a?resourceVersion=0")]);
    assert_eq!((&asked[0].body["data"]["x"], asked[1].body.is_null()), (&json!("1"), true));
    assert_eq!(
        (asked[0].user_agent.as_str(), asked[1].accept.as_str()),
        ("tester/1.0 (linux)", "application/json")
    );
    // Events too, also in a namespace that no test has made.
    let event = json!({ "metadata": { "generateName": "e-" }, "message": "well" });
    for path in ["/api/v1/namespaces/nowhere/events", "/apis/events.k8s.io/v1/namespaces/nowhere/events"] {
        assert_eq!(send(&server, "POST", path, &event)?.0, 201);
    }
    assert_eq!((server.events().len(), &server.events()[1]["message"]), (2, &json!("well")));
    Ok(())
}

#[test]
fn a_fault_happens_once_to_the_path_that_it_is_for() -> Result<()> {
    let server = server()?;
    server.fail_next("/pods", Fault::Status(503, Some(7)));
    read(&server, MAPS)?;
    let answer = http::exchange(connect(&server)?, request(&server, "GET", PODS, "", "")?.as_bytes())?;
    assert_eq!(answer.status, 503);
    ensure!(
        answer.headers.contains("retry-after: 7") && answer.body.contains("ServiceUnavailable"),
        "{answer:?}"
    );
    assert!(server.has_failed());
    read(&server, PODS)?;
    server.fail_next("/pods", Fault::Close);
    ensure!(get(&server, PODS).is_err(), "it was not closed");
    server.fail_next("/pods", Fault::Garbage);
    ensure!(get(&server, PODS).is_err_and(|error| format!("{error:#}").contains("<html>")));
    server.node("n", json!([]));
    server.conflicts(1);
    let node = server.get("/api/v1/nodes/n").unwrap_or_default();
    let taint =
        json!({ "metadata": { "resourceVersion": version(&node) }, "spec": { "taints": [{ "key": "a" }] } });
    assert_eq!(refusal(&patch(&server, MERGE, "/api/v1/nodes/n", &taint)?), (409, "Conflict"));
    let version = version(&server.get("/api/v1/nodes/n").unwrap_or_default());
    let taint = json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": [{ "key": "a" }] } });
    assert_eq!(patch(&server, MERGE, "/api/v1/nodes/n", &taint)?.0, 200);
    assert_eq!(server.taints("n"), json!([{ "key": "a" }]));
    Ok(())
}

#[test]
fn a_server_that_goes_away_ends_what_is_open_and_comes_back_with_its_objects() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "web", "1", &[]);
    let mut watch = Watch::open(&server, &format!("{PODS}?watch=1"))?;
    assert_eq!(watch.some(1)?, ["ADDED web"]);
    // One that is idle, as a client keeps it for its next request.
    let mut idle = connect(&server)?;
    idle.write_all(request(&server, "GET", PODS, "", "")?.replace("connection: close\r\n", "").as_bytes())?;
    let mut byte = [0];
    idle.read_exact(&mut byte)?;
    server.go_away();
    assert!(watch.next()?.is_none());
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest);
    let again = idle.write_all(request(&server, "GET", PODS, "", "")?.as_bytes()).and_then(|()| idle.flush());
    ensure!(
        again.is_err() || matches!(idle.read(&mut byte), Ok(0) | Err(_)),
        "the idle connection was served"
    );
    ensure!(get(&server, PODS).is_err(), "it is there");
    server.come_back();
    assert_eq!(super::names(&read(&server, PODS)?), ["web"]);
    assert_eq!(server.watches(), 0);
    Ok(())
}

#[test]
fn watches_end_all_at_once_and_go_on_from_their_version() -> Result<()> {
    let server = server()?;
    let from = version(&read(&server, PODS)?);
    let query = format!("{PODS}?watch=1&resourceVersion={from}");
    let mut watch = Watch::open(&server, &query)?;
    eventually!(server.watches() == 1, DEADLINE);
    server.end_watches();
    assert!(watch.next()?.is_none());
    server.pod("n", "shop", "web", "1", &[]);
    assert_eq!(Watch::open(&server, &query)?.some(1)?, ["ADDED web"]);
    Ok(())
}

#[test]
fn another_token_is_refused() -> Result<()> {
    let server = server()?;
    server.rotate_token(false)?;
    assert_eq!(refusal(&get(&server, PODS)?), (401, "Unauthorized"));
    assert!(server.requests().is_empty());
    server.tell_token()?;
    read(&server, PODS)?;
    Ok(())
}
