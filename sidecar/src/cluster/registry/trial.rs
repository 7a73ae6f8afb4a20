// SPDX-License-Identifier: Apache-2.0
//! Policies on trial, as the connections of a plan in force count them. Nothing is refused by them.

use super::Cluster;
use crate::cluster::bucket::Bucket;
use crate::plan::Plan;
use crate::plan::decisions::trial::OnTrial;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The effects that connections count, with the buckets of rates. A reload begins with full buckets.
#[derive(Debug)]
pub(crate) struct Trial {
    plan: Arc<OnTrial>,
    buckets: HashMap<Arc<str>, Bucket>,
}

impl Trial {
    /// Returns the effects of the policies on trial; `None` where connections have nothing to count.
    pub(super) fn of(plan: &Plan) -> Option<Box<Self>> {
        let plan = Arc::clone(plan.trial.as_ref()?);
        let buckets = plan.rates.iter().map(|(name, rate)| (Arc::clone(name), Bucket::new(*rate)));
        Some(Box::new(Self { buckets: buckets.collect(), plan }))
    }

    /// Takes a token of the rate that a listener would have, and returns true if there is none.
    pub(crate) fn is_over_rate(&self, listener: &str) -> bool {
        self.buckets.get(listener).is_some_and(|bucket| !bucket.take())
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
