// SPDX-License-Identifier: Apache-2.0
//! The rate of a listener's connections, or of the requests of some callers.

use std::fmt;
use std::time::Duration;

/// A rate of connections or requests: `num` at once, and as many again in each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RatePlan {
    /// Their number in an interval, at least 1.
    pub num: u32,
    /// The interval.
    pub interval: Duration,
}

impl fmt::Display for RatePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.num, self.interval)
    }
}
