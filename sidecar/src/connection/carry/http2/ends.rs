// SPDX-License-Identifier: Apache-2.0
//! The end of a stream in the words of the traffic log, and in those of the pages.

use crate::connection::carry::filters::{Books, FAILED, REFUSED, Setting, of_refusal, reset_by};
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpEnd;
use crate::relay::Side;
use crate::relay::http::Refusal;
use culvert_http2::{Failure, How};

/// Returns the end of a request whose server failed.
pub(super) fn of_failure(failure: Failure, answered: bool, setting: &Setting) -> (HttpEnd, String) {
    let rule = if answered { Refusal::CutBody } else { Refusal::NoAnswer };
    match failure {
        Failure::Died => (of_refusal(rule), setting.why_refused(rule)),
        Failure::Protocol | Failure::Edits => (FAILED, format!("{} broke HTTP/2", setting.server())),
    }
}

/// Returns the end of a request whose stream the client or the server reset.
pub(super) fn of_reset(how: How, answered: bool, setting: &Setting) -> (HttpEnd, String) {
    let before = if answered { "within the answer" } else { "before the answer" };
    match how {
        How::Refused => (REFUSED, format!("{} did not take it", setting.server())),
        How::ServerReset(reason) => {
            let why = format!("{} reset it {before}: {reason}", setting.server());
            (reset_by(Side::Server, answered), why)
        }
        _ => {
            setting.abandoned(CloseReason::ClientReset);
            (reset_by(Side::Client, answered), setting.why_abandoned(CloseReason::ClientReset, answered))
        }
    }
}

/// Returns the status of HTTP that a status of gRPC stands for, by which Envoy judges endpoints too.
pub(super) fn http_status(grpc: u32) -> u16 {
    match grpc {
        2 | 13 | 15 => 500,
        4 => 504,
        12 => 501,
        14 => 503,
        _ => 200,
    }
}

/// Notes a status of gRPC that a user would call a failure: its calls that failed are answered 200.
pub(super) fn of_grpc(status: u32, books: &mut Books, setting: &Setting) {
    // Unknown, deadline, exhausted, internal, unavailable, data loss. Others are answers, as 404 and 403 are.
    if matches!(status, 2 | 4 | 8 | 13 | 14 | 15) {
        books.noted.fails(format!("{} answered grpc-status {status}", setting.server()));
    }
}
