// SPDX-License-Identifier: Apache-2.0
//! The groups of a cluster's endpoints, and their shares as they are now.

use crate::cluster::balance::shares::{self, Share, Size, Thresholds};
use crate::cluster::balance::table::Table;
use crate::cluster::endpoint::Endpoint;
use crate::cluster::remembered::Remembered;
use crate::plan::OutlierPlan;
use crate::plan::balance::{Algorithm, Balance, THRESHOLD};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

/// The choice of endpoints of a cluster of the plan in force. Read by each connection, without a lock; written when an
/// endpoint is ejected or returns, by the next connection.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(super) algorithm: Algorithm,
    /// True: hashes are those of clients.
    pub(super) by_source: bool,
    /// Random numbers of connections begin with it.
    pub(super) seed: u64,
    /// Sorted by priority. None is empty.
    pub(super) groups: Box<[Group]>,
    /// See [`Thresholds::enough`].
    enough: u32,
    /// The age of the cluster's ejections for which the shares were computed.
    seen: AtomicU64,
    computing: Mutex<()>,
    /// The time of the first trial, by the cluster's clock.
    due: AtomicU64,
    /// Number of endpoints, from the first, that trials are made of.
    on_trial: AtomicUsize,
}

/// Endpoints that are alike.
#[derive(Debug)]
pub(super) struct Group {
    level: usize,
    weight: u64,
    /// The place of its first endpoint, and their number.
    pub(super) from: usize,
    pub(super) len: usize,
    /// Its share and those of all groups before it, of [`shares::ALL`].
    up_to: AtomicU64,
    /// True: ejections do not count in it.
    panics: AtomicBool,
    /// Endpoints that do not fail their active checks, counted with the share.
    well: AtomicUsize,
    /// Counts connections, to choose the endpoint that is next in turn.
    pub(super) turn: AtomicUsize,
    table: OnceLock<Table>,
}

/// A connection that chooses, and the cluster's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) endpoints: &'a [Arc<Endpoint>],
    /// Address that the connection comes from.
    pub(crate) client: IpAddr,
    /// Number of the connection.
    pub(crate) turn: usize,
    /// Endpoints that it tries at most.
    pub(crate) most: usize,
    /// The cluster's clock.
    pub(crate) now: u64,
    pub(crate) first_pause: u64,
    /// `None`: ejections do not count.
    pub(crate) outlier: Option<OutlierPlan>,
    pub(crate) checks: Checks,
    /// Forgotten whenever an endpoint is ejected, returns, or is tried.
    pub(crate) changes: &'a Remembered,
}

/// The part that active checks have in a choice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checks {
    /// Endpoints that do not fail them; `None`: there are no checks.
    pub(crate) healthy: Option<usize>,
    /// Share of endpoints in service below which neither ejections nor checks count, in thousandths of a percent.
    pub(crate) panic: u32,
    /// True: below that share no endpoint is tried.
    pub(crate) fails_on_panic: bool,
}

impl Request<'_> {
    /// Returns true for an endpoint that fails its active checks.
    pub(super) fn is_unhealthy(&self, place: usize) -> bool {
        self.checks.healthy.is_some() && self.endpoints[place].ejection.is_unhealthy()
    }
}

impl Group {
    fn new(level: usize, weight: u64, places: Range<usize>) -> Self {
        Self {
            level,
            weight,
            from: places.start,
            len: places.len(),
            up_to: AtomicU64::new(0),
            panics: AtomicBool::new(false),
            well: AtomicUsize::new(places.len()),
            turn: AtomicUsize::new(0),
            table: OnceLock::new(),
        }
    }

    pub(super) fn places(&self) -> Range<usize> {
        self.from..self.from + self.len
    }

    pub(super) fn panics(&self) -> bool {
        self.panics.load(Relaxed)
    }

    /// Returns the number of endpoints that a connection may try: in panic all of them.
    fn candidates(&self) -> usize {
        if self.panics() { self.len } else { self.well.load(Relaxed) }
    }

    /// Returns the ring or table of its endpoints, `None` for an algorithm without one.
    pub(super) fn table(&self, algorithm: Algorithm, endpoints: &[Arc<Endpoint>]) -> Option<&Table> {
        let make = || {
            let place = |place: usize| (u32::try_from(place).unwrap_or_default(), endpoints[place].address);
            let owners: Vec<_> = self.places().map(place).collect();
            match algorithm {
                Algorithm::RingHash { least, most, function } => {
                    Table::ring(&owners, [least, most], function)
                }
                Algorithm::Maglev { size } => Table::maglev(&owners, size),
                Algorithm::RoundRobin | Algorithm::LeastRequest { .. } | Algorithm::Random => {
                    Table::default()
                }
            }
        };
        let table = matches!(algorithm, Algorithm::RingHash { .. } | Algorithm::Maglev { .. });
        table.then(|| self.table.get_or_init(make)).filter(|table| table.len() > 0)
    }
}

/// Makes the groups of so many endpoints.
fn groups(balance: &Balance, endpoints: usize) -> Vec<Group> {
    let Some(localities) = &balance.localities else { return vec![Group::new(0, 1, 0..endpoints)] };
    let mut groups: Vec<Group> = Vec::new();
    let mut priority = None;
    for (from, locality) in localities.with_places() {
        let level = groups.last().map_or(0, |last| last.level);
        let same = priority == Some(locality.priority);
        // Without weights every endpoint of a priority counts the same, so they are one group.
        if let Some(last) = groups.last_mut().filter(|_| same && locality.weight.is_none()) {
            last.len += locality.endpoints;
            continue;
        }
        let level = if priority.is_none() || same { level } else { level + 1 };
        let weight = locality.weight.unwrap_or(1).into();
        groups.push(Group::new(level, weight, from..from + locality.endpoints));
        priority = Some(locality.priority);
    }
    groups
}

impl Balancer {
    /// Makes the balancer of a cluster with so many endpoints; `None` where they only take turns.
    pub(crate) fn new(balance: &Balance, endpoints: usize, seed: u64) -> Option<Self> {
        let groups = groups(balance, endpoints);
        if endpoints == 0 || groups.len() < 2 && balance.algorithm == Algorithm::RoundRobin {
            return None;
        }
        let threshold = balance.localities.as_ref().and_then(|localities| localities.threshold);
        let this = Self {
            algorithm: balance.algorithm,
            by_source: balance.by_source,
            seed,
            groups: groups.into(),
            enough: threshold.unwrap_or(THRESHOLD),
            seen: AtomicU64::new(u64::MAX),
            computing: Mutex::default(),
            due: AtomicU64::new(u64::MAX),
            on_trial: AtomicUsize::new(0),
        };
        this.share(|_| true, |_| true, 0);
        Some(this)
    }

    /// Returns true if open connections of each endpoint are counted.
    pub(crate) fn counts_uses(&self) -> bool {
        matches!(self.algorithm, Algorithm::LeastRequest { .. })
    }

    /// Computes the share of each group, and returns the number of endpoints up to the last priority that has a share.
    fn share(
        &self,
        in_service: impl Fn(usize) -> bool,
        counted: impl Fn(usize) -> bool,
        panic: u32,
    ) -> usize {
        let size = |group: &Group| Size {
            level: group.level,
            weight: group.weight,
            endpoints: group.len,
            in_service: group.places().filter(|place| in_service(*place)).count(),
            counted: group.places().filter(|place| counted(*place)).count(),
        };
        let sizes: Vec<_> = self.groups.iter().map(size).collect();
        let shares = shares::shares(&sizes, Thresholds { enough: self.enough, panic });
        let mut up_to = 0;
        let mut level = 0;
        for (group, Share { of_all, panics }) in self.groups.iter().zip(shares) {
            up_to += of_all;
            group.up_to.store(up_to, Relaxed);
            group.panics.store(panics, Relaxed);
            if of_all > 0 {
                level = group.level;
            }
        }
        self.groups.iter().filter(|group| group.level <= level).map(|group| group.len).sum()
    }

    /// Computes the shares and the time of the next trial, where endpoints were ejected or returned since the last time.
    pub(super) fn look(&self, request: &Request<'_>) {
        let Request { endpoints, outlier, checks, changes, .. } = request;
        if self.seen.load(Acquire) == changes.age() {
            return;
        }
        // Another connection computes them, and those of before do until then.
        let Ok(_alone) = self.computing.try_lock() else { return };
        // Read before the endpoints: a change from now on makes another look.
        let age = changes.age();
        let trial = |place: usize| outlier.and(endpoints[place].ejection.trial_at());
        let is_well = |place: usize| !request.is_unhealthy(place);
        // The ejection without a policy only orders endpoints: none is out of service by it.
        let by_policy = outlier.is_some_and(|outlier| outlier.panic_threshold != 0);
        let counted = |place: usize| is_well(place) && !(by_policy && trial(place).is_some());
        let in_service = |place: usize| trial(place).is_none() && is_well(place);
        let on_trial = self.share(in_service, counted, checks.panic);
        for group in &self.groups {
            group.well.store(group.places().filter(|place| is_well(*place)).count(), Relaxed);
        }
        let due = (0..on_trial).filter(|place| is_well(*place)).filter_map(trial).min();
        self.due.store(due.unwrap_or(u64::MAX), Relaxed);
        self.on_trial.store(on_trial, Relaxed);
        self.seen.store(age, Release);
    }

    /// Takes the trial that is due, if no other connection did, and returns the endpoint's place.
    pub(super) fn take_trial(&self, request: &Request<'_>) -> Option<usize> {
        let Request { endpoints, now, first_pause, changes, .. } = request;
        if *now < self.due.load(Relaxed) {
            return None;
        }
        let takes = |place: &usize| {
            !request.is_unhealthy(*place) && endpoints[*place].ejection.take_trial(*now, *first_pause)
        };
        let place = (0..self.on_trial.load(Relaxed)).find(takes)?;
        changes.forget();
        Some(place)
    }

    /// Returns the number of endpoints that a connection may try, if one of the groups is in panic.
    pub(super) fn candidates_in_panic(&self) -> Option<usize> {
        let panics = self.groups.iter().any(Group::panics);
        panics.then(|| self.groups.iter().map(Group::candidates).sum())
    }

    /// Returns the group that a random number chooses by their shares.
    pub(super) fn group(&self, random: u64) -> usize {
        let random = random % shares::ALL;
        let group = self.groups.partition_point(|group| group.up_to.load(Relaxed) <= random);
        group.min(self.groups.len() - 1)
    }
}
