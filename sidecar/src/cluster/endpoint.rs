// SPDX-License-Identifier: Apache-2.0
//! Endpoints of a cluster, and the order in which a connection tries them.

use crate::plan::Member;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An endpoint of the plan in force.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The mesh member behind the address. TLS to it expects the identity of its service.
    pub(crate) member: Arc<Member>,
    /// Shared with the same address of the same cluster in earlier plans, so that a reload forgets no failure.
    pub(crate) ejection: Arc<Ejection>,
}

/// The time until which an endpoint comes after all others of its cluster, because it could not be reached.
///
/// Written by each connection that dials the endpoint, on any worker; read by each that chooses one.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    /// Milliseconds of the cluster's clock; 0 = not ejected.
    until: AtomicU64,
}

impl Ejection {
    pub(crate) fn eject_until(&self, millis: u64) {
        self.until.store(millis, Relaxed);
    }

    /// Ends the ejection. Reads first: a store would take the cache line from all other workers at each connect.
    pub(crate) fn end(&self) {
        if self.until.load(Relaxed) != 0 {
            self.until.store(0, Relaxed);
        }
    }

    fn holds(&self, now: u64) -> bool {
        self.until.load(Relaxed) > now
    }
}

/// The endpoints in the order in which one connection tries them: round robin, and ejected ones after all others.
#[derive(Debug)]
pub(crate) struct Turns<'a> {
    endpoints: &'a [Arc<Endpoint>],
    /// The place of the first; less than the number of endpoints.
    start: usize,
    /// Steps taken; beyond the number of endpoints they go through `ejected`.
    step: usize,
    /// Passed over in the first round. Allocates only where there is one.
    ejected: Vec<&'a Arc<Endpoint>>,
    left: usize,
    now: u64,
}

impl<'a> Turns<'a> {
    /// Begins with the endpoint that `turn` chooses, and tries `most` at most. `now` is the cluster's clock.
    pub(crate) fn new(endpoints: &'a [Arc<Endpoint>], turn: usize, most: usize, now: u64) -> Self {
        let start = turn % endpoints.len().max(1);
        Self { endpoints, start, step: 0, ejected: Vec::new(), left: most, now }
    }
}

impl<'a> Iterator for Turns<'a> {
    type Item = &'a Arc<Endpoint>;

    fn next(&mut self) -> Option<Self::Item> {
        let endpoints = self.endpoints;
        if self.left == 0 {
            return None;
        }
        while self.step < endpoints.len() {
            let endpoint = &endpoints[(self.start + self.step) % endpoints.len()];
            self.step += 1;
            if !endpoint.ejection.holds(self.now) {
                self.left -= 1;
                return Some(endpoint);
            }
            if self.ejected.len() < self.left {
                self.ejected.push(endpoint);
            }
        }
        // One that this connection failed to reach is not among these: it was not ejected when it was chosen.
        let endpoint = *self.ejected.get(self.step - endpoints.len())?;
        self.step += 1;
        self.left -= 1;
        Some(endpoint)
    }
}
