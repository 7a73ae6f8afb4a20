// SPDX-License-Identifier: Apache-2.0
//! `Dataplane`: a workload, and what it serves and calls.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Ignored, Port, RedirectPort, fields, words};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Most inbounds or outbounds of one document: each is a listener and a cluster with statistics.
pub const MOST_LISTENERS: usize = 512;

fields! {
    /// A workload: the one that --dataplane names is this pod, the others are where the mesh's services live.
    pub struct Dataplane {
        /// Its addresses and ports.
        networking: required Networking = "networking",
    }
}

fields! {
    /// Addresses and ports of a workload.
    pub struct Networking {
        /// The workload's address.
        address: required IpAddr = "address",
        /// Where others reach it, if that is another address.
        advertised_address: optional IpAddr = "advertisedAddress",
        /// What it serves.
        inbound: default Vec<Inbound> = "inbound",
        /// What it calls.
        outbound: default Vec<Outbound> = "outbound",
        /// The tags of a gateway, which has no inbound.
        gateway: optional Gateway = "gateway",
        /// How connections are redirected. Absent: they are not, and listeners bind their own ports.
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
        /// The application's address: loopback or the workload's own. Default: with a redirect the listener's address,
        /// without one 127.0.0.1.
        service_address: optional IpAddr = "serviceAddress",
        /// What the service is called and how it differs from others of that name; kuma.io/service is required.
        tags: required Tags = "tags",
        /// A name, for people.
        name: optional String = "name",
        /// Whether it can be called.
        health: optional Health = "health",
        /// Whether it can be called, in Kuma 2.x's newer words.
        state: optional State = "state",
    }
}

fields! {
    /// Whether a service can be called.
    pub struct Health {
        /// Whether it can be called.
        ready: default bool = "ready",
    }
}

words! {
    /// Whether a service can be called.
    pub enum State {
        /// It can.
        Ready = "Ready",
        /// It cannot.
        NotReady = "NotReady",
        /// It is none.
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
        tags: required Tags = "tags",
    }
}

fields! {
    /// A gateway: a workload that takes its connections itself.
    pub struct Gateway {
        /// Its tags.
        tags: required Tags = "tags",
        /// Only a gateway of its own is known here, not one that Envoy plays.
        kind: optional GatewayKind = "type",
    }
}

words! {
    /// The kinds of gateways.
    pub enum GatewayKind {
        /// A program of its own.
        Delegated = "DELEGATED",
    }
}

fields! {
    /// How the pod's connections are redirected.
    pub struct TransparentProxying {
        /// The inbound port; 0 = not redirected. As --inbound-port.
        redirect_port_inbound: default RedirectPort = "redirectPortInbound",
        /// The inbound port of IPv6, where Kuma has two.
        redirect_port_inbound_v6: default RedirectPort = "redirectPortInboundV6",
        /// The outbound port; 0 = not redirected. As --outbound-port.
        redirect_port_outbound: default RedirectPort = "redirectPortOutbound",
        /// Services that may be called by their endpoints' addresses. Here that holds for all.
        direct_access_services: default Vec<String> = "directAccessServices",
        /// Which services the control plane tells this pod of. Here these are the outbounds.
        reachable_services: default Vec<String> = "reachableServices",
        /// The same in newer words.
        reachable_backends: optional Ignored = "reachableBackends",
        /// The redirected families; the plugin's annotations decide that here.
        ip_family_mode: optional IpFamilyMode = "ipFamilyMode",
    }
}

words! {
    /// The redirected families.
    pub enum IpFamilyMode {
        /// Both.
        DualStack = "DualStack" | "UnSpecified",
        /// IPv4.
        V4 = "IPv4",
        /// IPv6.
        V6 = "IPv6",
    }
}

// === impl Dataplane ===

impl Dataplane {
    /// The tags that selectors are held against: of each inbound, or of the gateway.
    pub fn tags(&self) -> impl Iterator<Item = &Tags> {
        let Networking { inbound, gateway, .. } = &self.networking;
        inbound.iter().map(|inbound| &inbound.tags).chain(gateway.iter().map(|gateway| &gateway.tags))
    }

    /// Where others reach an inbound.
    pub fn endpoint(&self, inbound: &Inbound) -> SocketAddr {
        let Networking { address, advertised_address, .. } = &self.networking;
        SocketAddr::new(advertised_address.or(inbound.address).unwrap_or(*address), inbound.port.0)
    }

    /// Where the listener of an inbound is.
    pub fn listener(&self, inbound: &Inbound) -> SocketAddr {
        SocketAddr::new(inbound.address.unwrap_or(self.networking.address), inbound.port.0)
    }

    /// Whether connections are redirected to us: inbound, outbound. Without `transparentProxying`, as in Kuma, they are not.
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
        check::check(&part.field("networking"), pod, at);
    }
}

impl Inbound {
    /// Whether others may call it.
    pub fn is_ready(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.ready)
            && !matches!(self.state, Some(State::NotReady | State::Ignored))
    }
}

impl Outbound {
    /// Where its listener is.
    pub fn listener(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port.0)
    }
}

mod check;
