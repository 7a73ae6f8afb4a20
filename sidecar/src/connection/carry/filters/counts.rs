// SPDX-License-Identifier: Apache-2.0
//! Counts of requests under Envoy's names, by their listener and their cluster.

use super::Setting;
use crate::cluster::metrics::{Active, ClusterRequests, ListenerRequests};
use crate::observe::close_reason::CloseReason;
use crate::relay::http::{Class, Local, Refusal};

/// The places of a request among those that are active.
#[derive(Debug)]
pub(super) struct Counted {
    _of_listener: Active,
    /// Of one that a fault came upon.
    faulty: Option<Active>,
    /// Of one that was let through to its cluster.
    of_cluster: Option<Active>,
}

/// A fault that came upon a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injected {
    Delay,
    Abort,
    Bandwidth,
}

// === impl Setting ===

impl Setting {
    fn of_listener(&self) -> &ListenerRequests {
        &self.listener.metrics.http
    }

    fn of_cluster(&self) -> Option<&ClusterRequests> {
        self.cluster.as_ref().map(|cluster| &*cluster.metrics.http)
    }

    /// Counts a request in.
    pub(super) fn begin(&self) -> Counted {
        let counts = &self.of_listener().counts;
        counts.total.inc();
        Counted { _of_listener: Active::new(&counts.active), faulty: None, of_cluster: None }
    }

    /// Counts a request that goes on to the server.
    pub(super) fn let_through(&self, counted: &mut Counted) {
        if let Some(of_cluster) = self.of_cluster() {
            of_cluster.counts.total.inc();
            counted.of_cluster = Some(Active::new(&of_cluster.counts.active));
        }
    }

    /// Counts a fault.
    pub(super) fn injected(&self, counted: &mut Counted, fault: Injected) {
        let ListenerRequests { delays, aborts, slowed, faulty, .. } = self.of_listener();
        match fault {
            Injected::Delay => delays.inc(),
            Injected::Abort => aborts.inc(),
            Injected::Bandwidth => slowed.inc(),
        }
        counted.faulty.get_or_insert_with(|| Active::new(faulty));
    }

    /// Counts a request that the rate was asked about.
    pub(super) fn rated(&self, is_within: bool) {
        let ListenerRequests { rated, within_rate, above_rate, enforced_rate, .. } = self.of_listener();
        rated.inc();
        if is_within {
            within_rate.inc();
        } else {
            above_rate.inc();
            enforced_rate.inc();
        }
    }

    /// Counts an answer that the client gets.
    fn client_answered(&self, status: u16) {
        self.of_listener().counts.answered(status);
        self.told.answers.inc(Class::of(status));
    }

    /// Counts a request whose connection or stream ended first, if it was the client that ended it.
    pub(in crate::connection::carry) fn abandoned(&self, reason: CloseReason) {
        if matches!(reason, CloseReason::Ok | CloseReason::ClientReset) {
            self.of_listener().reset.inc();
        }
    }

    /// Counts the answer of a server.
    pub(in crate::connection::carry) fn answered(&self, status: u16) {
        self.client_answered(status);
        if let Some(of_cluster) = self.of_cluster() {
            of_cluster.counts.answered(status);
        }
    }

    /// Counts an answer by a document's rule. That of the breaker is the cluster's, too.
    pub(super) fn answered_by(&self, by: Local, status: u16) {
        if by != Local::Breaker {
            return self.client_answered(status);
        }
        if let Some(of_cluster) = self.of_cluster() {
            of_cluster.overflow.inc();
        }
        self.answered(status);
    }

    /// Counts the end of a connection by a rule of HTTP or a limit of time, with the status of the answer if it has one.
    /// `is_under_way` is true if a request waits for its response.
    pub(in crate::connection::carry) fn refused(
        &self,
        rule: Refusal,
        status: Option<u16>,
        is_under_way: bool,
    ) {
        let of_listener = self.of_listener();
        match rule {
            Refusal::HeaderTimeout => of_listener.header_timeout.inc(),
            Refusal::StreamIdle => of_listener.idle_timeout.inc(),
            Refusal::StreamTimeout => of_listener.duration_timeout.inc(),
            Refusal::RequestTimeout => {
                if let Some(of_cluster) = self.of_cluster() {
                    of_cluster.timeout.inc();
                }
            }
            _ => {}
        }
        let Some(status) = status else { return };
        // These limits are of the listener: Envoy's router, which counts for clusters, hears nothing of them.
        let is_listeners =
            matches!(rule, Refusal::HeaderTimeout | Refusal::StreamIdle | Refusal::StreamTimeout);
        if is_under_way && !is_listeners {
            return self.answered(status);
        }
        if !is_under_way {
            // Its head broke a rule, so nothing was decided about it.
            of_listener.counts.total.inc();
        }
        self.client_answered(status);
    }
}
