// SPDX-License-Identifier: Apache-2.0
//! A service, a port of one, or a part of one, that connections go to.

use super::{Services, names};
use crate::plan::{Discovery, EndpointPlan, Member, Serve};
use culvert_mesh::kinds::destination::CalledService;
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select;
use std::borrow::Cow;
use std::sync::Arc;

/// A service, a port of one, or a part of one, that connections go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::plan::compile) struct Destination {
    /// Name of its cluster.
    pub(in crate::plan::compile) cluster: Arc<str>,
    /// Its `kuma.io/service`, or the name of its document.
    pub(in crate::plan::compile) service: Arc<str>,
    pub(super) behind: Behind,
}

/// The servers of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Behind {
    /// The inbounds of its `kuma.io/service`, or those of them with a port.
    Offered { port: Option<u16> },
    /// Inbounds with these tags, `kuma.io/service` among them; with a section those with this name or port.
    Tags { tags: Arc<Tags>, section: Option<Arc<str>> },
    /// A port of a service, by the service's place among all.
    Port { service: usize, port: u16 },
    /// Servers outside of the mesh, by the place of their service among all, and the tags that were asked for.
    Outside { service: usize, tags: Option<Arc<Tags>> },
    /// A service that no document knows, in the words of its reference.
    Nothing(Arc<str>),
}

impl Destination {
    pub(super) fn new(cluster: impl Into<Arc<str>>, service: &str, behind: Behind) -> Self {
        Self { cluster: cluster.into(), service: service.into(), behind }
    }

    /// Makes the destination of all inbounds of a `kuma.io/service`.
    pub(super) fn of_service(service: &str) -> Self {
        let service: Arc<str> = service.into();
        Self { cluster: Arc::clone(&service), service, behind: Behind::Offered { port: None } }
    }

    /// Returns the tags by which it was named; `None` of a service by reference.
    pub(in crate::plan::compile) fn tags(&self) -> Option<Cow<'_, Tags>> {
        match &self.behind {
            Behind::Offered { .. } => {
                Some(Cow::Owned(Tags([(SERVICE.to_owned(), self.service.to_string())].into())))
            }
            Behind::Tags { tags, section: None } => Some(Cow::Borrowed(tags)),
            Behind::Outside { tags, .. } => tags.as_deref().map(Cow::Borrowed),
            Behind::Tags { .. } | Behind::Port { .. } | Behind::Nothing(_) => None,
        }
    }

    /// Notes the place of its service, which was not known before.
    pub(super) fn take_place(&mut self, at: usize) {
        match &mut self.behind {
            Behind::Port { service, .. } | Behind::Outside { service, .. } => *service = at,
            Behind::Offered { .. } | Behind::Tags { .. } | Behind::Nothing(_) => {}
        }
    }
}

impl Services<'_> {
    /// Returns the destination that tags name, under a cluster's name.
    pub(super) fn by_tags(&self, cluster: impl Into<Arc<str>>, tags: Tags) -> Destination {
        let service = tags.service().unwrap_or_default().to_owned();
        let outside = self.inbounds.of_service(&service).is_empty();
        let behind = match self.index.outside(&service).filter(|_| outside) {
            Some(service) => Behind::Outside { service, tags: Some(Arc::new(tags)) },
            None if tags.0.len() == 1 => Behind::Offered { port: None },
            None => Behind::Tags { tags: Arc::new(tags), section: None },
        };
        Destination::new(cluster, &service, behind)
    }

    /// Returns the destination that tags name, its cluster as Kuma names those of a TrafficRoute or VirtualOutbound.
    pub(in crate::plan::compile) fn of_tags(&self, tags: Tags) -> Destination {
        self.by_tags(names::by_tags(&tags), tags)
    }

    /// Returns the destination that the tags of an outbound name.
    pub(in crate::plan::compile) fn of_outbound(&self, tags: &Tags) -> Destination {
        self.by_tags(names::by_outbound(tags), tags.clone())
    }

    /// Returns the endpoints of a destination.
    pub(in crate::plan::compile) fn upstream(&self, to: &Destination) -> Discovery {
        match &to.behind {
            Behind::Offered { port } => {
                let offers = self.inbounds.of_port(&to.service, *port);
                Discovery::Endpoints(self.inbounds.endpoints(offers))
            }
            Behind::Tags { tags, section } => {
                let offers = self.inbounds.of_tags(tags, section.as_deref());
                Discovery::Endpoints(self.inbounds.endpoints(offers))
            }
            Behind::Port { service, port } => {
                let service = &self.all[*service];
                let offers = service.ports.iter().find(|one| one.port == *port);
                let offers = offers.map_or(&[][..], |port| &port.offers[..]);
                let mut endpoints = self.inbounds.endpoints(offers.iter().copied());
                if let Some(ids) = &service.ids {
                    // An identity that the pod's own Dataplane says is more exact.
                    for EndpointPlan { member, .. } in
                        endpoints.iter_mut().filter(|one| one.member.ids.is_none())
                    {
                        *member = Arc::new(Member { ids: Some(Arc::clone(ids)), ..(**member).clone() });
                    }
                }
                Discovery::Endpoints(endpoints)
            }
            Behind::Outside { service, tags } => {
                let has = |of: &Option<&Tags>| match (tags, of) {
                    (Some(wanted), Some(tags)) => wanted.select(tags),
                    (None, _) | (_, None) => true,
                };
                let chosen = self.all[*service].outside.iter().filter(|(of, _)| has(of));
                Discovery::External(chosen.flat_map(|(_, endpoints)| endpoints).cloned().collect())
            }
            Behind::Nothing(_) => Discovery::Endpoints(Vec::new()),
        }
    }

    /// Returns the way to serve calls of a destination with these servers: as the document of its port says, else as all its
    /// endpoints do. A server outside of the mesh gets bytes.
    pub(in crate::plan::compile) fn serve(&self, to: &Destination) -> Serve {
        match &to.behind {
            Behind::Offered { port } => self.serve_offers(self.inbounds.of_port(&to.service, *port)),
            Behind::Tags { tags, section } => {
                self.serve_offers(self.inbounds.of_tags(tags, section.as_deref()))
            }
            Behind::Port { service, port } => {
                let port = self.all[*service].ports.iter().find(|one| one.port == *port);
                port.map_or(Serve::Tcp, |port| {
                    port.serve.unwrap_or_else(|| self.serve_offers(port.offers.iter().copied()))
                })
            }
            Behind::Outside { .. } | Behind::Nothing(_) => Serve::Tcp,
        }
    }

    fn serve_offers(&self, offers: impl Iterator<Item = u32>) -> Serve {
        // Ready or not: a service must not change its protocol with the health of its endpoints.
        Serve::common(offers.map(|place| Serve::of_inbound(self.inbounds.at(place).inbound)))
    }

    /// Calls a function with what policies about destinations see of one.
    pub(in crate::plan::compile) fn with_called<T>(
        &self,
        to: &Destination,
        then: impl FnOnce(&CalledService<'_>) -> T,
    ) -> T {
        let is_section =
            |section: &str, place: u32| select::is_section(self.inbounds.at(place).inbound, section);
        let has_inbound = |section: &str| match &to.behind {
            Behind::Offered { port } => {
                self.inbounds.of_port(&to.service, *port).any(|place| is_section(section, place))
            }
            Behind::Tags { tags, section: of } => {
                self.inbounds.of_tags(tags, of.as_deref()).any(|place| is_section(section, place))
            }
            Behind::Port { service, port } => {
                let service = &self.all[*service];
                let port = service.ports.iter().find(|one| one.port == *port);
                port.is_some_and(|port| {
                    // Dataplanes that stand for a MeshService are known by their inbounds too.
                    port.is_section(section)
                        || service.document.is_none()
                            && port.offers.iter().any(|place| is_section(section, *place))
                })
            }
            Behind::Outside { service, .. } => self.all[*service].port(section).is_some(),
            Behind::Nothing(_) => false,
        };
        let known = match &to.behind {
            Behind::Port { service, .. } | Behind::Outside { service, .. } => self.all[*service].known(),
            Behind::Offered { .. } | Behind::Tags { .. } | Behind::Nothing(_) => None,
        };
        then(&CalledService { mesh: self.mesh, service: &to.service, has_inbound: &has_inbound, known })
    }

    /// Returns the reason why a destination has no endpoint.
    pub(in crate::plan::compile) fn why_empty(&self, to: &Destination) -> String {
        let place = |service: &usize| self.all[*service].place();
        match &to.behind {
            Behind::Offered { .. } | Behind::Tags { .. } => {
                format!("no Dataplane offers {} with these tags", to.service)
            }
            Behind::Port { service, port } => {
                format!("no Dataplane offers port {port} of {}", place(service))
            }
            Behind::Outside { service, .. } => {
                format!("{} has no address with these tags now", place(service))
            }
            Behind::Nothing(words) => format!("no Dataplane offers {words}, and no document is it"),
        }
    }
}
