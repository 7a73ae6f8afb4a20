// SPDX-License-Identifier: Apache-2.0
//! One request from its head to its end: decided about, sent, handed on in both directions, booked.

mod body;
mod books;
mod held;
mod ledger;
mod transfer;

pub(crate) use books::Books;

use crate::link::{Link, Server};
use crate::reply::Request as Form;
use crate::rules::{Decision, Edits, Exchange, Failure, How};
use body::{Body, Source};
use books::Stop;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Version};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use transfer::Transfer;

/// Request that was sent to the server.
struct Sent {
    response: ResponseFuture,
    upload: SendStream<Bytes>,
    /// One of the streams that the server takes at once.
    slot: OwnedSemaphorePermit,
}

/// Carries one request to its end.
pub(crate) async fn run<E: Exchange>(
    mut books: Books<E>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let form = Form::of(&head);
    let mut source = Source::new(body);
    let how = match open(&mut books, head, &mut source, &mut respond).await {
        Ok(sent) => {
            let _slot = sent.slot;
            let mut transfer = Transfer::new(Body::new(source, sent.upload), sent.response, respond, form);
            poll_fn(|cx| transfer.poll(cx, &mut books)).await
        }
        Err(stop) => books.stop(stop, &mut respond, &form),
    };
    books.end(how);
}

/// Asks the owner, waits for the server, sends the head.
async fn open<E: Exchange>(
    books: &mut Books<E>,
    mut head: Parts,
    source: &mut Source,
    respond: &mut SendResponse<Bytes>,
) -> Result<Sent, Stop> {
    let edits = decide(books, &head, respond).await?;
    books.received(source);
    edits.apply(&mut head.headers);
    if head.uri.authority().is_none() {
        // The client named the host by the host field. The crate sends a request without an authority only if it is marked so.
        head.version = Version::HTTP_11;
    }
    let link = Arc::clone(&books.link);
    let slot = match Arc::clone(&link.slots).try_acquire_owned() {
        Ok(slot) => Ok(slot),
        Err(_) => {
            link.flags.wanted.store(true, Relaxed);
            link.wake_session();
            let free = Arc::clone(&link.slots).acquire_owned();
            let mut free = pin!(free);
            let received = |cx: &mut Context<'_>, books: &mut Books<E>| {
                books.receive(cx, source);
                free.as_mut().poll(cx)
            };
            unless_left(books, respond, received).await?
        }
    };
    let (Ok(slot), Server::Ready(mut server)) = (slot, link.upstream()) else {
        return Err(unreachable(books, &link));
    };
    let (response, upload) = send(books, &mut server, head, source.is_over())?;
    books.forwarded();
    Ok(Sent { response, upload, slot })
}

fn send<E: Exchange>(
    books: &mut Books<E>,
    server: &mut SendRequest<Bytes>,
    head: Parts,
    over: bool,
) -> Result<(ResponseFuture, SendStream<Bytes>), Stop> {
    server.send_request(Request::from_parts(head, ()), over).map_err(|error| {
        if error.is_io() || error.is_go_away() {
            return Stop::Reset(Reason::REFUSED_STREAM, How::Refused);
        }
        Stop::Answer(books.exchange.failed(Failure::Edits), How::Failed(Failure::Edits))
    })
}

fn unreachable<E: Exchange>(books: &mut Books<E>, link: &Link) -> Stop {
    match link.upstream() {
        Server::Failed(reply) => Stop::Answer(reply, How::Unreachable),
        Server::Broken(failure) => Stop::Answer(books.exchange.failed(failure), How::Failed(failure)),
        _ => Stop::Reset(Reason::REFUSED_STREAM, How::Refused),
    }
}

async fn decide<E: Exchange>(
    books: &mut Books<E>,
    head: &Parts,
    respond: &mut SendResponse<Bytes>,
) -> Result<Edits, Stop> {
    loop {
        match books.exchange.decide(head) {
            Decision::Pass(edits) => return Ok(edits),
            Decision::Answer(reply) => return Err(Stop::Answer(reply, How::Answered)),
            Decision::Delay(time) => {
                let mut delay = pin!(tokio::time::sleep(time));
                unless_left(books, respond, |cx, _| delay.as_mut().poll(cx)).await?;
            }
        }
    }
}

/// Waits for something as long as the client waits and the owner finds the request not overdue.
async fn unless_left<E: Exchange, T>(
    books: &mut Books<E>,
    respond: &mut SendResponse<Bytes>,
    mut poll: impl FnMut(&mut Context<'_>, &mut Books<E>) -> Poll<T>,
) -> Result<T, Stop> {
    poll_fn(|cx: &mut Context<'_>| {
        let overdue = books.attend(cx);
        if let Poll::Ready(left) = respond.poll_reset(cx) {
            return Poll::Ready(Err(Stop::Left(left.map_or(How::ClientGone, How::ClientReset))));
        }
        if let Some(reply) = overdue {
            return Poll::Ready(Err(Stop::Answer(reply, How::Overdue)));
        }
        poll(cx, books).map(Ok)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::{Books, Exchange};
    use crate::rules::Decision;
    use bytes::Bytes;
    use h2::RecvStream;
    use h2::server::SendResponse;
    use http::Request;
    use http::request::Parts;

    struct Open;

    impl Exchange for Open {
        fn decide(&mut self, _: &Parts) -> Decision {
            Decision::Pass(crate::rules::Edits::default())
        }
    }

    fn size<F>(_: fn(Books<Open>, Request<RecvStream>, SendResponse<Bytes>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_is_small() {
        assert!(size(super::run) <= 2048, "{} bytes", size(super::run));
    }
}
