// SPDX-License-Identifier: Apache-2.0
//! Rings and tables of hashes: an endpoint for each hash, and the same one as long as it is there.

use crate::cluster::balance::hash::xxh64;
use crate::plan::balance::HashFunction;
use std::fmt::Write;
use std::net::SocketAddr;

/// A ring or a table, by the places of its endpoints.
///
/// 12 bytes for each point of a ring, 4 for each entry of a table. Made by the first connection that needs it, so that a
/// strategy for a whole mesh costs no memory for services that the pod never calls.
#[derive(Default)]
pub(super) struct Table {
    /// The points of a ring, sorted. Empty for a table, whose entries are chosen by the remainder of the hash.
    hashes: Box<[u64]>,
    owners: Box<[u32]>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("entries", &self.owners.len()).finish_non_exhaustive()
    }
}

/// Endpoints with their places.
type Owners<'a> = &'a [(u32, SocketAddr)];

impl Table {
    /// Makes Envoy's ring: each endpoint has as many points as all others, `least` at least in all.
    pub(super) fn ring(owners: Owners<'_>, [least, most]: [u32; 2], function: HashFunction) -> Self {
        let count = owners.len().max(1) as u64;
        let even = u64::from(least).div_ceil(count) * count;
        let size = even.min(u64::from(most));
        let mut points = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let mut key = String::new();
        for (index, (owner, address)) in (1u64..).zip(owners) {
            // Where the ring has a most that does not divide, some endpoints have a point more than others.
            let target = (size * index).div_ceil(count);
            let so_far = points.len() as u64;
            for number in 0..target - so_far {
                key.clear();
                // Writing to a String does not fail.
                let _ = write!(key, "{address}_{number}");
                points.push((function.of(key.as_bytes()), *owner));
            }
        }
        points.sort_unstable();
        let (hashes, owners): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        Self { hashes: hashes.into(), owners: owners.into() }
    }

    /// Makes Envoy's table of Maglev: endpoints take entries in turn, each in an order of its own.
    pub(super) fn maglev(owners: Owners<'_>, size: u32) -> Self {
        const FREE: u32 = u32::MAX;
        let size = u64::from(size.max(2));
        let mut table = vec![FREE; usize::try_from(size).unwrap_or_default()];
        let mut orders: Vec<_> = owners
            .iter()
            .map(|(owner, address)| {
                let key = address.to_string();
                let (offset, skip) = (xxh64(key.as_bytes(), 0), xxh64(key.as_bytes(), 1));
                (*owner, offset % size, skip % (size - 1) + 1)
            })
            .collect();
        let mut free = if orders.is_empty() { 0 } else { table.len() };
        while free > 0 {
            for (owner, next, skip) in &mut orders {
                if free == 0 {
                    break;
                }
                // Steps of a prime number reach every entry, so one that is free is found.
                let entry = loop {
                    let entry = usize::try_from(*next).unwrap_or_default();
                    *next = (*next + *skip) % size;
                    if table[entry] == FREE {
                        break entry;
                    }
                };
                table[entry] = *owner;
                free -= 1;
            }
        }
        Self { hashes: Box::default(), owners: table.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Returns the entry for a hash: of a ring the next one clockwise.
    pub(super) fn entry(&self, hash: u64) -> usize {
        if self.hashes.is_empty() {
            let len = self.owners.len().max(1) as u64;
            return usize::try_from(hash % len).unwrap_or_default();
        }
        let next = self.hashes.partition_point(|point| *point < hash);
        if next == self.hashes.len() { 0 } else { next }
    }

    /// Returns the place of the endpoint that has an entry.
    pub(super) fn owner(&self, entry: usize) -> usize {
        self.owners[entry] as usize
    }
}
