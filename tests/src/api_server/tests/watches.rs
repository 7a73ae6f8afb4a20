// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{MAPS, PODS, Watch, get, map, read, refusal, server, version};
use crate::eventually;
use crate::until::DEADLINE;

#[test]
fn a_watch_brings_each_change_after_its_version() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "before", "1", &[]);
    let list = read(&server, PODS)?;
    server.pod("n", "shop", "missed", "2", &[]);
    server.pod("n", "bank", "elsewhere", "3", &[]);
    let query = format!("watch=1&resourceVersion={}", version(&list));
    let mut watch = Watch::open(&server, &format!("{PODS}?{query}"))?;
    assert_eq!(watch.some(1)?, ["ADDED missed"]);
    let mut all = Watch::open(&server, &format!("/api/v1/pods?{query}"))?;
    assert_eq!(all.some(2)?, ["ADDED missed", "ADDED elsewhere"]);
    eventually!(server.watches() == 2, DEADLINE);
    server.put(&format!("{MAPS}/other-kind"), map("other-kind", json!({})));
    server.pod("n", "shop", "before", "1", &[("a", "b")]);
    let (kind, object) = watch.next()?.context("an event")?;
    assert_eq!((kind.as_str(), &object["metadata"]["annotations"]["a"]), ("MODIFIED", &json!("b")));
    let modified = version(&object);
    server.delete_pod("shop", "before");
    let (kind, object) = watch.next()?.context("an event")?;
    assert_eq!((kind.as_str(), &object["metadata"]["annotations"]["a"]), ("DELETED", &json!("b")));
    assert!(version(&object).parse::<u64>()? > modified.parse::<u64>()?, "the version of the deletion");
    assert_eq!(all.some(2)?, ["MODIFIED before", "DELETED before"]);
    assert_eq!((server.watches_of("pods"), server.watches_of("configmaps")), (2, 0));
    drop(watch);
    server.pod("n", "shop", "more", "4", &[]);
    eventually!(server.watches_of("pods") == 1, DEADLINE);
    Ok(())
}

#[test]
fn an_object_comes_to_a_selector_and_leaves_it() -> Result<()> {
    let server = server()?;
    let put = |name: &str, label: &str, data: &str| {
        let mut object = map(name, json!({ "x": data }));
        object["metadata"]["labels"] = json!({ "on": label });
        server.put(&format!("{MAPS}/{name}"), object);
    };
    put("a", "no", "1");
    let query = format!("watch=1&labelSelector=on%3Dyes&resourceVersion={}", version(&read(&server, MAPS)?));
    let mut watch = Watch::open(&server, &format!("{MAPS}?{query}"))?;
    eventually!(server.watches() == 1, DEADLINE);
    put("a", "no", "2");
    put("a", "yes", "3");
    put("a", "yes", "4");
    put("a", "no", "5");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (kind, object) = watch.next()?.context("an event")?;
        seen.push(format!("{kind} {}", object["data"]["x"]));
    }
    // It leaves as it was.
    assert_eq!(seen, [r#"ADDED "3""#, r#"MODIFIED "4""#, r#"DELETED "4""#]);
    put("a", "yes", "6");
    server.remove(&format!("{MAPS}/a"));
    assert_eq!(watch.some(2)?, ["ADDED a", "DELETED a"]);
    // The same for a watch that comes later.
    let mut later = Watch::open(&server, &format!("{MAPS}?{query}"))?;
    assert_eq!(later.some(5)?, ["ADDED a", "MODIFIED a", "DELETED a", "ADDED a", "DELETED a"]);
    Ok(())
}

#[test]
fn a_watch_without_a_version_begins_with_all_objects() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "a", "1", &[]);
    server.pod("n", "shop", "b", "2", &[]);
    for query in ["watch=1", "watch=true&resourceVersion=0"] {
        assert_eq!(
            Watch::open(&server, &format!("{PODS}?{query}"))?.some(2)?,
            ["ADDED a", "ADDED b"],
            "{query}"
        );
    }
    let initial = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true";
    let mut watch = Watch::open(&server, &format!("{PODS}?{initial}&resourceVersionMatch=NotOlderThan"))?;
    assert_eq!(watch.some(2)?, ["ADDED a", "ADDED b"]);
    let (kind, end) = watch.next()?.context("the end of the list")?;
    let annotation = &end["metadata"]["annotations"]["k8s.io/initial-events-end"];
    assert_eq!((kind.as_str(), annotation), ("BOOKMARK", &json!("true")));
    assert_eq!(refusal(&get(&server, &format!("{PODS}?{initial}"))?), (422, "Invalid"));
    Ok(())
}

#[test]
fn bookmarks_come_to_those_who_take_them() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "a", "1", &[]);
    let from = version(&read(&server, PODS)?);
    let query = format!("watch=1&resourceVersion={from}");
    let mut plain = Watch::open(&server, &format!("{PODS}?{query}"))?;
    let mut marked = Watch::open(&server, &format!("{PODS}?{query}&allowWatchBookmarks=true"))?;
    let (kind, first) = marked.next()?.context("a bookmark")?;
    assert_eq!((kind.as_str(), version(&first), &first["kind"]), ("BOOKMARK", from, &json!("Pod")));
    // A change of another kind moves the version on.
    server.put(&format!("{MAPS}/a"), map("a", json!({})));
    let now = version(&server.get(&format!("{MAPS}/a")).context("it")?);
    eventually!(server.watches() == 2, DEADLINE);
    server.bookmark();
    assert_eq!(version(&marked.next()?.context("a bookmark")?.1), now);
    server.pod("n", "shop", "b", "1", &[]);
    assert_eq!(plain.some(1)?, ["ADDED b"]);
    Ok(())
}

#[test]
fn a_watch_ends_after_its_time_with_a_bookmark() -> Result<()> {
    let server = server()?;
    let query = format!("watch=1&timeoutSeconds=1&resourceVersion={}", version(&read(&server, PODS)?));
    let began = Instant::now();
    let mut plain = Watch::open(&server, &format!("{PODS}?{query}"))?;
    let mut marked = Watch::open(&server, &format!("{PODS}?{query}&allowWatchBookmarks=true"))?;
    assert_eq!(marked.some(1)?, ["BOOKMARK -"]);
    server.put(&format!("{MAPS}/a"), map("a", json!({})));
    let (kind, last) = marked.next()?.context("the last bookmark")?;
    let now = version(&server.get(&format!("{MAPS}/a")).context("it")?);
    assert_eq!((kind.as_str(), version(&last)), ("BOOKMARK", now));
    assert!(marked.next()?.is_none() && plain.next()?.is_none());
    assert!(began.elapsed() >= Duration::from_secs(1));
    Ok(())
}

#[test]
fn a_forgotten_version_is_gone_as_an_answer_and_as_an_event() -> Result<()> {
    let server = server()?;
    let query = format!("{PODS}?watch=1&resourceVersion={}", version(&read(&server, PODS)?));
    let mut open = Watch::open(&server, &query)?;
    eventually!(server.watches() == 1, DEADLINE);
    server.expire_watches();
    let (kind, status) = open.next()?.context("an event")?;
    assert_eq!((kind.as_str(), refusal(&(410, status))), ("ERROR", (410, "Expired")));
    assert!(open.next()?.is_none());
    assert_eq!(refusal(&get(&server, &query)?), (410, "Expired"));
    let now = version(&read(&server, PODS)?);
    let _open = Watch::open(&server, &format!("{PODS}?watch=1&resourceVersion={now}"))?;
    server.forget();
    assert_eq!(refusal(&get(&server, &format!("{PODS}?watch=1&resourceVersion={now}"))?), (410, "Expired"));
    let future = format!("{PODS}?watch=1&resourceVersion=999999");
    assert_eq!(refusal(&get(&server, &future)?), (504, "Timeout"));
    assert_eq!(refusal(&get(&server, &format!("{PODS}?watch=1&resourceVersion=x"))?), (400, "BadRequest"));
    Ok(())
}

#[test]
fn a_watch_of_metadata_brings_metadata_alone() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "a", "1", &[]);
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut watch = Watch::accepting(&server, &format!("{PODS}?watch=1"), accept)?;
    let (_, object) = watch.next()?.context("an event")?;
    assert_eq!((&object["kind"], &object["spec"]), (&json!("PartialObjectMetadata"), &json!(null)));
    eventually!(server.watches() == 1, DEADLINE);
    server.expire_watches();
    assert_eq!(watch.next()?.context("an event")?.1["kind"], "Status", "an error is whole");
    assert!(watch.rest().is_empty() || server.watches() == 0);
    Ok(())
}
