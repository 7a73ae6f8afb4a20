// SPDX-License-Identifier: Apache-2.0
//! The inbounds of all Dataplanes, by their services, labels and tags.

use crate::plan::compile::dataplanes;
use crate::plan::compile::endpoints::member as member_of;
use crate::plan::compile::security::Names;
use crate::plan::{EndpointPlan, Member};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Inbound;
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::{self, Subject};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

/// An inbound with its Dataplane.
pub(in crate::plan::compile) struct Offer<'a> {
    pub(in crate::plan::compile) document: &'a Document,
    pub(in crate::plan::compile) inbound: &'a Inbound,
    /// This pod is reached by its own address rather than the advertised one, so that the call goes through its inbound rules
    /// and not out of the pod.
    address: SocketAddr,
    /// One for all services of the inbound, the plan's member if it is that.
    member: Arc<Member>,
}

/// A Dataplane with the places of its inbounds.
pub(super) struct Workload<'a> {
    pub(super) document: &'a Document,
    pub(super) offers: Range<u32>,
}

/// The inbounds of all Dataplanes of a mesh, by the names of the Dataplanes.
pub(in crate::plan::compile) struct Inbounds<'a> {
    all: Vec<Offer<'a>>,
    workloads: Vec<Workload<'a>>,
    by_service: HashMap<&'a str, Vec<u32>>,
}

impl Offer<'_> {
    fn endpoint(&self) -> EndpointPlan {
        EndpointPlan { address: self.address, member: Arc::clone(&self.member) }
    }
}

impl<'a> Inbounds<'a> {
    pub(super) fn new(
        ours: &[&'a Document],
        (pod, names): (&Subject<'a>, &Names<'_>),
        members: &HashMap<SocketAddr, Arc<Member>>,
    ) -> Self {
        let mut sorted: Vec<_> = dataplanes(ours).collect();
        // The order of files must not matter.
        sorted.sort_by(|(one, _), (other, _)| {
            (&one.name, &one.namespace).cmp(&(&other.name, &other.namespace))
        });
        let mut all = Vec::with_capacity(sorted.len());
        let mut workloads = Vec::with_capacity(sorted.len());
        let mut by_service: HashMap<&'a str, Vec<u32>> = HashMap::new();
        for (document, dataplane) in sorted {
            let is_this = pod.pod.is_some_and(|(this, _)| this.place == document.place);
            let first = place(all.len());
            for inbound in &dataplane.networking.inbound {
                if let Some(service) = inbound.tags.service() {
                    by_service.entry(service).or_default().push(place(all.len()));
                }
                let address = if is_this { dataplane.listener(inbound) } else { dataplane.endpoint(inbound) };
                let is_it =
                    |there: &&Arc<Member>| *there.dataplane == *document.name && there.tags == inbound.tags;
                // Thousands of services would have a second one each.
                let member = members.get(&address).filter(is_it).map(Arc::clone);
                let member = member.unwrap_or_else(|| member_of(names, document, inbound));
                all.push(Offer { document, inbound, address, member });
            }
            workloads.push(Workload { document, offers: first..place(all.len()) });
        }
        Self { all, workloads, by_service }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Offer<'a>> {
        self.all.iter()
    }

    pub(super) fn workloads(&self) -> &[Workload<'a>] {
        &self.workloads
    }

    pub(super) fn at(&self, place: u32) -> &Offer<'a> {
        &self.all[place as usize]
    }

    /// Returns the services with the places of their inbounds, in no order.
    pub(super) fn services(&self) -> impl Iterator<Item = (&'a str, &[u32])> {
        self.by_service.iter().map(|(service, offers)| (*service, &offers[..]))
    }

    /// Returns the places of the inbounds of a service.
    pub(super) fn of_service(&self, service: &str) -> &[u32] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Returns the inbounds of a service, and of them with a port those with it.
    pub(super) fn of_port(&self, service: &str, port: Option<u16>) -> impl Iterator<Item = u32> {
        let offers = self.of_service(service).iter().copied();
        offers.filter(move |place| port.is_none_or(|port| self.at(*place).inbound.port.0 == port))
    }

    /// Returns the inbounds with these tags, and of them with a section those with this name or port.
    pub(super) fn of_tags<'i>(
        &'i self,
        tags: &'i Tags,
        section: Option<&'i str>,
    ) -> impl Iterator<Item = u32> + use<'i, 'a> {
        let offers = self.of_service(tags.service().unwrap_or_default()).iter().copied();
        offers.filter(move |place| {
            let inbound = self.at(*place).inbound;
            tags.select(&inbound.tags) && section.is_none_or(|section| select::is_section(inbound, section))
        })
    }

    /// Returns the endpoints of those of the inbounds that are ready.
    pub(super) fn endpoints(&self, offers: impl Iterator<Item = u32>) -> Vec<EndpointPlan> {
        let ready = offers.map(|place| self.at(place)).filter(|offer| offer.inbound.is_ready());
        let mut endpoints: Vec<_> = ready.map(Offer::endpoint).collect();
        // Stable: of two Dataplanes that claim one address the first by name has it.
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        endpoints
    }
}

/// Documents are of at most some hundred MiB, so that their inbounds can be numbered so.
fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
