// SPDX-License-Identifier: Apache-2.0
//! Reports of one stream on their way into the mesh's traffic.

use std::time::Duration;

use culvert_control::messages::Report;
use tokio::time::Instant;

use super::reviewed::{self, Caller};
use crate::controller::metrics::Reported;
use crate::controller::shared::Shared;
use crate::controller::traffic::{self, Held};

/// Least time between two reports. A sidecar sends one each 5 s at most.
const SOONEST: Duration = Duration::from_secs(1);

/// Reports of one stream so far.
#[derive(Debug, Default)]
pub(super) struct Intake {
    last: Option<Instant>,
    held: Held,
}

impl Intake {
    /// Takes a report in: of the caller alone, and wakes nobody.
    pub(super) fn take(&mut self, shared: &Shared, caller: &Caller, report: Report) {
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
            // A client with a stream of its own reports the connection itself.
            let followers = shared.followers();
            read.seen.retain(|seen| !seen.reporter.as_ref().is_some_and(|pod| followers.has(pod)));
        }
        shared.traffic().note(now, read, &mut self.held);
        shared.metrics.reported(Reported::Taken);
    }

    /// Ends the connections that were open at the last report.
    pub(super) fn end(&mut self, shared: &Shared) {
        shared.traffic().release(&mut self.held);
    }
}
