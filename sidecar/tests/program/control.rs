//! The program with a controller: closed until it is told a mesh, and by what it was told afterwards.

use super::{ADMIN, PATIENCE, STATUS, Sidecar};
use culvert_control::DOCUMENT;
use culvert_control::messages::{Any, DeltaDiscoveryResponse, Document, Resource};
use mock::{Authority, Mock};
use prost::Message;
use std::time::Instant;

// The same server as in the tests of the stream itself.
#[path = "../../src/control/tests/mock.rs"]
#[allow(dead_code, reason = "the tests of the stream use the rest")]
mod mock;

fn response(nonce: &str, documents: &[(&str, &str)], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, text): &(&str, &str)| {
        let value = Document { text: (*text).to_owned() }.encode_to_vec();
        let resource = Some(Any { type_url: DOCUMENT.to_owned(), value });
        Resource { version: nonce.to_owned(), resource, name: (*name).to_owned() }
    };
    DeltaDiscoveryResponse {
        resources: documents.iter().map(resource).collect(),
        type_url: DOCUMENT.to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

const MESH: (&str, &str) = ("Mesh/default", "{type: Mesh, name: default}");
const CLOSED: (&str, &str) =
    ("Mesh/default", "{type: Mesh, name: default, networking: {outbound: {passthrough: false}}}");
const WRONG: (&str, &str) = ("Mesh/default", "{type: Mesh, name: default, mtls: 5}");
const POLICY: (&str, &str) = (
    "MeshPassthrough/p",
    "{type: MeshPassthrough, name: p, spec: {targetRef: {kind: Dataplane, name: web-1}, default: {passthroughMode: All}}}",
);

#[tokio::test(flavor = "multi_thread")]
async fn it_is_closed_until_it_is_told_a_mesh_and_keeps_what_it_was_told() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let folder = tempfile::tempdir().unwrap();
    let (bundle, empty) = (folder.path().join("ca.crt"), folder.path().join("documents"));
    std::fs::write(&bundle, authority.pem()).unwrap();
    std::fs::create_dir(&empty).unwrap();
    let sidecar = Sidecar::start(&[
        "--verify-redirect=off",
        "--pod-name=web-1",
        "--pod-namespace=shop",
        "--pod-ip=10.0.0.2",
        "--pod-ports=http:8080",
        &format!("--resources={}", empty.display()),
        &format!("--control=https://localhost:{}", mock.address().port()),
        &format!("--control-ca={}", bundle.display()),
    ]);
    let ready = || sidecar.ask(STATUS, "GET /ready");
    let is_in_dump = |words: &str| sidecar.ask(ADMIN, "GET /config_dump").contains(words);
    let overview = || sidecar.ask(ADMIN, "GET /overview");
    let shows = |words: &str| overview().contains(words);
    assert!(shows("\"passthrough\": false"), "{}", overview());
    assert!(ready().contains("no Mesh document of the name \"default\" yet"), "{}", ready());
    assert!(is_in_dump("\"name\": \"inbound:10.0.0.2:8080\"") && is_in_dump("\"mesh\": true"));
    let mut stream = mock.stream().await;
    stream.request().await;
    stream.say(&response("1", &[MESH, POLICY], &[]));
    assert_eq!(stream.request().await.error_detail, None);
    assert!(ready().starts_with("HTTP/1.1 200 "), "{}", ready());
    assert!(shows("\"passthrough\": true"));
    assert!(
        is_in_dump("\"Mesh/default\"")
            && is_in_dump("\"MeshPassthrough/p\"")
            && is_in_dump("\"mesh\": false")
    );
    let inspected = sidecar.ask(ADMIN, "GET /inspect");
    assert!(inspected.contains("control: MeshPassthrough/p: document 1"), "{inspected}");
    // A change is in force at once, not with the next look at files.
    let told = Instant::now();
    stream.say(&response("2", &[CLOSED], &["MeshPassthrough/p"]));
    assert_eq!(stream.request().await.error_detail, None);
    assert!(told.elapsed().as_secs() < 1, "{:?}", told.elapsed());
    assert!(shows("\"passthrough\": false"));
    // A wrong document is refused by its name, and the one before stays.
    stream.say(&response("3", &[WRONG, POLICY], &[]));
    let refusal = stream.request().await.error_detail.unwrap().message;
    assert!(refusal.starts_with("control: Mesh/default: document 1 (Mesh default): mtls: "), "{refusal}");
    assert!(is_in_dump("\"MeshPassthrough/p\"") && is_in_dump("control: Mesh/default: document 1"));
    assert!(ready().starts_with("HTTP/1.1 200 "));
    // A Mesh that is lost opens and closes nothing.
    stream.say(&response("4", &[], &["Mesh/default"]));
    let refusal = stream.request().await.error_detail.unwrap().message;
    assert!(refusal.contains("no document is a Mesh"), "{refusal}");
    stream.cut();
    let metrics = || sidecar.ask(STATUS, "GET /metrics");
    eventually("the end of the stream is counted", || metrics().contains("culvert_control_failures_total 1"));
    assert!(ready().starts_with("HTTP/1.1 200 "));
    // A file of the volume is read beside the stream, whose document counts.
    let mut stream = mock.stream().await;
    stream.request().await;
    stream.say(&response("1", &[CLOSED], &[]));
    assert_eq!(stream.request().await.error_detail, None);
    std::fs::write(empty.join("mesh.yaml"), MESH.1).unwrap();
    let replaced = "mesh.yaml: document 1 is not used: control: Mesh/default: document 1";
    eventually("the file was read", || shows(replaced));
    assert!(shows("\"passthrough\": true"), "by the policy, as the Mesh of the stream is closed");
    assert!(shows(&format!("\"address\": \"localhost:{}\"", mock.address().port())));
}
