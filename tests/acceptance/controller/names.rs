// SPDX-License-Identifier: Apache-2.0
//! Destinations that sidecars ask about by host names, and requests of sidecars that are newer than the controller.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_control::frame::framed;
use culvert_control::messages::DeltaDiscoveryRequest;
use culvert_control::{DESTINATION, MAX_DESTINATIONS, MAX_NAMES};
use culvert_tests::control::{Documents, Status, Stream, destinations};
use serde_json::json;

use super::{Cluster, SOON, path};

/// Long enough for a change that would come wrongly, on a quiet machine; the tests that use it pass without it too.
const NOTHING: Duration = Duration::from_millis(300);

/// A cluster with a caller, and pods `db-0` and `db-1` with sidecars.
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::new()?;
    for (name, ip, app) in
        [("web", "10.0.0.1", "web"), ("db-0", "10.0.0.2", "db"), ("db-1", "10.0.0.3", "db")]
    {
        cluster.member("shop", name, ip, app);
    }
    Ok(cluster)
}

/// The next response, which is about one destination: its name, and its documents.
fn one(stream: &mut Stream<'_>) -> Result<(String, Documents)> {
    let mut answer = destinations(&stream.response()?)?;
    ensure!(answer.len() == 1, "{answer:?}");
    answer.pop().context("no destination")
}

fn names(documents: &Documents) -> Vec<&str> {
    documents.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_name_is_answered_and_followed() -> Result<()> {
    let cluster = cluster()?;
    cluster.service("shop", "db", "10.96.0.2", &[("db-0", true), ("db-1", false)]);
    cluster.service("shop", "other", "10.96.0.3", &[("db-1", true)]);
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    let asked = ["db.shop.mesh", "late.shop.mesh", "10.96.0.2:80", "db_shop_svc_80.mesh"];
    stream.ask_destinations(&asked)?;
    let answer = destinations(&stream.response()?)?;
    assert_eq!(answer.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), asked);
    assert_eq!(names(&answer[0].1), ["MeshService/shop/db", "Dataplane/shop/db-0"]);
    assert_eq!(answer[0].1, answer[2].1, "the same as by its address");
    assert_eq!(answer[0].1, answer[3].1);
    assert_eq!(answer[1].1, []);
    // The other names and the address are given up: what comes is about the one that is left.
    stream.send(&DeltaDiscoveryRequest {
        type_url: DESTINATION.to_owned(),
        resource_names_unsubscribe: asked[2..].iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    })?;
    // A Service that the names do not mean changes.
    cluster.service("shop", "other", "10.96.0.3", &[("db-0", true)]);
    assert_eq!(stream.next(NOTHING)?, None);
    // A pod behind the one that is meant becomes ready, and another Service comes.
    cluster.endpoints("shop", "db", &[("db-0", true), ("db-1", true)]);
    let (name, documents) = one(&mut stream)?;
    assert_eq!((name.as_str(), documents.len()), ("db.shop.mesh", 3));
    cluster.service("shop", "late", "10.96.0.4", &[("db-1", true)]);
    let (name, documents) = one(&mut stream)?;
    assert_eq!(name, "late.shop.mesh");
    assert_eq!(names(&documents), ["MeshService/shop/late", "Dataplane/shop/db-1"]);
    // A pod is not onboarded any more, so that nobody of the mesh is there; then the Service goes.
    cluster.outsider("shop", "db-1", "10.0.0.3", "db");
    let (mut gone, mut half) = (false, false);
    while !(gone && half) {
        for (name, documents) in destinations(&stream.response()?)? {
            gone |= name == "late.shop.mesh" && documents.is_empty();
            half |= name == "db.shop.mesh" && documents.is_empty();
        }
    }
    cluster.endpoints("shop", "db", &[("db-0", true)]);
    assert_eq!(names(&one(&mut stream)?.1), ["MeshService/shop/db", "Dataplane/shop/db-0"]);
    cluster.server.remove("/api/v1/namespaces/shop/services/db");
    assert_eq!(one(&mut stream)?, ("db.shop.mesh".to_owned(), Vec::new()));
    // The pod goes, and its stream with it, though it never asked for documents.
    cluster.server.remove(&path("shop", "web"));
    let status = stream.next(SOON).err().context("the stream goes on")?.downcast::<Status>()?;
    assert_eq!(status.0, 14, "{status}");
    Ok(())
}

#[test]
fn a_name_finds_headless_services_and_labels_and_no_external_name() -> Result<()> {
    let cluster = cluster()?;
    cluster.service("shop", "db", "None", &[("db-0", true), ("db-1", true)]);
    let service = |name: &str, kind: &str| {
        json!({
            "metadata": { "name": name, "namespace": "shop", "labels": { "team": "core" } },
            "spec": { "type": kind, "externalName": "example.com", "selector": { "app": "db" }, "ports": [{ "port": 80 }] },
        })
    };
    for (name, kind) in [("labelled", "ClusterIP"), ("external", "ExternalName")] {
        cluster.server.put(&format!("/api/v1/namespaces/shop/services/{name}"), service(name, kind));
        cluster.endpoints("shop", name, &[("db-0", true)]);
    }
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    stream.ask_destinations(&["db.shop.svc.mesh.local", "api.core.mesh", "external.shop.mesh"])?;
    let answer = destinations(&stream.response()?)?;
    assert_eq!(names(&answer[0].1), ["MeshService/shop/db", "Dataplane/shop/db-0", "Dataplane/shop/db-1"]);
    assert_eq!(answer[0].1[0].1["status"]["vips"], json!([]));
    assert_eq!(names(&answer[1].1), ["MeshService/shop/labelled", "Dataplane/shop/db-0"]);
    assert_eq!(answer[2].1, []);
    // A headless Service has no address that could wake those who follow it.
    cluster.server.remove(&path("shop", "db-1"));
    let (name, documents) = one(&mut stream)?;
    assert_eq!(
        (name.as_str(), names(&documents)[1..].to_vec()),
        ("db.shop.svc.mesh.local", vec!["Dataplane/shop/db-0"])
    );
    // Without the label it is not meant any more.
    let mut other = service("labelled", "ClusterIP");
    other["metadata"]["labels"]["team"] = "edge".into();
    cluster.server.put("/api/v1/namespaces/shop/services/labelled", other);
    assert_eq!(one(&mut stream)?, ("api.core.mesh".to_owned(), Vec::new()));
    Ok(())
}

#[test]
fn names_that_are_wrong_or_too_many_end_the_stream() -> Result<()> {
    let cluster = cluster()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut good = connection.stream(Some("token-web"))?;
    let hosts: Vec<String> = (0..=MAX_NAMES).map(|n| format!("{}-{n}.mesh", "x".repeat(240))).collect();
    let addresses: Vec<String> =
        (0..MAX_DESTINATIONS).map(|n| format!("10.1.{}.{}:80", n / 256, n % 256)).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let all: Vec<&str> = addresses.iter().map(String::as_str).chain(hosts[1..].iter().copied()).collect();
    good.ask_destinations(&all)?;
    let mut came = 0;
    while came < all.len() {
        came += destinations(&good.response()?)?.len();
    }
    for (wrong, words) in [(&hosts[..], "512 host names"), (&["Web.shop.mesh"], "in lower case")] {
        let mut stream = connection.stream(Some("token-web"))?;
        stream.ask_destinations(wrong)?;
        let status = stream.next(SOON).err().context("it goes on")?.downcast::<Status>()?;
        ensure!(status.0 == 3 && status.1.contains(words), "{status}");
    }
    // One more in a later request.
    good.ask_destinations(&hosts[..1])?;
    let status = good.next(SOON).err().context("it goes on")?.downcast::<Status>()?;
    ensure!(status.0 == 3 && status.1.contains("512 host names"), "{status}");
    Ok(())
}

#[test]
fn a_sidecar_that_asks_for_more_is_answered_what_is_known() -> Result<()> {
    let cluster = cluster()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-web"))?;
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/culvert.control.v2.More".to_owned(),
        resource_names_subscribe: vec!["*".to_owned(), "no name".to_owned()],
        ..Default::default()
    };
    for _ in 0..3 {
        stream.send(&unknown)?;
    }
    assert_eq!(stream.next(NOTHING)?, None);
    // A request with a field that the controller does not know: number 2000, of value 1.
    let known = DeltaDiscoveryRequest {
        type_url: DESTINATION.to_owned(),
        resource_names_subscribe: vec!["10.0.0.2:8080".to_owned()],
        ..Default::default()
    };
    let message = [&framed(&known)[5..], &[0x80, 0x7d, 1]].concat();
    let length = u32::try_from(message.len())?.to_be_bytes();
    stream.send_raw(&[&[0][..], &length, &message].concat())?;
    let (name, documents) = one(&mut stream)?;
    assert_eq!((name.as_str(), names(&documents)), ("10.0.0.2:8080", vec!["Dataplane/shop/db-0"]));
    // Nor is it refused, or an answer to what was sent.
    assert_eq!(controller.metric("culvert_controller_nacks_total")?, 0.0);
    Ok(())
}
