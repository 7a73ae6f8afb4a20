// SPDX-License-Identifier: Apache-2.0
//! Original destination → cluster, and how it is dialled. Pure.
//!
//! Without mesh documents there are four clusters, one per direction and family, and each dials the original
//! destination. What a document changes is decided here and nowhere else.

use crate::addrs::{DialAddr, Direction, Family, OrigDst, inbound_source};
use std::fmt;
use std::net::IpAddr;

/// A cluster or listener of the passthrough kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId {
    /// Whose traffic it is.
    pub direction: Direction,
    /// The family of the original destination.
    pub family: Family,
}

impl ClusterId {
    /// All four, in the order of [`Self::index`].
    pub const ALL: [Self; 4] = [
        Self { direction: Direction::Inbound, family: Family::V4 },
        Self { direction: Direction::Inbound, family: Family::V6 },
        Self { direction: Direction::Outbound, family: Family::V4 },
        Self { direction: Direction::Outbound, family: Family::V6 },
    ];

    /// A place in a table of four.
    pub fn index(self) -> usize {
        self.direction as usize * Family::ALL.len() + self.family as usize
    }

    /// The name in statistics, where Envoy replaces each `:` by `_`.
    pub fn stat_name(self) -> String {
        self.to_string().replace(':', "_")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:passthrough:{}", self.direction.name(), self.family.name())
    }
}

/// Where a connection goes and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose limits and statistics count.
    pub cluster: ClusterId,
    /// What to dial.
    pub dial: DialAddr,
    /// The source to dial from; the kernel's choice where there is none.
    pub source: Option<IpAddr>,
}

/// Finds the route of a connection that passed the guards.
pub fn route(direction: Direction, original: OrigDst) -> Route {
    let family = original.family();
    Route {
        cluster: ClusterId { direction, family },
        dial: DialAddr::new(original.get()),
        source: match direction {
            // The redirect rules know the inbound hop by this source, and let it through to the application.
            Direction::Inbound => Some(inbound_source(family)),
            Direction::Outbound => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_goes_where_it_was_meant_to_go() {
        for (direction, original, cluster, source) in [
            (Direction::Inbound, "10.0.0.2:80", "inbound:passthrough:ipv4", Some("127.0.0.6")),
            (Direction::Inbound, "[fd00::2]:80", "inbound:passthrough:ipv6", Some("::6")),
            (Direction::Inbound, "[::ffff:10.0.0.2]:80", "inbound:passthrough:ipv4", Some("127.0.0.6")),
            (Direction::Outbound, "192.0.2.1:443", "outbound:passthrough:ipv4", None),
            (Direction::Outbound, "[2001:db8::1]:443", "outbound:passthrough:ipv6", None),
        ] {
            let original = OrigDst::new(original.parse().unwrap());
            let route = route(direction, original);
            assert_eq!(route.cluster.to_string(), cluster);
            assert_eq!(route.dial.get(), original.get());
            assert_eq!(route.source, source.map(|ip| ip.parse().unwrap()));
        }
    }

    #[test]
    fn cluster_indexes_are_their_places() {
        for (place, cluster) in ClusterId::ALL.into_iter().enumerate() {
            assert_eq!(cluster.index(), place);
        }
        assert_eq!(ClusterId::ALL[2].stat_name(), "outbound_passthrough_ipv4");
    }
}
