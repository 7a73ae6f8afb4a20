// SPDX-License-Identifier: Apache-2.0
//! Policies on trial, as the connections of a plan in force count them. Nothing is refused by them.

use super::Cluster;
use crate::cluster::bucket::Bucket;
use crate::plan::decisions::trial::OnTrial;
use crate::plan::listener::http::Caller;
use crate::plan::{ListenerPlan, Plan};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The effects that connections count, with the buckets of rates. A reload begins with full buckets.
#[derive(Debug)]
pub(crate) struct Trial {
    plan: Arc<OnTrial>,
    buckets: HashMap<Arc<str>, Bucket>,
    /// Of the rates of requests, in the order of the plan.
    requests: HashMap<Arc<str>, Box<[Arc<Bucket>]>>,
}

impl Trial {
    /// Returns the effects of the policies on trial; `None` where connections have nothing to count.
    pub(super) fn of(plan: &Plan) -> Option<Box<Self>> {
        let plan = Arc::clone(plan.trial.as_ref()?);
        let buckets = plan.rates.iter().map(|(name, rate)| (Arc::clone(name), Bucket::new(*rate)));
        let requests = plan.requests.iter().map(|(name, rates)| {
            let buckets = rates.iter().map(|one| Arc::new(Bucket::new(one.rate.rate)));
            (Arc::clone(name), buckets.collect())
        });
        Some(Box::new(Self { buckets: buckets.collect(), requests: requests.collect(), plan }))
    }

    /// Takes a token of the rate that a listener would have, and returns true if there is none.
    pub(crate) fn is_over_rate(&self, listener: &str) -> bool {
        self.buckets.get(listener).is_some_and(|bucket| !bucket.take())
    }

    /// Returns the bucket of the rate that a caller's requests would have, where it would be another one.
    pub(crate) fn rate_of_requests(
        &self,
        listener: &ListenerPlan,
        caller: Caller<'_>,
    ) -> Option<Arc<Bucket>> {
        let rates = self.plan.requests.get(&listener.name)?;
        let place = rates.iter().position(|one| one.from.has(caller))?;
        let now = listener.request_rates().iter().find(|one| one.from.has(caller));
        if now.is_some_and(|now| now.counts_as(&rates[place])) {
            return None;
        }
        self.requests.get(&listener.name)?.get(place).map(Arc::clone)
    }

    /// Returns true if the connections of a listener would go elsewhere.
    pub(crate) fn leads_elsewhere(&self, listener: &str) -> bool {
        self.plan.elsewhere.contains(listener)
    }

    /// Returns true if a cluster has more connections than it would have at most.
    pub(crate) fn is_over_limit(&self, cluster: &Cluster) -> bool {
        let most = self.plan.most_connections.get(&cluster.plan.name);
        most.is_some_and(|most| cluster.state.limits.connections.used() > *most)
    }

    /// Returns true if a call would be let out of the mesh; `None` where nothing would change, or where the name that its
    /// client asks for decides.
    pub(crate) fn lets_out(&self, to: SocketAddr, is_member: bool) -> Option<bool> {
        self.plan.ways_out.as_ref()?.let_out(to, is_member)
    }
}
