// SPDX-License-Identifier: Apache-2.0
//! From a client's preface to its server: requests are decided about and answered before there is one.
//!
//! ```text
//! session ─▶ a request asks ─▶ dial ─▶ the session gets the server │ an answer for all requests that wait
//! ```

use super::counted::{Counted, Tally};
use super::owner::{Owner, Shared, reply_of};
use super::{Http2, Running};
use crate::cluster::stream::Stream;
use crate::connection::admission::Admitted;
use crate::connection::carry::Carry;
use crate::connection::carry::filters::{Change, Filters};
use crate::connection::carry::tcp;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::observe::close_reason::CloseReason;
use crate::relay::RelayStream as _;
use crate::relay::http::{LINGER, Refusal};
use culvert_http2::{Cause, Reply, Session, Settings};
use std::error::Error;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A client's preface, and the rules for what comes behind it.
pub(in crate::connection::carry) struct Preface {
    /// The preface and the bytes that came with it.
    pub(in crate::connection::carry) bytes: Box<[u8]>,
    pub(in crate::connection::carry) filters: Filters,
    pub(in crate::connection::carry) changes: Vec<Change>,
    /// The error of a member that may not call.
    pub(in crate::connection::carry) forbidden: Option<ForwardError>,
    /// Longest time without a request until one asks for a server.
    pub(in crate::connection::carry) patience: Duration,
}

/// The way in which a wait ended.
enum Waited<T> {
    Done(T),
    /// The session is over.
    Over(Cause),
    /// No request came in time.
    Silent,
}

/// The two ends of the dial: a session's request for a server, and the server.
struct Dial {
    asked: oneshot::Receiver<()>,
    gives: oneshot::Sender<Result<Counted, Reply>>,
}

/// Begins a session, and waits until a request asks for a server; `None` once the connection has ended.
pub(in crate::connection::carry) async fn connect(
    mut downstream: Downstream,
    client: Stream,
    admitted: Admitted,
    preface: Preface,
) -> Option<Carry> {
    let (patience, forbidden) = (preface.patience, preface.forbidden);
    let first = (preface.bytes, Shared::new(preface.filters, &preface.changes));
    let (mut running, mut dial) = begin(client, first);
    running.metrics().http2.inc();
    let wait = Wait { patience: Some(patience), renews: forbidden.is_none() };
    match running.wait(wait, Some(&mut downstream), pin!(&mut dial.asked)).await {
        Waited::Done(_) => {}
        Waited::Over(cause) => {
            end(downstream, running, cause, forbidden);
            return None;
        }
        Waited::Silent => {
            leave(downstream, running, forbidden).await;
            return None;
        }
    }
    let dialled = {
        let dialling = pin!(tcp::connect(&mut downstream, None, admitted));
        running.wait(Wait { patience: None, renews: false }, None, dialling).await
    };
    match dialled {
        Waited::Done(Ok(mut connected)) => {
            running.shared.judged_by(connected.take_judge());
            let keepalive = downstream.shared().config.tcp_keepalive;
            let (server, noted, session) = connected.apart(downstream);
            if let Some(after) = keepalive {
                // An accepted socket inherits keepalive from its listener.
                server.keep_alive(after);
            }
            // A session that is over has no use for it, which the first poll finds out.
            let _ = dial.gives.send(Ok(Counted::server(server, noted, &running.tally)));
            return Some(Carry::Streams(Box::new(Http2::new(running, session))));
        }
        Waited::Done(Err(error)) => match error.answer() {
            Some(rule) => no_server(downstream, running, dial, (&error, rule)).await,
            None => {
                running.tally.cut();
                close(downstream, running, error.reason(), Some(&error));
            }
        },
        Waited::Over(cause) => end(downstream, running, cause, None),
        Waited::Silent => leave(downstream, running, None).await,
    }
    None
}

fn begin(client: Stream, (bytes, shared): (Box<[u8]>, Shared)) -> (Running, Dial) {
    let (shared, tally) = (Arc::new(shared), Arc::new(Tally::default()));
    let session = Session::new(Owner(Arc::clone(&shared)), Settings::default());
    let handle = session.handle();
    let (asks, asked) = oneshot::channel();
    let (gives, given) = oneshot::channel();
    let dial = async move {
        // The owner of the session waits for it, or is about to drop it.
        let _ = asks.send(());
        given.await.unwrap_or_else(|_| Err(reply_of(Refusal::Unreachable)))
    };
    let is_tls = matches!(client, Stream::Tls(_));
    let relay = session.relay(Counted::client(client, &tally), Vec::from(bytes).into(), dial);
    let old = shared.times().connection.map(|life| std::time::Instant::now() + life);
    (
        Running { relay: Box::pin(relay), handle, shared, tally, old, is_tls, drains: false },
        Dial { asked, gives },
    )
}

/// Ends a connection whose session is over.
fn end(downstream: Downstream, running: Running, cause: Cause, forbidden: Option<ForwardError>) {
    let (reason, error) = running.outcome(cause);
    match forbidden {
        Some(error) => close(downstream, running, error.reason(), Some(&error)),
        None => close(downstream, running, reason, error.as_ref().map(|error| error as &dyn Error)),
    }
}

/// Closes the client's side, and writes the requests that ended and the closing record.
fn close(mut downstream: Downstream, running: Running, reason: CloseReason, error: Option<&dyn Error>) {
    downstream.log_requests(running.close(reason));
    downstream.end(reason, error);
}

/// Ends a connection whose client asked for nothing in time, or may not call.
async fn leave(mut downstream: Downstream, mut running: Running, forbidden: Option<ForwardError>) {
    if running.shared.requests() == 0 {
        running.metrics().silent.inc();
    }
    running.handle.drain();
    let wait = Wait { patience: Some(LINGER), renews: false };
    running.wait(wait, Some(&mut downstream), pin!(pending::<()>())).await;
    match forbidden {
        Some(error) => close(downstream, running, error.reason(), Some(&error)),
        None => close(downstream, running, CloseReason::IdleTimeout, None),
    }
}

/// Answers requests in place of a server, until the client has its answers.
async fn no_server(
    mut downstream: Downstream,
    mut running: Running,
    dial: Dial,
    (error, rule): (&ForwardError, Refusal),
) {
    running.shared.is_unreachable(rule, error);
    // A session that is over has nothing to answer.
    let _ = dial.gives.send(Err(reply_of(rule)));
    let wait = Wait { patience: Some(LINGER), renews: true };
    running.wait(wait, Some(&mut downstream), pin!(pending::<()>())).await;
    close(downstream, running, error.reason(), Some(error));
}

/// Bound of a wait.
#[derive(Clone, Copy)]
struct Wait {
    /// Longest time; `None` = as long as the work takes.
    patience: Option<Duration>,
    /// True if it begins again while there are requests.
    renews: bool,
}

impl Running {
    /// Goes on with the session beside some work, until one of both is over. Writes requests to the log that ended meanwhile.
    async fn wait<F: Future>(
        &mut self,
        wait: Wait,
        mut log: Option<&mut Downstream>,
        mut work: Pin<&mut F>,
    ) -> Waited<F::Output> {
        let end = |patience: Option<Duration>| patience.map(|patience| Instant::now() + patience);
        let (mut until, mut requests) = (end(wait.patience), self.shared.requests());
        loop {
            let due = self.due().map(Instant::from);
            let wake = due.into_iter().chain(until).min();
            let going_on = poll_fn(|cx| {
                // Without a server it is not in the table, which would wake it: a client that goes on asking is told.
                if log.as_ref().is_some_and(|downstream| downstream.is_draining()) {
                    self.drain();
                }
                let polled = self.poll(cx);
                if let Some(downstream) = &mut log {
                    downstream.log_requests(self.shared.take_ended());
                }
                if let Poll::Ready(cause) = polled {
                    return Poll::Ready(Some(Waited::Over(cause)));
                }
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(Waited::Done(done)));
                }
                // A request that has just begun may be due before the time that is waited for.
                if self.due().is_some_and(|due| wake.is_none_or(|wake| Instant::from(due) < wake)) {
                    return Poll::Ready(None);
                }
                Poll::Pending
            });
            let waited = match wake {
                Some(wake) => timeout_at(wake, going_on).await.unwrap_or(None),
                None => going_on.await,
            };
            if let Some(waited) = waited {
                return waited;
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                let now = self.shared.requests();
                let is_used = now != requests || self.handle.streams() > 0;
                if !wait.renews || !is_used {
                    return Waited::Silent;
                }
                (until, requests) = (end(wait.patience), now);
            }
        }
    }
}
