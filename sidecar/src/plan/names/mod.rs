// SPDX-License-Identifier: Apache-2.0
//! The names of the mesh as plain data: addresses of each name, and the listeners of the connections to these addresses.

pub(crate) mod addresses;
pub(crate) mod error;
pub(crate) mod ledger;
pub(crate) mod lookup;
pub(crate) mod on_demand;
pub(crate) mod shown;

use crate::net::own_addresses::{AddressSet, OwnAddresses};
use crate::net::routes::Routes;
use crate::plan::names::addresses::Forbidden;
use crate::plan::names::ledger::Ledger;
use crate::plan::names::on_demand::OnDemand;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// The names of the mesh, and the addresses that stand for them.
#[derive(Clone, Debug, Default)]
pub struct MeshNames {
    /// In the order of their hosts; no two have the same.
    pub names: Vec<MeshName>,
    /// Name of the listener of the connections to an address, beside the listener's own. The listener is bound to none.
    pub ways: HashMap<SocketAddr, Arc<str>>,
    /// Listeners and clusters that are made out when they are called. A cluster may be among those of the plan too, and
    /// is the same then.
    pub on_demand: OnDemand,
    /// Ends of the names that the mesh may have, of services that no document names yet too.
    pub ends: Box<[Box<str>]>,
    /// Names that documents ask for and that do not exist, in the order of their hosts.
    pub refused: Vec<RefusedName>,
    /// The addresses of all services and names, of those that this pod does not call too. The next plan begins with it.
    pub(crate) ledger: Ledger,
}

impl PartialEq for MeshNames {
    /// Compares what the names are now. The ledger differs by addresses that were in use some time ago, which no document
    /// says.
    fn eq(&self, other: &Self) -> bool {
        let Self { names, ways, on_demand, ends, refused, ledger: _ } = self;
        *names == other.names
            && *ends == other.ends
            && *ways == other.ways
            && *on_demand == other.on_demand
            && *refused == other.refused
    }
}

impl Eq for MeshNames {}

/// A name of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshName {
    /// The name, in lower case and without a dot at its end.
    pub host: Arc<str>,
    /// Addresses of both families, those of a family that the pod has no route to too.
    pub addresses: Arc<[IpAddr]>,
    /// Seconds for which clients keep an answer.
    pub ttl: u32,
    /// Ports that can be called by the name, in their order.
    pub ports: Arc<[NamePort]>,
    /// Kind and name of the service, as in `MeshService backend`.
    pub service: Arc<str>,
    /// Kind and name of the document that made the name, as in `HostnameGenerator local`; of `<service>.mesh` the Dataplane's.
    pub by: Arc<str>,
}

/// A port that can be called by a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamePort {
    /// The port.
    pub port: u16,
    /// Name of the port, for SRV.
    pub name: Option<Arc<str>>,
}

/// A name that a document asks for and that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedName {
    /// The name, as far as there is one.
    pub host: Arc<str>,
    /// The reason, with kind and name of the documents.
    pub why: Arc<str>,
}

impl MeshNames {
    /// Finds a name, in any case and with or without a dot at its end.
    pub fn find(&self, host: &str) -> Option<&MeshName> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.names.binary_search_by(|name| (*name.host).cmp(&host)).ok().map(|at| &self.names[at])
    }
}

/// The pod at one moment, as far as the addresses of names depend on it: addresses until now, and networks.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    ledger: Ledger,
    routes: Routes,
    own: Arc<AddressSet>,
    now: Instant,
}

impl Default for Standing {
    /// A pod of which nothing is known, for checks of documents.
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            routes: Routes::default(),
            own: Arc::default(),
            now: Instant::now(),
        }
    }
}

impl Standing {
    /// A pod whose names have addresses, and of which nothing else is known.
    #[cfg(test)]
    pub(crate) fn after(before: &MeshNames) -> Self {
        Self { ledger: before.ledger.clone(), ..Self::default() }
    }

    /// Reads this pod's networks. `before` is in force now.
    pub(crate) fn of_pod(before: &MeshNames) -> Self {
        let own = OwnAddresses::from_kernel().map(|own| own.current());
        let own = own.unwrap_or_else(|error| {
            // The start reads them again, and fails then.
            tracing::debug!(%error, "cannot read this pod's addresses for the names of the mesh");
            Arc::default()
        });
        Self { ledger: before.ledger.clone(), routes: Routes::read(), own, now: Instant::now() }
    }

    /// Notes addresses that keys of others have.
    pub(crate) fn with(mut self, others: impl Iterator<Item = (Arc<str>, Arc<[IpAddr]>)>) -> Self {
        self.ledger = self.ledger.with(others);
        self
    }

    /// Gives keys their addresses, none of which is among `taken`.
    pub(crate) fn assign(
        &self,
        wanted: &addresses::Wanted,
        taken: impl Fn(IpAddr) -> bool,
    ) -> Result<Ledger, Vec<error::AddressError>> {
        let forbidden = Forbidden {
            own: &|address| self.own.contains(address),
            taken: &|address| self.routes.covers(address) || taken(address),
        };
        addresses::assign(wanted, &self.ledger, forbidden, self.now)
    }
}
