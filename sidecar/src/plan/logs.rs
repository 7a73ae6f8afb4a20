// SPDX-License-Identifier: Apache-2.0
//! Traffic logs of a pod's connections, found by one look into a map for each connection.

use crate::net::addrs::Direction;
use crate::observe::traffic_log::{Sink, Target};
use crate::plan::{ListenerPlan, Origin};
use culvert_mesh::model::log_template::LogField;
use culvert_mesh::model::spiffe::SpiffeId;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Traffic logs of all connections of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Logs of calls by outbounds, by the address of the listener; those of others are `calls`.
    pub outbounds: HashMap<SocketAddr, LogTargets>,
    /// Logs of calls to members by their own address, by service; those of others are `calls`.
    pub services: HashMap<String, LogTargets>,
    /// Logs of all other calls: passthrough too.
    pub calls: LogTargets,
    /// Logs of connections to inbounds, by the address of the listener; those of others are `ports`.
    pub inbounds: HashMap<SocketAddr, LogTargets>,
    /// Logs of connections to ports that no inbound names.
    pub ports: LogTargets,
}

/// Targets of the lines about one sort of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTargets {
    /// Targets for every client.
    pub all: Arc<[Sink]>,
    /// Targets for some callers, beside those for every client.
    pub by_caller: Arc<[CallerSinks]>,
}

/// Targets of the lines about some callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSinks {
    /// The callers.
    pub caller: LogCaller,
    /// Targets and formats of the lines.
    pub sinks: Arc<[Sink]>,
}

/// Callers by their identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCaller {
    /// The one with this identity.
    Exactly(String),
    /// Those whose identity begins so.
    Prefix(String),
}

impl LogCaller {
    fn is(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exactly(wanted) => id.as_str() == wanted,
            Self::Prefix(prefix) => id.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl LogTargets {
    /// Returns true if no line is written for any client.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_caller.is_empty()
    }

    /// Returns the targets of a connection's line, each once. `caller` is the identity of the client, if it has one.
    pub fn of<'a>(&'a self, caller: Option<&SpiffeId>) -> Vec<&'a Sink> {
        let mut sinks: Vec<_> = self.all.iter().collect();
        let fits = |one: &&CallerSinks| caller.is_some_and(|id| one.caller.is(id));
        for sink in self.by_caller.iter().filter(fits).flat_map(|one| one.sinks.iter()) {
            if !sinks.contains(&sink) {
                sinks.push(sink);
            }
        }
        sinks
    }

    /// Returns true if a line has this placeholder.
    pub(crate) fn have(&self, field: LogField) -> bool {
        self.sinks().any(|sink| sink.format.has(field))
    }

    /// Returns the targets of its lines.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> {
        self.sinks().map(|sink| sink.target.clone())
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.all.iter().chain(self.by_caller.iter().flat_map(|one| one.sinks.iter()))
    }
}

impl Logs {
    /// Returns true if no connection of a direction is logged.
    pub fn is_off(&self, direction: Direction) -> bool {
        match direction {
            Direction::Inbound => self.inbounds.is_empty() && self.ports.is_empty(),
            Direction::Outbound => {
                self.outbounds.is_empty() && self.services.is_empty() && self.calls.is_empty()
            }
        }
    }

    /// Returns the logs of a listener's connections to a service; `None` where there are none.
    pub fn of(&self, listener: &ListenerPlan, service: Option<&str>) -> Option<&LogTargets> {
        let named = |origin| listener.origin == origin;
        let address = &listener.address;
        let found = match listener.direction {
            Direction::Inbound => {
                self.inbounds.get(address).filter(|_| named(Origin::Inbound)).unwrap_or(&self.ports)
            }
            Direction::Outbound if named(Origin::Outbound) => {
                self.outbounds.get(address).unwrap_or(&self.calls)
            }
            Direction::Outbound => {
                service.and_then(|service| self.services.get(service)).unwrap_or(&self.calls)
            }
        };
        (!found.is_empty()).then_some(found)
    }

    /// Returns every target that lines go to, each once.
    pub fn targets(&self) -> Vec<Target> {
        let Self { outbounds, services, calls, inbounds, ports } = self;
        let maps = outbounds.values().chain(services.values()).chain(inbounds.values());
        let all = maps.chain([calls, ports]).flat_map(LogTargets::targets);
        let mut targets: Vec<_> = all.collect();
        targets.sort();
        targets.dedup();
        targets
    }
}
