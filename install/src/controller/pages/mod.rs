// SPDX-License-Identifier: Apache-2.0
//! The status port: `/healthz`, `/ready` and `/metrics`, and the mesh as a picture, by the bounded server that agent and injector
//! have too.
//!
//! ```text
//! world, followers, traffic ──▶ part ──▶ /mesh.json?part
//!          other replicas ──ask──┴──▶ picture ──▶ /mesh.json
//!                                        └──▶ layout ──▶ ways ──▶ svg ──▶ html ──▶ /mesh
//! ```

mod ask;
mod html;
mod layout;
mod part;
mod picture;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod ways;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use culvert_serve::reply::{self, Reply};
use culvert_serve::{Incoming, Method, Pages, Request, StatusCode};
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, LOCATION};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinError;
use tokio::time::Instant;

use self::ask::{Peer, Problem};
use self::html::Question;
use self::part::{Part, Whole};
use self::picture::{Picture, Replicas, Silent};
use super::shared::Shared;
use crate::system::clock::rfc3339;
use crate::system::status_port;

/// Time for which a picture, or the own part, serves all readers: each new one looks at every pod.
const FRESH: Duration = Duration::from_secs(1);

/// The pages of the status port.
pub(crate) struct Status {
    shared: Arc<Shared>,
    ending: watch::Receiver<bool>,
    pictures: Arc<Pictures>,
}

impl Pages for Status {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        let mesh = Asked::of(request);
        let reply = mesh.is_none().then(|| self.page(request));
        let (shared, pictures) = (Arc::clone(&self.shared), Arc::clone(&self.pictures));
        async move {
            match (mesh, reply) {
                (Some(asked), _) => asked.answer(shared, pictures).await,
                (None, Some(reply)) => reply,
                (None, None) => reply::not_found("nothing"),
            }
        }
    }
}

impl Status {
    /// `port` is that of the pages themselves.
    pub(crate) fn new(shared: Arc<Shared>, ending: watch::Receiver<bool>, port: u16) -> Self {
        Self { shared, ending, pictures: Arc::new(Pictures::new(port)) }
    }

    fn page(&self, request: &Request<Incoming>) -> Reply {
        let why_not = self.why_not();
        status_port::page(request, why_not, ", /mesh, /mesh.json", || {
            self.shared.metrics.ready.set(i64::from(why_not.is_none()));
            let oldest = self.shared.followers().oldest_unacknowledged();
            self.shared.metrics.oldest.set(oldest.as_secs_f64());
            self.shared.metrics.text()
        })
    }

    /// The reason why sidecars should go to another replica.
    fn why_not(&self) -> Option<&'static str> {
        if *self.ending.borrow() {
            return Some("shutting down");
        }
        if !*self.shared.listed.borrow() {
            return Some("the cluster is not listed yet");
        }
        self.shared.served.borrow().is_none().then_some("there is no authority yet")
    }
}

/// The last picture, and the own part of it.
#[derive(Debug)]
struct Pictures {
    /// Random: replicas know their own answer by it.
    id: String,
    /// Port of the own pages, at which other replicas are asked where the Service names none.
    port: u16,
    own: Mutex<Option<(Instant, Arc<Part>)>>,
    last: Mutex<Option<(Instant, Arc<Picture>)>>,
    /// One answer at a time: any pod may ask, and sidecars are to be served meanwhile.
    turn: Arc<Semaphore>,
    /// The same for the own part. Two replicas that ask each other at the same time wait for none of their turns.
    part_turn: Arc<Semaphore>,
}

/// The kept value, while it is fresh.
fn fresh<T>(kept: &Mutex<Option<(Instant, Arc<T>)>>) -> Option<Arc<T>> {
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.as_ref().filter(|(made, _)| made.elapsed() < FRESH).map(|(_, value)| Arc::clone(value))
}

fn keep<T>(kept: &Mutex<Option<(Instant, Arc<T>)>>, value: T) -> Arc<T> {
    let value = Arc::new(value);
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&value)));
    value
}

impl Pictures {
    fn new(port: u16) -> Self {
        let random = ring::rand::generate::<[u8; 16]>(&ring::rand::SystemRandom::new());
        let random = random.expect("the kernel gives random bytes").expose();
        Self {
            id: format!("{:032x}", u128::from_be_bytes(random)),
            port,
            own: Mutex::default(),
            last: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            part_turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Returns the own part of this moment, or of one just before.
    fn part(&self, shared: &Shared) -> Arc<Part> {
        fresh(&self.own).unwrap_or_else(|| keep(&self.own, own(shared, &self.id)))
    }

    /// Returns a picture of this moment, or of one just before. Readers that come meanwhile wait for the same one.
    async fn get(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Arc<Picture>, JoinError> {
        if let Some(picture) = fresh(&self.last) {
            return Ok(picture);
        }
        let peers = ask::peers(&shared.world(), &shared.settings, self.port);
        let answers = ask::all(peers).await;
        let (pictures, shared) = (Arc::clone(self), Arc::clone(shared));
        // Milliseconds of work, which no stream should wait for.
        tokio::task::spawn_blocking(move || {
            let own = pictures.part(&shared);
            keep(&pictures.last, taken(&shared, &own, answers))
        })
        .await
    }
}

fn own(shared: &Shared, id: &str) -> Part {
    let now = Instant::now();
    let heard: HashSet<_> = shared.followers().pods().cloned().collect();
    let (edges, left_out) = {
        let mut traffic = shared.traffic();
        (traffic.edges(now), traffic.left_out(now))
    };
    Part { id: id.to_owned(), left_out, ..Part::of(&shared.world(), &heard, edges) }
}

fn taken(shared: &Shared, own: &Part, answers: Vec<(Peer, Result<Bytes, Problem>)>) -> Picture {
    let (parts, replicas) = read(own, answers);
    let whole = Whole::of([own].into_iter().chain(&parts));
    let picture = Picture::of(&shared.world(), &whole);
    Picture {
        replica: shared.settings.instance.clone(),
        replicas,
        time: rfc3339(SystemTime::now()),
        ..picture
    }
}

/// Reads the parts of the other replicas. One that is there twice, or is this one, counts once.
fn read(own: &Part, answers: Vec<(Peer, Result<Bytes, Problem>)>) -> (Vec<Part>, Replicas) {
    let mut parts = Vec::<Part>::new();
    let mut silent = Vec::new();
    for (Peer { name, at: _ }, answer) in answers {
        match answer.and_then(|answer| Ok(Part::read(&answer)?)) {
            Ok(part) if part.id == own.id || parts.iter().any(|known| known.id == part.id) => {}
            Ok(part) => parts.push(part),
            Err(problem) => {
                tracing::debug!(replica = name, %problem, "a replica's part of the picture is missing");
                silent.push(Silent { replica: name, problem: problem.to_string() });
            }
        }
    }
    let answered = 1 + parts.len();
    (parts, Replicas { answered, known: answered + silent.len(), silent })
}

/// A page about the mesh that is asked for.
enum Asked {
    /// The way to the page for people.
    Root,
    /// The page for people.
    Page(Result<Question, &'static str>),
    /// What this replica hears itself, for other replicas.
    Part,
    /// The same as the page, as JSON.
    Json(Result<Question, &'static str>),
    /// One of them by a method that none takes.
    WrongMethod,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let question = || Question::read(request.uri().query().unwrap_or_default());
        let asked = match request.uri().path() {
            "/" => Self::Root,
            "/mesh" => Self::Page(question()),
            "/mesh.json" if request.uri().query() == Some("part") => Self::Part,
            "/mesh.json" => Self::Json(question()),
            _ => return None,
        };
        let takes = matches!(*request.method(), Method::GET | Method::HEAD);
        Some(if takes { asked } else { Self::WrongMethod })
    }

    async fn answer(self, shared: Arc<Shared>, pictures: Arc<Pictures>) -> Reply {
        let (is_page, question) = match self {
            Self::Root => return elsewhere(),
            Self::WrongMethod => return reply::wrong_method("GET, HEAD"),
            Self::Part => return own_part(shared, pictures).await,
            Self::Page(question) => (true, question),
            Self::Json(question) => (false, question),
        };
        let question = match question {
            Ok(question) => question,
            Err(wrong) => return reply::text(StatusCode::BAD_REQUEST, wrong),
        };
        let turn = Arc::clone(&pictures.turn).acquire_owned().await;
        // It goes on if its reader leaves, and holds its turn until then.
        let made = tokio::spawn(async move {
            let _turn = turn;
            let picture = pictures.get(&shared).await?;
            tokio::task::spawn_blocking(move || {
                let picture = match &question.namespace {
                    Some(namespace) => Arc::new(picture.in_namespace(namespace)),
                    None => picture,
                };
                if is_page { for_people(&picture, &question) } else { as_json(&*picture) }
            })
            .await
        });
        match made.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) | Err(error) => failed(&error),
        }
    }
}

async fn own_part(shared: Arc<Shared>, pictures: Arc<Pictures>) -> Reply {
    let turn = Arc::clone(&pictures.part_turn).acquire_owned().await;
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        as_json(&*pictures.part(&shared))
    });
    made.await.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &JoinError) -> Reply {
    reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn elsewhere() -> Reply {
    let mut reply = reply::text(StatusCode::FOUND, "the mesh is at /mesh");
    reply.headers_mut().insert(LOCATION, HeaderValue::from_static("/mesh"));
    reply
}

fn for_people(picture: &Picture, question: &Question) -> Reply {
    let mut reply = reply::of_type(StatusCode::OK, "text/html; charset=utf-8", html::page(picture, question));
    let policy = HeaderValue::try_from(html::policy()).expect("base64 and ASCII words make a header");
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    reply
}

fn as_json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(text) => reply::of_type(StatusCode::OK, "application/json", text),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
