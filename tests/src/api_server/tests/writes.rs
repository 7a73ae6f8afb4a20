// SPDX-License-Identifier: Apache-2.0
use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    DEFINITIONS, JSON_PATCH, MAPS, MERGE, MESHES, PODS, call, get, map, meshes, patch, read, refusal, send,
    server, version,
};

#[test]
fn a_new_object_gets_what_the_server_gives() -> Result<()> {
    let server = server()?;
    let (code, made) = send(&server, "POST", MAPS, &map("a", json!({ "x": "1", "none": null })))?;
    assert_eq!(
        (code, &made["metadata"]["namespace"], &made["data"]),
        (201, &json!("shop"), &json!({ "x": "1" }))
    );
    assert_eq!(made["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert!(made["metadata"]["creationTimestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(read(&server, &format!("{MAPS}/a"))?, made);
    let again = send(&server, "POST", MAPS, &map("a", json!({})))?;
    assert_eq!(refusal(&again), (409, "AlreadyExists"));

    let generated = json!({ "metadata": { "generateName": "web-" } });
    let name = |answer: (u16, Value)| answer.1["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (first, second) =
        (name(send(&server, "POST", MAPS, &generated)?), name(send(&server, "POST", MAPS, &generated)?));
    assert!(first.starts_with("web-") && second.starts_with("web-") && first != second, "{first} {second}");

    let (_, pod) = send(
        &server,
        "POST",
        PODS,
        &json!({ "metadata": { "name": "p" }, "status": { "phase": "Running" } }),
    )?;
    assert_eq!(pod["status"], json!({ "phase": "Pending" }), "the status is not the creator's");
    for (path, body, expected) in [
        (MAPS, json!({ "metadata": {} }), (422, "Invalid")),
        (MAPS, json!([]), (400, "BadRequest")),
        (
            MAPS,
            json!({ "kind": "Secret", "apiVersion": "v1", "metadata": { "name": "x" } }),
            (400, "BadRequest"),
        ),
        (MAPS, json!({ "metadata": { "name": "x", "namespace": "bank" } }), (400, "BadRequest")),
        (MAPS, json!({ "metadata": { "name": "x", "resourceVersion": "7" } }), (400, "BadRequest")),
        ("/api/v1/namespaces/nowhere/configmaps", json!({ "metadata": { "name": "x" } }), (404, "NotFound")),
        ("/api/v1/configmaps", json!({ "metadata": { "name": "x" } }), (405, "MethodNotAllowed")),
        ("/api/v1/namespaces/shop/nodes", json!({ "metadata": { "name": "x" } }), (405, "MethodNotAllowed")),
        ("/api/v1/namespaces/shop/unicorns", json!({ "metadata": { "name": "x" } }), (404, "NotFound")),
    ] {
        assert_eq!(refusal(&send(&server, "POST", path, &body)?), expected, "{path} {body}");
    }
    Ok(())
}

#[test]
fn a_put_replaces_the_version_that_it_names() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    let (_, first) = send(&server, "POST", MAPS, &map("a", json!({ "x": "1" })))?;
    let mut second = first.clone();
    second["data"]["x"] = "2".into();
    let (code, second) = send(&server, "PUT", &path, &second)?;
    assert_eq!(
        (code, &second["data"], &second["metadata"]["uid"]),
        (200, &json!({ "x": "2" }), &first["metadata"]["uid"])
    );
    assert_ne!(version(&second), version(&first));
    assert_eq!(refusal(&send(&server, "PUT", &path, &first)?), (409, "Conflict"));
    // Without a version the last one wins.
    let (code, third) = send(&server, "PUT", &path, &map("a", json!({ "y": "3" })))?;
    assert_eq!((code, &third["data"]), (200, &json!({ "y": "3" })));
    // A write that changes nothing is none.
    let (code, same) = send(&server, "PUT", &path, &third)?;
    assert_eq!((code, version(&same)), (200, version(&third)));
    let mut other = third.clone();
    other["metadata"]["uid"] = "another".into();
    assert_eq!(refusal(&send(&server, "PUT", &path, &other)?), (409, "Conflict"));
    assert_eq!(refusal(&send(&server, "PUT", &path, &map("b", json!({})))?), (400, "BadRequest"));
    assert_eq!(
        refusal(&send(&server, "PUT", &format!("{MAPS}/b"), &map("b", json!({})))?),
        (404, "NotFound")
    );
    // Leases want the version.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";
    let lease = json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "a" } });
    let (code, made) = send(&server, "POST", leases, &lease)?;
    assert_eq!(code, 201);
    assert_eq!(refusal(&send(&server, "PUT", &format!("{leases}/l"), &lease)?), (422, "Invalid"));
    let mut taken = made;
    taken["spec"]["holderIdentity"] = "b".into();
    assert_eq!(send(&server, "PUT", &format!("{leases}/l"), &taken)?.0, 200);
    assert_eq!(refusal(&send(&server, "PUT", &format!("{leases}/l"), &taken)?), (409, "Conflict"));
    Ok(())
}

#[test]
fn patches_of_each_kind_change_what_they_say_or_nothing() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    server.put(&path, map("a", json!({ "x": "1", "y": "2" })));
    let merge = json!({ "data": { "x": null, "z": "3" }, "metadata": { "labels": { "a/b": "c" } } });
    let (code, merged) = patch(&server, MERGE, &path, &merge)?;
    assert_eq!((code, &merged["data"]), (200, &json!({ "y": "2", "z": "3" })));
    let strategic = json!({ "data": { "w": "4" } });
    assert_eq!(
        patch(&server, "application/strategic-merge-patch+json", &path, &strategic)?.1["data"]["w"],
        "4"
    );
    let steps = json!([
        { "op": "test", "path": "/data/y", "value": "2" },
        { "op": "replace", "path": "/data/y", "value": "5" },
        { "op": "remove", "path": "/metadata/labels/a~1b" },
        { "op": "add", "path": "/data/list", "value": [1, 3] },
        { "op": "add", "path": "/data/list/1", "value": 2 },
        { "op": "add", "path": "/data/list/-", "value": 4 },
        { "op": "remove", "path": "/data/list/0" },
        { "op": "copy", "from": "/data/y", "path": "/data/copied" },
        { "op": "move", "from": "/data/w", "path": "/data/moved" },
    ]);
    let (code, stepped) = patch(&server, JSON_PATCH, &path, &steps)?;
    let expected = json!({ "y": "5", "z": "3", "list": [2, 3, 4], "copied": "5", "moved": "4" });
    assert_eq!((code, &stepped["data"], &stepped["metadata"]["labels"]), (200, &expected, &json!({})));
    for step in [
        json!({ "op": "test", "path": "/data/y", "value": "6" }),
        json!({ "op": "replace", "path": "/data/absent", "value": "6" }),
        json!({ "op": "remove", "path": "/data/list/9" }),
        json!({ "op": "add", "path": "/absent/x", "value": 1 }),
        json!({ "op": "add", "path": "/data/list/9", "value": 1 }),
        json!({ "op": "fly", "path": "/data" }),
        json!({ "op": "add", "path": "/data/x" }),
    ] {
        let steps = json!([{ "op": "replace", "path": "/data/z", "value": "changed" }, step]);
        assert_eq!(refusal(&patch(&server, JSON_PATCH, &path, &steps)?), (422, "Invalid"), "{step}");
    }
    assert_eq!(read(&server, &path)?, stepped);
    let old = json!({ "metadata": { "resourceVersion": version(&merged) }, "data": { "y": "7" } });
    assert_eq!(refusal(&patch(&server, MERGE, &path, &old)?), (409, "Conflict"));
    assert_eq!(refusal(&patch(&server, "text/plain", &path, &json!({}))?), (415, "UnsupportedMediaType"));
    assert_eq!(refusal(&patch(&server, MERGE, &format!("{MAPS}/b"), &json!({}))?), (404, "NotFound"));
    Ok(())
}

#[test]
fn a_status_is_written_by_its_own_path_alone() -> Result<()> {
    let server = meshes()?;
    let path = format!("{MESHES}/default");
    let status = |word: &str| json!({ "word": word });
    let object = |spec: &str, word: &str| json!({ "metadata": { "name": "default" }, "spec": { "s": spec }, "status": status(word) });
    let (code, made) = send(&server, "POST", MESHES, &object("1", "mine"))?;
    assert_eq!((code, &made["status"], &made["metadata"]["generation"]), (201, &Value::Null, &json!(1)));
    let with_version = |mut object: Value, of: &Value| {
        object["metadata"]["resourceVersion"] = version(of).into();
        object
    };
    let (code, told) =
        send(&server, "PUT", &format!("{path}/status"), &with_version(object("2", "told"), &made))?;
    assert_eq!(
        (code, &told["spec"]["s"], &told["status"], &told["metadata"]["generation"]),
        (200, &json!("1"), &status("told"), &json!(1))
    );
    let (code, changed) = send(&server, "PUT", &path, &with_version(object("2", "mine"), &told))?;
    assert_eq!(
        (code, &changed["spec"]["s"], &changed["status"], &changed["metadata"]["generation"]),
        (200, &json!("2"), &status("told"), &json!(2))
    );
    let (_, patched) = patch(
        &server,
        MERGE,
        &format!("{path}/status"),
        &json!({ "spec": { "s": "3" }, "status": status("patched") }),
    )?;
    assert_eq!((&patched["spec"]["s"], &patched["status"]), (&json!("2"), &status("patched")));
    assert_eq!(patch(&server, MERGE, &path, &json!({ "status": status("mine") }))?.1, patched);
    // A custom resource is not replaced without its version; a pod is.
    assert_eq!(refusal(&send(&server, "PUT", &path, &object("4", "x"))?), (422, "Invalid"));
    server.put(&format!("{PODS}/web"), json!({ "status": { "phase": "Pending" } }));
    let (_, pod) =
        patch(&server, MERGE, &format!("{PODS}/web/status"), &json!({ "status": { "phase": "Running" } }))?;
    assert_eq!(pod["status"]["phase"], "Running");
    // ConfigMaps have none.
    server.put(&format!("{MAPS}/a"), map("a", json!({})));
    assert_eq!(refusal(&patch(&server, MERGE, &format!("{MAPS}/a/status"), &json!({}))?), (404, "NotFound"));
    Ok(())
}

#[test]
fn an_object_goes_by_its_preconditions_and_its_finalizers() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    let delete = |options: &Value| send(&server, "DELETE", &path, options);
    server.put(&path, map("a", json!({})));
    let there = read(&server, &path)?;
    for preconditions in [json!({ "uid": "another" }), json!({ "resourceVersion": "1" })] {
        assert_eq!(refusal(&delete(&json!({ "preconditions": preconditions }))?), (409, "Conflict"));
    }
    let fitting = json!({ "uid": there["metadata"]["uid"], "resourceVersion": version(&there) });
    let (code, success) = delete(&json!({ "preconditions": fitting }))?;
    assert_eq!(
        (code, &success["status"], &success["details"]["name"]),
        (200, &json!("Success"), &json!("a"))
    );
    assert_eq!(refusal(&call(&server, "DELETE", &path, "", "")?), (404, "NotFound"));

    let mut held = map("a", json!({}));
    held["metadata"]["finalizers"] = json!(["culvert.dev/x"]);
    server.put(&path, held);
    let (code, dying) = delete(&Value::Null)?;
    assert_eq!(code, 200);
    assert!(dying["metadata"]["deletionTimestamp"].is_string(), "{dying}");
    assert_eq!(read(&server, &path)?, dying);
    assert_eq!(patch(&server, MERGE, &path, &json!({ "metadata": { "finalizers": null } }))?.0, 200);
    assert_eq!(get(&server, &path)?.0, 404);
    // A namespace takes what is in it along.
    server.put(&path, map("a", json!({})));
    assert_eq!(call(&server, "DELETE", "/api/v1/namespaces/shop", "", "")?.0, 200);
    assert_eq!(server.get(&path), None);
    assert_eq!(refusal(&call(&server, "DELETE", MAPS, "", "")?), (405, "MethodNotAllowed"));
    Ok(())
}

#[test]
fn a_dry_run_is_answered_and_writes_nothing() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    assert_eq!(send(&server, "POST", &format!("{MAPS}?dryRun=All"), &map("a", json!({})))?.0, 201);
    assert_eq!(server.get(&path), None);
    server.put(&path, map("a", json!({ "x": "1" })));
    let before = server.get(&path).context("it")?;
    let dry = format!("{path}?dryRun=All");
    assert_eq!(patch(&server, MERGE, &dry, &json!({ "data": { "x": "2" } }))?.1["data"]["x"], "2");
    assert_eq!(call(&server, "DELETE", &dry, "", "")?.0, 200);
    assert_eq!(server.get(&path), Some(before));
    let crd = super::definition("kuma.io", "meshes", "Mesh", "Cluster");
    assert_eq!(send(&server, "POST", &format!("{DEFINITIONS}?dryRun=All"), &crd)?.0, 201);
    assert_eq!(get(&server, MESHES)?.0, 404);
    Ok(())
}
