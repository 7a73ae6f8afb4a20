// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::health::tests::{endpoints, plan, proxy, web};
use std::collections::BTreeSet;

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn first_checks_are_spread_over_the_initial_jitter_and_later_ones_have_their_own() {
    let proxy = proxy(
        "",
        &endpoints(100),
        "interval: 60s, initialJitter: 40s, intervalJitter: 10s, intervalJitterPercent: 50, tcp: {}",
    );
    web(&proxy).state.metrics.total.inc();
    let start = Instant::now();
    let mut rounds = Rounds::new();
    rounds.follow(&proxy.running.load_full(), start);
    let mut first = Vec::new();
    while let Some(job) = rounds.take(start + seconds(40)) {
        first.push((job.key, job.number));
    }
    assert_eq!(first.len(), 100, "all within the jitter");
    let mut dues = BTreeSet::new();
    for (key, number) in first {
        let done = Done { key, number, outcome: Ok(None) };
        rounds.done(done, start, &proxy.metrics.checks);
        dues.insert(rounds.due().unwrap());
        rounds.take(start + seconds(101)).unwrap();
    }
    // 60 s, up to 30 s as a share and up to 10 s.
    assert!(dues.iter().all(|due| (seconds(60)..seconds(100)).contains(&(*due - start))), "{dues:?}");
    assert!(dues.len() > 90, "they are spread");
}

#[test]
fn a_result_counts_for_the_check_that_it_is_of_alone() {
    let proxy = proxy("", &endpoints(1), "unhealthyThreshold: 1, tcp: {}");
    let now = Instant::now();
    let mut rounds = Rounds::new();
    rounds.follow(&proxy.running.load_full(), now);
    let job = rounds.take(now).unwrap();
    let fails = |number| Done { key: job.key, number, outcome: Err(CheckError::Closed) };
    // The policy changes while the check is under way.
    let changed = proxy.registry.open(plan("", &endpoints(1), "unhealthyThreshold: 2, tcp: {}"));
    rounds.follow(&changed, now);
    rounds.done(fails(job.number), now, &proxy.metrics.checks);
    assert_eq!(proxy.metrics.checks.failed.get(), 0);
    let next = rounds.take(now).unwrap();
    assert_ne!(next.number, job.number);
    assert!(rounds.take(now + seconds(3600)).is_none(), "it is under way once");
    rounds.done(fails(next.number), now, &proxy.metrics.checks);
    rounds.done(fails(next.number), now, &proxy.metrics.checks);
    assert_eq!(proxy.metrics.checks.failed.get(), 1);
}

#[test]
fn what_this_host_lacks_is_no_failure_of_the_endpoint() {
    let proxy = proxy("", &endpoints(1), "unhealthyThreshold: 1, healthyPanicThreshold: 0, tcp: {}");
    let now = Instant::now();
    let mut rounds = Rounds::new();
    rounds.follow(&proxy.running.load_full(), now);
    let job = rounds.take(now).unwrap();
    let ours = CheckError::Tls(crate::tls::TlsError::NoIdentity);
    rounds.done(Done { key: job.key, number: job.number, outcome: Err(ours) }, now, &proxy.metrics.checks);
    assert_eq!((proxy.metrics.checks.not_made.get(), proxy.metrics.checks.failed.get()), (1, 0));
    assert_eq!(web(&proxy).healthy(), 1);
    assert!(rounds.due().is_some(), "and it is made again");
}

#[test]
fn plans_that_change_often_leave_nothing_behind() {
    let proxy = proxy("", &endpoints(10), "tcp: {}");
    let now = Instant::now();
    let mut rounds = Rounds::new();
    for number in 1..50 {
        let changed = plan("", &endpoints(10), &format!("interval: {number}h, initialJitter: 1h, tcp: {{}}"));
        rounds.follow(&proxy.registry.open(changed), now);
    }
    assert_eq!(rounds.targets.len(), 10);
    assert!(rounds.due.len() <= 20, "{}", rounds.due.len());
    rounds.follow(&proxy.registry.open(plan("", &endpoints(10), "")), now);
    assert_eq!((rounds.targets.len(), rounds.due()), (0, None));
}

#[test]
fn an_endpoint_that_is_checked_no_more_comes_back_into_service() {
    let proxy = proxy("", &endpoints(2), "unhealthyThreshold: 1, healthyPanicThreshold: 0, tcp: {}");
    let now = Instant::now();
    let mut rounds = Rounds::new();
    rounds.follow(&proxy.running.load_full(), now);
    while let Some(job) = rounds.take(now) {
        let failed = Done { key: job.key, number: job.number, outcome: Err(CheckError::Closed) };
        rounds.done(failed, now, &proxy.metrics.checks);
    }
    assert_eq!(web(&proxy).healthy(), 0);
    // Another check begins anew for both, and there is place for one.
    rounds.most = 1;
    let changed = plan("", &endpoints(2), "unhealthyThreshold: 2, healthyPanicThreshold: 0, tcp: {}");
    proxy.running.store(proxy.registry.open(changed));
    rounds.follow(&proxy.running.load_full(), now);
    assert_eq!((rounds.targets.len(), rounds.left_out), (1, 1));
    assert_eq!(web(&proxy).healthy(), 1, "the one that nothing looks at");
    rounds.follow(&proxy.running.load_full(), now);
    assert_eq!(web(&proxy).healthy(), 1, "the other is still out");
}
