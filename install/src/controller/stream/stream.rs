// SPDX-License-Identifier: Apache-2.0
//! One sidecar's stream: requests in, changes out.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use culvert_control::frame::{Frames, framed};
use culvert_control::messages::DeltaDiscoveryResponse;
use culvert_control::{DESTINATION, DOCUMENT, MAX_NAMES, MAX_REQUEST, NAMES};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::grpc::{self, Messages, Piece, Status};
use super::intake::{Intake, Request};
use super::place::Place;
use super::reviewed::{self, Caller, Refused};
use super::session::{Asked, PIECE, Session};
use crate::controller::compile::{self, Account, Named, mesh_of};
use crate::controller::followers::{Inbox, StreamId};
use crate::controller::key::Key;
use crate::controller::metrics::Sent;
use crate::controller::peers::Share;
use crate::controller::shared::Shared;

/// Responses under way to one sidecar: one is sent while the next one is made.
const QUEUE: usize = 2;
/// Time for which further changes are gathered into one response: a rollout changes many pods within a second.
const GATHER: Duration = Duration::from_millis(50);
/// Time for a sidecar to take a response.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// Age at which a stream ends, so that its token is reviewed again and sidecars spread over replicas. The sidecar comes back at
/// once and is sent what differs.
const AGE: Duration = Duration::from_secs(3600);
/// Streams end up to so much later, by their numbers, so that those of one start do not come back at once.
const SPREAD: u64 = 900;

/// Destinations that are compiled at a time, for which the world is held.
const BATCH: usize = 4;
/// Time in which at most one refusal of a sidecar is a warning: its words are the peer's.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Characters of a refusal that are logged.
const MAX_WORDS: usize = 1000;

/// Starts a stream, and returns its answer.
pub(super) fn start(
    requests: Incoming,
    caller: Caller,
    sidecar: &str,
    shared: Arc<Shared>,
) -> Response<Messages> {
    let Some(share) = shared.streams.take(caller.pod.clone()) else {
        return grpc::only(&Status::new(8, "the pod has as many streams as it may have"));
    };
    let (sender, mut response) = grpc::streaming(QUEUE);
    response.headers_mut().insert(HeaderName::from_static(NAMES), MAX_NAMES.into());
    let following = Following::begin(&shared, caller, sidecar, share);
    tokio::spawn(async move {
        let status = run(requests, following, &sender).await.unwrap_or_else(|ended| ended);
        // A peer that takes nothing hears no reason.
        let _ = timeout(TAKES_WITHIN, sender.send(Err(status))).await;
    });
    response
}

/// A stream among the followers; dropped, it leaves them.
struct Following {
    shared: Arc<Shared>,
    caller: Caller,
    image: Box<str>,
    id: StreamId,
    inbox: Arc<Inbox>,
    session: Session,
    intake: Intake,
    /// The pod's mesh, and true where it is STRICT, by which destinations were told.
    standing: Option<(String, bool)>,
    /// True where destinations were told by another standing: all of them are told again.
    has_moved: bool,
    /// Time of the last refusal that was a warning.
    complained: Option<Instant>,
    _share: Share<Key>,
}

impl Following {
    fn begin(shared: &Arc<Shared>, caller: Caller, sidecar: &str, share: Share<Key>) -> Self {
        let (id, inbox) = shared.followers().add(&caller.pod);
        shared.metrics.connected(sidecar, 1);
        let (shared, image) = (Arc::clone(shared), sidecar.into());
        Self {
            shared,
            caller,
            image,
            id,
            inbox,
            session: Session::default(),
            intake: Intake::default(),
            standing: None,
            has_moved: false,
            complained: None,
            _share: share,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let addresses = self.session.at(|_| true).into_iter().map(|at| at.ip());
        let names = self.session.names().cloned();
        self.shared.followers().remove(self.id, &self.caller.pod, addresses, names);
        self.intake.end(&self.shared);
        self.shared.metrics.connected(&self.image, -1);
    }
}

async fn run(
    requests: Incoming,
    mut following: Following,
    queue: &mpsc::Sender<Piece>,
) -> Result<Status, Status> {
    let mut requests = Requests { body: requests, frames: Frames::of_at_most(MAX_REQUEST) };
    let inbox = Arc::clone(&following.inbox);
    let mut ends = pin!(sleep(AGE + Duration::from_secs(following.id.number() % SPREAD)));
    // The time at which gathered changes are looked at.
    let mut gathered: Option<Instant> = None;
    loop {
        let due = gathered.unwrap_or_else(Instant::now);
        tokio::select! {
            request = requests.next() => match request? {
                Some(request) => following.answer(request, queue).await?,
                None => return Ok(Status::OK),
            },
            () = inbox.notify.notified(), if gathered.is_none() => gathered = Some(Instant::now() + GATHER),
            () = sleep_until(due), if gathered.is_some() => {
                gathered = None;
                following.change(queue).await?;
            }
            () = &mut ends => return Ok(Status::new(0, "the stream has its age: come back")),
            () = queue.closed() => return Ok(Status::OK),
        }
    }
}

impl Following {
    /// Answers a request.
    async fn answer(&mut self, request: Request, queue: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let began = Instant::now();
        let request = self.intake.take(&self.shared, &self.caller, request);
        let about = match request.type_url.as_str() {
            DOCUMENT => Some(Sent::Documents),
            DESTINATION => Some(Sent::Destinations),
            _ => None,
        };
        if let Some(about) = about {
            self.inbox.unacknowledged.answered(about, &request.response_nonce);
        }
        let Asked { documents, destinations, given_up, refused, unknown } =
            self.session.take(request).map_err(|wrong| Status::new(3, wrong))?;
        if let Some((nonce, words)) = refused {
            self.refused(&nonce, &words);
        }
        if let Some(kind) = unknown {
            tracing::debug!(pod = %self.caller.pod, kind, "a sidecar asks for a type that is not known: it may be newer");
        }
        self.follow(&destinations, &given_up);
        if documents {
            self.documents(true, queue).await?;
        }
        if !destinations.is_empty() {
            self.destinations(destinations, queue).await?;
            self.shared.metrics.lookups.observe(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Notes what the stream follows and what it follows no more.
    fn follow(&self, destinations: &[Place], given_up: &[Place]) {
        let mut followers = self.shared.followers();
        for place in given_up {
            match place {
                // Another port of the address may be followed still.
                Place::At(at) if self.session.at(|ip| ip == at.ip()).is_empty() => {
                    followers.leave(self.id, at.ip());
                }
                Place::At(_) => {}
                Place::Named(host) => followers.leave_name(self.id, host),
            }
        }
        for place in destinations {
            match place {
                Place::At(at) => followers.follow(self.id, at.ip()),
                Place::Named(host) => followers.follow_name(self.id, host),
            }
        }
    }

    /// Notes that the sidecar refuses a response.
    fn refused(&mut self, nonce: &str, words: &str) {
        self.shared.metrics.nacks.inc();
        let words: String = words.chars().take(MAX_WORDS).collect();
        let pod = &self.caller.pod;
        self.shared.reports.refused(pod, &self.caller.uid, &words);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(%pod, nonce, words, "a sidecar refuses what it was sent");
        } else {
            tracing::debug!(%pod, nonce, words, "a sidecar refuses what it was sent");
        }
    }

    /// Sends what changed.
    async fn change(&mut self, queue: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let waiting = self.inbox.take();
        if waiting.documents {
            self.documents(false, queue).await?;
        }
        let mut concerned = self.session.among(&waiting.addresses, &waiting.names);
        if waiting.documents {
            self.look()?;
            // The mode decides about Services that are onboarded by half.
            if std::mem::take(&mut self.has_moved) {
                concerned = self.session.all();
            }
        }
        if !concerned.is_empty() {
            self.destinations(concerned, queue).await?;
        }
        Ok(())
    }

    /// Looks at the pod's mesh and its mode.
    fn look(&mut self) -> Result<(), Status> {
        let now = {
            let world = self.shared.world();
            let pod =
                reviewed::living(&world, &self.caller).map_err(|gone| Status::new(gone.code(), gone))?;
            (mesh_of(pod).to_owned(), compile::is_strict(&world, mesh_of(pod)))
        };
        let before = self.standing.replace(now);
        self.has_moved |= before.is_some() && before != self.standing;
        Ok(())
    }

    async fn documents(&mut self, is_first: bool, queue: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let gone = |gone: Refused| Status::new(gone.code(), gone);
        if !self.session.wants_documents() {
            // The stream of a pod that is gone ends, whatever it asked for.
            return reviewed::living(&self.shared.world(), &self.caller).map(|_| ()).map_err(gone);
        }
        let named = self.about().await.map_err(gone)?;
        for response in self.session.documents(named, is_first) {
            self.send(Sent::Documents, response, queue).await?;
        }
        Ok(())
    }

    /// The documents about the pod. Accounts are asked for outside of the world, and only where they matter: they take long to make.
    async fn about(&self) -> Result<Vec<Named>, Refused> {
        let identities = self.shared.identities();
        let mut accounts: Option<Arc<Vec<Account>>> = None;
        loop {
            let mesh = {
                let world = self.shared.world();
                let pod = reviewed::living(&world, &self.caller)?;
                let known = accounts.as_ref().map(|accounts| &accounts[..]);
                if let Some(documents) = compile::about(&world, &identities, known, pod) {
                    return Ok(documents);
                }
                mesh_of(pod).to_owned()
            };
            accounts = Some(self.shared.accounts(&identities, &mesh).await);
        }
    }

    /// Sends destinations as they are compiled, so that a sidecar that asks for thousands fills no memory here.
    async fn destinations(&mut self, asked: Vec<Place>, queue: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let identities = self.shared.identities();
        self.look()?;
        let (mut ready, mut bytes) = (Vec::new(), 0);
        for batch in asked.chunks(BATCH) {
            let compiled: Vec<_> = {
                let world = self.shared.world();
                let pod =
                    reviewed::living(&world, &self.caller).map_err(|gone| Status::new(gone.code(), gone))?;
                let mesh = mesh_of(pod);
                let of = |place: &Place| match place {
                    Place::At(at) => compile::destination(&world, &identities, mesh, *at),
                    Place::Named(host) => compile::named(&world, &identities, mesh, host),
                };
                batch.iter().map(|place| (place.clone(), of(place))).collect()
            };
            for (place, documents) in compiled {
                let length = documents.iter().map(|one| one.text.len()).sum::<usize>();
                if bytes + length > PIECE && !ready.is_empty() {
                    self.send_destinations(std::mem::take(&mut ready), queue).await?;
                    bytes = 0;
                }
                bytes += length;
                ready.push((place, documents));
            }
            // Others have their turn, where nothing has to be sent.
            yield_now().await;
        }
        self.send_destinations(ready, queue).await
    }

    async fn send_destinations(
        &mut self,
        ready: Vec<(Place, Vec<Named>)>,
        queue: &mpsc::Sender<Piece>,
    ) -> Result<(), Status> {
        match self.session.destinations(ready) {
            Some(response) => self.send(Sent::Destinations, response, queue).await,
            None => Ok(()),
        }
    }

    async fn send(
        &self,
        what: Sent,
        response: DeltaDiscoveryResponse,
        queue: &mpsc::Sender<Piece>,
    ) -> Result<(), Status> {
        self.shared.metrics.pushed(what);
        self.inbox.unacknowledged.sent(what, &response.nonce);
        let late =
            |_| Status::new(4, format!("a response was not taken within {} s", TAKES_WITHIN.as_secs()));
        let sent = timeout(TAKES_WITHIN, queue.send(Ok(framed(&response)))).await.map_err(late)?;
        sent.map_err(|_| Status::new(1, "the sidecar is gone"))
    }
}

/// Requests of a stream.
struct Requests {
    body: Incoming,
    frames: Frames,
}

impl Requests {
    /// Returns the next request; `None` at the end. May be dropped and called again: nothing is lost.
    async fn next(&mut self) -> Result<Option<Request>, Status> {
        loop {
            if let Some(request) = self.frames.take().map_err(|error| Status::new(3, error))? {
                return Ok(Some(request));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.frames.push(&data);
                    }
                }
                Some(Err(_)) => return Err(Status::new(1, "the stream broke off")),
                None if self.frames.is_partial() => {
                    return Err(Status::new(3, "the stream ends in half a request"));
                }
                None => return Ok(None),
            }
        }
    }
}
