// SPDX-License-Identifier: Apache-2.0
//! The queries in flight: a bound on all of them, one on each client's port, and the sidecar's own ones, which must not come
//! back.

use crate::metrics::Gauge;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for queries.
#[derive(Debug)]
pub(crate) struct InFlight {
    most: usize,
    taken: Mutex<Slots>,
    active: Gauge,
}

#[derive(Debug, Default)]
struct Slots {
    all: usize,
    by_client: HashMap<SocketAddr, usize>,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    of: Arc<InFlight>,
    client: SocketAddr,
}

impl InFlight {
    pub(crate) fn new(most: usize, active: Gauge) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), active })
    }

    /// Takes a place if one is free. One port may take half of them: a broken client leaves room for all others.
    pub(crate) fn enter(self: &Arc<Self>, client: SocketAddr) -> Option<Slot> {
        let mut taken = self.taken();
        if taken.all >= self.most {
            return None;
        }
        let of_client = taken.by_client.entry(client).or_default();
        if *of_client >= self.most.div_ceil(2) {
            return None;
        }
        *of_client += 1;
        taken.all += 1;
        self.active.inc();
        Some(Slot { of: Arc::clone(self), client })
    }

    fn taken(&self) -> MutexGuard<'_, Slots> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
        self.of.active.dec();
    }
}

/// The sidecar's own queries, by port and id. One that arrives here was redirected: the sidecar runs as another uid than the
/// rules let out, and each query would ask itself for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnQueries(Arc<Mutex<HashSet<(u16, u16)>>>);

/// Keeps a query of the sidecar's own noted until it is dropped.
#[derive(Debug)]
pub(crate) struct OwnQuery {
    of: OwnQueries,
    query: (u16, u16),
}

impl OwnQueries {
    /// Notes a query before it is sent.
    pub(crate) fn note(&self, port: u16, id: u16) -> OwnQuery {
        self.lock().insert((port, id));
        OwnQuery { of: self.clone(), query: (port, id) }
    }

    /// Returns true for a query that the sidecar itself has sent.
    pub(crate) fn contains(&self, port: u16, id: u16) -> bool {
        self.lock().contains(&(port, id))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(u16, u16)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnQuery {
    fn drop(&mut self) {
        self.of.lock().remove(&self.query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], port))
    }

    #[test]
    fn one_port_takes_half_of_the_places_and_all_ports_all_of_them() {
        let active = Gauge::default();
        let in_flight = InFlight::new(5, active.clone());
        let mut places: Vec<_> = (0..3).map(|_| in_flight.enter(client(1)).unwrap()).collect();
        assert!(in_flight.enter(client(1)).is_none(), "half, rounded up");
        places.extend((0..2).map(|_| in_flight.enter(client(2)).unwrap()));
        assert!(in_flight.enter(client(3)).is_none(), "all");
        assert_eq!(active.get(), 5);
        drop(places);
        assert_eq!(active.get(), 0);
        assert!(in_flight.taken().by_client.is_empty());
        assert!(in_flight.enter(client(1)).is_some());
    }

    #[test]
    fn an_own_query_is_known_while_it_is_in_flight() {
        let own = OwnQueries::default();
        let query = own.note(4000, 7);
        assert!(own.contains(4000, 7) && !own.contains(4000, 8) && !own.contains(4001, 7));
        drop(query);
        assert!(!own.contains(4000, 7));
    }
}
