// SPDX-License-Identifier: Apache-2.0
//! The closing record of each connection, for the access log.

pub(crate) mod writer;

pub use writer::RecordLogError;

use crate::metrics::{Counter, metrics};
use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
use crate::net::clock::micros;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Known;
use culvert_mesh::model::spiffe::SpiffeId;
use serde::Serialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use writer::{LogRecord, RecordLogger};

/// The closing record of a connection. Destination and cluster are missing where it was refused before they were known.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Unique in this process, ascending.
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: Option<OrigDst>,
    pub(crate) dial: Option<DialAddr>,
    pub(crate) cluster: Option<Arc<str>>,
    /// Bytes from the client to the server.
    pub(crate) bytes_sent: u64,
    /// Bytes from the server to the client.
    pub(crate) bytes_recv: u64,
    pub(crate) ended: SystemTime,
    pub(crate) duration: Duration,
    /// Protocol and peer, where a mesh's mTLS asks for them.
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) reason: CloseReason,
    /// Error behind the reason, in words.
    pub(crate) error: Option<String>,
}

/// A record as JSON. Programs that parse the log rely on these names.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: u64,
    direction: &'static str,
    #[serde(rename = "src.addr")]
    src: String,
    orig_dst: Option<String>,
    #[serde(rename = "dst.addr")]
    dst: Option<String>,
    cluster: Option<&'a str>,
    bytes_sent: u64,
    bytes_recv: u64,
    /// In seconds.
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl LogRecord for Record {
    const LOG: &'static str = "access log";
    const OPTION: &'static str = "--access-log";
    const THREAD: &'static str = "access-log";
    const LOST: &'static str = "access_log_dropped";

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let Self {
            id,
            direction,
            client,
            orig_dst,
            dial,
            cluster,
            bytes_sent,
            bytes_recv,
            ended,
            duration,
            known,
            reason,
            error,
        } = self;
        let line = Line {
            time: micros(*ended),
            id: *id,
            direction: direction.name(),
            src: client.to_string(),
            orig_dst: orig_dst.map(|addr| addr.to_string()),
            dst: dial.map(|addr| addr.to_string()),
            cluster: cluster.as_deref(),
            bytes_sent: *bytes_sent,
            bytes_recv: *bytes_recv,
            duration: duration.as_micros() as f64 / 1e6,
            tls: known.as_ref().map(|known| known.spoken.name()),
            peer: known.as_ref().and_then(|known| known.peer.as_ref()).map(SpiffeId::as_str),
            reason: reason.name(),
            error: error.as_deref(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

metrics! {
    /// Losses of the access log.
    #[derive(Clone, Default)]
    pub(crate) struct AccessLogMetrics {
        dropped: Counter = "access_log_dropped",
            "Closing records that the access log could not keep up with, could not write, or wrote to a file that was removed"
            => "access_log.dropped";
    }
}

/// The access log, as connections see it.
pub(crate) type AccessLogger = RecordLogger<Record>;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: CloseReason, error: Option<&str>) -> Record {
        Record {
            id: 7,
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst: Some(OrigDst::new("[2001:db8::1]:443".parse().unwrap())),
            dial: Some(DialAddr::new("[2001:db8::1]:443".parse().unwrap())),
            cluster: Some("outbound:passthrough:ipv6".into()),
            bytes_sent: 5,
            bytes_recv: 70_000,
            ended: SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_000_042),
            duration: Duration::from_micros(1_234_567),
            known: None,
            reason,
            error: error.map(Into::into),
        }
    }

    #[test]
    fn a_record_is_one_line_with_stable_names() {
        let mut out = Vec::new();
        record(CloseReason::Ok, None).write(&mut out).unwrap();
        record(CloseReason::ConnectRefused, Some("\"quoted\"\nand broken")).write(&mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}
