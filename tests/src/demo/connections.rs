//! The demo's connections: each is made, found in the sidecar's record or not, and compared with the way that it should take.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::paper::Paper;
use crate::family::Family;
use crate::http;
use crate::lab::Lab;
use crate::lab::host::Actor;
use crate::lab::wire::{Knock, Segment};
use crate::pod::sidecar::Sidecar;
use crate::server::{echo, http as http_server};

/// A record is written when a connection ends; one that should be there is there after microseconds.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
/// Time to watch for a record that should not be there.
const NEVER: Duration = Duration::from_millis(200);

/// The way that a connection has to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Through the sidecar, in the direction that its record names.
    Through(&'static str),
    /// Through the sidecar to a closed port: a reset.
    ThroughToNobody(&'static str),
    /// To its target, the sidecar does not see it.
    Direct,
}

/// A connection that was made.
struct Made {
    cells: Vec<String>,
    judgement: Result<(), String>,
    /// Direction, family, bytes to the server and to the client, of what went through the sidecar.
    forwarded: Option<(&'static str, Family, u64, u64)>,
}

/// Makes all connections, prints them and what the metrics say; says whether all is as it should be.
pub(super) fn show(paper: &mut Paper, lab: &Lab, sidecar: &Sidecar<'_>) -> Result<bool> {
    paper.title("Connections")?;
    let mut made = Vec::new();
    let before = Metrics::read(sidecar)?;
    for family in Family::BOTH {
        let (application, peer) = (lab.pod.as_uid(1000), lab.peer.as_root());
        let (outside, pod) = (family.outside(), family.pod());
        let _servers = [
            lab.peer.serve((outside, 80), http_server("outside"))?,
            lab.peer.serve((outside, 9443), http_server("outside"))?,
            lab.pod.as_uid(1000).serve((pod, 8080), http_server("application"))?,
            lab.pod.as_uid(1000).serve((pod, 9100), http_server("application"))?,
            lab.pod.as_uid(1000).serve((family.loopback(), 8081), http_server("application"))?,
        ];
        let calls = [
            ("application to outside", application, (outside, 80), Expected::Through("outbound")),
            ("… to an excluded port", application, (outside, 9443), Expected::Direct),
            ("… to its own loopback", application, (family.loopback(), 8081), Expected::Direct),
            ("peer to the application", peer, (pod, 8080), Expected::Through("inbound")),
            ("… to an excluded port", peer, (pod, 9100), Expected::Direct),
            ("… to a closed port", peer, (pod, 8082), Expected::ThroughToNobody("inbound")),
        ];
        for (what, actor, to, expected) in calls {
            made.push(call(sidecar, what, actor, to.into(), expected)?);
        }
        made.push(forged(lab, family)?);
    }
    let after = Metrics::read(sidecar)?;

    let headings = ["", "from", "original destination", "way", "there", "back", "answer"];
    let rows: Vec<_> = made.iter().map(|m| (m.cells.clone(), m.judgement.clone())).collect();
    paper.judged(&headings, &rows)?;

    paper.title("What the metrics say")?;
    let metrics = compare(&made, &before, &after);
    paper.judged(&["", "", "connections", "bytes there", "bytes back"], &metrics)?;
    Ok(rows.iter().chain(&metrics).all(|(_, judgement)| judgement.is_ok()))
}

fn call(
    sidecar: &Sidecar<'_>,
    what: &str,
    actor: Actor<'_>,
    to: SocketAddr,
    expected: Expected,
) -> Result<Made> {
    let connected = actor.connect(to).context("cannot connect");
    let client = connected.as_ref().ok().and_then(|stream| stream.local_addr().ok());
    let answer = connected.and_then(|stream| http::get(stream, "/"));
    let wait = if expected == Expected::Direct { NEVER } else { RECORDED_WITHIN };
    // No two of the connections are meant for the same address.
    let record =
        sidecar.access(wait, |record| (record["orig_dst"] == to.to_string()).then(|| record.clone()));

    let text = |key: &str| record.as_ref().and_then(|r| r[key].as_str()).unwrap_or_default().to_owned();
    let number = |key: &str| record.as_ref().and_then(|r| r[key].as_u64()).unwrap_or_default();
    let (sent, received) = (number("bytes_sent"), number("bytes_recv"));
    let reset = answer.as_ref().is_err_and(|e| {
        e.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == ErrorKind::ConnectionReset)
        })
    });
    let heard = match &answer {
        Ok(response) => format!("{} {}", response.status, response.body.trim()),
        Err(_) if reset => "reset".into(),
        Err(e) => format!("{e:#}"),
    };
    let judgement = judge(expected, to, record.as_ref(), answer.is_ok_and(|a| a.status == 200), reset);
    let counted = |bytes: u64| if record.is_some() { bytes.to_string() } else { "–".into() };
    let forwarded = match expected {
        Expected::Through(direction) | Expected::ThroughToNobody(direction) if record.is_some() => {
            Some((direction, Family::of(to.ip()), sent, received))
        }
        _ => None,
    };
    let through = record.as_ref().map(|r| format!("sidecar, {}", r["direction"].as_str().unwrap_or("?")));
    Ok(Made {
        cells: vec![
            what.to_owned(),
            client.map_or_else(|| text("src.addr"), |client| client.to_string()),
            // The original destination in the sidecar's record, where there is one; the judgement compares it with what was dialled.
            record.as_ref().map_or_else(|| to.to_string(), |_| text("orig_dst")),
            through.unwrap_or_else(|| "direct".into()),
            counted(sent),
            counted(received),
            heard,
        ],
        judgement,
        forwarded,
    })
}

/// Compares what was seen with the expected way.
fn judge(
    expected: Expected,
    to: SocketAddr,
    record: Option<&Value>,
    answered: bool,
    reset: bool,
) -> Result<(), String> {
    let recorded = |direction: &str| match record {
        None => Err("the sidecar has no record of it".to_owned()),
        Some(record) if record["direction"] != direction => Err(format!("it should be {direction}")),
        Some(record) if record["orig_dst"] != to.to_string() => {
            Err("another original destination".to_owned())
        }
        Some(_) => Ok(()),
    };
    match expected {
        Expected::Through(direction) => {
            recorded(direction)?;
            if answered { Ok(()) } else { Err("no answer with 200".into()) }
        }
        Expected::ThroughToNobody(direction) => {
            recorded(direction)?;
            if reset { Ok(()) } else { Err("a reset was due".into()) }
        }
        Expected::Direct if record.is_some() => Err("it should go direct".into()),
        Expected::Direct => {
            if answered {
                Ok(())
            } else {
                Err("no answer with 200".into())
            }
        }
    }
}

/// A neighbour's forged packet to a service that listens on loopback only.
fn forged(lab: &Lab, family: Family) -> Result<Made> {
    let service = lab.pod.serve((family.loopback(), 8083), echo())?;
    let wire = lab.peer.wire_of("eth0")?;
    let syn = Segment::syn((family.peer(), 4444), (family.loopback(), 8083));
    let knock = wire.knock(lab.pod.mac("eth0")?, syn)?;
    let reached = knock != Knock::Silence || service.accepted() > 0;
    Ok(Made {
        cells: vec![
            "… forged, to loopback".into(),
            syn.source.to_string(),
            syn.destination.to_string(),
            "dropped".into(),
            "–".into(),
            "–".into(),
            if reached { format!("{knock:?}") } else { "none".into() },
        ],
        judgement: if reached { Err("it was answered".into()) } else { Ok(()) },
        forwarded: None,
    })
}

/// The text of `/metrics`.
struct Metrics(String);

impl Metrics {
    fn read(sidecar: &Sidecar<'_>) -> Result<Self> {
        Ok(Self(sidecar.metrics()?))
    }

    /// The sum of all series of a metric that carry all of these labels.
    fn sum(&self, metric: &str, labels: &[String]) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once('}'))
            .filter(|(found, _)| labels.iter().all(|label| found.split(',').any(|f| f == label)))
            .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
            .sum()
    }
}

/// Compares the metrics' counts with those of the connections.
fn compare(made: &[Made], before: &Metrics, after: &Metrics) -> Vec<(Vec<String>, Result<(), String>)> {
    let mut rows = Vec::new();
    for direction in ["outbound", "inbound"] {
        for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let labels = [format!("direction=\"{direction}\""), format!("family=\"{name}\"")];
            let grown = |metric: &str, more: Option<&str>| {
                let mut labels = labels.to_vec();
                labels.extend(more.map(|flow| format!("flow=\"{flow}\"")));
                after.sum(metric, &labels) - before.sum(metric, &labels)
            };
            let counted = [
                grown("culvert_connections_opened_total", None),
                grown("culvert_bytes_total", Some("to_server")),
                grown("culvert_bytes_total", Some("to_client")),
            ];
            let mut expected = [0, 0, 0];
            for (_, _, sent, received) in
                made.iter().filter_map(|m| m.forwarded).filter(|f| (f.0, f.1) == (direction, family))
            {
                expected = [expected[0] + 1, expected[1] + sent, expected[2] + received];
            }
            let judgement = if counted == expected { Ok(()) } else { Err(format!("expected {expected:?}")) };
            let mut cells = vec![direction.to_owned(), family.to_string()];
            cells.extend(counted.map(|number| number.to_string()));
            rows.push((cells, judgement));
        }
    }
    rows
}
