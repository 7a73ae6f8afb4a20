// SPDX-License-Identifier: Apache-2.0
use anyhow::Result;
use serde_json::{Value, json};

use super::{APPLY, MAPS, MERGE, MESHES, call, map, meshes, patch, read, refusal, server, version};
use crate::api_server::ApiServer;

fn apply(server: &ApiServer, path: &str, manager: &str, rest: &str, object: &Value) -> Result<(u16, Value)> {
    patch(server, APPLY, &format!("{path}?fieldManager={manager}{rest}"), object)
}

/// The managers of an object, as `name operation part`.
fn managers(object: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = |entry: &Value| {
        format!("{} {} {}", text(&entry["manager"]), text(&entry["operation"]), text(&entry["subresource"]))
    };
    entries.iter().map(words).map(|words| words.trim().to_owned()).collect()
}

#[test]
fn applying_creates_changes_and_takes_away_what_was_applied() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    let (code, made) = apply(&server, &path, "us", "", &map("a", json!({ "x": "1", "y": "1" })))?;
    assert_eq!(
        (code, &made["data"], managers(&made)),
        (201, &json!({ "x": "1", "y": "1" }), vec!["us Apply".to_owned()])
    );
    let owned = json!({ "f:data": { "f:x": {}, "f:y": {} } });
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"], owned);
    // The same again is no write.
    let (code, same) = apply(&server, &path, "us", "", &map("a", json!({ "x": "1", "y": "1" })))?;
    assert_eq!((code, same), (200, made));
    // Others' fields stay, one's own go.
    patch(&server, MERGE, &path, &json!({ "data": { "theirs": "1" } }))?;
    let (_, changed) = apply(&server, &path, "us", "", &map("a", json!({ "x": "2" })))?;
    assert_eq!(changed["data"], json!({ "x": "2", "theirs": "1" }));
    assert_eq!(managers(&changed), ["us Apply", "tester Update"]);
    let yaml = "apiVersion: v1\nkind: ConfigMap\ndata:\n  x: \"3\"\n";
    let header = format!("content-type: {APPLY}\r\n");
    let (code, by_yaml) = call(&server, "PATCH", &format!("{path}?fieldManager=us"), &header, yaml)?;
    assert_eq!((code, &by_yaml["data"]["x"]), (200, &json!("3")));
    Ok(())
}

#[test]
fn another_managers_field_is_refused_unless_forced() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    server.put(&path, map("a", json!({ "x": "1", "y": "1" })));
    let conflict = apply(&server, &path, "us", "", &map("a", json!({ "x": "2", "z": "1" })))?;
    assert_eq!(refusal(&conflict), (409, "Conflict"));
    assert_eq!(
        conflict.1["message"],
        r#"Apply failed with 1 conflict: conflict with "test" using v1: .data.x"#
    );
    let cause = &conflict.1["details"]["causes"][0];
    assert_eq!((&cause["reason"], &cause["field"]), (&json!("FieldManagerConflict"), &json!(".data.x")));
    assert_eq!(read(&server, &path)?["data"], json!({ "x": "1", "y": "1" }));
    // The same value is owned by both, and stays when one lets it go.
    let (code, _) = apply(&server, &path, "us", "", &map("a", json!({ "x": "1" })))?;
    assert_eq!(code, 200);
    assert_eq!(apply(&server, &path, "us", "", &map("a", json!({ "z": "1" })))?.1["data"]["x"], "1");
    let (code, forced) = apply(&server, &path, "us", "&force=true", &map("a", json!({ "x": "2" })))?;
    assert_eq!((code, &forced["data"]), (200, &json!({ "x": "2", "y": "1" })));
    // It is ours now, also against those who only apply.
    assert_eq!(apply(&server, &path, "they", "", &map("a", json!({ "x": "3" })))?.0, 409);
    // An update takes ownership without a word.
    patch(&server, MERGE, &path, &json!({ "data": { "x": "4" } }))?;
    assert_eq!(apply(&server, &path, "us", "", &map("a", json!({ "x": "2" })))?.0, 409);
    Ok(())
}

#[test]
fn an_apply_names_its_manager_its_kind_and_the_version_that_is_there() -> Result<()> {
    let server = server()?;
    let path = format!("{MAPS}/a");
    assert_eq!(refusal(&patch(&server, APPLY, &path, &map("a", json!({})))?), (422, "Invalid"));
    assert_eq!(refusal(&apply(&server, &path, "us", "", &json!({ "data": {} }))?), (400, "BadRequest"));
    assert_eq!(refusal(&apply(&server, &path, "us", "", &map("b", json!({})))?), (400, "BadRequest"));
    let mut managed = map("a", json!({}));
    managed["metadata"]["managedFields"] = json!([{ "manager": "x" }]);
    assert_eq!(refusal(&apply(&server, &path, "us", "", &managed)?), (400, "BadRequest"));
    let elsewhere = "/api/v1/namespaces/nowhere/configmaps/a";
    assert_eq!(refusal(&apply(&server, elsewhere, "us", "", &map("a", json!({})))?), (404, "NotFound"));

    let (_, made) = apply(&server, &path, "us", "", &map("a", json!({ "x": "1" })))?;
    let mut versioned = map("a", json!({ "x": "2" }));
    versioned["metadata"]["resourceVersion"] = version(&made).into();
    assert_eq!(apply(&server, &path, "us", "", &versioned)?.0, 200);
    assert_eq!(refusal(&apply(&server, &path, "us", "", &versioned)?), (409, "Conflict"));
    Ok(())
}

#[test]
fn conditions_of_two_managers_stand_side_by_side() -> Result<()> {
    let server = meshes()?;
    let path = format!("{MESHES}/default/status");
    server.put(&format!("{MESHES}/default"), json!({ "spec": { "ports": [1] } }));
    let status = |kinds: &[(&str, &str)]| {
        let conditions: Vec<Value> =
            kinds.iter().map(|(kind, status)| json!({ "type": kind, "status": status })).collect();
        json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "spec": { "ports": [9] }, "status": { "conditions": conditions } })
    };
    let conditions = |object: &Value| {
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|one| format!("{}={}", one["type"], one["status"]))
            .collect::<Vec<_>>()
            .join(" ")
            .replace('"', "")
    };
    let (_, one) = apply(&server, &path, "us", "", &status(&[("Accepted", "True"), ("Ready", "True")]))?;
    assert_eq!(
        (conditions(&one), &one["spec"]["ports"]),
        ("Accepted=True Ready=True".to_owned(), &json!([1]))
    );
    let (_, two) = apply(&server, &path, "they", "", &status(&[("Seen", "True")]))?;
    assert_eq!(conditions(&two), "Accepted=True Ready=True Seen=True");
    assert_eq!(managers(&two), ["test Update", "us Apply status", "they Apply status"]);
    let (_, less) = apply(&server, &path, "us", "", &status(&[("Accepted", "False")]))?;
    assert_eq!(conditions(&less), "Accepted=False Seen=True");
    let conflict = apply(&server, &path, "they", "", &status(&[("Accepted", "True")]))?;
    assert_eq!(refusal(&conflict), (409, "Conflict"));
    let field = &conflict.1["details"]["causes"][0]["field"];
    assert_eq!(field, r#".status.conditions[type="Accepted"].status"#);

    // A set has each manager's items, a list without keys is one field, and the status is no business of the object's path.
    let path = format!("{MESHES}/default");
    let spec =
        |spec: Value| json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "spec": spec, "status": {} });
    let (_, both) =
        apply(&server, &path, "us", "", &spec(json!({ "ports": [2, 3], "backends": [{ "a": 1 }] })))?;
    assert_eq!(
        (&both["spec"]["ports"], conditions(&both)),
        (&json!([1, 2, 3]), "Accepted=False Seen=True".to_owned())
    );
    let (_, fewer) =
        apply(&server, &path, "us", "", &spec(json!({ "ports": [3], "backends": [{ "b": 1 }] })))?;
    assert_eq!(fewer["spec"], json!({ "ports": [1, 3], "backends": [{ "b": 1 }] }));
    assert_eq!(apply(&server, &path, "they", "", &spec(json!({ "backends": [] })))?.0, 409);
    let absent = format!("{MESHES}/absent/status");
    assert_eq!(refusal(&apply(&server, &absent, "us", "", &status(&[]))?), (404, "NotFound"));
    Ok(())
}
