// SPDX-License-Identifier: Apache-2.0
//! The workloads of the mesh by address, and the endpoints of the services that the pod calls.

use crate::net::addrs::is_loopback;
use crate::plan::compile::routes::Routed;
use crate::plan::compile::{dataplanes, metric};
use crate::plan::{EndpointPlan, Member};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::{Dataplane, Inbound, Networking};
use culvert_mesh::model::address::{BY_NAME, Host};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

fn member(document: &Document, inbound: &Inbound) -> Arc<Member> {
    Arc::new(Member { dataplane: document.name.as_str().into(), tags: Arc::clone(&inbound.tags) })
}

/// Returns the members by address. Of two that claim one address and port the first by name has it, in any order of files.
pub(super) fn members(ours: &[&Document], this: Option<&Document>) -> HashMap<SocketAddr, Arc<Member>> {
    let metrics = metric::ports_of_members(ours);
    let mut members: HashMap<SocketAddr, Arc<Member>> = HashMap::new();
    for (document, dataplane) in dataplanes(ours) {
        for inbound in &dataplane.networking.inbound {
            let new = member(document, inbound);
            // The workload's own address too, where it advertises another one.
            for address in [dataplane.endpoint(inbound), dataplane.listener(inbound)] {
                let entry = members.entry(address).or_insert_with(|| Arc::clone(&new));
                if new.dataplane < entry.dataplane {
                    *entry = Arc::clone(&new);
                }
            }
        }
    }
    // Below the inbounds, which may have one of these ports. This pod's own are served here.
    let others = || dataplanes(ours).filter(|(one, _)| this.is_none_or(|this| one.place != this.place));
    for (port, (document, dataplane)) in metrics.iter().flat_map(|port| others().map(move |one| (*port, one)))
    {
        let Some(inbound) = dataplane.networking.inbound.first() else { continue };
        let Host::Ip(ip) = dataplane.networking.address else { continue };
        members.entry(SocketAddr::new(ip, port)).or_insert_with(|| member(document, inbound));
    }
    members
}

/// Returns the addresses of all workloads, of gateways and of workloads that offer nothing too.
pub(super) fn workloads(ours: &[&Document]) -> HashSet<IpAddr> {
    let addresses = dataplanes(ours).flat_map(|(_, dataplane)| {
        let Networking { address, advertised_address, inbound, .. } = &dataplane.networking;
        let inbound = inbound.iter().filter_map(|inbound| inbound.address);
        std::iter::once(address).chain(advertised_address).map(Host::ip).chain(inbound)
    });
    addresses.map(|ip| ip.to_canonical()).filter(|&ip| !is_loopback(ip) && ip != BY_NAME).collect()
}

/// Returns the endpoints of each service that calls of this pod go to. This pod is among them, as in Kuma: by its own address rather
/// than the advertised one, so that the call goes through its inbound rules and not out of the pod.
pub(super) fn services(
    ours: &[&Document],
    this: (&Document, &Dataplane),
    routed: &[Routed],
) -> BTreeMap<String, Vec<EndpointPlan>> {
    let called = routed.iter().flat_map(|one| &one.shares);
    let mut services: BTreeMap<String, Vec<EndpointPlan>> =
        called.map(|(_, to)| (to.service.clone(), Vec::new())).collect();
    for (document, dataplane) in dataplanes(ours) {
        let is_this = document.place == this.0.place;
        for inbound in dataplane.networking.inbound.iter().filter(|inbound| inbound.is_ready()) {
            let service = inbound.tags.service().unwrap_or_default();
            if let Some(endpoints) = services.get_mut(service) {
                let address = if is_this { dataplane.listener(inbound) } else { dataplane.endpoint(inbound) };
                endpoints.push(EndpointPlan { address, member: member(document, inbound) });
            }
        }
    }
    for endpoints in services.values_mut() {
        // The order of files must not matter.
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
    }
    services
}
