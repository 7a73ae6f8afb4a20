// SPDX-License-Identifier: Apache-2.0
//! Services and hosts that have addresses, and the hosts that lead to them.
//!
//! | a host is claimed | it goes to |
//! |---|---|
//! | twice for one service | that service |
//! | by a VirtualOutbound, and as `<service>.mesh` | the VirtualOutbound, as in Kuma; its ports come first, the service's others stay |
//! | for two services of a kind, by HostnameGenerators | the first, as in Kuma: a generator of the zone before others, then by name |
//! | by anything, and by a generator that is built in | the document |
//! | in any other way | nothing: it is an error that names both documents |

use crate::plan::compile::error::CompileError;
use crate::plan::compile::services::{Destination, Service, ServiceKind};
use crate::plan::names::RefusedName;
use culvert_mesh::document::Document;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A service, or a host of its own, with the addresses that stand for it.
pub(super) struct Holder<'a> {
    /// Key of its addresses, in words: the same in every pod.
    pub(super) key: Arc<str>,
    /// Kind and name of the service.
    pub(super) service: Arc<str>,
    /// The document that it comes from.
    pub(super) document: &'a Document,
    /// Addresses that documents assign to it alone.
    pub(super) fixed: Vec<IpAddr>,
    /// Addresses that are workloads' own: a headless service has those of its pods.
    pub(super) shared: Vec<IpAddr>,
    /// Ports, and what they lead to.
    pub(super) ports: Ports<'a>,
}

/// Ports of a holder.
pub(super) enum Ports<'a> {
    /// Those of a service, which are put together when they are needed: of thousands they would take 300 bytes each.
    Of(&'a Service<'a>),
    /// Others.
    Own(HeldPorts<'a>),
}

/// Port of every `<service>.mesh`, as in Kuma.
const PORT: u16 = 80;

/// Ports in their order, each once. Most services have one or two, for which a node of a map takes a KiB.
#[derive(Clone, Default)]
pub(super) struct HeldPorts<'a>(Vec<(u16, HeldPort<'a>)>);

impl<'a> Ports<'a> {
    pub(super) fn get(&self) -> Cow<'_, HeldPorts<'a>> {
        match self {
            Self::Of(service) => Cow::Owned(HeldPorts::of(service)),
            Self::Own(ports) => Cow::Borrowed(ports),
        }
    }

    fn fill(&mut self, ports: HeldPorts<'a>) {
        let mut own = self.get().into_owned();
        for (port, held) in ports.0 {
            own.add(port, || held);
        }
        *self = Self::Own(own);
    }
}

impl<'a> HeldPorts<'a> {
    /// Puts the ports of a service together.
    fn of(service: &Service<'a>) -> Self {
        let by = (service.by, field(service.kind));
        let mut ports = Self::default();
        if let Some(whole) = &service.whole {
            let held = || HeldPort { name: None, to: whole.clone(), by, reachable: service.reachable };
            ports.add(PORT, held);
        }
        for port in &service.ports {
            // As in Kuma port 80 is the whole service.
            ports.add(port.port, || HeldPort {
                name: port.name.clone(),
                to: port.destination.clone(),
                by,
                reachable: port.reachable,
            });
        }
        ports
    }

    /// Adds a port, unless it is there.
    pub(super) fn add(&mut self, port: u16, held: impl FnOnce() -> HeldPort<'a>) {
        if let Err(place) = self.0.binary_search_by_key(&port, |(port, _)| *port) {
            self.0.reserve_exact(1);
            self.0.insert(place, (port, held()));
        }
    }

    /// Returns all ports.
    pub(super) fn all(&self) -> &[(u16, HeldPort<'a>)] {
        &self.0
    }
}

/// What a port leads to.
#[derive(Clone)]
pub(super) struct HeldPort<'a> {
    /// Name of the port.
    pub(super) name: Option<Arc<str>>,
    pub(super) to: Destination,
    /// The document that says so, and its field.
    pub(super) by: (&'a Document, &'static str),
    /// False if this pod's Dataplane leaves it out.
    pub(super) reachable: bool,
}

/// Returns the field that says the ports of a service.
pub(super) fn field(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Tagged => "networking.inbound",
        ServiceKind::MeshService | ServiceKind::MeshMultiZoneService => "spec.ports",
        ServiceKind::MeshExternalService => "spec.match",
        ServiceKind::ExternalService => "networking.address",
    }
}

/// The source of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A VirtualOutbound.
    VirtualOutbound,
    /// The tag of a service, or the host of an ExternalService.
    Service,
    /// The status or a HostnameGenerator of a service of this kind.
    Generated(ServiceKind),
    /// A HostnameGenerator that every control plane of Kuma makes.
    BuiltIn,
}

/// Returns true for services that a tag names.
pub(super) fn has_tag(kind: ServiceKind) -> bool {
    matches!(kind, ServiceKind::Tagged | ServiceKind::ExternalService)
}

/// A host that leads to a holder.
pub(super) struct Named<'a> {
    /// Place of the holder.
    pub(super) holder: usize,
    /// Kind and name of the document that made it.
    pub(super) by: Arc<str>,
    /// That document; `None` of a generator that is built in.
    pub(super) document: Option<&'a Document>,
    pub(super) source: Source,
}

/// All holders and hosts of a mesh.
#[derive(Default)]
pub(super) struct Table<'a> {
    pub(super) holders: Vec<Holder<'a>>,
    places: HashMap<Arc<str>, usize>,
    pub(super) names: BTreeMap<String, Named<'a>>,
    pub(super) refused: Vec<RefusedName>,
    pub(super) warnings: Vec<String>,
    pub(super) errors: Vec<CompileError>,
}

impl<'a> Table<'a> {
    /// Adds a holder, and returns its place. One with that key gets the ports that it lacks.
    pub(super) fn hold(&mut self, holder: Holder<'a>) -> usize {
        if let Some(&place) = self.places.get(&holder.key) {
            self.holders[place].ports.fill(holder.ports.get().into_owned());
            return place;
        }
        let place = self.holders.len();
        self.places.insert(Arc::clone(&holder.key), place);
        self.holders.push(holder);
        place
    }

    /// Returns the holder of a key.
    pub(super) fn holder(&self, key: &str) -> Option<&Holder<'a>> {
        self.places.get(key).map(|place| &self.holders[*place])
    }

    /// Lets a host lead to a holder. `path` is the field of the document that says so.
    pub(super) fn claim(&mut self, host: String, claim: Named<'a>, path: &str) {
        let Some(there) = self.names.get(&host) else {
            self.names.insert(host, claim);
            return;
        };
        if there.holder == claim.holder {
            return;
        }
        match (there.source, claim.source) {
            (Source::VirtualOutbound, Source::Service) => {
                let (place, ports) = (there.holder, self.holders[claim.holder].ports.get().into_owned());
                self.holders[place].ports.fill(ports);
            }
            (Source::Generated(first), Source::Generated(second)) if first == second => {
                let order =
                    "the first has it: by the origin of the generator, by its name, and by the service's";
                let why = format!("{}: {}; {order}", self.claimed(&claim), self.taken(there));
                self.refused.push(RefusedName { host: host.into(), why: why.into() });
            }
            (_, Source::BuiltIn) => {
                let why = format!("{}: {}", self.claimed(&claim), self.taken(there));
                self.refused.push(RefusedName { host: host.into(), why: why.into() });
            }
            _ => {
                let found = format!(
                    "the name {host} for {}: {}",
                    self.holders[claim.holder].service,
                    self.taken(there)
                );
                let error =
                    claim.document.map(|document| document.error(path, found, "a name that one service has"));
                self.errors.extend(error.map(CompileError::from));
            }
        }
    }

    fn claimed(&self, claim: &Named<'_>) -> String {
        format!("{} asks for it for {}", claim.by, self.holders[claim.holder].service)
    }

    fn taken(&self, there: &Named<'_>) -> String {
        let place = there.document.map_or(String::new(), |document| format!(" ({})", document.place));
        format!("it is the name of {} by {}{place}", self.holders[there.holder].service, there.by)
    }
}
