// SPDX-License-Identifier: Apache-2.0
//! Objects that the leader writes into the cluster.

use anyhow::{Context, Result};
use culvert_tests::api_server::Fault;
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use serde_json::{Value, json};

use super::{Cluster, SOON};

#[test]
fn an_empty_cluster_gets_its_kinds_its_mesh_and_its_authorities() -> Result<()> {
    let cluster = Cluster::new()?;
    let _controller = cluster.controller(&[])?;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/meshes.kuma.io";
    until_some(SOON, || cluster.server.get(crd)).context("no kinds")?;
    let mesh = until_some(SOON, || cluster.server.get("/apis/kuma.io/v1alpha1/meshes/default"))
        .context("no Mesh")?;
    assert_eq!(mesh["spec"]["mtls"]["backends"][0]["mode"], "PERMISSIVE");
    let holds = |key: &str, text: &str| {
        cluster.map("shop").is_some_and(|map| map["data"][key].as_str().is_some_and(|has| has.contains(text)))
    };
    eventually!(holds("ca.crt", "BEGIN CERTIFICATE") && holds("mesh.yaml", "PERMISSIVE"), SOON);
    assert_eq!(cluster.map("plain"), None, "a namespace that asks for nothing gets nothing");
    // A namespace that is onboarded later gets its own, and loses it again.
    cluster.server.namespace("plain", &[("culvert.dev/inject", "enabled")], &[]);
    eventually!(cluster.map("plain").is_some(), SOON);
    cluster.server.namespace("plain", &[], &[]);
    eventually!(cluster.map("plain").is_none(), SOON);
    Ok(())
}

#[test]
fn kinds_that_come_late_bring_their_mesh() -> Result<()> {
    let cluster = Cluster::new()?;
    // The leader finds no kind Mesh at first, and makes the kinds 5 s later.
    cluster.server.fail_next("/customresourcedefinitions", Fault::Status(500, None));
    let controller = cluster.controller(&[])?;
    let failed = |line: &str| line.contains("no kind Mesh").then_some(());
    controller.process.stderr().wait_for(SOON, failed).context("the leader does not miss the kind")?;
    let mesh = || cluster.server.get("/apis/kuma.io/v1alpha1/meshes/default");
    // A watch of a kind that is missing looks again after 30 s at most.
    until_some(2 * SOON, mesh).context("no Mesh")?;
    Ok(())
}

#[test]
fn a_mesh_that_is_deleted_does_not_come_back() -> Result<()> {
    let cluster = Cluster::new()?;
    let _controller = cluster.controller(&[])?;
    let mesh = "/apis/kuma.io/v1alpha1/meshes/default";
    until_some(SOON, || cluster.server.get(mesh)).context("no Mesh")?;
    // The leader notes it once: one that was STRICT must not come back as PERMISSIVE.
    let lease = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/culvert-controller";
    let noted =
        || cluster.server.get(lease).is_some_and(|lease| lease["metadata"]["annotations"].is_object());
    eventually!(noted(), SOON);
    cluster.server.remove(mesh);
    // The map is written after the leader has looked for a Mesh, and has none to tell any more.
    eventually!(cluster.map("shop").is_some_and(|map| map["data"]["mesh.yaml"].is_null()), SOON);
    assert!(cluster.map("shop").is_some_and(|map| map["data"]["ca.crt"].is_string()));
    assert_eq!(cluster.server.get(mesh), None);
    Ok(())
}

#[test]
fn a_map_that_a_user_wrote_keeps_its_documents() -> Result<()> {
    let cluster = Cluster::new()?;
    let map = json!({ "metadata": { "name": "culvert-mesh", "namespace": "shop" }, "data": { "mine.yaml": "a: b" } });
    cluster.server.put("/api/v1/namespaces/shop/configmaps/culvert-mesh", map);
    let _controller = cluster.controller(&[])?;
    eventually!(cluster.map("shop").is_some_and(|map| map["data"]["ca.crt"].is_string()), SOON);
    let map = cluster.map("shop").context("no map")?;
    assert_eq!((&map["data"]["mine.yaml"], &map["data"]["mesh.yaml"]), (&json!("a: b"), &Value::Null));
    Ok(())
}

#[test]
fn an_invalid_document_is_told_so_and_stops_no_other() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let controller = cluster.controller(&["--crds", "always"])?;
    let policy = |name: &str, mode: &str| {
        json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "MeshPassthrough",
                "metadata": { "name": name, "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
                "spec": { "default": { "passthroughMode": mode } } })
    };
    let at = |name: &str| format!("/apis/kuma.io/v1alpha1/namespaces/shop/meshpassthroughs/{name}");
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/meshpassthroughs.kuma.io";
    until_some(SOON, || cluster.server.get(crd)).context("no kinds")?;
    cluster.document("meshpassthroughs", &policy("good", "None"));
    cluster.document("meshpassthroughs", &policy("bad", "Sometimes"));
    let told = |name: &str| {
        let object = cluster.server.get(&at(name))?;
        let condition = object["status"]["conditions"].get(0)?.clone();
        Some((condition["status"].as_str()?.to_owned(), condition["message"].as_str()?.to_owned()))
    };
    eventually!(told("good").is_some_and(|(status, _)| status == "True"), SOON);
    eventually!(
        told("bad").is_some_and(|(status, words)| status == "False" && words.contains("Sometimes")),
        SOON
    );
    assert_eq!(controller.metric("culvert_controller_invalid_documents")?, 1.0);
    // The last good content stays in force for those who come now, too.
    cluster.document("meshpassthroughs", &policy("good", "Never"));
    eventually!(told("good").is_some_and(|(status, _)| status == "False"), SOON);
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    let found = culvert_tests::control::documents(&stream.response()?)?;
    let good = found.iter().find(|(name, _)| name == "MeshPassthrough/shop/good").context("it is gone")?;
    assert_eq!(good.1["spec"]["default"]["passthroughMode"], "None");
    assert!(found.iter().all(|(name, _)| name != "MeshPassthrough/shop/bad"));
    Ok(())
}
