// SPDX-License-Identifier: Apache-2.0
//! Balancing of a cluster's connections over its endpoints, as policies say it. Plain data.

use std::sync::Arc;

/// The order in which connections try the endpoints of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Algorithm within a group of endpoints that are alike.
    pub algorithm: Algorithm,
    /// True: RingHash and Maglev hash the client's address. False: each connection is a random one.
    pub by_source: bool,
    /// Groups of endpoints; `None` = all are alike.
    pub localities: Option<Localities>,
}

/// The algorithm that chooses an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections.
    LeastRequest {
        /// Random endpoints that are compared.
        choices: u32,
        /// Only for pages: it counts where endpoints differ in weight, and all have the same. In thousandths.
        bias: Option<u32>,
    },
    /// A random one.
    Random,
    /// The next on a ring of hashes.
    RingHash {
        /// Points of the ring, at least.
        least: u32,
        /// Points of the ring, at most.
        most: u32,
        /// Hash of the endpoints' addresses.
        function: HashFunction,
    },
    /// The one that a table of hashes says.
    Maglev {
        /// Entries of the table, a prime number.
        size: u32,
    },
}

/// Hashes of endpoints' addresses, as in Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// XXH64.
    #[default]
    XxHash,
    /// MurmurHash2 in 64 bits.
    MurmurHash2,
}

/// Groups of endpoints, in the order in which they take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Localities {
    /// Sorted by priority, then the heaviest first. The endpoints of the cluster stand in the same order.
    pub all: Vec<Locality>,
    /// Share of a priority's endpoints in service below which the next one takes over, in thousandths of a percent; `None` =
    /// Envoy's.
    pub threshold: Option<u32>,
}

/// Endpoints of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// The zone; `None` where no document says one.
    pub zone: Option<Arc<str>>,
    /// The tag by which the endpoints are near this pod, as `tag=value`.
    pub sub_zone: Option<Arc<str>>,
    /// 0 comes first. Numbers may be missing.
    pub priority: u32,
    /// Weight among those of its priority; `None` = every endpoint of the priority counts the same.
    pub weight: Option<u32>,
    /// Number of endpoints.
    pub endpoints: usize,
}

/// Envoy's threshold: a priority whose endpoints count 1.4 times would be enough for all.
pub const THRESHOLD: u32 = 71_428;

impl Localities {
    /// Returns each locality with the place of its first endpoint.
    pub fn with_places(&self) -> impl Iterator<Item = (usize, &Locality)> {
        let place = |next: &mut usize, locality: &Locality| {
            let place = *next;
            *next += locality.endpoints;
            Some(place)
        };
        self.all.iter().scan(0, place).zip(&self.all)
    }
}
