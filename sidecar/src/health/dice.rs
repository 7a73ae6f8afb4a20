// SPDX-License-Identifier: Apache-2.0
//! Chance for jitter: checks of many sidecars must not come at the same time.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Numbers by splitmix64. They spread checks and keep no secret.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl Dice {
    /// Returns a time from 0 to below this one.
    pub(super) fn below(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        if most == 0 {
            return Duration::ZERO;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_nanos((number ^ number >> 31) % most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_below_the_longest() {
        let (mut dice, most) = (Dice::default(), Duration::from_secs(8));
        let all: Vec<_> = (0..800).map(|_| dice.below(most)).collect();
        assert!(all.iter().all(|time| *time < most));
        for eighth in 0..8 {
            let of_eighth = all.iter().filter(|time| time.as_secs() == eighth).count();
            // 100 are expected; less than 30 or more than 200 would be 7 standard deviations away.
            assert!((30..200).contains(&of_eighth), "{of_eighth} in the eighth {eighth}");
        }
        assert_eq!(dice.below(Duration::ZERO), Duration::ZERO);
    }
}
