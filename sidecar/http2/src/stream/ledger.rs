// SPDX-License-Identifier: Apache-2.0
//! Bytes of one direction, as the owner hears of them and as its budget lets them pass.

use super::body::{Passed, Sink};
use super::books::Books;
use crate::reply::reported_grpc_status;
use crate::rules::{Exchange, Peer};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep_until};

/// Books of a request while a direction of it is polled.
pub(super) struct Ledger<'a, E: Exchange> {
    pub(super) books: &'a mut Books<E>,
    /// Sender of the bytes.
    pub(super) from: Peer,
    /// Made for bytes that wait for their budget.
    pub(super) wait: &'a mut Option<Pin<Box<Sleep>>>,
}

impl<E: Exchange> Sink for Ledger<'_, E> {
    fn poll_budget(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.from == Peer::Client {
            return Poll::Ready(wanted);
        }
        loop {
            if let Some(wait) = self.wait.as_mut() {
                ready!(wait.as_mut().poll(cx));
                *self.wait = None;
            }
            match self.books.exchange.budget(wanted) {
                Ok(budget) => return Poll::Ready(budget.max(1).min(wanted)),
                Err(at) => *self.wait = Some(Box::pin(sleep_until(at))),
            }
        }
    }

    fn passed(&mut self, part: Passed<'_>) {
        let Books { exchange, outcome, .. } = &mut *self.books;
        match (part, self.from) {
            (Passed::Bytes(bytes), from) => {
                match from {
                    Peer::Client => outcome.received += bytes as u64,
                    Peer::Server => outcome.sent += bytes as u64,
                }
                exchange.moved(from, bytes);
            }
            (Passed::Trailers(fields), from) => {
                if from == Peer::Server {
                    outcome.grpc_status = reported_grpc_status(fields).or(outcome.grpc_status);
                }
                exchange.moved(from, 0);
            }
        }
    }
}
