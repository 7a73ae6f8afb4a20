//! The stream against a controller on loopback that misbehaves.

use super::inventory::{destination, document, response};
use super::mock::{Authority, Mock, soon};
use crate::connection::metrics::Metrics;
use crate::control::{CompiledDestination, Control, ControlMetrics, Settled, ToCompile, keep};
use crate::dns::NameSource;
use crate::options::Options;
use bytes::Bytes;
use clap::Parser;
use culvert_control::frame::framed;
use culvert_control::{DELTA, DESTINATION, DOCUMENT};
use culvert_mesh::load::Text;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const TOKEN: &str = "a.projected.token";

/// A sidecar's side, with a reload that takes every document but those whose text is `bad`.
pub(super) struct Sidecar {
    pub(super) control: Arc<Control>,
    folder: TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Sidecar {
    pub(super) fn new(server: SocketAddr, bundle: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        if let Some(authority) = bundle {
            std::fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = Options::try_parse_from([
            "culvert-sidecar",
            "--pod-name=web-1",
            "--pod-namespace=shop",
            "--pod-ip=10.0.0.2",
            &format!("--control=https://localhost:{}", server.port()),
            &format!("--control-ca={}", path("ca.crt")),
            &format!("--control-token={}", path("token")),
        ]);
        let metrics: ControlMetrics = Metrics::default().control;
        let control = Arc::new(Control::new(&config.unwrap().check().unwrap(), metrics).unwrap());
        let tasks =
            vec![tokio::spawn(keep(Arc::clone(&control))), tokio::spawn(reload(Arc::clone(&control)))];
        Self { control, folder, tasks }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ask(&self, at: &str) -> JoinHandle<bool> {
        let (control, at) = (Arc::clone(&self.control), at.parse().unwrap());
        tokio::spawn(async move { control.ask(at).await })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn reload(control: Arc<Control>) {
    let is_bad = |text: &&Text| &*text.text == "bad";
    loop {
        control.changed().await;
        let of_destinations = control.told_of_destinations();
        let about = of_destinations.is_none();
        let told = of_destinations.unwrap_or_else(|| control.told());
        let words = |text: &Text| (Arc::clone(&text.name), format!("{}: wrong", text.name));
        if about {
            let bad: Vec<_> = told.texts.iter().filter(is_bad).map(words).collect();
            let names = bad.iter().map(|(name, _)| Arc::clone(name)).collect();
            let in_force = Some(control.without(&told, &names));
            control.settle(Settled { generation: told.generation, in_force, bad, failed: None });
        }
        for one in told.destinations {
            let bad: Vec<_> = one.texts.iter().filter(is_bad).map(words).collect();
            let names = bad.iter().map(|(name, _)| Arc::clone(name)).collect();
            let in_force = Some(control.without_in(&one, &names));
            let ToCompile { asked, texts: told } = one;
            let why = bad.first().map(|(_, words)| words.clone());
            control.compiled(CompiledDestination { asked, told, in_force, why });
        }
        control.settle_destinations(told.generation);
    }
}

fn texts(control: &Control) -> Vec<String> {
    control.in_force().iter().map(|text| format!("{} {}", text.name, text.text)).collect()
}

#[tokio::test]
async fn documents_come_are_acknowledged_and_refused_and_a_new_stream_begins_with_their_versions() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    let mut stream = mock.stream().await;
    assert_eq!(stream.head.uri().path(), DELTA);
    assert_eq!(stream.head.headers()["authorization"], format!("Bearer {TOKEN}"));
    let opening = stream.request().await;
    assert_eq!(opening.node.unwrap().id, "shop/web-1");
    assert_eq!(
        (opening.type_url.as_str(), opening.resource_names_subscribe),
        (DOCUMENT, vec!["*".to_owned()])
    );
    // A message in pieces, as the network cuts them.
    let whole = framed(&response(DOCUMENT, "1", vec![document("Mesh/default", "a")], &[]));
    for byte in whole.chunks(7) {
        stream.raw(Bytes::copy_from_slice(byte));
    }
    let ack = stream.request().await;
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("1", None));
    assert_eq!(texts(&sidecar.control), ["control: Mesh/default a"]);
    stream.say(&response(DOCUMENT, "2", vec![document("Mesh/default", "bad"), document("P/b", "b")], &[]));
    let nack = stream.request().await;
    assert_eq!(nack.response_nonce, "2");
    assert_eq!(nack.error_detail.unwrap().message, "control: Mesh/default: wrong");
    assert_eq!(texts(&sidecar.control), ["control: Mesh/default a", "control: P/b b"]);
    stream.say(&response("other", "3", vec![], &[]));
    let nack = stream.request().await;
    assert_eq!((nack.type_url.as_str(), nack.response_nonce.as_str()), ("other", "3"));
    // What was told stays, and the token is read again.
    std::fs::write(sidecar.path().join("token"), "another").unwrap();
    stream.end("14", "the controller leaves");
    let mut stream = mock.stream().await;
    assert_eq!(stream.head.headers()["authorization"], "Bearer another");
    let opening = stream.request().await;
    let versions = &opening.initial_resource_versions;
    assert_eq!(versions.keys().collect::<Vec<_>>(), ["Mesh/default", "P/b"]);
    assert_eq!((versions["Mesh/default"].as_str(), versions["P/b"].is_empty()), ("", false));
    assert_eq!(texts(&sidecar.control).len(), 2);
    stream.say(&response(DOCUMENT, "1", vec![document("Mesh/default", "c")], &["P/b"]));
    assert_eq!(stream.request().await.error_detail, None);
    assert_eq!(texts(&sidecar.control), ["control: Mesh/default c"]);
}

#[tokio::test]
async fn a_server_that_the_bundle_does_not_vouch_for_is_told_nothing() {
    let (authority, rogue) = (Authority::new(), Authority::new());
    for (of, name) in [(&rogue, "localhost"), (&authority, "another.name")] {
        let mock = Mock::new(of, name);
        let sidecar = Sidecar::new(mock.address(), Some(&authority));
        for _ in 0..2 {
            // The handshake fails, or ends without a byte.
            let shaken = mock.shake().await;
            assert!(shaken.is_err(), "{name}: {shaken:?}");
        }
        let (_, words) = sidecar.control.words();
        assert!(words.contains("is not verified"), "{words}");
        assert!(!words.contains(TOKEN));
    }
}

#[tokio::test]
async fn without_a_bundle_there_is_no_connection_and_with_one_there_is() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), None);
    soon("a complaint", async {
        while !sidecar.control.words().1.contains("no authorities in") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(sidecar.control.metrics.connected.get(), 0);
    std::fs::write(sidecar.path().join("ca.crt"), authority.pem()).unwrap();
    mock.stream().await.request().await;
}

#[tokio::test]
async fn five_hundred_connections_to_one_destination_are_one_question() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    let mut stream = mock.stream().await;
    stream.request().await;
    let waiting: Vec<_> = (0..500).map(|_| sidecar.ask("10.0.0.9:80")).collect();
    let question = stream.request().await;
    assert_eq!(
        (question.type_url.as_str(), question.resource_names_subscribe),
        (DESTINATION, vec!["10.0.0.9:80".to_owned()])
    );
    stream.say(&response(DESTINATION, "1", vec![destination("10.0.0.9:80", &[("D/x", "x")])], &[]));
    for one in waiting {
        assert!(soon("an answer", one).await.unwrap());
    }
    assert_eq!(texts(&sidecar.control), ["control: D/x x"]);
    assert!(sidecar.control.knows("10.0.0.9:80".parse().unwrap()));
    // The next request is the acknowledgement: there was one question.
    let ack = stream.request().await;
    assert_eq!((ack.response_nonce.as_str(), ack.resource_names_subscribe.len()), ("1", 0));
    // Nobody is an answer, and one about another destination answers nothing.
    let other = sidecar.ask("10.0.0.8:80");
    stream.request().await;
    stream.say(&response(DESTINATION, "2", vec![destination("10.0.0.7:80", &[])], &[]));
    stream.request().await;
    assert!(!other.is_finished());
    stream.say(&response(DESTINATION, "3", vec![destination("10.0.0.8:80", &[])], &[]));
    assert!(soon("an answer", other).await.unwrap());
}

#[tokio::test]
async fn a_name_is_asked_as_a_destination_is_and_waits_for_no_address() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    let mut stream = mock.stream().await;
    stream.request().await;
    let host: Arc<str> = "web.shop.mesh".into();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (control, host) = (Arc::clone(&sidecar.control), Arc::clone(&host));
            tokio::spawn(async move { NameSource::ask(&*control, host).await })
        })
        .collect();
    let question = stream.request().await;
    assert_eq!(
        (question.type_url.as_str(), question.resource_names_subscribe),
        (DESTINATION, vec!["web.shop.mesh".to_owned()])
    );
    assert!(!NameSource::knows(&*sidecar.control, &host));
    stream.say(&response(DESTINATION, "1", vec![destination("web.shop.mesh", &[("M/web", "x")])], &[]));
    for one in waiting {
        assert!(soon("an answer", one).await.unwrap());
    }
    assert!(NameSource::knows(&*sidecar.control, &host));
    assert_eq!(stream.request().await.response_nonce, "1");
    assert_eq!(texts(&sidecar.control), ["control: M/web x"]);
}

#[tokio::test]
async fn a_controller_that_knows_no_names_is_asked_for_none() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    let mut stream = mock.stream_with(&[]).await;
    stream.request().await;
    let control = &sidecar.control;
    let open = async || {
        while control.metrics.connected.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("an open stream", open()).await;
    let host: Arc<str> = "web.shop.mesh".into();
    assert!(!NameSource::ask(&**control, Arc::clone(&host)).await, "at once");
    let asked = sidecar.ask("10.0.0.9:80");
    assert_eq!(stream.request().await.resource_names_subscribe, ["10.0.0.9:80"]);
    stream.say(&response(DESTINATION, "1", vec![destination("10.0.0.9:80", &[])], &[]));
    assert!(soon("an answer", asked).await.unwrap());
    stream.cut();
    // The next one does, and is asked again for what it told when it was another one.
    let mut stream = mock.stream().await;
    for _ in 0..2 {
        stream.request().await;
    }
    soon("an open stream", open()).await;
    let (control, name) = (Arc::clone(control), Arc::clone(&host));
    let asked = tokio::spawn(async move { NameSource::ask(&*control, name).await });
    assert_eq!(stream.request().await.resource_names_subscribe, ["web.shop.mesh"]);
    stream.say(&response(DESTINATION, "1", vec![destination("web.shop.mesh", &[("M/web", "x")])], &[]));
    assert!(soon("an answer", asked).await.unwrap());
    stream.cut();
    let mut stream = mock.stream_with(&[]).await;
    let names = [stream.request().await, stream.request().await].map(|one| one.resource_names_subscribe);
    assert_eq!(names, [vec!["*".to_owned()], vec!["10.0.0.9:80".to_owned()]]);
    assert_eq!(texts(&sidecar.control), ["control: M/web x"], "what was told stays");
    stream.cut();
    let mut stream = mock.stream().await;
    let names = [stream.request().await, stream.request().await, stream.request().await];
    assert_eq!(names[2].resource_names_subscribe, ["web.shop.mesh"]);
    assert_eq!(names[2].initial_resource_versions["web.shop.mesh"], "1");
}

#[tokio::test]
async fn a_question_without_an_answer_ends_and_is_asked_again_by_the_next_stream() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    let mut stream = mock.stream().await;
    stream.request().await;
    let begun = Instant::now();
    assert!(!soon("the deadline", sidecar.ask("10.0.0.9:80")).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    stream.request().await;
    stream.cut();
    let mut stream = mock.stream().await;
    stream.request().await;
    assert_eq!(stream.request().await.resource_names_subscribe, ["10.0.0.9:80"]);
    stream.say(&response(DESTINATION, "1", vec![destination("10.0.0.9:80", &[])], &[]));
    stream.request().await;
    assert!(sidecar.control.knows("10.0.0.9:80".parse().unwrap()));
}

#[tokio::test]
async fn a_stream_that_is_no_stream_is_begun_again() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    // A half message and the end, a length that is too long, a compressed message, garbage.
    for (bytes, words) in [
        (&[0, 0, 0, 0, 9, 1][..], "in the middle of a message"),
        (&[0, 0xff, 0xff, 0xff, 0xff], "4294967295 bytes"),
        (&[1, 0, 0, 0, 0], "compressed"),
        (&[0, 0, 0, 0, 1, 0xff], "cannot be read"),
    ] {
        let mut stream = mock.stream().await;
        stream.request().await;
        stream.raw(Bytes::copy_from_slice(bytes));
        stream.end("0", "");
        soon("a complaint", async {
            while !sidecar.control.words().1.contains(words) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(sidecar.control.metrics.failures.get(), 4);
    // A server that refuses the call.
    let mut stream = mock.stream().await;
    stream.request().await;
    stream.end("16", "the token is of another audience");
    soon("a complaint", async {
        while !sidecar.control.words().1.contains("another audience (gRPC status 16)") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_flood_that_is_not_compiled_is_not_read_on() {
    let authority = Authority::new();
    let mock = Mock::new(&authority, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&authority));
    // Nothing is compiled.
    sidecar.tasks[1].abort();
    let mut stream = mock.stream().await;
    stream.request().await;
    for number in 0..200 {
        let one = document("P/a", &number.to_string());
        stream.say(&response(DOCUMENT, &number.to_string(), vec![one], &[]));
    }
    let most = super::super::inventory::MOST_UNSETTLED as u64;
    soon("as many responses as are read", async {
        while sidecar.control.metrics.responses.get() < most {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sidecar.control.metrics.responses.get(), most);
    // Compiled, they are acknowledged and the rest is read.
    let compiling = tokio::spawn(reload(Arc::clone(&sidecar.control)));
    sidecar.control.changed.notify_one();
    for number in 0..200 {
        assert_eq!(stream.request().await.response_nonce, number.to_string());
    }
    compiling.abort();
}
