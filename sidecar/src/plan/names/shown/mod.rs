// SPDX-License-Identifier: Apache-2.0
//! Names of the mesh as people see them: name → addresses → ports → listener → clusters → endpoints, and why a name does not
//! exist. The command `resolve` and the admin's page show the same.

mod near;
mod text;

use crate::net::addrs::Direction;
use crate::options::config::Config;
use crate::plan::external::{ExternalEndpoint, ExternalHost};
use crate::plan::names::on_demand::listener_name;
use crate::plan::names::{MeshName, MeshNames, NamePort};
use crate::plan::{ClusterPlan, Discovery, EndpointPlan, ListenerPlan, Plan};
use serde::Serialize;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Names on a page of the list.
pub(crate) const NAMES_A_PAGE: usize = 200;
/// Endpoints of a cluster in the list, and where one name is asked for.
const FEW_ENDPOINTS: usize = 16;
const MOST_ENDPOINTS: usize = 256;
/// Names that do not exist, in the list.
const MOST_REFUSED: usize = 50;
/// Names that share an address, of which one is asked for.
const MOST_OF_AN_ADDRESS: usize = 16;
/// Longest name of DNS as text.
const LONGEST_NAME: usize = 253;

/// Health of the endpoints of a cluster, by their addresses. Empty where no sidecar runs.
pub(crate) type Healths = HashMap<SocketAddr, &'static str>;

/// The names of a plan, and what they lead to.
pub(crate) struct Directory<'p> {
    names: &'p MeshNames,
    listeners: HashMap<&'p str, &'p ListenerPlan>,
    by_address: HashMap<SocketAddr, &'p ListenerPlan>,
    clusters: HashMap<&'p str, &'p ClusterPlan>,
    /// Health of the endpoints of the cluster of this name.
    health: &'p dyn Fn(&str) -> Healths,
}

/// What the options and the pod say about names.
#[derive(Debug)]
pub(crate) struct Surroundings<'c> {
    pub(crate) config: &'c Config,
    /// `None` where documents are read without a sidecar.
    pub(crate) pod: Option<PodNames>,
}

/// State of a running pod, as far as names need it.
#[derive(Debug)]
pub(crate) struct PodNames {
    /// The servers that all other names are forwarded to.
    pub(crate) servers: Vec<SocketAddr>,
    /// True if the pod has a route to the mesh's IPv4 addresses, and to its IPv6 ones.
    pub(crate) reaches: [bool; 2],
}

/// The answer about a name.
#[derive(Debug, Serialize)]
pub(crate) struct Resolved {
    asked: String,
    /// The name; several where an address is asked for that they share; none if it does not exist.
    names: Vec<ShownName>,
    /// Reasons why it does not exist, or lines about the answer.
    notes: Vec<String>,
    /// Names that look like it, of one that does not exist.
    near: Vec<String>,
}

/// A name and what it leads to.
#[derive(Debug, Serialize)]
struct ShownName {
    name: String,
    addresses: Vec<IpAddr>,
    ttl: u32,
    service: String,
    by: String,
    ports: Vec<ShownPort>,
}

#[derive(Debug, Serialize)]
struct ShownPort {
    port: u16,
    name: Option<String>,
    listener: String,
    /// Empty where every connection is denied.
    clusters: Vec<ShownCluster>,
}

#[derive(Debug, Serialize)]
struct ShownCluster {
    name: String,
    /// Its share of the connections, and that of all clusters of the listener.
    share: Option<[u32; 2]>,
    /// Number of endpoints, of which the first are listed.
    total: usize,
    endpoints: Vec<ShownEndpoint>,
}

#[derive(Debug, Serialize)]
struct ShownEndpoint {
    /// Address that is dialled, or the path of a Unix socket.
    address: String,
    /// Kind and name of the document that names it, and the name that has the address, where there is one.
    by: String,
    health: Option<&'static str>,
}

/// Names of a page of the list.
#[derive(Debug, Serialize)]
pub(crate) struct NameList {
    /// Number of all names, and of those that fit the filter.
    total: usize,
    matching: usize,
    /// From 1.
    page: usize,
    pages: usize,
    names: Vec<ShownName>,
    /// Number of names that do not exist and fit the filter, of which the first are listed.
    refused_total: usize,
    refused: Vec<ShownRefusal>,
}

/// A name that a document asks for and that does not exist.
#[derive(Debug, Serialize)]
struct ShownRefusal {
    name: String,
    why: String,
}

/// A listener of the plan, or the place of one that is made out when it is called.
enum Found<'p> {
    Listener(&'p ListenerPlan),
    OnDemand(usize),
}

/// Text that is neither a name of DNS nor an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: letters, digits, '-' and '_' between dots, at most 253 characters, or an IP address"
)]
pub(crate) struct NoName(String);

// === impl Directory ===

impl<'p> Directory<'p> {
    pub(crate) fn new(plan: &'p Plan, health: &'p dyn Fn(&str) -> Healths) -> Self {
        let outbound = plan.listeners.iter().filter(|listener| listener.direction == Direction::Outbound);
        Self {
            names: &plan.names,
            listeners: plan.listeners.iter().map(|listener| (&*listener.name, &**listener)).collect(),
            by_address: outbound.map(|listener| (listener.address, &**listener)).collect(),
            clusters: plan.clusters.iter().map(|cluster| (&*cluster.name, &**cluster)).collect(),
            health,
        }
    }

    /// Looks up a name, or the names of an address.
    ///
    /// # Errors
    /// The text is neither.
    pub(crate) fn resolve(&self, asked: &str, around: &Surroundings<'_>) -> Result<Resolved, NoName> {
        if let Ok(address) = asked.parse::<IpAddr>() {
            return Ok(self.at(address.to_canonical(), asked, around));
        }
        let host = asked.strip_suffix('.').unwrap_or(asked).to_ascii_lowercase();
        if !is_name(&host) {
            return Err(NoName(asked.to_owned()));
        }
        let mut answer =
            Resolved { asked: asked.to_owned(), names: Vec::new(), notes: Vec::new(), near: Vec::new() };
        if let Some(name) = self.names.find(&host) {
            answer.names.push(self.shown(name, MOST_ENDPOINTS));
            answer.notes = around.notes(&name.addresses);
            return Ok(answer);
        }
        let refused = self.names.refused.iter().filter(|refused| refused.host.eq_ignore_ascii_case(&host));
        answer.notes = refused.map(|refused| format!("refused: {}", refused.why)).collect();
        answer.notes.extend(around.absent(self.names.names.is_empty()));
        answer.near = near::names(&host, self.names.names.iter().map(|name| &*name.host));
        Ok(answer)
    }

    /// Returns the names of an address.
    fn at(&self, address: IpAddr, asked: &str, around: &Surroundings<'_>) -> Resolved {
        let names: Vec<_> =
            self.names.names.iter().filter(|name| name.addresses.contains(&address)).collect();
        let mut notes = match names.is_empty() {
            true => vec!["it is the address of no name of the mesh".into()],
            false => around.notes(&[address]),
        };
        let more = names.len().saturating_sub(MOST_OF_AN_ADDRESS);
        if more > 0 {
            notes.push(format!("and {more} more names have the address"));
        }
        let names = names.into_iter().take(MOST_OF_AN_ADDRESS);
        let names = names.map(|name| self.shown(name, MOST_ENDPOINTS)).collect();
        Resolved { asked: asked.to_owned(), names, notes, near: Vec::new() }
    }

    /// Returns a page of the names that `fits` says yes to, which gets names and services.
    pub(crate) fn list(&self, page: usize, fits: impl Fn(&str) -> bool) -> NameList {
        let matching: Vec<_> =
            self.names.names.iter().filter(|name| fits(&name.host) || fits(&name.service)).collect();
        let refused: Vec<_> = self.names.refused.iter().filter(|refused| fits(&refused.host)).collect();
        let pages = matching.len().div_ceil(NAMES_A_PAGE).max(1);
        let page = page.clamp(1, pages);
        let here = matching.iter().skip((page - 1) * NAMES_A_PAGE).take(NAMES_A_PAGE);
        let shown = |refused: &&super::RefusedName| ShownRefusal {
            name: refused.host.to_string(),
            why: refused.why.to_string(),
        };
        NameList {
            total: self.names.names.len(),
            matching: matching.len(),
            page,
            pages,
            names: here.map(|name| self.shown(name, FEW_ENDPOINTS)).collect(),
            refused_total: refused.len(),
            refused: refused.iter().take(MOST_REFUSED).map(shown).collect(),
        }
    }

    fn shown(&self, name: &MeshName, most: usize) -> ShownName {
        ShownName {
            name: name.host.to_string(),
            addresses: name.addresses.to_vec(),
            ttl: name.ttl,
            service: name.service.to_string(),
            by: name.by.to_string(),
            ports: name.ports.iter().map(|port| self.port(name, port, most)).collect(),
        }
    }

    fn port(&self, name: &MeshName, port: &NamePort, most: usize) -> ShownPort {
        let mut addresses = name.addresses.iter().map(|ip| SocketAddr::new(*ip, port.port));
        let found = addresses.clone().find_map(|address| self.listener(address));
        let (listener, clusters) = match found {
            Some(Found::Listener(listener)) => (listener.name.to_string(), self.clusters(listener, most)),
            Some(Found::OnDemand(at)) => {
                let on_demand = &self.names.on_demand;
                let cluster = on_demand.cluster_of(at);
                let (cluster, endpoints) = (on_demand.cluster_name(cluster), on_demand.endpoints(cluster));
                (
                    on_demand.listener(at).name.to_string(),
                    vec![self.members((cluster, None), endpoints, most)],
                )
            }
            // A patch took it out.
            None => (addresses.next().map(listener_name).unwrap_or_default().to_string(), Vec::new()),
        };
        ShownPort { port: port.port, name: port.name.as_deref().map(str::to_owned), listener, clusters }
    }

    /// Finds the listener of connections to an address.
    fn listener(&self, address: SocketAddr) -> Option<Found<'p>> {
        let way = || self.names.ways.get(&address).and_then(|name| self.listeners.get(&**name));
        let there = self.by_address.get(&address).or_else(way).map(|listener| Found::Listener(listener));
        there.or_else(|| self.names.on_demand.find(address).map(Found::OnDemand))
    }

    fn clusters(&self, listener: &ListenerPlan, most: usize) -> Vec<ShownCluster> {
        if listener.split.is_empty() {
            let whole = listener.cluster.iter();
            return whole.map(|cluster| self.cluster(cluster, None, most)).collect();
        }
        let all = listener.split.iter().fold(0_u32, |all, share| all.saturating_add(share.weight));
        let share =
            |share: &crate::plan::Share| self.cluster(&share.cluster, Some([share.weight, all]), most);
        listener.split.iter().map(share).collect()
    }

    fn cluster(&self, name: &Arc<str>, share: Option<[u32; 2]>, most: usize) -> ShownCluster {
        let (total, endpoints) = match self.clusters.get(&**name).map(|cluster| &cluster.upstream) {
            Some(Discovery::Endpoints(all)) => return self.members((name, share), all, most),
            Some(Discovery::External(all)) => {
                let healths = (self.health)(name);
                (all.len(), all.iter().take(most).map(|one| external(one, &healths)).collect())
            }
            Some(Discovery::OriginalDst { .. } | Discovery::Application { .. }) | None => (0, Vec::new()),
        };
        ShownCluster { name: name.to_string(), share, total, endpoints }
    }

    fn members(
        &self,
        (name, share): (&str, Option<[u32; 2]>),
        all: &[EndpointPlan],
        most: usize,
    ) -> ShownCluster {
        let healths = (self.health)(name);
        let endpoints = all.iter().take(most).map(|one| member(one, &healths)).collect();
        ShownCluster { name: name.to_owned(), share, total: all.len(), endpoints }
    }
}

fn member(endpoint: &EndpointPlan, healths: &Healths) -> ShownEndpoint {
    ShownEndpoint {
        address: endpoint.address.to_string(),
        by: format!("Dataplane {}", endpoint.member.dataplane),
        health: healths.get(&endpoint.address).copied(),
    }
}

fn external(endpoint: &ExternalEndpoint, healths: &Healths) -> ShownEndpoint {
    let (address, name) = match &endpoint.host {
        ExternalHost::Address => (endpoint.address.to_string(), String::new()),
        ExternalHost::Name(name) => (endpoint.address.to_string(), format!(", {name}")),
        ExternalHost::Socket(path) => (path.display().to_string(), String::new()),
    };
    ShownEndpoint {
        address,
        by: format!("{}{name}", endpoint.document),
        health: healths.get(&endpoint.address).copied(),
    }
}

// === impl Surroundings ===

impl Surroundings<'_> {
    /// Returns what keeps addresses from being answered or dialled.
    fn notes(&self, addresses: &[IpAddr]) -> Vec<String> {
        let Some(pod) = &self.pod else { return Vec::new() };
        let mut notes = Vec::new();
        let [four, six] = pod.reaches;
        for (reached, has, family, record) in [
            (four, addresses.iter().any(IpAddr::is_ipv4), "IPv4", "A"),
            (six, addresses.iter().any(IpAddr::is_ipv6), "IPv6", "AAAA"),
        ] {
            if has && !reached {
                notes.push(format!(
                    "the pod has no route to the mesh's {family} addresses: a query for {record} is answered without one"
                ));
            }
        }
        notes.extend(self.without_dns());
        notes
    }

    /// Told of a running sidecar alone: a check may have other options.
    fn without_dns(&self) -> Option<String> {
        let off = self.config.dns_port == 0;
        off.then(|| "the sidecar answers no DNS (--dns-port is 0): applications cannot look it up".into())
    }

    /// Returns why a name does not exist, as far as the documents about it do not say it.
    fn absent(&self, no_name_at_all: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if no_name_at_all {
            notes.push(match (&self.config.dataplane, self.config.outbound_port) {
                (None, _) => "without --dataplane no document says which pod this is, and it has no names of the mesh",
                (Some(_), 0) => "the sidecar takes no redirected calls (--outbound-port is 0), and has no names of the mesh",
                (Some(_), _) => "the documents make no name that this pod can call: is its Dataplane one with transparentProxying, and do its reachableServices or reachableBackends leave any?",
            }.to_owned());
        }
        match &self.pod {
            None => notes.push("it is no name of the mesh: the sidecar forwards a query for it to the servers of its resolv.conf".into()),
            Some(pod) => {
                let servers: Vec<_> = pod.servers.iter().map(ToString::to_string).collect();
                notes.push(match (self.without_dns(), servers.is_empty()) {
                    (Some(off), _) => off,
                    (None, true) => format!(
                        "it is no name of the mesh, and {} names no server to forward a query to",
                        self.config.resolv_conf.display()
                    ),
                    (None, false) => {
                        format!("it is no name of the mesh: a query for it is forwarded to {}", servers.join(", "))
                    }
                });
            }
        }
        notes
    }
}

// === impl Resolved ===

impl Resolved {
    /// Returns true if the name exists.
    pub(crate) fn exists(&self) -> bool {
        !self.names.is_empty()
    }
}

/// Returns true for labels of legal bytes.
fn is_name(host: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    host.len() <= LONGEST_NAME
        && host.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(legal))
}

#[cfg(test)]
mod tests;
