// SPDX-License-Identifier: Apache-2.0
use anyhow::Result;
use serde_json::json;

use super::{PODS, get, names, read, refusal, server};

#[test]
fn each_selector_selects_what_it_says() -> Result<()> {
    let server = server()?;
    server.namespace("bank", &[], &[]);
    for (namespace, name, labels, node, phase) in [
        ("shop", "web", json!({ "app": "web", "tier": "front" }), "n1", "Running"),
        ("shop", "db", json!({ "app": "db" }), "n2", "Pending"),
        ("shop", "bare", json!({}), "n2", "Running"),
        ("bank", "web", json!({ "app": "web" }), "n1", "Running"),
    ] {
        server.put(
            &format!("/api/v1/namespaces/{namespace}/pods/{name}"),
            json!({ "metadata": { "labels": labels }, "spec": { "nodeName": node }, "status": { "phase": phase } }),
        );
    }
    for (query, expected) in [
        ("labelSelector=app%3Dweb", &["web"][..]),
        ("labelSelector=app%3D%3Dweb", &["web"]),
        ("labelSelector=app!%3Dweb", &["bare", "db"]),
        ("labelSelector=app+in+(web,+db)", &["db", "web"]),
        ("labelSelector=app%20notin%20(web)", &["bare", "db"]),
        ("labelSelector=app", &["db", "web"]),
        ("labelSelector=!app", &["bare"]),
        ("labelSelector=app+in+(web,db),tier", &["web"]),
        ("labelSelector=app%3Dweb,!tier", &[]),
        ("labelSelector=", &["bare", "db", "web"]),
        ("fieldSelector=metadata.name%3Ddb", &["db"]),
        ("fieldSelector=metadata.namespace%3Dbank", &[]),
        ("fieldSelector=spec.nodeName%3D%3Dn2", &["bare", "db"]),
        ("fieldSelector=status.phase!%3DRunning", &["db"]),
        ("fieldSelector=spec.nodeName%3Dn2,status.phase%3DRunning", &["bare"]),
        ("fieldSelector=spec.nodeName%3Dn2&labelSelector=app", &["db"]),
    ] {
        assert_eq!(names(&read(&server, &format!("{PODS}?{query}"))?), expected, "{query}");
    }
    let all = read(&server, "/api/v1/pods?labelSelector=app%3Dweb")?;
    assert_eq!(names(&all), ["web", "web"]);
    assert_eq!(all["items"][0]["metadata"]["namespace"], "bank");
    for query in [
        "labelSelector=a%20b",
        "labelSelector=a+in+(b",
        "labelSelector=a+of+(b)",
        "fieldSelector=spec.x%3Da",
        "fieldSelector=x",
    ] {
        assert_eq!(refusal(&get(&server, &format!("{PODS}?{query}"))?), (400, "BadRequest"), "{query}");
    }
    Ok(())
}
