// SPDX-License-Identifier: Apache-2.0
//! The connections of a listener among several clusters, each with its share.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Clusters with their shares. Immutable: a connection draws one without a lock.
#[derive(Debug)]
pub(crate) struct Split<C> {
    /// Each with the sum of the weights up to its own, so the sums rise. Never empty, and the last sum is above 0.
    shares: Box<[(u64, C)]>,
}

impl<C> Split<C> {
    /// Makes a split by weights; `None` where no weight is above 0.
    pub(crate) fn new(weights: impl Iterator<Item = (C, u32)>) -> Option<Self> {
        let mut sum = 0;
        let share = |(cluster, weight): (C, u32)| {
            sum += u64::from(weight);
            (sum, cluster)
        };
        let shares: Box<[_]> = weights.filter(|(_, weight)| *weight != 0).map(share).collect();
        (!shares.is_empty()).then_some(Self { shares })
    }

    /// Draws the cluster of a connection.
    pub(crate) fn draw(&self) -> &C {
        self.at(random())
    }

    /// Returns the cluster for a number that is drawn from all numbers alike.
    fn at(&self, random: u64) -> &C {
        let (total, last) = &self.shares[self.shares.len() - 1];
        // The number's share of all numbers, in weights. A remainder would favour the first weights.
        let place = (u128::from(random) * u128::from(*total)) >> 64;
        let index = self.shares.partition_point(|(sum, _)| u128::from(*sum) <= place);
        self.shares.get(index).map_or(last, |(_, cluster)| cluster)
    }

    /// Returns the clusters, in the order of the documents.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &C> {
        self.shares.iter().map(|(_, cluster)| cluster)
    }
}

/// Returns a number that no peer can foretell: the hash of a count by a key that is drawn at the start. No system call and
/// no lock, which a generator for all workers would need.
fn random() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(COUNT.fetch_add(1, Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A split of numbers from 0 on by these weights.
    fn split(weights: &[u32]) -> Option<Split<usize>> {
        Split::new((0..).zip(weights.iter().copied()))
    }

    #[test]
    fn each_number_belongs_to_one_share_and_the_shares_are_the_weights() {
        let of = |weights: &[u32], random| *split(weights).unwrap().at(random);
        const TENTH: u64 = u64::MAX / 10;
        for (weights, random, expected) in [
            (&[1][..], 0, 0),
            (&[1], u64::MAX, 0),
            (&[9, 1], 0, 0),
            (&[9, 1], 9 * TENTH - 1, 0),
            (&[9, 1], 9 * TENTH + 10, 1),
            (&[9, 1], u64::MAX, 1),
            (&[0, 1], 0, 1),
            (&[1, 0], u64::MAX, 0),
            (&[1, 0, 1], u64::MAX / 2 - 1, 0),
            (&[1, 0, 1], u64::MAX / 2 + 2, 2),
            (&[u32::MAX, u32::MAX, u32::MAX], u64::MAX, 2),
        ] {
            assert_eq!(of(weights, random), expected, "{weights:?} {random}");
        }
        for weights in [&[][..], &[0], &[0, 0]] {
            assert!(split(weights).is_none(), "{weights:?}");
        }
    }

    /// Six standard deviations of 10,000 draws at 90 % are 180: a right split fails once in 500 million runs.
    #[test]
    fn ten_thousand_draws_are_within_six_deviations_of_the_weights() {
        let split = split(&[90, 0, 10]).unwrap();
        let mut drawn = [0; 3];
        for _ in 0..10_000 {
            drawn[*split.draw()] += 1;
        }
        assert!((8_820..=9_180).contains(&drawn[0]) && drawn[1] == 0, "{drawn:?}");
    }

    #[test]
    fn neighbouring_draws_do_not_depend_on_each_other() {
        let split = split(&[1, 1]).unwrap();
        let mut pairs = [0; 4];
        for _ in 0..4_000 {
            pairs[2 * split.draw() + split.draw()] += 1;
        }
        // A quarter each; six standard deviations are 164.
        assert!(pairs.iter().all(|count| (836..=1_164).contains(count)), "{pairs:?}");
    }
}
