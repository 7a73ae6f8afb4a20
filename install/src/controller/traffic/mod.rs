// SPDX-License-Identifier: Apache-2.0
//! Connections between workloads in the last minutes, as sidecars report them. Pure.
//!
//! ```text
//! Report ──read──▶ Seen: client, server, counts ──note──▶ Traffic ──edges──▶ the picture of the mesh
//! ```
//! A pod is believed about itself only: each edge that it reports has its own workload at one end.
//!
//! A connection of two members counts by its client. Where the client has no stream to this replica, the server's word is kept
//! apart as an echo: another replica may hear the client.

mod report;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

pub(crate) use self::report::{Read, Seen, read, workload};
pub(crate) use self::window::{Amount, COVERS, Counts};
use self::window::{Window, bucket};
use super::key::Key;

/// Most edges. A cluster with 1,000 workloads that call ten others each has 10,000; one takes up to 700 bytes.
pub(crate) const MAX_EDGES: usize = 20_000;
/// Part of the edges that goes when there is no place: one at a time would look at all of them each time.
const GOES: usize = 16;
/// Interval of a sidecar's reports in seconds: the first one about an edge is about that time.
const REPORTS_EVERY: u64 = 5;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    /// Pods of one workload, by its namespace and name.
    Workload(Key),
    /// A Service that was dialled.
    Service(Key),
    /// Any address that is no pod's and no Service's.
    Outside,
}

/// Both ends of connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    pub client: Node,
    pub server: Node,
}

/// Connections between two ends.
#[derive(Debug)]
struct Edge {
    /// First and last report about it, in seconds since the start.
    first: u64,
    last: u64,
    told: Side,
    echo: Side,
}

/// Connections of an edge that are told by one side.
#[derive(Debug, Default)]
struct Side {
    /// Connections that are open now.
    open: u64,
    window: Window,
}

impl Side {
    /// Takes connections in. Returns those that are open.
    fn note(&mut self, second: u64, amount: Amount) -> u64 {
        if !amount.is_nothing() {
            self.window.add(second, amount.counts);
        }
        self.open = self.open.saturating_add(amount.open);
        amount.open
    }

    fn is_forgotten(&self, second: u64) -> bool {
        self.open == 0 && self.window.sum(second).is_none()
    }

    fn sum(&self, second: u64) -> Amount {
        Amount { counts: self.window.sum(second).unwrap_or_default(), open: self.open }
    }
}

/// Connections between two ends within the last minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Totals {
    pub told: Amount,
    /// Those that the client's sidecar tells another replica, if it has a stream to any.
    pub echo: Amount,
    /// Seconds that the counts are about.
    pub seconds: u64,
    /// Seconds since the last report.
    pub age: u64,
}

/// Open connections of one stream's last report, told and as echo, which end with the stream.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(Ends, [u64; 2])>);

/// All connections within the last minutes.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    edges: HashMap<Ends, Edge>,
    left_out: Window,
    most: usize,
}

impl Default for Traffic {
    fn default() -> Self {
        Self::of_at_most(MAX_EDGES)
    }
}

impl Traffic {
    fn of_at_most(most: usize) -> Self {
        Self { began: Instant::now(), edges: HashMap::new(), left_out: Window::default(), most }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// Takes a report in. Its open connections take the place of those of the stream's report before.
    pub(crate) fn note(&mut self, now: Instant, report: Read, held: &mut Held) {
        let second = self.second(now);
        let Read { seen, left_out } = report;
        if left_out > 0 {
            self.left_out.add(second, Counts { ended: left_out, ..Counts::default() });
        }
        self.release(held);
        let mut open = BTreeMap::<Ends, [u64; 2]>::new();
        for Seen { ends, told, echo, past: _, reporter: _ } in seen {
            if [told, echo].iter().all(|amount| amount.counts.ended == 0 && amount.open == 0) {
                continue;
            }
            self.make_place(&ends, second);
            let edge = self.edges.entry(ends.clone()).or_insert_with(|| Edge {
                first: second,
                last: second,
                told: Side::default(),
                echo: Side::default(),
            });
            edge.last = second;
            let now_open = [edge.told.note(second, told), edge.echo.note(second, echo)];
            if now_open != [0, 0] {
                let held = open.entry(ends).or_default();
                *held = [held[0].saturating_add(now_open[0]), held[1].saturating_add(now_open[1])];
            }
        }
        held.0 = open.into_iter().collect();
    }

    /// Ends the open connections of a stream.
    pub(crate) fn release(&mut self, held: &mut Held) {
        for (ends, [told, echo]) in std::mem::take(&mut held.0) {
            if let Some(edge) = self.edges.get_mut(&ends) {
                edge.told.open = edge.told.open.saturating_sub(told);
                edge.echo.open = edge.echo.open.saturating_sub(echo);
            }
        }
    }

    /// Makes sure that there is a place for one more edge.
    fn make_place(&mut self, ends: &Ends, second: u64) {
        if self.edges.len() < self.most || self.edges.contains_key(ends) {
            return;
        }
        self.forget_old(second);
        if self.edges.len() < self.most {
            return;
        }
        let mut ages: Vec<u64> = self.edges.values().map(|edge| edge.last).collect();
        let goes = (self.most / GOES).min(ages.len() - 1);
        let (_, last, _) = ages.select_nth_unstable(goes);
        let (last, mut goes) = (*last, goes + 1);
        // Many may have been seen in the same second, and no more than those go.
        self.edges.retain(|_, edge| {
            let stays = edge.last > last || goes == 0;
            goes -= usize::from(!stays);
            stays
        });
    }

    fn forget_old(&mut self, second: u64) {
        self.edges.retain(|_, edge| !edge.told.is_forgotten(second) || !edge.echo.is_forgotten(second));
    }

    /// Every edge with its totals, in no order.
    pub(crate) fn edges(&mut self, now: Instant) -> Vec<(Ends, Totals)> {
        let second = self.second(now);
        self.forget_old(second);
        let oldest = bucket(second).saturating_sub(window::BUCKETS - 1) * window::SECONDS;
        let totals = |edge: &Edge| Totals {
            told: edge.told.sum(second),
            echo: edge.echo.sum(second),
            seconds: (second - oldest.max(edge.first.saturating_sub(REPORTS_EVERY)).min(second)).max(1),
            age: second.saturating_sub(edge.last),
        };
        self.edges.iter().map(|(ends, edge)| (ends.clone(), totals(edge))).collect()
    }

    /// Connections of peers that had no place in reports.
    pub(crate) fn left_out(&self, now: Instant) -> u64 {
        self.left_out.sum(self.second(now)).unwrap_or_default().ended
    }
}
