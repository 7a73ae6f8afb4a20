// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    DEFINITIONS, MESHES, PODS, call, definition, get, map, names, read, refusal, send, server, version,
};
use crate::api_server::encode;

#[test]
fn a_list_comes_in_pages_of_one_version() -> Result<()> {
    let server = server()?;
    for number in 0..7 {
        server.pod("n", "shop", &format!("web-{number}"), &format!("uid-{number}"), &[]);
    }
    let first = read(&server, &format!("{PODS}?limit=3"))?;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["web-0", "web-1", "web-2"], &json!(4))
    );
    // What comes and goes in between does not move what is still to come.
    server.delete_pod("shop", "web-0");
    server.pod("n", "shop", "a-new-one", "uid", &[]);
    let token = |list: &Value| list["metadata"]["continue"].as_str().unwrap_or_default().replace('/', "%2F");
    let second = read(&server, &format!("{PODS}?limit=3&continue={}", token(&first)))?;
    assert_eq!(names(&second), ["web-3", "web-4", "web-5"]);
    let third = read(&server, &format!("{PODS}?limit=3&continue={}", token(&second)))?;
    assert_eq!((names(&third), token(&third)), (vec!["web-6"], String::new()));
    assert_eq!((version(&second), version(&third)), (version(&first), version(&first)));
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("PodList"), &json!("v1")));
    server.forget();
    let stale = get(&server, &format!("{PODS}?limit=3&continue={}", token(&first)))?;
    assert_eq!(refusal(&stale), (410, "Expired"));
    assert_eq!(refusal(&get(&server, &format!("{PODS}?continue=x"))?), (400, "BadRequest"));
    Ok(())
}

#[test]
fn ten_thousand_pods_are_listed_in_pages_of_500_and_each_once() -> Result<()> {
    let server = server()?;
    let began = Instant::now();
    for number in 0..10_000 {
        server.pod("n", "shop", &format!("web-{number}"), &format!("uid-{number}"), &[]);
    }
    let (mut seen, mut pages, mut token) = (BTreeSet::new(), 0, String::new());
    loop {
        let page = read(&server, &format!("/api/v1/pods?limit=500{token}"))?;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        pages += 1;
        let Some(next) = page["metadata"]["continue"].as_str() else { break };
        token = format!("&continue={}", next.replace('/', "%2F"));
    }
    assert_eq!((seen.len(), pages), (10_000, 20));
    // Far from what it takes, so that it only fails where the cost of one grows with all.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn a_list_is_not_older_than_asked_for() -> Result<()> {
    let server = server()?;
    let now: u64 = version(&read(&server, PODS)?).parse()?;
    for (query, expected) in [
        ("resourceVersion=0".to_owned(), 200),
        (format!("resourceVersion={now}"), 200),
        ("resourceVersion=5&resourceVersionMatch=NotOlderThan".to_owned(), 200),
        ("resourceVersion=5&resourceVersionMatch=Exact".to_owned(), 410),
        (format!("resourceVersion={}", now + 1000), 504),
    ] {
        assert_eq!(get(&server, &format!("{PODS}?{query}"))?.0, expected, "{query}");
    }
    Ok(())
}

#[test]
fn an_object_is_whole_in_part_or_absent() -> Result<()> {
    let server = server()?;
    server.pod("n", "shop", "web", "uid", &[("a", "b")]);
    let whole = read(&server, &format!("{PODS}/web"))?;
    assert_eq!((&whole["kind"], &whole["spec"]["nodeName"]), (&json!("Pod"), &json!("n")));
    assert_eq!(read(&server, &format!("{PODS}/web/status"))?, whole);
    let accept = "accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1\r\n";
    let (_, part) = call(&server, "GET", &format!("{PODS}/web"), accept, "")?;
    assert_eq!(
        part,
        json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": whole["metadata"] })
    );
    let (_, list) = call(&server, "GET", PODS, &accept.replace("Metadata;", "MetadataList;"), "")?;
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("PartialObjectMetadataList"), &part));
    // Items of Kubernetes' own kinds do not repeat kind and version, those of others do.
    let items = read(&server, PODS)?;
    assert_eq!((&items["items"][0]["kind"], &items["items"][0]["spec"]), (&Value::Null, &whole["spec"]));

    let absent = get(&server, &format!("{PODS}/nowhere"))?;
    assert_eq!(refusal(&absent), (404, "NotFound"));
    assert_eq!(absent.1["message"], r#"pods "nowhere" not found"#);
    assert_eq!(absent.1["details"]["name"], "nowhere");
    for path in
        ["/api/v1/unicorns", "/apis/example.com/v1/things", "/api/v1/namespaces/shop/pods/web/log", "/x"]
    {
        assert_eq!(refusal(&get(&server, path)?), (404, "NotFound"), "{path}");
    }
    Ok(())
}

#[test]
fn what_is_served_is_told_and_a_definition_adds_to_it() -> Result<()> {
    let server = server()?;
    let kinds = |path: &str| {
        let (code, list) = get(&server, path)?;
        let resources = list["resources"].as_array().cloned().unwrap_or_default();
        let names = resources.iter().filter_map(|resource| resource["name"].as_str().map(str::to_owned));
        anyhow::Ok((code, names.collect::<Vec<_>>()))
    };
    assert_eq!(read(&server, "/version")?["gitVersion"], "v1.36.2");
    server.is_version("1.37.0");
    let told = read(&server, "/version")?;
    assert_eq!((&told["gitVersion"], &told["minor"]), (&json!("v1.37.0"), &json!("37")));
    assert_eq!(read(&server, "/api")?["versions"], json!(["v1"]));
    assert!(kinds("/api/v1")?.1.contains(&"pods/status".to_owned()));
    let groups = || {
        let groups = read(&server, "/apis")?["groups"].clone();
        let groups = groups.as_array().context("groups")?.iter().map(|group| group["name"].to_string());
        anyhow::Ok(groups.collect::<Vec<_>>().join(" "))
    };
    assert!(groups()?.contains("coordination.k8s.io") && !groups()?.contains("kuma.io"));

    assert_eq!(kinds("/apis/kuma.io/v1alpha1")?.0, 404);
    assert_eq!(get(&server, "/apis/kuma.io")?.0, 404);
    assert_eq!(get(&server, MESHES)?.0, 404);
    let (code, made) =
        send(&server, "POST", DEFINITIONS, &definition("kuma.io", "meshes", "Mesh", "Cluster"))?;
    assert_eq!((code, &made["status"]), (201, &Value::Null), "it is not established at that moment");
    let there = read(&server, &format!("{DEFINITIONS}/meshes.kuma.io"))?;
    assert_eq!(there["status"]["conditions"][1]["type"], "Established");
    assert_eq!(there["status"]["conditions"][1]["status"], "True");
    assert_eq!(there["status"]["storedVersions"], json!(["v1alpha1"]));
    assert_eq!(kinds("/apis/kuma.io/v1alpha1")?.1, ["meshes", "meshes/status"]);
    assert_eq!(read(&server, "/apis/kuma.io")?["preferredVersion"]["groupVersion"], "kuma.io/v1alpha1");
    assert!(groups()?.contains("kuma.io"));
    server.put(&format!("{MESHES}/default"), json!({ "spec": {} }));
    let list = read(&server, MESHES)?;
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("MeshList"), &json!("Mesh")));
    // The objects go with their definition.
    assert_eq!(call(&server, "DELETE", &format!("{DEFINITIONS}/meshes.kuma.io"), "", "")?.0, 200);
    assert_eq!((get(&server, MESHES)?.0, server.get(&format!("{MESHES}/default"))), (404, None));

    assert_eq!(kinds("/apis/certificates.k8s.io/v1")?.0, 404);
    server.serve("certificates.k8s.io/v1", "podcertificaterequests", "PodCertificateRequest", true);
    assert_eq!(kinds("/apis/certificates.k8s.io/v1")?.1[0], "podcertificaterequests");
    server.stop_serving("certificates.k8s.io/v1", "podcertificaterequests");
    assert_eq!(kinds("/apis/certificates.k8s.io/v1")?.0, 404);
    Ok(())
}

#[test]
fn the_tests_side_sees_and_changes_the_same_objects() -> Result<()> {
    let server = server()?;
    let path = "/api/v1/namespaces/shop/configmaps/settings";
    server.put(path, map("settings", json!({ "a": "1" })));
    assert_eq!(read(&server, path)?["data"], json!({ "a": "1" }));
    let before = server.get(path).context("it")?;
    server.put(path, map("settings", json!({ "a": "2" })));
    let after = server.get(path).context("it")?;
    let after_version = version(&after);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(
        (after["metadata"]["generation"].clone(), server.list("/api/v1/configmaps")),
        (json!(2), vec![after])
    );
    let mut written = map("settings", json!({ "a": "2" }));
    written["metadata"] =
        json!({ "name": "settings", "namespace": "shop", "resourceVersion": after_version });
    assert_eq!(server.object_at(path), Some(written));
    server.remove(path);
    assert_eq!((get(&server, path)?.0, server.get(path)), (404, None));
    // A status that a client wrote survives what a test writes without one.
    server.put(&format!("{PODS}/web"), json!({ "spec": { "a": 1 }, "status": { "phase": "Running" } }));
    server.put(&format!("{PODS}/web"), json!({ "spec": { "a": 2 } }));
    assert_eq!(server.get(&format!("{PODS}/web")).context("it")?["status"]["phase"], "Running");
    server.delete_namespace("shop");
    assert_eq!(server.get(&format!("{PODS}/web")), None);
    Ok(())
}

#[test]
fn times_are_of_the_calendar() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_799, "2000-02-29T23:59:59Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (1_772_323_200, "2026-03-01T00:00:00Z"),
    ] {
        assert_eq!(encode::at(seconds), expected);
    }
}
