// SPDX-License-Identifier: Apache-2.0
//! Documents of one destination → what they add to the plan in force, for calls to it and for nothing else.
//!
//! The plan itself stays as it is: a sidecar that knows a thousand destinations compiles one of them for each answer.

use crate::net::addrs::Direction;
use crate::options::config::Config;
use crate::plan::compile::{self, workloads_of};
use crate::plan::decisions::trial::OnTrial;
use crate::plan::load::PlanError;
use crate::plan::logs::LogTargets;
use crate::plan::names::{MeshName, Standing};
use crate::plan::{ClusterPlan, ListenerPlan, Member, Origin, Plan};
use culvert_mesh::document::{Document, Found};
use culvert_mesh::load::{self, Sources, Text};
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A destination that documents are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// An address and its port, as connections have it.
    At(SocketAddr),
    /// A name, as applications look it up: in lower case and without a dot at its end.
    Name(Arc<str>),
}

impl Asked {
    /// Reads what [`Display`] writes.
    pub(crate) fn read(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.into()), Self::At)
    }
}

impl Display for Asked {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(formatter),
            Self::Name(host) => host.fmt(formatter),
        }
    }
}

/// What the documents of a destination add to the plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DestinationPlan {
    /// Calls to an address, or to the addresses of a name.
    pub(crate) calls: Vec<CallPlan>,
    /// The member at an address, with the logs of calls to it.
    pub(crate) member: Option<(Arc<Member>, Option<LogTargets>)>,
    /// Addresses of the workloads in the documents.
    pub(crate) workloads: Box<[IpAddr]>,
    /// A name, if it exists, with the key of its addresses.
    pub(crate) name: Option<(MeshName, Option<Arc<str>>)>,
    /// Effects of policies on trial.
    pub(crate) on_trial: Option<Arc<OnTrial>>,
}

impl DestinationPlan {
    /// Returns the logs of its own, each of which may say that there are no lines.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &LogTargets> {
        let calls = self.calls.iter().filter_map(|call| call.log.as_ref());
        calls.chain(self.member.iter().filter_map(|(_, log)| log.as_ref()))
    }
}

/// Calls to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallPlan {
    /// The address, which leads to the listener. It may be another one than the listener's own.
    pub(crate) at: SocketAddr,
    pub(crate) listener: Arc<ListenerPlan>,
    /// The clusters that its connections go to.
    pub(crate) clusters: Vec<Arc<ClusterPlan>>,
    /// Logs of its connections; `None` = those of calls that no document names.
    pub(crate) log: Option<LogTargets>,
}

/// Reads the documents of a destination, and compiles them beside those of the plan in force. Of documents that both have,
/// those that stand `for_good` are the plan's.
///
/// # Errors
/// Every error of the documents, at most [`load::MOST_ERRORS`] of single ones.
pub(crate) fn read(
    config: &Config,
    (base, for_good): (&Found, impl Fn(&Document) -> bool),
    (asked, texts): (&Asked, &[Text]),
    standing: &Standing,
) -> Result<DestinationPlan, Vec<PlanError>> {
    if texts.is_empty() {
        return Ok(DestinationPlan::default());
    }
    let loaded = load::load(&config.context(), &Sources { texts, ..Sources::default() });
    if !loaded.errors.is_empty() {
        return Err(loaded.errors.into_iter().map(Into::into).collect());
    }
    let added = &loaded.found.documents;
    let plan = compile::compile_beside(config, (base, for_good), added, standing)
        .map_err(|errors| errors.into_iter().map(PlanError::from).collect::<Vec<_>>())?;
    Ok(of_plan(&plan, asked, workloads_of(config, added)))
}

/// Takes out of a plan what it says about a destination.
fn of_plan(plan: &Plan, asked: &Asked, workloads: Vec<IpAddr>) -> DestinationPlan {
    let (calls, member, name) = match asked {
        Asked::At(at) => {
            let log = |member: &Member| plan.logs.services.get(member.service()).cloned();
            let member = plan.members.get(at).map(|member| (Arc::clone(member), log(member)));
            (call(plan, *at).into_iter().collect::<Vec<_>>(), member, None)
        }
        Asked::Name(host) => {
            let name = plan.names.find(host);
            let all = name.into_iter().flat_map(|name| {
                name.ports.iter().flat_map(|port| name.addresses.iter().map(|ip| (*ip, port.port)))
            });
            let calls = all.filter_map(|at| call(plan, at.into())).collect();
            let key = |name: &MeshName| plan.names.ledger.key_of(&name.addresses).map(Arc::clone);
            (calls, None, name.map(|name| (name.clone(), key(name))))
        }
    };
    let on_trial = plan.trial.as_ref().map(Arc::clone).filter(|_| !calls.is_empty());
    DestinationPlan { calls, member, workloads: workloads.into(), name, on_trial }
}

/// Returns the way of calls to an address, where a document names it.
fn call(plan: &Plan, at: SocketAddr) -> Option<CallPlan> {
    let lines = &plan.names.on_demand;
    let (listener, clusters) = if let Some(listener) = listener(plan, at) {
        let clusters = listener.clusters().filter_map(|name| plan.cluster_named(name));
        let clusters = clusters.map(Arc::clone).collect();
        (Arc::clone(listener), clusters)
    } else {
        let place = lines.find(at)?;
        let cluster = lines.cluster(lines.cluster_of(place));
        (Arc::new(lines.listener(place)), vec![Arc::new(cluster)])
    };
    let log = plan.logs.outbounds.get(&listener.address).cloned();
    Some(CallPlan { at, listener, clusters, log })
}

fn listener(plan: &Plan, at: SocketAddr) -> Option<&Arc<ListenerPlan>> {
    let way = plan.names.ways.get(&at);
    let mut outbound = plan.listeners.iter().filter(|one| one.direction == Direction::Outbound);
    outbound.find(|one| one.address == at && one.origin == Origin::Outbound || Some(&one.name) == way)
}

#[cfg(test)]
mod tests;
