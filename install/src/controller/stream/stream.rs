// SPDX-License-Identifier: Apache-2.0
//! One sidecar's stream: requests in, changes out.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use culvert_control::frame::{Frames, framed};
use culvert_control::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::followers::{Inbox, StreamId};
use super::grpc::{self, Messages, Piece, Status};
use super::reviewed::{self, Caller};
use super::session::{Asked, Session};
use crate::controller::compile::{self, mesh_of};
use crate::controller::metrics::Sent;
use crate::controller::shared::Shared;

/// Responses under way to one sidecar.
const QUEUE: usize = 8;
/// Time for which further changes are gathered into one response: a rollout changes many pods within a second.
const GATHER: Duration = Duration::from_millis(50);
/// Time for a sidecar to take a response.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// Age at which a stream ends, so that its token is reviewed again and sidecars spread over replicas. The sidecar comes back at
/// once and is sent what differs.
const AGE: Duration = Duration::from_secs(3600);
/// Streams end up to so much later, by their numbers, so that those of one start do not come back at once.
const SPREAD: u64 = 900;

/// Starts a stream, and returns its answer.
pub(super) fn start(
    requests: Incoming,
    caller: Caller,
    sidecar: &str,
    shared: Arc<Shared>,
) -> Response<Messages> {
    let (sender, response) = grpc::streaming(QUEUE);
    let following = Following::begin(&shared, caller, sidecar);
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
}

impl Following {
    fn begin(shared: &Arc<Shared>, caller: Caller, sidecar: &str) -> Self {
        let (id, inbox) = shared.followers().add(&caller.pod);
        shared.metrics.connected(sidecar, 1);
        let (shared, image) = (Arc::clone(shared), sidecar.into());
        Self { shared, caller, image, id, inbox, session: Session::default() }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let addresses = self.session.at(|_| true).into_iter().map(|at| at.ip());
        self.shared.followers().remove(self.id, &self.caller.pod, addresses);
        self.shared.metrics.connected(&self.image, -1);
    }
}

async fn run(
    requests: Incoming,
    mut following: Following,
    queue: &mpsc::Sender<Piece>,
) -> Result<Status, Status> {
    let mut requests = Requests { body: requests, frames: Frames::default() };
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
    async fn answer(
        &mut self,
        request: DeltaDiscoveryRequest,
        queue: &mpsc::Sender<Piece>,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let Asked { documents, destinations, given_up, refused } =
            self.session.take(request).map_err(|wrong| Status::new(3, wrong))?;
        if let Some((nonce, words)) = refused {
            self.shared.metrics.nacks.inc();
            tracing::warn!(pod = %self.caller.pod, nonce, "a sidecar refuses what it was sent: {words}");
        }
        {
            let mut followers = self.shared.followers();
            for at in given_up {
                // Another port of the address may be followed still.
                if self.session.at(|ip| ip == at.ip()).is_empty() {
                    followers.leave(self.id, at.ip());
                }
            }
            destinations.iter().for_each(|at| followers.follow(self.id, at.ip()));
        }
        if documents {
            let response = self.documents(true)?;
            self.send(Sent::Documents, response, queue).await?;
        }
        if !destinations.is_empty() {
            let response = self.destinations(destinations)?;
            self.send(Sent::Destinations, response, queue).await?;
            self.shared.metrics.lookups.observe(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Sends what changed.
    async fn change(&mut self, queue: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let waiting = self.inbox.take();
        if waiting.documents {
            let response = self.documents(false)?;
            self.send(Sent::Documents, response, queue).await?;
        }
        if !waiting.addresses.is_empty() {
            let touched = |ip: IpAddr| waiting.addresses.contains(&ip);
            let response = self.destinations(self.session.at(touched))?;
            self.send(Sent::Destinations, response, queue).await?;
        }
        Ok(())
    }

    fn documents(&mut self, is_first: bool) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let identities = self.shared.identities();
        let named = {
            let world = self.shared.world();
            let pod =
                reviewed::living(&world, &self.caller).map_err(|gone| Status::new(gone.code(), gone))?;
            if !self.session.wants_documents() {
                return Ok(None);
            }
            compile::about(&world, &identities, pod)
        };
        Ok(self.session.documents(named, is_first))
    }

    fn destinations(&mut self, asked: Vec<SocketAddr>) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let identities = self.shared.identities();
        let named = {
            let world = self.shared.world();
            let pod =
                reviewed::living(&world, &self.caller).map_err(|gone| Status::new(gone.code(), gone))?;
            let mesh = mesh_of(pod);
            let of = |at: SocketAddr| (at, compile::destination(&world, &identities, mesh, at));
            asked.into_iter().map(of).collect()
        };
        Ok(self.session.destinations(named))
    }

    async fn send(
        &self,
        what: Sent,
        response: Option<DeltaDiscoveryResponse>,
        queue: &mpsc::Sender<Piece>,
    ) -> Result<(), Status> {
        let Some(response) = response else { return Ok(()) };
        self.shared.metrics.pushed(what);
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
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
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
