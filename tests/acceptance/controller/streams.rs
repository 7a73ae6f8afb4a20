// SPDX-License-Identifier: Apache-2.0
//! Documents and destinations by stream, as the cluster changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_control::DESTINATION;
use culvert_tests::control::{Status, Stream, destinations, documents};
use culvert_tests::eventually;
use serde_json::{Value, json};

use super::{Cluster, SOON, path};

/// Long enough for a change that would come wrongly, on a quiet machine; the tests that use it pass without it too.
const NOTHING: Duration = Duration::from_millis(300);

/// Documents that the stream holds after a change that satisfies the test.
fn until(stream: &mut Stream<'_>, is: impl Fn(&[(String, Value)]) -> bool) -> Result<Vec<(String, Value)>> {
    loop {
        let response = stream.next(SOON)?.context("no such change")?;
        let found = documents(&response)?;
        if is(&found) {
            return Ok(found);
        }
    }
}

fn named<'a>(documents: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    documents.iter().find(|(one, _)| one == name).map(|(_, document)| document)
}

#[test]
fn a_pod_is_told_of_itself_and_of_changes_that_concern_it() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.member("shop", "db", "10.0.0.2", "db");
    cluster.service("shop", "web", "10.96.0.1", &[("web", true)]);
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    let found = until(&mut stream, |found| named(found, "Dataplane/shop/web").is_some())?;
    let own = named(&found, "Dataplane/shop/web").context("no Dataplane")?;
    assert_eq!(own["spec"]["networking"]["address"], "10.0.0.1");
    let inbound = &own["spec"]["networking"]["inbound"];
    assert_eq!(inbound.as_array().map(Vec::len), Some(1), "the sidecar's own port is none: {inbound}");
    assert_eq!((&inbound[0]["port"], &inbound[0]["name"]), (&json!(8080), &json!("http")));
    assert_eq!(inbound[0]["tags"]["kuma.io/service"], "web_shop_svc_80");
    assert_eq!(inbound[0]["tags"]["kuma.io/protocol"], "http");
    assert_eq!(inbound[0]["tags"]["app"], "web");
    assert_eq!(own["metadata"]["labels"]["k8s.kuma.io/service-account"], "web");
    // The first Mesh is made by the leader, which may be before or after the first answer.
    if named(&found, "Mesh/default").is_none() {
        until(&mut stream, |found| named(found, "Mesh/default").is_some())?;
    }
    // A policy about another pod, then one about this one: only the second comes.
    let policy = |name: &str, app: &str| {
        json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "MeshPassthrough",
                "metadata": { "name": name, "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
                "spec": { "targetRef": { "kind": "Dataplane", "labels": { "app": app } },
                          "default": { "passthroughMode": "None" } } })
    };
    cluster.document("meshpassthroughs", &policy("for-db", "db"));
    cluster.document("meshpassthroughs", &policy("for-web", "web"));
    let found = until(&mut stream, |found| named(found, "MeshPassthrough/shop/for-web").is_some())?;
    assert!(named(&found, "MeshPassthrough/shop/for-db").is_none());
    // It goes, and the stream says so.
    cluster.server.remove("/apis/kuma.io/v1alpha1/namespaces/shop/meshpassthroughs/for-web");
    let response = stream.next(SOON)?.context("nothing is removed")?;
    assert_eq!(response.removed_resources, ["MeshPassthrough/shop/for-web"]);
    // Another pod changes: nothing comes.
    cluster.member("shop", "db", "10.0.0.3", "db");
    assert_eq!(stream.next(NOTHING)?, None);
    assert_eq!(controller.metric("culvert_controller_sidecars{image=\"culvert:1\"}")?, 1.0);
    drop(connection);
    eventually!(
        controller.metric("culvert_controller_sidecars{image=\"culvert:1\"}").is_ok_and(|now| now == 0.0),
        SOON
    );
    Ok(())
}

#[test]
fn a_destination_is_answered_and_followed() -> Result<()> {
    let cluster = Cluster::new()?;
    for (name, ip, app) in
        [("web", "10.0.0.1", "web"), ("db-0", "10.0.0.2", "db"), ("db-1", "10.0.0.3", "db")]
    {
        cluster.member("shop", name, ip, app);
    }
    cluster.outsider("plain", "cron", "10.0.0.9", "cron");
    cluster.service("shop", "db", "10.96.0.2", &[("db-0", true), ("db-1", false)]);
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    let asked = ["10.0.0.2:8080", "10.96.0.2:80", "10.96.0.2:81", "10.0.0.9:80", "192.0.2.1:443"];
    stream.ask_destinations(&asked)?;
    let answer = destinations(&stream.response()?)?;
    assert_eq!(answer.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), asked);
    let names = |at: usize| answer[at].1.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!(names(0), ["Dataplane/shop/db-0"]);
    assert_eq!(names(1), ["MeshService/shop/db", "Dataplane/shop/db-0"], "the other one is not ready");
    for (name, documents) in &answer[2..] {
        assert!(documents.is_empty(), "{name}");
    }
    let service = &answer[1].1[0].1;
    assert_eq!(service["status"]["vips"], json!([{ "ip": "10.96.0.2" }]));
    assert_eq!(service["spec"]["ports"], json!([{ "port": 80, "name": "http", "targetPort": "http" }]));
    let id = "spiffe://cluster.local/ns/shop/sa/db";
    assert_eq!(service["spec"]["identities"], json!([{ "type": "SpiffeID", "value": id }]));
    // The other one becomes ready: the Service's callers hear of it, and those of the pod's own address do not.
    cluster.endpoints("shop", "db", &[("db-0", true), ("db-1", true)]);
    let change = destinations(&stream.response()?)?;
    assert_eq!((change.len(), change[0].0.as_str(), change[0].1.len()), (1, "10.96.0.2:80", 3));
    // A pod goes, and its address is another one's.
    cluster.server.remove(&path("shop", "db-0"));
    cluster.outsider("plain", "other", "10.0.0.2", "other");
    let mut gone = false;
    while !gone {
        let change = destinations(&stream.next(SOON)?.context("it is not told")?)?;
        gone = change.iter().any(|(name, documents)| name == "10.0.0.2:8080" && documents.is_empty());
    }
    Ok(())
}

#[test]
fn a_service_that_is_onboarded_by_half_is_left_to_kubernetes_unless_the_mesh_is_strict() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.member("shop", "db-0", "10.0.0.2", "db");
    cluster.outsider("shop", "db-1", "10.0.0.3", "db");
    cluster.service("shop", "db", "10.96.0.2", &[("db-0", true), ("db-1", true)]);
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    stream.response()?;
    stream.ask_destinations(&["10.96.0.2:80"])?;
    assert!(destinations(&stream.response()?)?[0].1.is_empty());
    for (mode, documents) in [("STRICT", 2), ("PERMISSIVE", 0)] {
        let backend = json!({ "name": "culvert", "type": "builtin", "mode": mode });
        let mesh = json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
                           "spec": { "mtls": { "enabledBackend": "culvert", "backends": [backend] } } });
        cluster.document("meshes", &mesh);
        // Told without being asked again, after the Mesh.
        let told = loop {
            let response = stream.response()?;
            if response.type_url == DESTINATION {
                break destinations(&response)?;
            }
        };
        assert_eq!(told[0].1.len(), documents, "{mode}");
    }
    Ok(())
}

#[test]
fn calls_without_a_good_token_are_turned_away() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.outsider("plain", "cron", "10.0.0.9", "cron");
    let controller = cluster.controller(&[])?;
    let token = |name: &str, change: &dyn Fn(&mut culvert_tests::api_server::TokenOf)| {
        let mut of = culvert_tests::api_server::TokenOf {
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            pod_uid: "uid-web".to_owned(),
            account: "web".to_owned(),
            node: "node-1".to_owned(),
            audiences: vec!["culvert.dev".to_owned()],
        };
        change(&mut of);
        cluster.server.register_token(name, of);
    };
    token("audience", &|of| of.audiences = vec!["https://kubernetes.default.svc".to_owned()]);
    token("account", &|of| of.account = "db".to_owned());
    token("outsider", &|of| {
        (of.namespace, of.pod, of.pod_uid, of.account) =
            ("plain".to_owned(), "cron".to_owned(), "uid-cron".to_owned(), "cron".to_owned());
    });
    let connection = cluster.connect(&controller)?;
    let code = |token: Option<&str>| {
        let error = connection.stream(token).err().context("it is let in")?;
        Ok::<_, anyhow::Error>(error.downcast::<Status>()?.0)
    };
    for (token, expected) in [
        (None, 16),
        (Some("unknown"), 16),
        (Some("audience"), 16),
        (Some("account"), 7),
        (Some("outsider"), 7),
    ] {
        assert_eq!(code(token)?, expected, "{token:?}");
    }
    // A pod that is gone takes its token and its stream with it.
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_documents()?;
    stream.response()?;
    cluster.server.remove(&path("shop", "web"));
    let end = loop {
        match stream.next(SOON) {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the stream goes on"),
            Err(error) => break error.downcast::<Status>()?,
        }
    };
    assert_eq!(end.0, 14, "{end}");
    assert_eq!(code(Some("token-web"))?, 16);
    Ok(())
}

#[test]
fn a_pod_has_two_streams_and_no_more() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.member("shop", "db", "10.0.0.2", "db");
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let (mut one, two) = (connection.stream(Some("token-web"))?, connection.stream(Some("token-web"))?);
    let third = connection.stream(Some("token-web")).err().context("it is let in")?;
    assert_eq!(third.downcast::<Status>()?.0, 8);
    connection.stream(Some("token-db"))?;
    one.ask_documents()?;
    one.response()?;
    drop(two);
    // Its place is free once the controller has seen the end.
    eventually!(connection.stream(Some("token-web")).is_ok(), SOON);
    Ok(())
}

#[test]
fn a_sidecar_that_asks_for_everything_is_sent_it_in_pieces() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    // Dataplanes of some 3 KiB, and a thousand destinations with ten of them each: 30 MiB.
    let pods: Vec<String> = (0..10).map(|n| format!("db-{n}")).collect();
    for (n, name) in pods.iter().enumerate() {
        let mut pod = super::pod("shop", name, &format!("10.0.1.{}", n + 1), "db", true);
        for label in 0..40 {
            pod["metadata"]["labels"][format!("label-{label}")] = "x".repeat(40).into();
        }
        cluster.server.put(&path("shop", name), pod);
    }
    let behind: Vec<(&str, bool)> = pods.iter().map(|name| (name.as_str(), true)).collect();
    cluster.service("shop", "db", "10.96.0.2", &behind);
    let ports: Vec<Value> =
        (0..1000).map(|n| json!({ "name": format!("p{n}"), "port": 1000 + n, "targetPort": 8080 })).collect();
    let service = json!({
        "metadata": { "name": "db", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"], "selector": { "app": "db" }, "ports": ports },
    });
    cluster.server.put("/api/v1/namespaces/shop/services/db", service);
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    let names: Vec<String> = (0..1000).map(|n| format!("10.96.0.2:{}", 1000 + n)).collect();
    stream.ask_destinations(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (mut came, mut responses) = (0, 0);
    while came < names.len() {
        // A response of more than 4 MiB would be an error of the stream.
        came += destinations(&stream.next(SOON)?.context("it stops")?)?.len();
        responses += 1;
    }
    ensure!(came == names.len() && responses > 10, "{came} in {responses} responses");
    Ok(())
}

#[test]
fn what_breaks_the_protocol_ends_the_stream_and_no_other() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut good = connection.stream(Some("token-web"))?;
    good.ask_documents()?;
    good.response()?;
    for bytes in [&[1, 0, 0, 0, 0][..], &[0, 0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 0, 1, 0xff]] {
        let mut stream = connection.stream(Some("token-web"))?;
        stream.send_raw(bytes)?;
        let error = stream.next(SOON).err().context("it goes on")?;
        assert_eq!(error.downcast::<Status>()?.0, 3, "{bytes:?}");
    }
    let mut many = connection.stream(Some("token-web"))?;
    let names: Vec<String> = (0..5000).map(|n| format!("10.1.{}.{}:80", n / 256, n % 256)).collect();
    many.ask_destinations(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let error = many.next(SOON).err().context("it goes on")?;
    ensure!(error.to_string().contains("4096"), "{error}");
    good.ask_destinations(&["10.0.0.1:8080"])?;
    good.response()?;
    Ok(())
}
