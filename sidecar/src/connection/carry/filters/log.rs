// SPDX-License-Identifier: Apache-2.0
//! What a traffic log says of a request, in Envoy's flags and details.
//!
//! | end | flags | details |
//! |---|---|---|
//! | answered by the server | | `via_upstream` |
//! | delayed by a fault, then as above | `DI` | |
//! | aborted by a fault | `FI` | `fault_filter_abort` |
//! | above the rate | `RL` | `local_rate_limited` |
//! | no permission | `UAEX` | `rbac_access_denied_matched_policy[none]` |
//! | above a limit of the circuit breaker | `UO` | `upstream_reset_before_response_started{overflow}` |
//! | the server cannot be reached | `UF` | `…{remote_connection_failure}` |
//! | no endpoint | `UH` | `no_healthy_upstream` |
//! | FIN or reset before an answer | `UC` | `…{connection_termination}` |
//! | the server's answer breaks a rule | `UPE` | `…{protocol_error}` |
//! | the answer is late, idle, too long | `UT`, `SI`, `DT` | `response_timeout`, `stream_idle_timeout`, `max_duration_timeout` |
//! | the request breaks a rule | `DPE` | the rule's name |
//! | the client went away | `DC` | `downstream_remote_disconnect` |
//! | the client reset its stream of HTTP/2 | `DR` | `http2.remote_reset` |
//! | the server reset it | `UR` | `upstream_reset_before_response_started{remote_reset}`, `…after…` |
//! | the server did not take it | `UR` | `…{remote_refused_stream_reset}` |

use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::{HttpEnd, HttpTraffic};
use crate::relay::Side;
use crate::relay::http::{Local, Refusal};
use std::time::{Duration, SystemTime};

const fn end(flags: &'static str, details: &'static str) -> HttpEnd {
    HttpEnd { flags, details }
}

/// The end of a request whose server broke its protocol before it answered.
pub(in crate::connection::carry) const FAILED: HttpEnd =
    end("UPE", "upstream_reset_before_response_started{protocol_error}");

/// The end of a request that its server did not take.
pub(in crate::connection::carry) const REFUSED: HttpEnd =
    end("UR", "upstream_reset_before_response_started{remote_refused_stream_reset}");

/// A request on its way to the log.
#[derive(Debug)]
pub(in crate::connection::carry) struct Log {
    request: Box<[u8]>,
    response: Box<[u8]>,
    status: u16,
    started: SystemTime,
    bytes: [u64; 2],
    end: Option<HttpEnd>,
    delayed: bool,
}

/// Returns how a request ended that a document's rule answered.
pub(super) fn of_local(by: Local) -> HttpEnd {
    match by {
        Local::Permission => end("UAEX", "rbac_access_denied_matched_policy[none]"),
        Local::Fault => end("FI", "fault_filter_abort"),
        Local::Rate => end("RL", "local_rate_limited"),
        Local::Breaker => end("UO", "upstream_reset_before_response_started{overflow}"),
    }
}

/// Returns how a request ended that a broken rule or a limit of time ended.
pub(in crate::connection::carry) fn of_refusal(rule: Refusal) -> HttpEnd {
    match rule {
        Refusal::RequestTimeout => end("UT", "response_timeout"),
        Refusal::StreamIdle => end("SI", "stream_idle_timeout"),
        Refusal::StreamTimeout => end("DT", "max_duration_timeout"),
        Refusal::HeaderTimeout => end("", "request_header_timeout"),
        Refusal::NoAnswer => end("UC", "upstream_reset_before_response_started{connection_termination}"),
        Refusal::CutBody => end("UC", "upstream_reset_after_response_started{connection_termination}"),
        Refusal::Unreachable => {
            end("UF", "upstream_reset_before_response_started{remote_connection_failure}")
        }
        Refusal::NoEndpoint => end("UH", "no_healthy_upstream"),
        Refusal::Overloaded => of_local(Local::Breaker),
        rule if rule.status() == 502 => FAILED,
        rule => end("DPE", rule.name()),
    }
}

/// Returns how a request ended whose connection ended first.
pub(in crate::connection::carry) fn of_close(reason: CloseReason, answered: bool) -> HttpEnd {
    match reason {
        CloseReason::Ok | CloseReason::ClientReset => end("DC", "downstream_remote_disconnect"),
        CloseReason::ServerReset if answered => of_refusal(Refusal::CutBody),
        CloseReason::ServerReset => of_refusal(Refusal::NoAnswer),
        CloseReason::IdleTimeout => end("SI", "stream_idle_timeout"),
        CloseReason::DrainTimeout => end("LR", "local_connection_drained"),
        other => end("", other.name()),
    }
}

/// Returns how a request ended whose stream the client or the server reset.
pub(in crate::connection::carry) fn reset_by(by: Side, answered: bool) -> HttpEnd {
    match by {
        Side::Client => end("DR", "http2.remote_reset"),
        Side::Server if answered => end("UR", "upstream_reset_after_response_started{remote_reset}"),
        Side::Server => end("UR", "upstream_reset_before_response_started{remote_reset}"),
    }
}

// === impl Log ===

impl Log {
    /// Begins with the head, as HTTP/1 writes it.
    pub(super) fn begin(request: Box<[u8]>) -> Box<Self> {
        Box::new(Self {
            request,
            response: Box::default(),
            status: 0,
            started: SystemTime::now(),
            bytes: [0; 2],
            end: None,
            delayed: false,
        })
    }

    /// Notes that a fault delays it.
    pub(super) fn is_delayed(&mut self) {
        self.delayed = true;
    }

    /// Returns true once an answer has begun.
    pub(super) fn is_answered(&self) -> bool {
        self.status != 0
    }

    /// Notes an answer of the sidecar's own.
    pub(in crate::connection::carry) fn answered_by(&mut self, status: u16, end: HttpEnd) {
        (self.status, self.end) = (status, Some(end));
    }

    /// Notes the head of the server's answer, as HTTP/1 writes it.
    pub(in crate::connection::carry) fn answered(&mut self, status: u16, head: Box<[u8]>) {
        (self.status, self.response) = (status, head);
    }

    /// Counts bytes of a body: of the request (0) or the response (1).
    pub(in crate::connection::carry) fn count(&mut self, which: usize, bytes: u64) {
        self.bytes[which] += bytes;
    }

    /// Notes the end, unless it was noted before.
    pub(in crate::connection::carry) fn ends(&mut self, end: HttpEnd) {
        self.end.get_or_insert(end);
    }

    /// Returns what the log says of it.
    pub(super) fn finish(self, duration: Duration) -> HttpTraffic {
        let Self { request, response, status, started, bytes, end: ended, delayed } = self;
        let ended = match (ended.unwrap_or(end("", "via_upstream")), delayed) {
            (HttpEnd { flags: "", details }, true) => end("DI", details),
            (HttpEnd { flags: "FI", details }, true) => end("DI,FI", details),
            (ended, _) => ended,
        };
        HttpTraffic { request, response, status, started, duration, bytes, end: ended }
    }
}

/// Returns what the log says of bytes that were no request.
pub(in crate::connection::carry) fn of_nothing(rule: Refusal, status: Option<u16>) -> HttpTraffic {
    HttpTraffic {
        request: Box::default(),
        response: Box::default(),
        status: status.unwrap_or(0),
        started: SystemTime::now(),
        duration: Duration::ZERO,
        bytes: [0; 2],
        end: of_refusal(rule),
    }
}
