// SPDX-License-Identifier: Apache-2.0
//! `Dataplane`: a workload with its inbounds and outbounds.

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::mesh::MetricsBackendKind;
use crate::kinds::mesh_metric::OlderPrometheus;
use crate::model::address::{BY_NAME, Host};
use crate::model::labels::Labels;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Mapping, Port, RedirectPort, Span, UrlPath, fields, words};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Most inbounds or outbounds of one document: each is a listener and a cluster with statistics, some 3 KiB.
pub const MOST_LISTENERS: usize = 4_096;

fields! {
    /// A workload: the one that --dataplane names is this pod, the others are the endpoints of the mesh's services.
    pub struct Dataplane {
        /// Addresses and ports of the workload.
        networking: required Networking = "networking",
        /// What the Mesh says of Prometheus' port, for this workload alone.
        metrics: optional Arc<Metrics> = "metrics",
        /// Probes by way of a port of Kuma's proxy; the sidecar passes on those of --app-probes.
        probes: no_effect Probes = "probes",
    }
}

fields! {
    /// Addresses and ports of a workload.
    pub struct Networking {
        /// Address of the workload: an IP address, or a name that is looked up.
        address: required Host = "address",
        /// Address that other workloads dial, if it differs from address: an IP address, or a name that is looked up.
        advertised_address: optional Host = "advertisedAddress",
        /// Services that the workload offers.
        inbound: default Vec<Inbound> = "inbound",
        /// Services that the workload calls.
        outbound: default Vec<Outbound> = "outbound",
        /// The tags of a gateway, which has no inbound.
        gateway: optional Gateway = "gateway",
        /// Port of Envoy's admin; the sidecar's is --admin-address.
        admin: no_effect Admin = "admin",
        /// Listeners of a zone's proxy, which the sidecar is not.
        listeners: no_effect Vec<Mapping> = "listeners",
        /// Redirect of connections. Absent: connections are not redirected, and listeners bind their own ports.
        transparent_proxying: optional TransparentProxying = "transparentProxying",
    }
}

fields! {
    /// A service that the workload offers.
    pub struct Inbound {
        /// The port of the listener.
        port: required Port = "port",
        /// The address of the listener. Default: networking.address.
        address: optional IpAddr = "address",
        /// The application's port. Default: port.
        service_port: optional Port = "servicePort",
        /// The application's address: loopback or the workload's own. Default: the listener's address, or 127.0.0.1 where
        /// the sidecar binds that address and port itself.
        service_address: optional IpAddr = "serviceAddress",
        /// Name of the service (kuma.io/service, required), and tags that its inbounds differ by. Absent, as in Kuma 3:
        /// policies choose the inbound by the Dataplane's labels.
        tags: default Arc<Tags> = "tags",
        /// Protocol of the service, before the tag kuma.io/protocol. Messages of `http` are read; everything else is forwarded as
        /// TCP.
        protocol: optional Protocol = "protocol",
        /// A name that sectionName can choose.
        name: optional String = "name",
        /// State of the service: ready or not.
        health: optional Health = "health",
        /// State of the service, in the newer words of Kuma 2.x.
        state: optional State = "state",
        /// Connects by which the sidecar learns whether the application answers. They mark the inbound and change no traffic.
        service_probe: optional Arc<ServiceProbe> = "serviceProbe",
    }
}

words! {
    /// Protocols of services.
    pub enum Protocol {
        /// Bytes.
        Tcp = "tcp",
        /// TLS of the application's own.
        Tls = "tls",
        /// HTTP/1.
        Http = "http",
        /// HTTP/2.
        Http2 = "http2",
        /// gRPC.
        Grpc = "grpc",
        /// Kafka.
        Kafka = "kafka",
        /// MySQL.
        Mysql = "mysql",
    }
}

fields! {
    /// Connects by which the sidecar learns the state of its application.
    pub struct ServiceProbe {
        /// Time between two connects. Default: 1s.
        interval: optional Span = "interval",
        /// Time for a connect. Default: 2s.
        timeout: optional Span = "timeout",
        /// Connects in a row that fail before the application counts as down. Default: 1.
        unhealthy_threshold: optional u32 = "unhealthyThreshold",
        /// Connects in a row that succeed before it counts as up. Default: 1.
        healthy_threshold: optional u32 = "healthyThreshold",
        /// Marks a probe by TCP, the only one.
        tcp: optional Mapping = "tcp",
    }
}

fields! {
    /// Port of Envoy's admin.
    pub struct Admin {
        /// The port, on loopback.
        port: optional Port = "port",
    }
}

fields! {
    /// Changes of Prometheus' port that the Mesh says.
    pub struct Metrics {
        /// Name of the mesh's backend.
        name: optional String = "name",
        /// Only prometheus.
        kind: required MetricsBackendKind = "type",
        /// Port, path and applications.
        conf: optional OlderPrometheus = "conf",
    }
}

fields! {
    /// Probes by way of a port of Kuma's proxy.
    pub struct Probes {
        /// The port.
        port: required Port = "port",
        /// Paths of the port, and paths of the application behind them.
        endpoints: default Vec<ProbeEndpoint> = "endpoints",
    }
}

fields! {
    /// A path of the port, and the path of the application behind it.
    pub struct ProbeEndpoint {
        /// The application's port.
        inbound_port: required Port = "inboundPort",
        /// The application's path.
        inbound_path: required UrlPath = "inboundPath",
        /// The port's path.
        path: required UrlPath = "path",
    }
}

fields! {
    /// State of a service.
    pub struct Health {
        /// State of the service: ready or not.
        ready: default bool = "ready",
    }
}

words! {
    /// State of a service.
    pub enum State {
        /// The service can be called.
        Ready = "Ready",
        /// The service cannot be called.
        NotReady = "NotReady",
        /// The inbound is not a service.
        Ignored = "Ignored",
    }
}

fields! {
    /// A service that the workload calls.
    pub struct Outbound {
        /// The port of the listener.
        port: required Port = "port",
        /// The address of the listener. Default: 127.0.0.1. One outside of loopback takes redirected connections.
        address: optional IpAddr = "address",
        /// The service: endpoints have all of these tags; kuma.io/service is required.
        tags: default Tags = "tags",
        /// The service by reference, in place of tags.
        backend_ref: optional OutboundRef = "backendRef",
    }
}

fields! {
    /// A service that the workload calls: by name, or by labels.
    pub struct OutboundRef {
        /// Kind of the service.
        kind: required ReachableKind = "kind",
        /// Name of the service: of its MeshService, or kuma.io/service.
        name: optional String = "name",
        /// Labels of the service.
        labels: optional Labels = "labels",
        /// Port of the service.
        port: optional Port = "port",
    }
}

fields! {
    /// A gateway: a workload that takes its connections itself.
    pub struct Gateway {
        /// Tags of the gateway.
        tags: required Tags = "tags",
        /// DELEGATED, the default: a gateway program of its own. BUILTIN is Kuma's own, so never this pod.
        kind: optional GatewayKind = "type",
    }
}

words! {
    /// Kinds of gateways.
    pub enum GatewayKind {
        /// A gateway program of its own.
        Delegated = "DELEGATED",
        /// Kuma's own gateway, which is a proxy of its own.
        Builtin = "BUILTIN",
    }
}

fields! {
    /// Redirect of the pod's connections.
    pub struct TransparentProxying {
        /// The inbound port; 0 = not redirected. As --inbound-port.
        redirect_port_inbound: default RedirectPort = "redirectPortInbound",
        /// The inbound port of IPv6, where Kuma has two.
        redirect_port_inbound_v6: default RedirectPort = "redirectPortInboundV6",
        /// The outbound port; 0 = not redirected. As --outbound-port.
        redirect_port_outbound: default RedirectPort = "redirectPortOutbound",
        /// Services that may be called by their endpoints' addresses. In culvert all may.
        direct_access_services: default Vec<String> = "directAccessServices",
        /// Services that the pod calls, by kuma.io/service: the sidecar knows no others. Absent: all services.
        reachable_services: default Vec<String> = "reachableServices",
        /// The same by references to services, for MeshService, MeshExternalService and MeshMultiZoneService. Absent: all.
        reachable_backends: optional ReachableBackends = "reachableBackends",
        /// Redirected families. In culvert annotations of the pod decide them.
        ip_family_mode: optional IpFamilyMode = "ipFamilyMode",
    }
}

fields! {
    /// Services that the pod calls.
    pub struct ReachableBackends {
        /// References to services. None: the pod calls no service.
        refs: default Vec<ReachableBackend> = "refs",
    }
}

fields! {
    /// A reference to services: by name, or by labels.
    pub struct ReachableBackend {
        /// Kind of the services.
        kind: required ReachableKind = "kind",
        /// Name of one service.
        name: optional String = "name",
        /// Namespace of that service.
        namespace: optional String = "namespace",
        /// Labels of services.
        labels: optional Labels = "labels",
        /// Port of the service.
        port: optional Port = "port",
    }
}

words! {
    /// Kinds of services that can be reached.
    pub enum ReachableKind {
        /// A service of the mesh.
        MeshService = "MeshService",
        /// A service outside of the mesh.
        MeshExternalService = "MeshExternalService",
        /// A service of several zones.
        MeshMultiZoneService = "MeshMultiZoneService",
    }
}

words! {
    /// Families of addresses that are redirected.
    pub enum IpFamilyMode {
        /// Both IPv4 and IPv6.
        DualStack = "DualStack" | "UnSpecified",
        /// IPv4, and not IPv6.
        V4 = "IPv4",
        /// IPv6, and not IPv4.
        V6 = "IPv6",
    }
}

// === impl Dataplane ===

impl Dataplane {
    /// Returns the tags that selectors are compared with: those of each inbound, or of the gateway.
    pub fn tags(&self) -> impl Iterator<Item = &Tags> {
        let Networking { inbound, gateway, .. } = &self.networking;
        inbound.iter().map(|inbound| &*inbound.tags).chain(gateway.iter().map(|gateway| &gateway.tags))
    }

    /// Returns the address that others dial for an inbound.
    pub fn endpoint(&self, inbound: &Inbound) -> SocketAddr {
        let Networking { address, advertised_address, .. } = &self.networking;
        let advertised = advertised_address.as_ref().map(Host::ip);
        SocketAddr::new(advertised.or(inbound.address).unwrap_or(address.ip()), inbound.port.0)
    }

    /// Returns the address of an inbound's listener.
    pub fn listener(&self, inbound: &Inbound) -> SocketAddr {
        SocketAddr::new(inbound.address.unwrap_or(self.networking.address.ip()), inbound.port.0)
    }

    /// Returns the names that stand for addresses, each with its field.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Networking { address, advertised_address, .. } = &self.networking;
        let fields = [
            ("networking.address", Some(address)),
            ("networking.advertisedAddress", advertised_address.as_ref()),
        ];
        fields.into_iter().filter_map(|(field, host)| Some((field, host?.name()?)))
    }

    /// Puts the addresses of names in their place, where they have one.
    pub fn put_in(&mut self, address_of: impl Fn(&str) -> Option<IpAddr>) {
        let Networking { address, advertised_address, .. } = &mut self.networking;
        for host in std::iter::once(address).chain(advertised_address) {
            if let Some(ip) = host.name().and_then(&address_of) {
                *host = Host::Ip(ip.to_canonical());
            }
        }
    }

    /// Leaves out the inbounds whose endpoint is a name still.
    pub fn leave_out_unknown(&mut self) {
        let mut inbounds = std::mem::take(&mut self.networking.inbound);
        inbounds.retain(|inbound| self.endpoint(inbound).ip() != BY_NAME);
        self.networking.inbound = inbounds;
    }

    /// Keeps what other pods need of a workload: its addresses and services.
    pub(crate) fn keep_endpoints(&mut self) {
        let Networking {
            outbound,
            transparent_proxying,
            inbound,
            address: _,
            advertised_address: _,
            gateway: _,
            admin: _,
            listeners: _,
        } = &mut self.networking;
        *outbound = Vec::new();
        *transparent_proxying = None;
        self.metrics = None;
        // Its own sidecar probes it.
        inbound.iter_mut().for_each(|inbound| inbound.service_probe = None);
        inbound.shrink_to_fit();
    }

    /// Returns true for inbound and for outbound if connections are redirected to the sidecar. Without `transparentProxying`, as in
    /// Kuma, they are not.
    pub fn redirected(&self, context: &Context) -> [bool; 2] {
        let ports = self.networking.transparent_proxying.as_ref();
        let ports = ports.map(|ports| [ports.redirect_port_inbound.0, ports.redirect_port_outbound.0]);
        let [inbound, outbound] = ports.unwrap_or_default();
        [inbound != 0 && context.inbound_port != 0, outbound != 0 && context.outbound_port != 0]
    }
}

impl Resource for Dataplane {
    const NAME: &'static str = "Dataplane";

    fn check(part: &Part<'_>, pod: Option<&Context>, at: &mut At<'_>) {
        check::check(part, pod, at);
    }
}

impl Inbound {
    /// Returns true if others may call the inbound.
    pub fn is_ready(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.ready)
            && !matches!(self.state, Some(State::NotReady | State::Ignored))
    }
}

impl Outbound {
    /// Returns the address of the listener.
    pub fn listener(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port.0)
    }
}

mod check;

#[cfg(test)]
mod tests;
