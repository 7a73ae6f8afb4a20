// SPDX-License-Identifier: Apache-2.0
//! Events on documents and pods, and the age of what no sidecar answers.

use anyhow::{Context, Result};
use culvert_control::DOCUMENT;
use culvert_control::messages::{DeltaDiscoveryRequest, Status};
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use serde_json::{Value, json};

use super::{Cluster, SOON};

impl Cluster {
    /// The events with this reason.
    fn events(&self, reason: &str) -> Vec<Value> {
        self.server.events().into_iter().filter(|event| event["reason"] == reason).collect()
    }

    /// Waits for the first event with this reason.
    fn event(&self, reason: &str) -> Result<Value> {
        until_some(SOON, || self.events(reason).pop()).with_context(|| format!("no {reason}"))
    }
}

fn answer(nonce: &str, wrong: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: DOCUMENT.to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail: wrong.map(|words| Status { code: 3, message: words.to_owned() }),
        ..Default::default()
    }
}

#[test]
fn a_document_says_that_it_is_invalid_and_that_it_is_valid_again() -> Result<()> {
    let cluster = Cluster::new()?;
    let _controller = cluster.controller(&["--crds", "always"])?;
    for kind in ["meshpassthroughs", "meshes"] {
        let crd = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.kuma.io");
        until_some(SOON, || cluster.server.get(&crd)).context("no kinds")?;
    }
    let policy = |mode: &str| {
        json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "MeshPassthrough",
                "metadata": { "name": "bad", "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
                "spec": { "default": { "passthroughMode": mode } } })
    };
    cluster.document("meshpassthroughs", &policy("Sometimes"));
    let event = cluster.event("DocumentInvalid")?;
    let about = &event["involvedObject"];
    assert_eq!((&about["kind"], &about["name"]), (&json!("MeshPassthrough"), &json!("bad")));
    assert_eq!((&about["namespace"], &event["metadata"]["namespace"]), (&json!("shop"), &json!("shop")));
    assert_eq!(
        (&event["type"], &event["reportingComponent"]),
        (&json!("Warning"), &json!("culvert.dev/controller"))
    );
    assert!(event["message"].as_str().is_some_and(|words| words.contains("Sometimes")), "{event}");
    cluster.document("meshpassthroughs", &policy("None"));
    let event = cluster.event("DocumentValid")?;
    assert_eq!((&event["type"], &event["involvedObject"]["name"]), (&json!("Normal"), &json!("bad")));
    // One of the whole cluster has its event where Kubernetes wants it.
    let mesh = json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "other" },
                       "spec": { "networking": { "outbound": { "passthrough": "maybe" } } } });
    cluster.document("meshes", &mesh);
    eventually!(cluster.events("DocumentInvalid").len() == 2, SOON);
    let event = cluster.events("DocumentInvalid").pop().context("no event")?;
    assert_eq!(
        (&event["metadata"]["namespace"], &event["involvedObject"]["namespace"]),
        (&json!("default"), &Value::Null)
    );
    // A document that was valid from the first on is no news.
    assert_eq!(cluster.events("DocumentValid").len(), 1);
    Ok(())
}

#[test]
fn a_pod_says_that_its_sidecar_refuses_documents() -> Result<()> {
    let cluster = Cluster::new()?;
    for (name, ip) in [("web", "10.0.0.1"), ("db", "10.0.0.2")] {
        cluster.member("shop", name, ip, name);
    }
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    let nonce = stream.response()?.nonce;
    stream.send(&answer(&nonce, Some("Mesh default:\u{1b}[2J found \"maybe\"")))?;
    let event = cluster.event("DocumentsRefused")?;
    let about = &event["involvedObject"];
    assert_eq!(
        (&about["kind"], &about["name"], &about["uid"]),
        (&json!("Pod"), &json!("web"), &json!("uid-web"))
    );
    let words = event["message"].as_str().unwrap_or_default();
    assert!(words.contains("found \"maybe\"") && !words.contains('\u{1b}'), "{words}");
    // It chooses its words, and has one event all the same. Others have theirs.
    for n in 0..50 {
        stream.send(&answer(&nonce, Some(&format!("other words {n}"))))?;
    }
    eventually!(controller.metric("culvert_controller_nacks_total").is_ok_and(|count| count == 51.0), SOON);
    let mut other = connection.stream(Some("token-db"))?;
    other.ask_documents()?;
    let nonce = other.response()?.nonce;
    other.send(&answer(&nonce, Some("no")))?;
    let of_db = || cluster.events("DocumentsRefused").iter().any(|one| one["involvedObject"]["name"] == "db");
    eventually!(of_db(), SOON);
    assert_eq!(cluster.events("DocumentsRefused").len(), 2);
    Ok(())
}

#[test]
fn a_response_that_no_sidecar_answers_has_an_age() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let controller = cluster.controller(&[])?;
    let age = || controller.metric("culvert_controller_oldest_unacknowledged_seconds");
    assert_eq!(age()?, 0.0);
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    let mut nonce = stream.response()?.nonce;
    eventually!(age().is_ok_and(|age| age > 0.1), SOON);
    // An answer ends it; another one may be on its way, such as that with the first Mesh.
    stream.send(&answer(&nonce, None))?;
    let is_over = || {
        while let Ok(Some(next)) = stream.next(std::time::Duration::from_millis(10)) {
            nonce = next.nonce;
            stream.send(&answer(&nonce, None)).ok()?;
        }
        (age().ok()? == 0.0).then_some(())
    };
    until_some(SOON, is_over).context("it is never over")?;
    // One that waits goes with its stream.
    stream.ask_destinations(&["10.0.0.1:8080"])?;
    eventually!(age().is_ok_and(|age| age > 0.0), SOON);
    drop(stream);
    drop(connection);
    eventually!(age().is_ok_and(|age| age == 0.0), SOON);
    Ok(())
}
