// SPDX-License-Identifier: Apache-2.0
//! The end of a stream in the words of the traffic log.

use crate::connection::carry::filters::{FAILED, REFUSED, of_close, of_refusal, of_reset};
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpEnd;
use crate::relay::Side;
use crate::relay::http::Refusal;
use culvert_http2::{Failure, How};

/// Returns the end of a request that did not end with its response or by a rule; `None` where that was noted before.
///
/// `unreachable` is the rule for a server that cannot be had, `closes` the reason for which the connection ends.
pub(super) fn of(how: How, answered: bool, unreachable: Refusal, closes: CloseReason) -> Option<HttpEnd> {
    Some(match how {
        How::Complete | How::Answered | How::Overdue => return None,
        How::Failed(Failure::Died) if answered => of_refusal(Refusal::CutBody),
        How::Failed(Failure::Died) => of_refusal(Refusal::NoAnswer),
        How::Failed(Failure::Protocol | Failure::Edits) => FAILED,
        How::Unreachable => of_refusal(unreachable),
        How::Refused => REFUSED,
        How::ClientReset(_) => of_reset(Side::Client, answered),
        How::ServerReset(_) => of_reset(Side::Server, answered),
        How::ClientGone => of_close(CloseReason::ClientReset, answered),
        How::Dropped => of_close(closes, answered),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_http2::Reason;

    #[test]
    fn each_end_has_envoys_flag() {
        let reset = Reason::CANCEL;
        for (how, answered, flags, details) in [
            (
                How::Failed(Failure::Died),
                false,
                "UC",
                "upstream_reset_before_response_started{connection_termination}",
            ),
            (
                How::Failed(Failure::Died),
                true,
                "UC",
                "upstream_reset_after_response_started{connection_termination}",
            ),
            (
                How::Failed(Failure::Protocol),
                false,
                "UPE",
                "upstream_reset_before_response_started{protocol_error}",
            ),
            (How::Unreachable, false, "UH", "no_healthy_upstream"),
            (
                How::Refused,
                false,
                "UR",
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
            ),
            (How::ClientReset(reset), true, "DR", "http2.remote_reset"),
            (How::ServerReset(reset), false, "UR", "upstream_reset_before_response_started{remote_reset}"),
            (How::ServerReset(reset), true, "UR", "upstream_reset_after_response_started{remote_reset}"),
            (How::ClientGone, true, "DC", "downstream_remote_disconnect"),
            (How::Dropped, true, "LR", "local_connection_drained"),
        ] {
            let end = of(how, answered, Refusal::NoEndpoint, CloseReason::DrainTimeout).unwrap();
            assert_eq!((end.flags, end.details), (flags, details), "{how:?}");
        }
        for how in [How::Complete, How::Answered, How::Overdue] {
            assert_eq!(of(how, true, Refusal::NoEndpoint, CloseReason::Ok), None, "{how:?}");
        }
    }
}
