// SPDX-License-Identifier: Apache-2.0
//! The addresses that keys have, and those that keys had a short time ago.
//!
//! Clients keep an address longer than its answer may live: a connection pool, a runtime that looks a name up once. An address
//! that went to another key would send their connections to the wrong server.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for which the address of a key that went stays its own. Answers live for 30 s, and the longest that a runtime keeps one
/// against that is some minutes.
pub(crate) const KEPT: Duration = Duration::from_hours(1);

/// Entries of a ledger at most, as long as fewer are in use: 48 bytes each beside the keys, so 3 MiB where keys come and go
/// without an end. The ones that went first are forgotten first.
pub(crate) const MOST_ENTRIES: usize = 65_536;

/// Keys with their addresses, in the order of the keys. A key has one entry at most that is in use, before those that are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger(Vec<Entry>);

/// A key, and addresses that it has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) addresses: Arc<[IpAddr]>,
    /// Time since when the key has them no longer; `None` = they are in use.
    pub(super) gone: Option<Instant>,
}

impl Ledger {
    /// Returns the addresses of a key that is in use.
    pub(crate) fn addresses(&self, key: &str) -> Option<&Arc<[IpAddr]>> {
        let at = self.0.partition_point(|entry| *entry.key < *key);
        let entry = self.0.get(at).filter(|entry| *entry.key == *key && entry.gone.is_none())?;
        Some(&entry.addresses)
    }

    /// Returns the key that has an address of the ranges now.
    pub(crate) fn key_of(&self, addresses: &[IpAddr]) -> Option<&Arc<str>> {
        let own = addresses.iter().find(|address| in_ranges(**address))?;
        let mut used = self.0.iter().filter(|entry| entry.gone.is_none());
        used.find(|entry| entry.addresses.contains(own)).map(|entry| &entry.key)
    }

    /// Returns this ledger with keys that others have in use, as far as it lacks them.
    pub(crate) fn with(&self, others: impl Iterator<Item = (Arc<str>, Arc<[IpAddr]>)>) -> Self {
        let others: BTreeMap<_, _> = others.filter(|(key, _)| self.addresses(key).is_none()).collect();
        let in_use = |(key, addresses)| Entry { key, addresses, gone: None };
        let entries = self.0.iter().cloned().chain(others.into_iter().map(in_use)).collect();
        Self(bounded(entries, MOST_ENTRIES))
    }

    /// Returns the number of entries, those of keys that went included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the entries that count at a time.
    pub(super) fn entries(&self, now: Instant) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.counts(now))
    }

    /// Returns the ledger after this one: `used` has the addresses of all keys from now on, in the order of the keys.
    pub(super) fn next(&self, used: Vec<(Arc<str>, Arc<[IpAddr]>)>, now: Instant) -> Self {
        let in_use = |(key, addresses)| Entry { key, addresses, gone: None };
        let mut entries: Vec<Entry> = used.into_iter().map(in_use).collect();
        // A start has none before, and need not collect what is taken from them.
        if self.0.is_empty() {
            return Self(entries);
        }
        let taken: HashSet<IpAddr> =
            entries.iter().flat_map(|entry| entry.addresses.iter().copied()).collect();
        for old in self.entries(now) {
            // An address of a document passes to its next key at once, and one outside of the ranges is given to none.
            let free = |address: &&IpAddr| in_ranges(**address) && !taken.contains(*address);
            let left = old.addresses.iter().filter(free).count();
            if left == 0 {
                continue;
            }
            let addresses = match left == old.addresses.len() {
                true => Arc::clone(&old.addresses),
                false => old.addresses.iter().filter(free).copied().collect(),
            };
            entries.push(Entry { key: Arc::clone(&old.key), addresses, gone: old.gone.or(Some(now)) });
        }
        Self(bounded(entries, MOST_ENTRIES))
    }
}

impl Entry {
    fn counts(&self, now: Instant) -> bool {
        self.gone.is_none_or(|since| now.saturating_duration_since(since) < KEPT)
    }
}

/// Sorts entries, and drops the ones that went first until no more than `most` are left. Those in use stay.
fn bounded(mut entries: Vec<Entry>, most: usize) -> Vec<Entry> {
    if entries.len() > most {
        // In use before all others, then the ones that went last.
        entries.sort_by(|one, other| {
            one.gone.is_some().cmp(&other.gone.is_some()).then(other.gone.cmp(&one.gone))
        });
        let used = entries.partition_point(|entry| entry.gone.is_none());
        entries.truncate(most.max(used));
    }
    // The last that went is the first of a key's that are not in use: a key that comes back gets that one.
    let order = |entry: &Entry| (entry.gone.is_some(), std::cmp::Reverse(entry.gone));
    entries.sort_by(|one, other| one.key.cmp(&other.key).then_with(|| order(one).cmp(&order(other))));
    entries.shrink_to_fit();
    entries
}

/// Returns true for an address of the ranges out of which keys get theirs.
pub(crate) fn in_ranges(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.to_bits() >> 28 == FIRST_V4.to_bits() >> 28,
        IpAddr::V6(address) => address.to_bits() >> 64 == FIRST_V6.to_bits() >> 64,
    }
}

/// Start of 240.0.0.0/4, the range of Kuma's addresses too: no host has one, and Linux sends to them.
pub(crate) const FIRST_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);
/// Start of fd00:fd00::/64, as in Kuma.
pub(crate) const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, 0);
