// SPDX-License-Identifier: Apache-2.0
//! The shares of groups of endpoints in a cluster's connections, as Envoy computes them from priorities and weights.
//!
//! A priority takes all connections while the share of its endpoints in service is at least the threshold, and less in
//! proportion below that; the next priority takes the rest. Within a priority each group has its weight, less in the same
//! way where its endpoints are out of service.

/// All connections of a cluster.
pub(super) const ALL: u64 = 1 << 32;

/// A group of endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Number of its priority, without gaps; groups are sorted by it.
    pub(super) level: usize,
    pub(super) weight: u64,
    pub(super) endpoints: usize,
    pub(super) in_service: usize,
    /// Endpoints that count as in service where panic is decided.
    pub(super) counted: usize,
}

/// Rules about groups, in thousandths of a percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Share of endpoints in service that is enough for all connections.
    pub(super) enough: u32,
    /// Share of endpoints in service below which ejections do not count.
    pub(super) panic: u32,
}

/// The share of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Of [`ALL`].
    pub(super) of_all: u64,
    /// True: ejections do not count in it.
    pub(super) panics: bool,
}

/// Returns the part of `of` that `endpoints` take of which some are in service.
fn available(in_service: usize, endpoints: usize, enough: u32, of: u64) -> u64 {
    let enough = endpoints as u128 * u128::from(enough);
    let there = in_service as u128 * 100_000 * u128::from(of);
    u64::try_from(there.checked_div(enough).unwrap_or_default()).unwrap_or(of).min(of)
}

fn part(of: u64, some: u64, all: u64) -> u64 {
    let part = (u128::from(of) * u128::from(some)).checked_div(all.into()).unwrap_or_default();
    u64::try_from(part).unwrap_or(of)
}

/// Endpoints of a priority, and its share.
#[derive(Clone, Copy, Default)]
struct Level {
    endpoints: usize,
    in_service: usize,
    counted: usize,
    load: u64,
    panics: bool,
}

/// Returns the share of each group.
pub(super) fn shares(groups: &[Size], thresholds: Thresholds) -> Vec<Share> {
    let mut levels = vec![Level::default(); groups.last().map_or(0, |last| last.level + 1)];
    for group in groups {
        let level = &mut levels[group.level];
        level.endpoints += group.endpoints;
        level.in_service += group.in_service;
        level.counted += group.counted;
    }
    load(&mut levels, thresholds);
    let enough = thresholds.enough;
    // Where ejections do not count, all endpoints are as good.
    let weight = |group: &Size| {
        let Size { weight, endpoints, in_service, .. } = *group;
        if levels[group.level].panics { weight } else { available(in_service, endpoints, enough, weight) }
    };
    let sum = |level: usize, weight: &dyn Fn(&Size) -> u64| {
        groups.iter().filter(|group| group.level == level).map(weight).fold(0, u64::saturating_add)
    };
    let share = |group: &Size| {
        let Level { load, panics, .. } = levels[group.level];
        let of_all = match sum(group.level, &weight) {
            0 => part(load, group.weight, sum(group.level, &|group| group.weight)),
            all => part(load, weight(group), all),
        };
        Share { of_all, panics }
    };
    groups.iter().map(share).collect()
}

/// Shares connections among priorities.
fn load(levels: &mut [Level], Thresholds { enough, panic }: Thresholds) {
    let healths: Vec<_> =
        levels.iter().map(|level| available(level.in_service, level.endpoints, enough, ALL)).collect();
    let health = healths.iter().sum::<u64>().min(ALL);
    let few = |level: &Level| level.counted * 100_000 < panic as usize * level.endpoints;
    // As in Envoy ejections count wherever the priorities together are enough. A single one has the rule for itself.
    let single = levels.len() == 1;
    for level in levels.iter_mut() {
        level.panics = (single || health < ALL) && few(level);
    }
    if levels.iter().all(|level| level.panics) {
        let all = levels.iter().map(|level| level.endpoints as u64).sum();
        levels.iter_mut().for_each(|level| level.load = part(ALL, level.endpoints as u64, all));
        return;
    }
    let mut left = ALL;
    for (level, own) in levels.iter_mut().zip(healths) {
        level.load = part(ALL, own, health).min(left);
        left -= level.load;
    }
    // Nothing is in service, or what rounding left over: the first priority.
    if let Some(first) = levels.iter_mut().find(|level| health == 0 || level.load > 0) {
        first.load += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOYS: Thresholds = Thresholds { enough: 71_428, panic: 0 };
    const HALF: Thresholds = Thresholds { enough: 50_000, panic: 0 };

    /// Groups as level, weight, endpoints, in service.
    fn of(groups: &[(usize, u64, usize, usize)], thresholds: Thresholds) -> Vec<f64> {
        let size = |&(level, weight, endpoints, in_service)| Size {
            level,
            weight,
            endpoints,
            in_service,
            counted: in_service,
        };
        let groups: Vec<_> = groups.iter().map(size).collect();
        let shares = shares(&groups, thresholds);
        let all: u64 = shares.iter().map(|share| share.of_all).sum();
        assert!((ALL - 100..=ALL).contains(&all), "{shares:?}");
        // In percent, with one decimal.
        shares.iter().map(|share| (share.of_all as f64 * 1000.0 / ALL as f64).round() / 10.0).collect()
    }

    /// The first rows are the table of Envoy's page about priority levels, with its factor of 1.4.
    #[test]
    fn priorities_take_over_as_in_envoy() {
        for (first, second, expected) in [
            (100, 100, [100.0, 0.0]),
            (72, 100, [100.0, 0.0]),
            (71, 100, [99.4, 0.6]),
            (50, 100, [70.0, 30.0]),
            (25, 100, [35.0, 65.0]),
            (0, 100, [0.0, 100.0]),
            (25, 25, [50.0, 50.0]),
            (25, 0, [100.0, 0.0]),
            (0, 0, [100.0, 0.0]),
        ] {
            assert_eq!(of(&[(0, 1, 100, first), (1, 1, 100, second)], ENVOYS), expected, "{first} {second}");
        }
        for (first, expected) in [(10, [100.0, 0.0]), (5, [100.0, 0.0]), (4, [80.0, 20.0]), (1, [20.0, 80.0])]
        {
            assert_eq!(of(&[(0, 1, 10, first), (1, 1, 1, 1)], HALF), expected, "{first}");
        }
        let three = [(0, 1, 4, 0), (1, 1, 4, 1), (2, 1, 4, 4)];
        assert_eq!(of(&three, HALF), [0.0, 50.0, 50.0]);
    }

    #[test]
    fn weights_hold_within_a_priority_as_far_as_endpoints_are_in_service() {
        let near = |in_service| of(&[(0, 900, 2, in_service), (0, 90, 1, 1), (0, 10, 1, 1)], HALF);
        assert_eq!(near(2), [90.0, 9.0, 1.0]);
        assert_eq!(near(1), [90.0, 9.0, 1.0], "half is enough");
        assert_eq!(near(0), [0.0, 90.0, 10.0]);
        assert_eq!(of(&[(0, 900, 1, 0), (0, 100, 1, 0)], HALF), [90.0, 10.0], "none is better");
        let huge = [(0, u64::from(u32::MAX), 1, 1), (0, 1, 1, 1)];
        assert_eq!(of(&huge, HALF), [100.0, 0.0]);
    }

    #[test]
    fn ejections_do_not_count_where_too_few_are_in_service_and_no_priority_makes_up_for_it() {
        let panic = Thresholds { enough: 50_000, panic: 50_000 };
        let of = |groups: &[(usize, usize, usize)]| {
            let size = |&(level, endpoints, in_service)| Size {
                level,
                weight: 1,
                endpoints,
                in_service,
                counted: in_service,
            };
            let groups: Vec<_> = groups.iter().map(size).collect();
            shares(&groups, panic)
                .iter()
                .map(|share| (share.of_all * 10 / ALL, share.panics))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[(0, 4, 2)]), [(10, false)], "half is not less than half");
        assert_eq!(of(&[(0, 4, 1)]), [(10, true)]);
        assert_eq!(of(&[(0, 4, 0), (1, 4, 4)]), [(0, false), (10, false)], "the second is enough");
        assert_eq!(of(&[(0, 10, 1), (1, 10, 3)]), [(5, true), (5, true)], "by the number of endpoints");
    }
}
