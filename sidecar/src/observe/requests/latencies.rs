// SPDX-License-Identifier: Apache-2.0
//! Times that requests took, as numbers in buckets: what percentiles are made of.

use std::time::Duration;

/// The first bucket ends at this power of two, 64 µs: no answer through a proxy is faster.
const FIRST: u32 = 6;
/// Doublings up to 67 s; what took longer is in the last bucket.
const OCTAVES: u32 = 20;
/// Buckets of a doubling: a percentile is at most a quarter off.
const PARTS: u32 = 4;
const BUCKETS: usize = (OCTAVES * PARTS) as usize + 2;

/// Times of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Latencies {
    buckets: [u32; BUCKETS],
    /// The longest, in microseconds.
    most: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], most: 0 }
    }
}

/// Returns the bucket of a time.
fn bucket(micros: u64) -> usize {
    let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(FIRST)) else { return 0 };
    let part = (micros >> (octave + FIRST - PARTS.ilog2())) & u64::from(PARTS - 1);
    let bucket = 1 + u64::from(octave * PARTS) + part;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Returns the time at which a bucket begins, in microseconds.
fn begin(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(1) else { return 0 };
    let (octave, part) = (above as u32 / PARTS, above as u64 % u64::from(PARTS));
    (u64::from(PARTS) + part) << (octave + FIRST - PARTS.ilog2())
}

impl Latencies {
    /// Adds the time of a request.
    pub(super) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let count = &mut self.buckets[bucket(micros)];
        *count = count.saturating_add(1);
        self.most = self.most.max(micros);
    }

    /// Adds the times of others.
    pub(super) fn add_all(&mut self, others: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(others.buckets) {
            *count = count.saturating_add(more);
        }
        self.most = self.most.max(others.most);
    }

    /// Returns the time within which a share of the requests ended, in milliseconds; `None` without any.
    ///
    /// Within a bucket times count as evenly spread.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.buckets.iter().copied().map(u64::from).sum();
        let wanted = (share * all as f64).ceil().max(1.0);
        let mut before = 0.0;
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if before + count >= wanted {
                let from = begin(bucket);
                let to = if bucket + 1 < BUCKETS { begin(bucket + 1).min(self.most) } else { self.most };
                let part = (wanted - before) / count;
                return Some((from as f64 + to.saturating_sub(from) as f64 * part) / 1e3);
            }
            before += count;
        }
        None
    }

    /// Returns the longest time in milliseconds; `None` without any.
    pub(crate) fn longest(&self) -> Option<f64> {
        self.buckets.iter().any(|count| *count > 0).then(|| self.most as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_bucket_that_begins_at_or_before_it() {
        let times = (0..28).flat_map(|log| [(1_u64 << log) - 1, 1 << log, (1 << log) + 1, 3 << log]);
        for micros in times.chain([u64::MAX]) {
            let at = bucket(micros);
            assert!(begin(at) <= micros, "{micros} is in {at}, from {}", begin(at));
            assert!(at + 1 == BUCKETS || micros < begin(at + 1), "{micros} is in {at}, to {}", begin(at + 1));
        }
        for at in 1..BUCKETS - 1 {
            assert!(begin(at + 1) as f64 <= begin(at) as f64 * 1.25 || at < 2, "{at}");
            assert_eq!(bucket(begin(at)), at);
        }
    }

    #[test]
    fn percentiles_are_near_the_true_ones() {
        let mut all = Latencies::default();
        assert_eq!((all.percentile(0.5), all.longest()), (None, None));
        for millis in 1..=1000 {
            all.add(Duration::from_millis(millis));
        }
        for (share, millis) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = all.percentile(share).unwrap();
            assert!((found / millis - 1.0).abs() < 0.05, "{share}: {found}");
        }
        assert_eq!(all.longest(), Some(1000.0));
    }

    #[test]
    fn none_is_longer_than_the_longest() {
        for micros in [0, 1, 63, 64, 1_000, 50_000, 100_000_000] {
            let mut one = Latencies::default();
            one.add(Duration::from_micros(micros));
            for share in [0.5, 0.99] {
                assert_eq!(one.percentile(share), Some(micros as f64 / 1e3), "{micros}");
            }
        }
    }
}
