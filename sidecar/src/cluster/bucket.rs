// SPDX-License-Identifier: Apache-2.0
//! The rate of a listener's connections, as a bucket of tokens that fills steadily.

use crate::plan::listener::rate::RatePlan;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A bucket that is full at first and fills again over its interval, as Envoy's since 1.31: a connection takes a token, and
/// finds none where the rate is exceeded.
///
/// It is one number, the time at which the bucket would be full again. So each worker takes a token by one exchange, and
/// nothing has to run to fill it.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) plan: RatePlan,
    /// Time for one token, in nanoseconds.
    each: u64,
    since: Instant,
    /// Nanoseconds after `since`.
    full_at: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(plan: RatePlan) -> Self {
        let each = (nanos(plan.interval) / u64::from(plan.num).max(1)).max(1);
        Self { plan, each, since: Instant::now(), full_at: AtomicU64::new(0) }
    }

    /// Takes a token, and returns false if there is none.
    pub(crate) fn take(&self) -> bool {
        self.take_at(nanos(self.since.elapsed()))
    }

    fn take_at(&self, now: u64) -> bool {
        let whole = self.each.saturating_mul(u64::from(self.plan.num));
        let taken = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(self.each);
            (full_at - now <= whole).then_some(full_at)
        };
        self.full_at.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Tokens that can be taken at this time.
    fn tokens(bucket: &Bucket, now: u64) -> usize {
        (0..10_000).take_while(|_| bucket.take_at(now)).count()
    }

    fn bucket(num: u32, interval: Duration) -> Bucket {
        Bucket::new(RatePlan { num, interval })
    }

    #[test]
    fn it_is_full_at_first_and_fills_steadily_up_to_its_size() {
        let bucket = bucket(5, Duration::from_secs(10));
        assert_eq!(tokens(&bucket, 0), 5);
        assert_eq!(tokens(&bucket, 2 * SECOND - 1), 0);
        assert_eq!(tokens(&bucket, 2 * SECOND), 1, "one for each fifth of the interval");
        assert_eq!(tokens(&bucket, 9 * SECOND), 3, "and the rest of a part is kept");
        assert_eq!(tokens(&bucket, 10 * SECOND), 1);
        assert_eq!(tokens(&bucket, 1_000 * SECOND), 5, "no more than its size");
        assert_eq!(tokens(&bucket, 1_000 * SECOND), 0);
    }

    #[test]
    fn a_refused_connection_takes_nothing() {
        let bucket = bucket(1, Duration::from_secs(1));
        assert!(bucket.take_at(0));
        for now in 1..1_000 {
            assert!(!bucket.take_at(now * SECOND / 1_000), "{now} ms");
        }
        assert!(bucket.take_at(SECOND));
    }

    #[test]
    fn rates_at_the_edges_have_their_size() {
        for (num, interval) in [
            (1, Duration::from_millis(51)),
            (7, Duration::from_millis(60)),
            (1_000, Duration::from_millis(51)),
            (1, Duration::from_hours(24 * 365)),
        ] {
            assert_eq!(tokens(&bucket(num, interval), 0), num as usize, "{num} in {interval:?}");
        }
        let many = bucket(u32::MAX, Duration::from_millis(51));
        assert_eq!(tokens(&many, 0), 10_000, "as good as none");
    }

    #[test]
    fn workers_that_take_at_once_get_no_more_than_there_is() {
        let bucket = bucket(1_000, Duration::from_hours(1));
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1_000).filter(|_| bucket.take_at(1)).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000);
    }
}
