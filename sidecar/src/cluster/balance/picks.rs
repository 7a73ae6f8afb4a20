// SPDX-License-Identifier: Apache-2.0
//! The endpoints in the order in which one connection tries them.

use crate::cluster::balance::balancer::{Balancer, Request};
use crate::cluster::balance::hash;
use crate::cluster::balance::random::Random;
use crate::cluster::balance::table::Table;
use crate::cluster::endpoint::{Endpoint, Standing, Turn, Turns};
use crate::plan::balance::Algorithm;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Entries of a ring or table that a connection looks at, before it takes the endpoints as they stand: where nearly all are
/// ejected, a long ring must not be gone through for each connection.
const MOST_ENTRIES: usize = 64;

/// The endpoints in the order in which one connection tries them.
#[derive(Debug)]
pub(crate) enum Order<'a> {
    /// They take turns.
    Turns(Turns<'a>),
    /// As a policy says.
    Picks(Picks<'a>),
}

impl Order<'_> {
    /// Returns true if there is an endpoint to try after this one.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            Self::Turns(turns) => turns.has_more(),
            Self::Picks(picks) => picks.has_more(),
        }
    }
}

impl<'a> Iterator for Order<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Turn<'a>> {
        match self {
            Self::Turns(turns) => turns.next(),
            Self::Picks(picks) => picks.next(),
        }
    }
}

/// The endpoints by a policy, group by group. Endpoints are places in the cluster's list.
#[derive(Debug)]
pub(crate) struct Picks<'a> {
    balancer: &'a Balancer,
    endpoints: &'a [Arc<Endpoint>],
    now: u64,
    most: usize,
    /// True: ejections do not count.
    all: bool,
    /// True: endpoints that fail their active checks are left out.
    checked: bool,
    random: Random,
    /// What rings and tables are asked for.
    hash: u64,
    /// The group that comes first, the one that is gone through, and the next one.
    first_group: usize,
    group: usize,
    next_group: usize,
    path: Path,
    /// Returned before the path goes on.
    ahead: Option<(usize, Standing)>,
    /// Endpoints that were returned.
    tried: usize,
    first: usize,
    /// Those returned after the first. Allocates only where there is one, as the next.
    later: Vec<usize>,
    /// Passed over.
    ejected: Vec<usize>,
    /// Those of them that were gone through at the end.
    resorts: usize,
}

/// The way through a group.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// True while it goes through the entries of a ring or table.
    in_table: bool,
    /// The next entry, or the next endpoint, counted from the group's first.
    at: usize,
    step: usize,
    left: usize,
    /// The endpoint with which it goes on when it leaves the table.
    base: usize,
}

impl<'a> Picks<'a> {
    /// Chooses for a connection.
    pub(crate) fn new(balancer: &'a Balancer, request: Request<'a>) -> Self {
        balancer.look(&request);
        let trial = balancer.take_trial(&request);
        let Request { endpoints, client, turn, now, outlier, checks, .. } = request;
        let hashes = matches!(balancer.algorithm, Algorithm::RingHash { .. } | Algorithm::Maglev { .. });
        let hash = match hashes && balancer.by_source {
            true => hash::of_client(client),
            false => Random::new(balancer.seed.wrapping_add(turn as u64)).next(),
        };
        // Seeded by the hash: a client that is hashed has its group too.
        let mut random = Random::new(hash);
        let group = balancer.group(random.next());
        let most = if checks.fails_on_panic && balancer.groups[group].panics() {
            // Trials go on: by them alone an ejected endpoint returns.
            usize::from(trial.is_some())
        } else {
            // Those of other groups that fail their checks are not tried, so that the last one may take all the time left.
            let candidates = balancer.candidates_in_panic().or(checks.healthy);
            request.most.min(candidates.unwrap_or(usize::MAX))
        };
        let mut this = Self {
            balancer,
            endpoints,
            now,
            most,
            all: outlier.is_none(),
            checked: checks.healthy.is_some(),
            random,
            hash,
            first_group: group,
            group,
            next_group: 0,
            path: Path::default(),
            ahead: None,
            tried: 0,
            first: 0,
            later: Vec::new(),
            ejected: Vec::new(),
            resorts: 0,
        };
        this.enter(group);
        if let Some(place) = trial {
            this.ahead = Some((place, Standing::Trial));
        }
        this
    }

    /// Returns true if there is an endpoint to try after this one.
    pub(crate) fn has_more(&self) -> bool {
        self.tried < self.endpoints.len().min(self.most)
    }

    fn table(&self) -> Option<&'a Table> {
        self.balancer.groups[self.group].table(self.balancer.algorithm, self.endpoints)
    }

    /// Begins with a group.
    fn enter(&mut self, group: usize) {
        self.group = group;
        let of = &self.balancer.groups[group];
        let len = of.len;
        let (at, step) = match self.balancer.algorithm {
            Algorithm::RoundRobin => (of.turn.fetch_add(1, Relaxed) % len.max(1), 1),
            _ => (self.random.below(len), self.random.step(len)),
        };
        self.path = Path { in_table: false, at, step, left: len, base: 0 };
        if let Some(table) = self.table() {
            let at = table.entry(self.hash);
            let (left, base) = (table.len().min(MOST_ENTRIES), table.owner(at) - of.from);
            self.path = Path { in_table: true, at, step: 1, left, base };
        }
        if let Algorithm::LeastRequest { choices, .. } = self.balancer.algorithm {
            self.ahead = self.least_used(choices as usize).map(|place| (place, Standing::InService));
        }
    }

    /// Begins with the group that comes after this one.
    fn enter_next(&mut self) -> bool {
        if self.next_group == self.first_group {
            self.next_group += 1;
        }
        let next = self.next_group;
        let there = next < self.balancer.groups.len();
        if there {
            self.next_group += 1;
            self.enter(next);
        }
        there
    }

    /// Returns the next endpoint of the group, perhaps one that came before.
    fn advance(&mut self) -> Option<usize> {
        let of = &self.balancer.groups[self.group];
        if self.path.left == 0 && self.path.in_table {
            self.path = Path { in_table: false, at: self.path.base, step: 1, left: of.len, base: 0 };
        }
        let Path { in_table, at, step, left, .. } = self.path;
        self.path.left = left.checked_sub(1)?;
        let table = if in_table { self.table() } else { None };
        let (place, round) = match table {
            Some(table) => (table.owner(at), table.len()),
            None => (of.from + at, of.len),
        };
        self.path.at = (at + step) % round;
        Some(place)
    }

    /// Returns the endpoint with the fewest open connections of the first so many in service.
    fn least_used(&self, choices: usize) -> Option<usize> {
        /// Endpoints out of service that are passed over; where more are, fewer are compared.
        const PASSED_OVER: usize = 16;
        let of = &self.balancer.groups[self.group];
        let Path { at, step, .. } = self.path;
        let looks = of.len.min(choices.saturating_add(PASSED_OVER));
        let places = (0..looks).map(|n| of.from + (at + n * step) % of.len);
        let serving = places.filter(|place| self.serves(*place) && !self.is_tried(*place));
        serving.take(choices).min_by_key(|place| self.endpoints[*place].ejection.uses())
    }

    fn serves(&self, place: usize) -> bool {
        let ejection = &self.endpoints[place].ejection;
        let well = self.all || !ejection.is_out(self.now);
        well && !self.is_left_out(place) || self.balancer.groups[self.group].panics()
    }

    /// Returns true for an endpoint that fails its active checks, which is not even a last resort.
    fn is_left_out(&self, place: usize) -> bool {
        self.checked && self.endpoints[place].ejection.is_unhealthy()
    }

    fn is_tried(&self, place: usize) -> bool {
        self.tried > 0 && (self.first == place || self.later.contains(&place))
    }

    fn turn(&mut self, place: usize, standing: Standing) -> Turn<'a> {
        match self.tried {
            0 => self.first = place,
            _ => self.later.push(place),
        }
        self.tried += 1;
        Turn { endpoint: &self.endpoints[place], standing }
    }
}

#[cfg(test)]
impl Picks<'_> {
    pub(super) fn allocates_nothing(&self) -> bool {
        self.later.capacity() + self.ejected.capacity() == 0
    }
}

impl<'a> Iterator for Picks<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Turn<'a>> {
        if !self.has_more() {
            return None;
        }
        loop {
            if let Some((place, standing)) = self.ahead.take()
                && !self.is_tried(place)
            {
                return Some(self.turn(place, standing));
            }
            while let Some(place) = self.advance() {
                if self.is_tried(place) {
                    continue;
                }
                if self.serves(place) {
                    return Some(self.turn(place, Standing::InService));
                }
                let resort = !self.is_left_out(place) && !self.ejected.contains(&place);
                if resort && self.ejected.len() < self.most {
                    self.ejected.push(place);
                }
            }
            if !self.enter_next() {
                break;
            }
        }
        while let Some(place) = self.ejected.get(self.resorts).copied() {
            self.resorts += 1;
            if !self.is_tried(place) {
                return Some(self.turn(place, Standing::LastResort));
            }
        }
        None
    }
}
