// SPDX-License-Identifier: Apache-2.0
//! Addresses of all holders, listeners on those that this pod calls, and the names that lead there.

use super::table::{Holder, Named, Table};
use crate::net::addrs::Direction;
use crate::plan::Plan;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::ways::{Way, Ways};
use crate::plan::names::addresses::Wanted;
use crate::plan::names::error::AddressError;
use crate::plan::names::{MeshName, MeshNames, NamePort, RefusedName, Standing};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::{Dataplane, IpFamilyMode};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Seconds for which clients keep an answer: as Kuma's.
const TTL: u32 = 30;

/// Adds listeners and names for a pod whose connections are redirected. Of others no address of a name would be caught.
pub(super) fn add(
    plan: &mut Plan,
    ways: &mut Ways<'_>,
    (table, (document, this)): (Table<'_>, (&Document, &Dataplane)),
    standing: &Standing,
    errors: &mut Vec<CompileError>,
) {
    let own_outbounds: HashSet<IpAddr> =
        this.networking.outbound.iter().map(|outbound| outbound.listener().ip()).collect();
    let named: HashSet<usize> = table.names.values().map(|named| named.holder).collect();
    // All of them, those that this pod does not call too: else a pod's cut would change the addresses of the others.
    let wanted: Wanted = table
        .holders
        .iter()
        .enumerate()
        .filter(|(place, holder)| holder.needs_addresses(named.contains(place)))
        .map(|(_, holder)| (Arc::clone(&holder.key), holder.fixed.clone()))
        .collect();
    let ledger = match standing.assign(&wanted, |ip| own_outbounds.contains(&ip)) {
        Ok(ledger) => ledger,
        Err(wrong) => {
            errors.extend(wrong.into_iter().filter_map(|error| about_document(&table, &error)));
            return;
        }
    };
    drop(wanted);
    let mut names = MeshNames { ledger, ..MeshNames::default() };
    let outbound = plan.listeners.iter().filter(|listener| listener.direction == Direction::Outbound);
    // At once, as what is outgrown leaves holes in the heap.
    let services = table.holders.len();
    ways.expect(2 * services, services);
    let mut there: There = outbound.map(|one| (one.address, Some(Arc::clone(&one.name)))).collect();
    // One text for all: a pod may leave thousands out.
    let left_out: Arc<str> =
        format!("Dataplane {} leaves it out: reachableServices or reachableBackends", document.name).into();
    let mut served: Vec<Served> = Vec::with_capacity(table.holders.len());
    let mut alike = HashSet::new();
    for holder in table.holders {
        let of_documents = || holder.shared.as_slice().into();
        let addresses = names.ledger.addresses(&holder.key).map_or_else(of_documents, Arc::clone);
        let ports = listen(plan, ways, (&holder, &addresses[..]), (&mut names.ways, &mut there));
        let addresses = redirected(addresses, this);
        let why_not = why_not(&holder, &addresses, &left_out);
        served.push(Served { addresses, ports: once(&mut alike, ports), service: holder.service, why_not });
    }
    names.on_demand = ways.on_demand(plan);
    drop(there);
    let mut refused = table.refused;
    names.names.reserve_exact(table.names.len());
    for (host, named) in table.names {
        let served = &served[named.holder];
        match &served.why_not {
            Some(why) => refused.push(RefusedName { host: host.into(), why: Arc::clone(why) }),
            None => names.names.push(name(host, &named, served)),
        }
    }
    refused.sort_by(|one, other| (&one.host, &one.why).cmp(&(&other.host, &other.why)));
    names.names.shrink_to_fit();
    names.refused = refused;
    plan.names = Arc::new(names);
}

/// Names of listeners by the addresses of connections.
type ByAddress = HashMap<SocketAddr, Arc<str>>;
/// The same of listeners that are there; `None` of those on demand.
type There = HashMap<SocketAddr, Option<Arc<str>>>;

/// What names of a holder have in common.
struct Served {
    addresses: Arc<[IpAddr]>,
    ports: Arc<[NamePort]>,
    service: Arc<str>,
    /// The reason why they do not exist, if they do not.
    why_not: Option<Arc<str>>,
}

/// Returns the first of ports that are alike: thousands of services have the same.
fn once(all: &mut HashSet<Arc<[NamePort]>>, ports: Vec<NamePort>) -> Arc<[NamePort]> {
    if let Some(there) = all.get(&ports[..]) {
        return Arc::clone(there);
    }
    let ports: Arc<[NamePort]> = ports.into();
    all.insert(Arc::clone(&ports));
    ports
}

impl Holder<'_> {
    /// Returns true for a holder that has addresses of its own. A headless service has those of its pods alone, and an address
    /// that neither a name nor a document tells could not be found out.
    fn needs_addresses(&self, is_named: bool) -> bool {
        !self.fixed.is_empty() || is_named && self.shared.is_empty()
    }
}

/// Adds a listener for each port that the pod calls. It has the IPv4 address, and takes the connections to the others too.
fn listen(
    plan: &mut Plan,
    ways: &mut Ways<'_>,
    (holder, addresses): (&Holder<'_>, &[IpAddr]),
    (all, there): (&mut ByAddress, &mut There),
) -> Vec<NamePort> {
    let Some(&main) = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) else {
        return Vec::new();
    };
    let held = holder.ports.get();
    let reachable = held.all().iter().filter(|(_, held)| held.reachable);
    let mut ports = Vec::with_capacity(held.all().len());
    for &(port, ref held) in reachable {
        let address = SocketAddr::new(main, port);
        // An outbound of the pod's own Dataplane comes first, and of two headless services with one pod the first by name.
        let listener = there.get(&address).cloned().unwrap_or_else(|| {
            let new = ways.add_only(plan, Way { to: &held.to, address, by: held.by });
            // Other addresses belong to this service alone, and there may be tens of thousands.
            if !holder.shared.is_empty() {
                there.insert(address, new.clone());
            }
            new
        });
        // The registry knows a listener by its own address.
        for (listener, other) in listener.iter().flat_map(|one| addresses.iter().map(move |ip| (one, *ip))) {
            if other != main {
                all.entry(SocketAddr::new(other, port)).or_insert_with(|| Arc::clone(listener));
            }
        }
        ports.push(NamePort { port, name: held.name.clone() });
    }
    ways.lead(addresses, main);
    ports
}

/// Leaves out the addresses of a family that is not redirected: connections to them would lead nowhere.
fn redirected(addresses: Arc<[IpAddr]>, this: &Dataplane) -> Arc<[IpAddr]> {
    let mode = this.networking.transparent_proxying.as_ref().and_then(|redirect| redirect.ip_family_mode);
    let takes = |address: &&IpAddr| match mode {
        Some(IpFamilyMode::V4) => address.is_ipv4(),
        Some(IpFamilyMode::V6) => address.is_ipv6(),
        Some(IpFamilyMode::DualStack) | None => true,
    };
    if addresses.iter().all(|address| takes(&address)) {
        return addresses;
    }
    addresses.iter().filter(takes).copied().collect()
}

/// Returns the reason why a name does not exist, if it does not.
fn why_not(holder: &Holder<'_>, addresses: &[IpAddr], left_out: &Arc<str>) -> Option<Arc<str>> {
    let ports = holder.ports.get();
    let ports = ports.all();
    if !ports.is_empty() && !ports.iter().any(|(_, port)| port.reachable) {
        Some(Arc::clone(left_out))
    } else if addresses.is_empty() {
        Some(format!("{}: no address is free for it", holder.service).into())
    } else if ports.is_empty() && holder.shared.is_empty() {
        Some(format!("{}: it has no port", holder.service).into())
    } else {
        None
    }
}

fn name(host: String, named: &Named<'_>, served: &Served) -> MeshName {
    MeshName {
        host: host.into(),
        addresses: Arc::clone(&served.addresses),
        ttl: TTL,
        ports: Arc::clone(&served.ports),
        service: Arc::clone(&served.service),
        by: Arc::clone(&named.by),
    }
}

/// Makes the error of the document whose address it is; the words name the other one.
fn about_document(table: &Table<'_>, error: &AddressError) -> Option<CompileError> {
    let (key, other) = match error {
        AddressError::Twice { first, second, .. } => (second, table.holder(first)),
        AddressError::Forbidden { key, .. } => (key, None),
    };
    let place = other.map_or(String::new(), |other| format!(" ({})", other.document.place));
    let allowed = "an address that no other service has, outside of loopback, link-local and multicast";
    let holder = table.holder(key)?;
    Some(holder.document.error("status.vips", format!("{error}{place}"), allowed).into())
}
