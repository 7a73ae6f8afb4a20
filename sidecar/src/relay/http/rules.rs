// SPDX-License-Identifier: Apache-2.0
//! Decisions about messages, which the owner of a connection makes.

use crate::relay::Side;
use culvert_http::edit::Edit;
use culvert_http::{Refusal, RequestHead, ResponseHead, Words};
use std::time::Instant;

/// Owner of the messages of a connection: it decides about each request, and hears what becomes of it.
pub(crate) trait Rules {
    /// Decides about the next request. After a wait it is asked again about the same one.
    fn request(&mut self, head: &RequestHead<'_>) -> Decision;

    /// Returns the edits of each head that is forwarded.
    fn edits(&self) -> &[Edit];

    /// Notes the head of a response to the oldest request under way, interim ones too.
    fn response(&mut self, head: &ResponseHead<'_>);

    /// Notes the rule that ends the connection, and the status of the answer if there is one.
    fn refused(&mut self, rule: Refusal, status: Option<u16>);

    /// Notes how many requests are under way: fewer than before if responses are complete. `whole` is true if the client has
    /// sent all of the last one.
    fn under_way(&mut self, requests: usize, whole: bool);

    /// Counts bytes of a body: of the client for the newest request, of the server for the oldest.
    fn body(&mut self, from: Side, bytes: u64);

    /// Returns true if the response under way has a limit of bandwidth.
    fn is_limited(&self) -> bool;

    /// Takes bytes of a response's body that may pass now: as many as are wanted or fewer, and at least one. Otherwise returns
    /// the time at which more may.
    fn take_budget(&mut self, wanted: usize) -> Result<usize, Instant>;
}

/// Decision about a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is forwarded, with the edits of its head.
    Pass,
    /// It is answered in its turn, and the server does not get it.
    Answer(Words),
    /// It waits until then.
    Wait(Instant),
}

/// No rules.
#[cfg(test)]
impl Rules for () {
    fn request(&mut self, _: &RequestHead<'_>) -> Decision {
        Decision::Pass
    }

    fn edits(&self) -> &[Edit] {
        &[]
    }

    fn response(&mut self, _: &ResponseHead<'_>) {}

    fn refused(&mut self, _: Refusal, _: Option<u16>) {}

    fn under_way(&mut self, _: usize, _: bool) {}

    fn body(&mut self, _: Side, _: u64) {}

    fn is_limited(&self) -> bool {
        false
    }

    fn take_budget(&mut self, wanted: usize) -> Result<usize, Instant> {
        Ok(wanted)
    }
}
