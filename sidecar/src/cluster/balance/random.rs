// SPDX-License-Identifier: Apache-2.0
//! Random numbers that a seed decides, without a lock: each connection has a sequence of its own.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A sequence of numbers (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

/// Returns a seed that another process does not have.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `most`, or 0.
    pub(super) fn below(&mut self, most: usize) -> usize {
        let scaled = (u128::from(self.next()) * most as u128) >> 64;
        usize::try_from(scaled).unwrap_or_default()
    }

    /// Returns a step that reaches each of `count` places once before it comes back.
    pub(super) fn step(&mut self, count: usize) -> usize {
        // Six of ten random numbers have no divisor in common with another, so that 16 tries hardly ever fail.
        const TRIES: usize = 16;
        let steps = (0..TRIES).map(|_| 1 + self.below(count.saturating_sub(1)));
        let mut fitting = steps.filter(|step| common_divisor(*step, count) == 1);
        fitting.next().unwrap_or(1)
    }
}

fn common_divisor(mut one: usize, mut other: usize) -> usize {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_step_reaches_every_place() {
        let mut random = Random::new(1);
        for count in 1..200 {
            let (start, step) = (random.below(count), random.step(count));
            let reached: BTreeSet<_> = (0..count).map(|n| (start + n * step) % count).collect();
            assert_eq!(reached.len(), count, "a step of {step}");
        }
        assert_eq!((random.below(0), random.step(0)), (0, 1));
    }

    #[test]
    fn numbers_are_evenly_spread() {
        let (mut random, mut hits) = (Random::new(7), [0; 10]);
        (0..10_000).for_each(|_| hits[random.below(10)] += 1);
        assert!(hits.iter().all(|hits| (900..1100).contains(hits)), "{hits:?}");
    }
}
