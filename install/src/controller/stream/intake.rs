// SPDX-License-Identifier: Apache-2.0
//! Reports of one stream on their way into the mesh's traffic.

use std::time::Duration;

use culvert_control::messages::{DeltaDiscoveryRequest, Report};
use hyper::body::{Buf, Bytes};
use prost::bytes::BufMut;
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use tokio::time::Instant;

use super::reviewed::{self, Caller};
use crate::controller::metrics::Reported;
use crate::controller::shared::Shared;
use crate::controller::traffic::{self, Held};

/// Least time between two reports. A sidecar sends one each 5 s at most.
const SOONEST: Duration = Duration::from_secs(1);

/// Longest report that is read, in bytes: one of the most entries, with all numbers as long as can be, has 22 KiB. Half a million
/// entries of nothing would be 1 MiB of a request, and 40 MiB once they are read.
const MAX_REPORT: usize = 32 << 10;
/// Number of the field with the report.
const REPORT: u32 = 1000;

/// A request as a sidecar sends it, whose report is read only if it is no longer than it may be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Request {
    pub asked: DeltaDiscoveryRequest,
    /// True if it had a longer one.
    is_too_long: bool,
}

impl Message for Request {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.asked.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != REPORT {
            return self.asked.merge_field(tag, wire_type, buf, ctx);
        }
        let mut report = Bytes::new();
        prost::encoding::bytes::merge(wire_type, &mut report, buf, ctx)?;
        self.is_too_long |= report.len() > MAX_REPORT;
        self.asked.report = if report.len() > MAX_REPORT { None } else { Some(Report::decode(report)?) };
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.asked.encoded_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Reports of one stream so far.
#[derive(Debug, Default)]
pub(super) struct Intake {
    last: Option<Instant>,
    held: Held,
}

impl Intake {
    /// Takes a request's report in, if it has one: of the caller alone, and wakes nobody. Returns the rest of the request.
    pub(super) fn take(
        &mut self,
        shared: &Shared,
        caller: &Caller,
        request: Request,
    ) -> DeltaDiscoveryRequest {
        let Request { mut asked, is_too_long } = request;
        if is_too_long {
            shared.metrics.reported(Reported::Dropped);
        }
        if let Some(report) = asked.report.take() {
            self.note(shared, caller, report);
        }
        asked
    }

    fn note(&mut self, shared: &Shared, caller: &Caller, report: Report) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < SOONEST) {
            return shared.metrics.reported(Reported::Dropped);
        }
        self.last = Some(now);
        let read = {
            let world = shared.world();
            reviewed::living(&world, caller).map(|pod| traffic::read(&world, pod, report))
        };
        let Ok(mut read) = read else { return shared.metrics.reported(Reported::Dropped) };
        {
            // A client with a stream of its own reports the connection itself, unless it goes past its sidecar. Which streams
            // the other replicas have is known to those who ask them for their part of the picture.
            let followers = shared.followers();
            for seen in &mut read.seen {
                if let Some(pod) = &seen.reporter {
                    let elsewhere = !followers.has(pod);
                    seen.leave_to_client(elsewhere);
                }
            }
        }
        shared.traffic().note(now, read, &mut self.held);
        shared.metrics.reported(Reported::Taken);
    }

    /// Ends the connections that were open at the last report.
    pub(super) fn end(&mut self, shared: &Shared) {
        shared.traffic().release(&mut self.held);
    }
}

#[cfg(test)]
mod tests {
    use culvert_control::messages::Traffic;

    use super::*;

    fn request(entries: usize) -> DeltaDiscoveryRequest {
        let entry = Traffic {
            address: vec![255; 16],
            port: 65_535,
            ended: u64::MAX,
            open: u64::MAX,
            ..Traffic::default()
        };
        let report = Report { traffic: vec![entry; entries], left_out: 1 };
        DeltaDiscoveryRequest {
            type_url: "type".to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            report: Some(report),
            ..DeltaDiscoveryRequest::default()
        }
    }

    #[test]
    fn a_report_that_is_too_long_is_passed_over_and_the_rest_is_read() {
        for (entries, is_too_long) in [(0, false), (culvert_control::MAX_TRAFFIC, false), (5_000, true)] {
            let sent = request(entries);
            let read = Request::decode(&*sent.encode_to_vec()).unwrap();
            let report = sent.report.clone().filter(|_| !is_too_long);
            let asked = DeltaDiscoveryRequest { report, ..sent };
            assert_eq!(read, Request { asked, is_too_long }, "{entries}");
        }
        let half = request(3).encode_to_vec();
        assert!(Request::decode(&half[..half.len() - 1]).is_err());
    }

    #[test]
    fn fields_of_a_newer_sidecar_are_passed_over() {
        let sent = request(1);
        // Field 2000, a number, and field 2001, a text: of the request, and of its report at its end.
        let newer = [&[0x80, 0x7d, 1][..], &[0x8a, 0x7d, 2, b'h', b'i']].concat();
        let report = [sent.report.clone().unwrap().encode_to_vec(), newer.clone()].concat();
        let mut bytes = DeltaDiscoveryRequest { report: None, ..sent.clone() }.encode_to_vec();
        prost::encoding::bytes::encode(REPORT, &report, &mut bytes);
        bytes.extend(newer);
        assert_eq!(Request::decode(&*bytes).unwrap(), Request { asked: sent, is_too_long: false });
    }

    #[test]
    fn the_longest_report_is_no_longer_than_is_read() {
        let entry = Traffic {
            outbound: true,
            address: vec![255; 16],
            port: u32::MAX,
            ended: u64::MAX,
            failed: u64::MAX,
            tls: u64::MAX,
            bytes: u64::MAX,
            open: u64::MAX,
            plain: u64::MAX,
            plain_failed: u64::MAX,
        };
        let report = Report { traffic: vec![entry; culvert_control::MAX_TRAFFIC], left_out: u64::MAX };
        assert!(report.encoded_len() <= MAX_REPORT, "{}", report.encoded_len());
    }
}
