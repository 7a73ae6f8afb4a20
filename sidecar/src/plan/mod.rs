// SPDX-License-Identifier: Apache-2.0
//! The compiled configuration as plain data: listeners and clusters by options and documents.
//!
//! Immutable. A reload makes another one; connections keep what they began with.

pub mod balance;
pub mod compile;
pub(crate) mod decisions;
pub mod external;
pub mod health;
pub mod listener;
pub(crate) mod load;
pub mod logs;
pub mod names;
pub(crate) mod openings;
pub mod outside;
pub(crate) mod report;
pub mod scrape;
pub(crate) mod stand_in;
pub(crate) mod tls;

use crate::net::addrs::{Family, inbound_source};
use crate::options::config::Thresholds;
use crate::plan::balance::Balance;
use crate::plan::decisions::Decisions;
use crate::plan::decisions::trial::OnTrial;
use crate::plan::external::ExternalEndpoint;
use crate::plan::health::HealthPlan;
use crate::plan::logs::Logs;
use crate::plan::names::MeshNames;
use crate::plan::outside::Outside;
use crate::plan::scrape::Scrape;
use crate::plan::stand_in::StandIns;
use crate::plan::tls::TlsSettings;
use crate::plan::tls::permissions::Permissions;
use culvert_mesh::document::LeftOutCount;
use culvert_mesh::model::spiffe::SpiffeId;
use culvert_mesh::model::tags::Tags;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use listener::{ListenerPlan, Serve, Share};

/// A workload of the mesh, as its clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of its Dataplane document.
    pub dataplane: Arc<str>,
    /// The tags of the inbound; `kuma.io/service` is among them, unless it has none at all.
    pub tags: Arc<Tags>,
    /// Identities of which it proves one, where documents say them: a path that names no service shows no service either.
    /// `None` = any of the trust domain.
    pub ids: Option<Arc<[SpiffeId]>>,
}

impl Member {
    /// Returns the service's name, empty without a tag.
    pub fn service(&self) -> &str {
        self.tags.service().unwrap_or_default()
    }
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Address that connections dial.
    pub address: SocketAddr,
    /// The workload behind the address.
    pub member: Arc<Member>,
}

/// The way in which a cluster finds its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// The connection's original destination. Without a source address the kernel chooses one.
    OriginalDst {
        /// Source address of the connect.
        source: Option<IpAddr>,
    },
    /// One address: the application's.
    Application {
        /// Address of the application.
        address: SocketAddr,
        /// Source address of the connect.
        source: Option<IpAddr>,
    },
    /// One of several, in turn.
    Endpoints(Vec<EndpointPlan>),
    /// One of several servers outside of the mesh, in turn.
    External(Vec<ExternalEndpoint>),
}

/// Origin of a cluster or listener, as a ProxyTemplate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a Dataplane's inbound.
    Inbound,
    /// From a Dataplane's outbound.
    Outbound,
    /// From the redirect, for passthrough.
    Transparent,
    /// From a match of a MeshPassthrough. No ProxyTemplate names this one, as in Kuma.
    MeshPassthrough,
    /// From a MeshMetric. No ProxyTemplate names this one, as in Kuma.
    Prometheus,
    /// Added by a MeshProxyPatch.
    ProxyPatch,
}

/// A cluster: the destination of connections, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Unique among the clusters of a plan.
    pub name: Arc<str>,
    /// Origin, for the match of a ProxyTemplate.
    pub origin: Origin,
    /// Application, endpoints, or original destination.
    pub upstream: Discovery,
    /// Limits of its circuit breaker.
    pub thresholds: Thresholds,
    /// Deadline of a connect; `None` leaves it to the kernel.
    pub connect_timeout: Option<Duration>,
    /// Endpoints that one connection tries at most.
    pub most_attempts: usize,
    /// Ejection of endpoints that fail; `None` = none is ejected.
    pub outlier: Option<OutlierPlan>,
    /// The endpoints that come first.
    pub balance: Balance,
    /// Active checks, and what happens where too few endpoints are well; `None` = no document says anything.
    pub health: Option<Arc<HealthPlan>>,
}

/// The default of [`ClusterPlan::most_attempts`]: Kuma's for TCP.
pub const MOST_ATTEMPTS: usize = 5;

/// Ejection of endpoints that fail: an ejected one comes after all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPlan {
    /// Failed connects in a row that eject an endpoint.
    pub consecutive: u32,
    /// Failed answers of HTTP in a row that do.
    pub answers: FailedAnswers,
    /// Time until the first trial of an ejected endpoint.
    pub ejection_time: Duration,
    /// Share of the endpoints that may be ejected at once, in percent; one always may.
    pub most_ejected: u32,
    /// Share of the endpoints in service below which ejections do not count, in thousandths of a percent; 0 = they always
    /// count.
    pub panic_threshold: u32,
}

/// Failed answers of HTTP in a row that eject an endpoint; `None` = they are not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedAnswers {
    /// Answers of 500 and above.
    pub all: Option<u32>,
    /// Answers of 502, 503 and 504.
    pub gateway: Option<u32>,
}

impl Default for OutlierPlan {
    /// The ejection without a policy: it changes the order of attempts only, so the first failure is enough, and all
    /// endpoints may be ejected.
    fn default() -> Self {
        Self {
            consecutive: 1,
            answers: FailedAnswers::default(),
            ejection_time: Duration::from_secs(5),
            most_ejected: 100,
            panic_threshold: 0,
        }
    }
}

/// Peers that a mesh with mTLS lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Members of the mesh only.
    Strict,
    /// Every peer, a member or not.
    Permissive,
}

impl TlsMode {
    /// The name in documents and on pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
        }
    }
}

/// TLS between the mesh's members, as this pod speaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mtls {
    /// Gate of the ports that no inbound names.
    pub others: Gate,
    /// Gate of the ports of MeshMetrics, where it is not that one: a gateway lets every peer in, but not to its metrics.
    pub metrics: Option<Gate>,
    /// Gate of each inbound, by the address of its listener.
    pub inbounds: HashMap<SocketAddr, Gate>,
    /// True if STRICT closes the ports that no inbound names: a Dataplane lists the pod's inbounds.
    pub named_only: bool,
    /// Versions and suites, the same for all ports.
    pub settings: TlsSettings,
}

/// Peers that a port lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Members only, or every peer.
    pub mode: TlsMode,
    /// Members that may call the port. Ports with the same ones share them.
    pub permissions: Arc<Permissions>,
    /// What policies on trial would change; `None` where they change nothing.
    pub shadow: Option<Shadow>,
}

/// A gate as it would be with the policies on trial in force. It is counted, and lets in and refuses nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Members only, or every peer.
    pub mode: TlsMode,
    /// Members that may call the port.
    pub permissions: Arc<Permissions>,
}

impl Gate {
    /// Returns the permissions of the gate, and of its shadow.
    pub(crate) fn all_permissions(&self) -> impl Iterator<Item = &Arc<Permissions>> {
        std::iter::once(&self.permissions).chain(self.shadow.iter().map(|shadow| &shadow.permissions))
    }
}

impl Mtls {
    /// Returns the gate of a listener.
    pub fn gate(&self, listener: &ListenerPlan) -> &Gate {
        if listener.origin == Origin::Prometheus {
            return self.of_metrics();
        }
        let own = self.inbounds.get(&listener.address).filter(|_| listener.origin == Origin::Inbound);
        own.unwrap_or(&self.others)
    }

    /// Returns the gate of the ports of MeshMetrics.
    pub(crate) fn of_metrics(&self) -> &Gate {
        self.metrics.as_ref().unwrap_or(&self.others)
    }

    /// Returns the pod's mode for pages: PERMISSIVE as long as any port lets in every peer.
    pub fn mode(&self) -> TlsMode {
        let mut gates = self.inbounds.values().chain([&self.others]);
        if gates.any(|gate| gate.mode == TlsMode::Permissive) { TlsMode::Permissive } else { TlsMode::Strict }
    }
}

/// The whole configuration of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Name of the mesh, for logs.
    pub mesh: Arc<str>,
    /// True if connections may leave for destinations that no document names.
    pub passthrough: bool,
    /// This pod's zone, for logs.
    pub zone: Option<Arc<str>>,
    /// Identifier of this pod's workload, for logs.
    pub workload: Option<Arc<str>>,
    /// Destinations that connections may leave for where passthrough is off. Where it is on they are only shown.
    pub outside: Outside,
    /// This pod's service, for logs.
    pub service: Option<Arc<str>>,
    /// No two have the same name. One of each direction and family has the origin [`Origin::Transparent`]: it takes the
    /// redirected connections whose original destination is no other listener's address.
    pub listeners: Vec<Arc<ListenerPlan>>,
    /// No two have the same name. The passthrough ones come first, where they are on.
    pub clusters: Vec<Arc<ClusterPlan>>,
    /// Members of the mesh by their addresses.
    pub members: HashMap<SocketAddr, Arc<Member>>,
    /// Addresses of all workloads of the mesh, from which their connections come.
    pub workloads: HashSet<IpAddr>,
    /// The name of the cluster of connections to members by address, where passthrough is off.
    pub direct_access: Option<Arc<str>>,
    /// TLS between members; `None` = there is none.
    pub mtls: Option<Mtls>,
    /// Traffic logs of the connections.
    pub logs: Logs,
    /// The names of the mesh.
    pub names: Arc<MeshNames>,
    /// Metrics on ports of their own; `None` where no MeshMetric asks for them.
    pub scrape: Option<Scrape>,
    /// Number of documents it was compiled from.
    pub documents: usize,
    /// The documents that stand in for those which have not come.
    pub stand_ins: StandIns,
    /// Documents and fields that have no effect on this pod.
    pub left_out: LeftOutCount,
    /// Notes for the operator that are no errors.
    pub warnings: Vec<String>,
    /// The documents behind all this, of a plan that is made to be explained.
    pub(crate) decisions: Decisions,
    /// Effects of policies on trial that connections count; `None` where there are none.
    pub(crate) trial: Option<Arc<OnTrial>>,
}

/// Returns the wildcard address of a family.
pub fn wildcard(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Plan {
    /// Returns the number of listeners, those that are made out when they are called too.
    pub fn listener_count(&self) -> usize {
        self.listeners.len() + self.names.on_demand.listeners()
    }

    /// Returns the number of clusters, those that are made out when they are called too.
    pub fn cluster_count(&self) -> usize {
        self.clusters.len() + self.names.on_demand.new_clusters().count()
    }

    /// Finds a cluster by its name, of those that are made out.
    pub fn cluster_named(&self, name: &str) -> Option<&Arc<ClusterPlan>> {
        self.clusters.iter().find(|cluster| &*cluster.name == name)
    }

    /// Returns what keeps an address reachable where passthrough is off: a Dataplane, or a match of a MeshPassthrough.
    pub fn named_by(&self, address: SocketAddr) -> Option<String> {
        if let Some(member) = self.members.get(&address) {
            return Some(member.dataplane.to_string());
        }
        let by_name = || self.outside.asks(address.port()).any().then(|| "MeshPassthrough by name".into());
        self.outside
            .by_address(address)
            .map(|exit| format!("MeshPassthrough {}: {exit}", exit.policy))
            .or_else(by_name)
    }
}

/// The source of the inbound hop to an address of the pod, where connections are redirected: the rules let it through by
/// that. Loopback is let through as it is.
pub fn hop_source(address: IpAddr, redirected: bool) -> Option<IpAddr> {
    (redirected && !address.is_loopback()).then(|| inbound_source(Family::of(address)))
}
