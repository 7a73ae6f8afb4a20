// SPDX-License-Identifier: Apache-2.0
//! Active checks: of each endpoint of a cluster that a MeshHealthCheck is about, and of the application of an inbound that
//! has a `serviceProbe`.
//!
//! ```text
//! plan in force ─▶ rounds: the target that is due ─▶ probe ─▶ tally ─▶ one flag in the endpoint's state
//! ```
//!
//! One task on the main thread does all of it, and a check is a task of its own for as long as it lasts. A connection
//! reads the flag and nothing else; without a policy there is neither a timer nor a check.

pub(crate) mod app_probes;
mod dice;
mod job;
mod probe;
mod rounds;
mod tally;

use crate::connection::proxy::Proxy;
use job::{Done, Job};
use rounds::Rounds;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Checks at a time. A server that answers nothing holds a place for the whole timeout, 15 s by default, so that 5,000
/// endpoints of which all are dead are looked at once in 5 minutes; each place is a socket.
const MOST_AT_ONCE: usize = 256;

/// Checks the endpoints of the plan in force, for ever.
pub(crate) async fn keep(proxy: Arc<Proxy>) {
    let check = |job| probe::check(Arc::clone(&proxy), job);
    run(&proxy, check).await;
}

async fn run<F>(proxy: &Proxy, check: impl Fn(Job) -> F)
where
    F: Future<Output = Done> + Send + 'static,
{
    let mut rounds = Rounds::new();
    let mut under_way = JoinSet::new();
    rounds.follow(&proxy.running.load_full(), Instant::now());
    loop {
        while under_way.len() < MOST_AT_ONCE
            && let Some(job) = rounds.take(Instant::now())
        {
            let (key, number) = (job.key, job.number);
            let handle = under_way.spawn(check(job));
            rounds.began(key, number, handle);
        }
        let due = if under_way.len() < MOST_AT_ONCE { rounds.due() } else { None };
        tokio::select! {
            // Before the results of checks: those of targets that are gone must not count.
            biased;
            () = proxy.plan_changed.notified() => {
                rounds.follow(&proxy.running.load_full(), Instant::now());
            }
            Some(done) = under_way.join_next(), if !under_way.is_empty() => match done {
                Ok(done) => rounds.done(done, Instant::now(), &proxy.metrics.checks),
                Err(error) if error.is_panic() => rounds.lost(Instant::now()),
                // Ended with its target.
                Err(_) => {}
            },
            () = until(due) => {}
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
