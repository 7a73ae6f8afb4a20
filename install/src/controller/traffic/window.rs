// SPDX-License-Identifier: Apache-2.0
//! Counts of the last minutes, in a few buckets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds of a bucket.
pub(super) const SECONDS: u64 = 30;
/// Buckets that count, the one of this moment included.
pub(super) const BUCKETS: u64 = 10;
/// Time that the buckets cover.
pub(crate) const COVERS: Duration = Duration::from_secs(SECONDS * BUCKETS);

/// Connections that ended. Peers say the numbers, so no sum overflows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// All of them.
    pub ended: u64,
    /// Those that failed, or were refused.
    pub failed: u64,
    /// Those that went through mesh TLS and did not fail.
    pub tls: u64,
    /// Bytes, both ways.
    pub bytes: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: Self) {
        let Self { ended, failed, tls, bytes } = more;
        self.ended = self.ended.saturating_add(ended);
        self.failed = self.failed.saturating_add(failed);
        self.tls = self.tls.saturating_add(tls);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Those that are not among others. A part stays no more than the whole.
    pub(crate) fn without(self, others: Self) -> Self {
        let ended = self.ended.saturating_sub(others.ended);
        Self {
            ended,
            failed: self.failed.saturating_sub(others.failed).min(ended),
            tls: self.tls.saturating_sub(others.tls).min(ended),
            bytes: self.bytes.saturating_sub(others.bytes),
        }
    }
}

/// Connections that ended, and those that are open now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    pub counts: Counts,
    pub open: u64,
}

impl Amount {
    pub(crate) fn add(&mut self, more: Self) {
        self.counts.add(more.counts);
        self.open = self.open.saturating_add(more.open);
    }

    /// Those that are not among others.
    pub(crate) fn without(self, others: Self) -> Self {
        Self { counts: self.counts.without(others.counts), open: self.open.saturating_sub(others.open) }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Number of the bucket of a second.
pub(super) const fn bucket(second: u64) -> u64 {
    second / SECONDS
}

/// Counts by the buckets that have some, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Window(Vec<(u64, Counts)>);

impl Window {
    pub(super) fn add(&mut self, second: u64, counts: Counts) {
        let now = bucket(second);
        self.0.retain(|(bucket, _)| is_within(*bucket, now));
        match self.0.last_mut() {
            Some((last, sum)) if *last >= now => sum.add(counts),
            _ => self.0.push((now, counts)),
        }
    }

    /// Sum of the buckets that count; `None` if there is none.
    pub(super) fn sum(&self, second: u64) -> Option<Counts> {
        let now = bucket(second);
        let within = self.0.iter().filter(|(bucket, _)| is_within(*bucket, now));
        within.fold(None, |sum: Option<Counts>, (_, counts)| {
            let mut sum = sum.unwrap_or_default();
            sum.add(*counts);
            Some(sum)
        })
    }
}

const fn is_within(bucket: u64, now: u64) -> bool {
    bucket + BUCKETS > now
}
