// SPDX-License-Identifier: Apache-2.0
//! Rates of a caller's requests: the one in force, and the one that a policy on trial would have.

use super::Setting;
use crate::cluster::bucket::Bucket;
use crate::cluster::registry::Trial;
use crate::metrics::Counter;
use crate::plan::listener::http::{Caller, CallerRate, HttpPlan};
use std::sync::Arc;

/// Rates of a caller's requests.
pub(in crate::connection::carry) struct CallersRates {
    /// Place of the rate in force.
    place: Option<usize>,
    /// The rate that a policy on trial would have, and the count of requests above it.
    pub(in crate::connection::carry) tried: Option<(Arc<Bucket>, Counter)>,
}

// === impl Setting ===

impl Setting {
    /// Returns the peer that sends the requests.
    pub(super) fn caller(&self) -> Caller<'_> {
        let Self { peer, names_services, address, .. } = self;
        Caller { peer: peer.as_ref(), names_services: *names_services, address: *address }
    }

    /// Finds the rates that its caller's requests count for: the one in force, and that of policies on trial, whose requests
    /// above it `above` counts.
    pub(in crate::connection::carry) fn with_rates(self, trial: Option<&Trial>, above: &Counter) -> Self {
        let plan = &self.listener.plan;
        let place = plan.http.as_ref().and_then(|rules| rules.rate_of(self.caller()));
        let tried = trial.and_then(|trial| trial.rate_of_requests(plan, self.caller()));
        let tried = tried.map(|bucket| (bucket, above.clone()));
        let any = place.is_some() || tried.is_some();
        let rates = any.then(|| Box::new(CallersRates { place, tried }));
        Self { rates, ..self }
    }

    /// Returns the rate of its caller's requests, with its bucket.
    pub(super) fn rate<'a>(&'a self, plan: &'a HttpPlan) -> Option<(&'a CallerRate, &'a Bucket)> {
        let place = self.rates.as_ref()?.place?;
        Some((plan.rates.get(place)?, self.listener.requests.get(place)?))
    }

    /// Counts a request that is above the rate on trial.
    pub(super) fn count_trial(&self) {
        let tried = self.rates.as_ref().and_then(|rates| rates.tried.as_ref());
        if let Some((bucket, above)) = tried
            && !bucket.take()
        {
            above.inc();
        }
    }
}
