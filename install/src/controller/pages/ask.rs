// SPDX-License-Identifier: Apache-2.0
//! The other replicas, and what they answer when they are asked for their part.
//!
//! An answer is data of another process: its time, its size and its kind are bounded here, and [`super::part`] reads it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::part::NoPart;
use crate::controller::key::Key;
use crate::controller::options::Settings;
use crate::controller::world::World;

/// Deadline of all answers together.
pub(super) const WITHIN: Duration = Duration::from_secs(1);
/// Most replicas that are asked.
pub(super) const MAX_PEERS: usize = 8;
/// Bytes of an answer. One with all edges that a replica keeps has some 6 MiB.
const MAX_ANSWER: usize = 8 << 20;
/// Bytes of an answer's head, at least.
const MAX_HEAD: usize = 16 << 10;
const PATH: &str = "/mesh.json?part";

/// Another replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Name of its pod, or its address.
    pub name: String,
    pub at: SocketAddr,
}

/// The reason why another replica's part is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("the connection to {0} broke: {1}")]
    Broken(SocketAddr, hyper::Error),
    #[error("no answer of {0} within {WITHIN:?}")]
    TimedOut(SocketAddr),
    #[error("{0} answers {1}, not 200")]
    Status(SocketAddr, StatusCode),
    #[error("the answer of {0} is longer than {MAX_ANSWER} bytes")]
    TooLong(SocketAddr),
    #[error("the answer of {0} ended early: {1}")]
    Cut(SocketAddr, String),
    #[error(transparent)]
    NoPart(#[from] NoPart),
    #[error("not asked: it is more than {MAX_PEERS} others")]
    NotAsked,
}

/// The other replicas: ready endpoints of the own Service, without the own pod. `port` is that of the own status port, for a
/// Service that names none.
pub(super) fn peers(world: &World, settings: &Settings, port: u16) -> Vec<Peer> {
    let service = Key::new(&settings.service.namespace, &settings.service.name);
    let own = Key::new(&settings.service.namespace, &settings.instance);
    // A pod with addresses of two families is in two slices.
    let mut peers = BTreeMap::<String, SocketAddr>::new();
    for (address, pod, status) in world.endpoints(&service).filter(|(_, pod, _)| *pod != Some(&own)) {
        let at = SocketAddr::new(address, status.unwrap_or(port));
        let name = pod.map_or_else(|| at.to_string(), |pod| pod.name().to_owned());
        let known = peers.entry(name).or_insert(at);
        *known = at.min(*known);
    }
    peers.into_iter().map(|(name, at)| Peer { name, at }).collect()
}

/// Asks replicas for their part, all at once. Ends by the deadline.
pub(super) async fn all(peers: Vec<Peer>) -> Vec<(Peer, Result<Bytes, Problem>)> {
    let deadline = Instant::now() + WITHIN;
    let mut answers = Vec::with_capacity(peers.len());
    let mut asked = JoinSet::new();
    for (place, peer) in peers.into_iter().enumerate() {
        if place >= MAX_PEERS {
            answers.push((peer, Err(Problem::NotAsked)));
            continue;
        }
        asked.spawn(async move {
            let answer = timeout_at(deadline, ask(peer.at)).await;
            let answer = answer.unwrap_or(Err(Problem::TimedOut(peer.at)));
            (peer, answer)
        });
    }
    while let Some(answer) = asked.join_next().await {
        // None of them panics, and none is aborted.
        answers.extend(answer.ok());
    }
    answers.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    answers
}

/// Asks one replica. Follows it nowhere.
async fn ask(at: SocketAddr) -> Result<Bytes, Problem> {
    let stream = TcpStream::connect(at).await.map_err(|error| Problem::Connect(at, error))?;
    let broken = |error| Problem::Broken(at, error);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(PATH)
        .header(HOST, at.to_string())
        .header(USER_AGENT, concat!("culvert-install/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("an address makes a header");
    let mut answer = pin!(async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(Problem::Status(at, response.status()));
        }
        match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Problem::TooLong(at)),
            Err(error) => Err(Problem::Cut(at, error.to_string())),
        }
    });
    tokio::select! {
        answer = &mut answer => answer,
        // What came before its end is in the answer; so is an error of it.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::controller::options::Crds;
    use crate::controller::world::{Put, Slice};
    use crate::inject::Identity;

    fn settings(instance: &str) -> Settings {
        Settings {
            service: "culvert-controller.mesh".parse().unwrap(),
            trust_domain: "cluster.local".to_owned(),
            secret: "culvert-authority".to_owned(),
            identity_life: Duration::from_secs(60),
            authority_life: Duration::from_secs(60),
            crds: Crds::Never,
            identity: Identity::Stream,
            instance: instance.to_owned(),
        }
    }

    /// Puts a slice of a Service in the namespace `mesh` there: addresses, readiness and pods.
    fn put(world: &mut World, name: &str, port: &str, endpoints: &[(&str, bool, Option<&str>)]) {
        let endpoint = |(address, ready, pod): &(&str, bool, Option<&str>)| {
            let target = pod.map(|pod| json!({ "kind": "Pod", "namespace": "mesh", "name": pod }));
            json!({ "addresses": [address], "conditions": { "ready": ready }, "targetRef": target })
        };
        let labels = json!({ "kubernetes.io/service-name": name.split('.').next() });
        let metadata = json!({ "name": name, "namespace": "mesh", "labels": labels });
        let data = json!({ "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                           "ports": [{ "name": "control", "port": 15012 }, { "name": port, "port": 7 }] });
        world.put(Put::Slice(Slice::read(&serde_json::from_value(metadata).unwrap(), data).unwrap()));
    }

    #[test]
    fn peers_are_the_ready_endpoints_of_the_own_service_without_the_own_pod() {
        let mut world = World::default();
        put(
            &mut world,
            "culvert-controller.4",
            "status",
            &[
                ("10.0.0.1", true, Some("one")),
                ("10.0.0.2", true, Some("two")),
                ("10.0.0.3", false, Some("leaving")),
                ("10.0.0.4", true, None),
            ],
        );
        put(
            &mut world,
            "culvert-controller.6",
            "other",
            &[("fd00::2", true, Some("two")), ("fd00::5", true, Some("five"))],
        );
        put(&mut world, "another.4", "status", &[("10.0.0.9", true, Some("nine"))]);
        let found: Vec<_> = peers(&world, &settings("one"), 15090)
            .into_iter()
            .map(|Peer { name, at }| (name, at.to_string()))
            .collect();
        let expected = [("10.0.0.4:7", "10.0.0.4:7"), ("five", "[fd00::5]:15090"), ("two", "10.0.0.2:7")];
        assert_eq!(found, expected.map(|(name, at)| (name.to_owned(), at.to_owned())));
        assert_eq!(peers(&World::default(), &settings("one"), 15090), []);
    }

    /// A server that answers one request with these bytes, and keeps the connection open after them if `stays`.
    async fn answering(bytes: Vec<u8>, stays: bool) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = culvert_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let at = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            assert!(head[..length].starts_with(b"GET /mesh.json?part HTTP/1.1\r\n"));
            // One that does not read on is no failure of the server.
            let _ = stream.write_all(&bytes).await;
            if stays {
                std::future::pending::<()>().await;
            }
        });
        (at, task)
    }

    #[tokio::test]
    async fn answers_are_bounded_and_followed_nowhere() {
        let whole = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let long = vec![b' '; MAX_ANSWER + 1];
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), long].concat();
        let away = "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n";
        for (bytes, stays, expected) in [
            (whole("{}").into_bytes(), false, "2 bytes"),
            (whole("{}").into_bytes(), true, "2 bytes"),
            (endless, false, "longer than 8388608 bytes"),
            (away.as_bytes().to_vec(), false, "answers 302 Found, not 200"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_vec(), false, "ended early"),
            (b"SSH-2.0-x\r\n".to_vec(), false, "broke"),
            (Vec::new(), false, "broke"),
            (Vec::new(), true, "no answer of"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_vec(), true, "no answer of"),
        ] {
            let (at, serving) = answering(bytes, stays).await;
            let mut answers = all(vec![Peer { name: "x".to_owned(), at }]).await;
            let (_, answer) = answers.pop().unwrap();
            let found =
                answer.map_or_else(|problem| problem.to_string(), |body| format!("{} bytes", body.len()));
            assert!(found.contains(expected), "{expected}: {found}");
            serving.abort();
        }
    }

    #[tokio::test]
    async fn one_that_is_silent_costs_no_other_and_those_over_the_bound_are_named() {
        let (silent, silence) = answering(Vec::new(), true).await;
        let body = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        let (well, answer) = answering(body, false).await;
        let mut peers =
            vec![Peer { name: "a".to_owned(), at: silent }, Peer { name: "b".to_owned(), at: well }];
        let more = (0..MAX_PEERS).map(|n| Peer { name: format!("c{n}"), at: silent });
        peers.extend(more);
        let began = Instant::now();
        let answers = all(peers).await;
        assert!(began.elapsed() < 10 * WITHIN, "{:?}", began.elapsed());
        assert_eq!(answers.len(), MAX_PEERS + 2);
        assert!(matches!(answers[0].1, Err(Problem::TimedOut(at)) if at == silent));
        assert!(answers[1].1.as_ref().is_ok_and(|body| &body[..] == b"{}"), "{:?}", answers[1]);
        let not_asked = answers.iter().filter(|(_, answer)| matches!(answer, Err(Problem::NotAsked)));
        assert_eq!(not_asked.count(), 2);
        silence.abort();
        answer.await.unwrap();
    }
}
