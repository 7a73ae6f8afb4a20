// SPDX-License-Identifier: Apache-2.0
//! The status port: `/healthz`, `/ready` and `/metrics`, and the mesh as a picture, by the bounded server that agent and injector
//! have too.
//!
//! ```text
//! world, followers, traffic ──▶ picture ──▶ /mesh.json
//!                                  └──▶ layout ──▶ ways ──▶ svg ──▶ html ──▶ /mesh
//! ```

mod html;
mod layout;
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
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, LOCATION};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::html::Question;
use self::picture::Picture;
use super::shared::Shared;
use crate::system::clock::rfc3339;
use crate::system::status_port;

/// Time for which a picture serves all readers: each new one looks at every pod.
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
    pub(crate) fn new(shared: Arc<Shared>, ending: watch::Receiver<bool>) -> Self {
        let pictures = Pictures { last: Mutex::default(), turn: Arc::new(Semaphore::new(1)) };
        Self { shared, ending, pictures: Arc::new(pictures) }
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

/// The last picture.
#[derive(Debug)]
struct Pictures {
    last: Mutex<Option<(Instant, Arc<Picture>)>>,
    /// One answer at a time: any pod may ask, and sidecars are to be served meanwhile.
    turn: Arc<Semaphore>,
}

impl Pictures {
    /// Returns a picture of this moment, or of one just before. Readers that come meanwhile wait for the same one.
    fn get(&self, shared: &Shared) -> Arc<Picture> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, picture)) = last.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Arc::clone(picture);
        }
        let picture = Arc::new(taken(shared));
        *last = Some((Instant::now(), Arc::clone(&picture)));
        picture
    }
}

fn taken(shared: &Shared) -> Picture {
    let now = Instant::now();
    let heard: HashSet<_> = shared.followers().pods().cloned().collect();
    let (edges, left_out) = {
        let mut traffic = shared.traffic();
        (traffic.edges(now), traffic.left_out(now))
    };
    let picture = Picture::of(&shared.world(), &heard, edges);
    Picture {
        replica: shared.settings.instance.clone(),
        time: rfc3339(SystemTime::now()),
        left_out,
        ..picture
    }
}

/// A page about the mesh that is asked for.
enum Asked {
    /// The way to the page for people.
    Root,
    /// The page for people.
    Page(Result<Question, &'static str>),
    /// The same as JSON.
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
            Self::Page(question) => (true, question),
            Self::Json(question) => (false, question),
        };
        let question = match question {
            Ok(question) => question,
            Err(wrong) => return reply::text(StatusCode::BAD_REQUEST, wrong),
        };
        let turn = Arc::clone(&pictures.turn).acquire_owned().await;
        // Milliseconds of work, which no stream should wait for. It goes on if its reader leaves, and holds its turn until then.
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let picture = pictures.get(&shared);
            let picture = match &question.namespace {
                Some(namespace) => Arc::new(picture.in_namespace(namespace)),
                None => picture,
            };
            if is_page { for_people(&picture, &question) } else { as_json(&picture) }
        });
        made.await.unwrap_or_else(|error| reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
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

fn as_json(picture: &Picture) -> Reply {
    match serde_json::to_vec(picture) {
        Ok(text) => reply::of_type(StatusCode::OK, "application/json", text),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
