// SPDX-License-Identifier: Apache-2.0
//! The workloads of the mesh by address.

use crate::net::addrs::is_loopback;
use crate::plan::Member;
use crate::plan::compile::security::Names;
use crate::plan::compile::{dataplanes, metric};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::{Inbound, Networking};
use culvert_mesh::model::address::{BY_NAME, Host};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Makes the member of an inbound.
pub(super) fn member(names: &Names<'_>, document: &Document, inbound: &Inbound) -> Arc<Member> {
    Arc::new(Member {
        dataplane: document.name.as_str().into(),
        tags: Arc::clone(&inbound.tags),
        ids: names.of(document),
    })
}

/// Returns the members by address. Of two that claim one address and port the first by name has it, in any order of files.
pub(super) fn members(
    ours: &[&Document],
    names: &Names<'_>,
    this: Option<&Document>,
) -> HashMap<SocketAddr, Arc<Member>> {
    let metrics = metric::ports_of_members(ours);
    let mut members: HashMap<SocketAddr, Arc<Member>> = HashMap::new();
    for (document, dataplane) in dataplanes(ours) {
        for inbound in &dataplane.networking.inbound {
            let new = member(names, document, inbound);
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
        members.entry(SocketAddr::new(ip, port)).or_insert_with(|| member(names, document, inbound));
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
