// SPDX-License-Identifier: Apache-2.0
//! Rules about several fields of a Dataplane and, where it is the pod's own, about fields and ports of the sidecar.

use super::{GatewayKind, MOST_LISTENERS, Protocol, ReachableKind};
use crate::context::Context;
use crate::kinds::mesh_metric::check_older;
use crate::model::address::{BY_NAME, Host};
use crate::model::addresses::is_loopback;
use crate::model::tags::SERVICE;
use crate::read::part::{Part, Reported};
use crate::read::{At, Port, RedirectPort, Span};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Port that Kuma up to 2.4 redirects IPv6 to; in culvert both families come to one port.
const OLD_V6: u16 = 15010;
/// Text for a port that is one of the sidecar's own.
const NOT_OURS: &str = "a port that is not one of the sidecar's own";

/// Tag with the protocol of a service.
const PROTOCOL: &str = "kuma.io/protocol";

pub(super) fn check(document: &Part<'_>, pod: Option<&Context>, at: &mut At<'_>) {
    let networking = &document.field("networking");
    if networking.has("gateway") == Ok(true) {
        gateway(document, pod, at);
    }
    reachable_backends(&networking.field("transparentProxying"), at);
    check_older(&document.field("metrics").field("conf"), at);
    for field in ["address", "advertisedAddress"] {
        if let Ok(Some(host)) = networking.get::<Host>(field) {
            is_of_one_host(networking, field, host.ip(), at);
        }
    }
    let [inbounds, outbounds] = ["inbound", "outbound"].map(|list| {
        let items = networking.items(list).unwrap_or_default();
        if items.len() > MOST_LISTENERS {
            let (found, allowed) = (items.len(), MOST_LISTENERS);
            networking.problem(at, list, format!("a list of {found}"), format!("at most {allowed} of them"));
        }
        items
    });
    // A name counts as an address that no other field has: two fields that mean one host have to be spelt alike.
    let address = networking.need::<Host>("address").map(|host| host.ip());
    let redirected = pod.map(|context| redirected(networking, context, at));
    let mut seen = BTreeSet::new();
    for inbound in &inbounds {
        has_real_tags(inbound, at);
        has_known_protocol(inbound, at);
        probes_in_time(&inbound.field("serviceProbe"), at);
        let _ = serves_itself(inbound, address, at);
        let _ = differs_from_its_listener(inbound, address, at);
        once(inbound, listener(inbound, address), &mut seen, at);
        if let (Some(context), Some([redirected, _])) = (pod, redirected) {
            let _ = can_be_served(inbound, address, redirected, context, at);
        }
    }
    // It would be the same error for each inbound.
    if let (Some([Ok(true), _]), Ok(ip)) = (redirected, address)
        && is_loopback(ip)
        && inbounds.iter().any(|inbound| inbound.has("address") == Ok(false))
    {
        let allowed = "an address outside of loopback, as connections are redirected";
        networking.problem(at, "address", format!("\"{ip}\""), allowed);
    }
    let mut seen = BTreeSet::new();
    for outbound in &outbounds {
        has_real_tags(outbound, at);
        names_a_service(outbound, at);
        let loopback = Ok(Ipv4Addr::LOCALHOST.into());
        once(outbound, listener(outbound, loopback), &mut seen, at);
        if let (Some(context), Some([_, redirected])) = (pod, redirected) {
            let _ = can_be_called(outbound, redirected, context, at);
        }
    }
    let inbounds = inbounds.iter().map(|one| listener(one, address));
    let outbounds = outbounds.iter().map(|one| listener(one, Ok(Ipv4Addr::LOCALHOST.into())));
    admin_is_apart(&networking.field("admin"), inbounds.chain(outbounds), at);
}

fn admin_is_apart(
    admin: &Part<'_>,
    mut listeners: impl Iterator<Item = Result<SocketAddr, Reported>>,
    at: &mut At<'_>,
) {
    let Ok(port) = admin.need::<Port>("port") else { return };
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.0);
    if listeners.any(|listener| listener == Ok(address)) {
        admin.problem(at, "port", port.0.to_string(), "a port that no listener on 127.0.0.1 has");
    }
}

/// Checks a gateway, which takes its connections itself.
fn gateway(document: &Part<'_>, pod: Option<&Context>, at: &mut At<'_>) {
    let networking = document.field("networking");
    let gateway = networking.field("gateway");
    has_real_tags(&gateway, at);
    let tags = gateway.field("tags");
    if let Ok(Some(protocol)) = tags.get::<String>(PROTOCOL)
        && protocol != "tcp"
    {
        tags.problem(at, PROTOCOL, format!("{protocol:?}"), "tcp, for a gateway");
    }
    let beside = |list: &str, kind: &str, at: &mut At<'_>| {
        let items = networking.items(list).unwrap_or_default().len();
        if items > 0 {
            let found = format!("a list of {items} beside {kind}");
            networking.problem(at, list, found, "none, as a gateway takes its connections itself");
        }
    };
    beside("inbound", "a gateway", at);
    if gateway.get::<GatewayKind>("type") == Ok(Some(GatewayKind::Builtin)) {
        beside("outbound", "a built-in gateway", at);
        if document.has("probes") == Ok(true) {
            document.problem(at, "probes", "probes of a built-in gateway", "none");
        }
        if pod.is_some() {
            let allowed = "DELEGATED for this pod, as the sidecar is no built-in gateway";
            gateway.problem(at, "type", "\"BUILTIN\"", allowed);
        }
    }
}

/// Checks the references of `reachableBackends`: each has a name or labels.
fn reachable_backends(transparent: &Part<'_>, at: &mut At<'_>) {
    for reference in transparent.field("reachableBackends").items("refs").unwrap_or_default() {
        let name = reference.get::<String>("name");
        let [has_name, has_namespace, has_labels] =
            ["name", "namespace", "labels"].map(|field| reference.has(field));
        if let Ok(Some(name)) = &name
            && !is_subdomain(name)
        {
            reference.problem(
                at,
                "name",
                format!("{name:?}"),
                "lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
            );
        }
        match (has_name, has_namespace, has_labels) {
            (Ok(false), Ok(false), Ok(false)) => {
                reference.problem_here(at, "neither name nor labels", "a name, or labels");
            }
            (Ok(false), Ok(true), _) => {
                reference.problem(at, "name", "nothing", "a name, where there is a namespace");
            }
            (Ok(true), _, Ok(true)) => {
                reference.problem(at, "labels", "labels beside a name", "a name, or labels");
            }
            _ => {}
        }
    }
}

/// Returns true for a name by RFC 1123, as Kubernetes has it for subdomains.
fn is_subdomain(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| inner(*first) && inner(*last))
            && bytes.iter().all(|&byte| inner(byte) || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Checks the tag with the protocol of an inbound.
fn has_known_protocol(inbound: &Part<'_>, at: &mut At<'_>) {
    let tags = inbound.field("tags");
    // Another value of the tag's own type has no second error.
    if tags.get::<String>(PROTOCOL).is_ok_and(|value| value.is_some_and(|value| value != "*")) {
        tags.check::<Protocol>(PROTOCOL, at);
    }
}

fn probes_in_time(probe: &Part<'_>, at: &mut At<'_>) {
    for field in ["interval", "timeout"] {
        if probe.get::<Span>(field).is_ok_and(|span| span.is_some_and(|span| span.0.is_zero())) {
            probe.problem(at, field, "0", "a duration over 0");
        }
    }
    for field in ["healthyThreshold", "unhealthyThreshold"] {
        if probe.get::<u32>(field) == Ok(Some(0)) {
            probe.problem(at, field, "0", "a number of at least 1");
        }
    }
}

fn real_address(part: &Part<'_>, field: &str, at: &mut At<'_>) {
    if let Ok(Some(ip)) = part.get::<IpAddr>(field) {
        is_of_one_host(part, field, ip, at);
    }
}

fn is_of_one_host(part: &Part<'_>, field: &str, ip: IpAddr, at: &mut At<'_>) {
    if ip.is_unspecified() || ip.is_multicast() {
        part.problem(at, field, format!("\"{ip}\""), "the address of one host");
    }
}

/// Checks address and tags, which inbounds and outbounds both have.
fn has_real_tags(one: &Part<'_>, at: &mut At<'_>) {
    real_address(one, "address", at);
    let tags = one.field("tags");
    for (key, _) in tags.texts().filter(|(_, value)| *value == "*") {
        tags.problem(at, key, "\"*\"", "one value; \"*\" is for selectors");
    }
    // Selectors may have it, and Kuma refuses it here: a service's name is the path of its identity.
    for (key, value) in tags.texts().filter(|(_, value)| value.contains('/')) {
        tags.problem(at, key, format!("{value:?}"), "a value without '/'");
    }
    if tags.has(SERVICE) == Ok(false) {
        tags.problem(at, SERVICE, "nothing", "this field is required");
    }
}

/// Checks that an outbound says its service: by tags or, as Kuma since 2.9 has it, by reference.
fn names_a_service(outbound: &Part<'_>, at: &mut At<'_>) {
    let reference = outbound.field("backendRef");
    match (outbound.has("backendRef"), outbound.has("tags")) {
        (Ok(true), _) => {}
        (Ok(false), Ok(false)) => {
            outbound.problem(at, "tags", "nothing", "tags with kuma.io/service, or a backendRef");
            return;
        }
        _ => return,
    }
    match (reference.has("name"), reference.has("labels")) {
        (Ok(false), Ok(false)) => {
            reference.problem_here(at, "neither name nor labels", "a name, or labels");
        }
        (Ok(true), Ok(true)) => {
            reference.problem(at, "labels", "labels beside a name", "a name, or labels");
        }
        _ => {}
    }
    let kind = reference.get::<ReachableKind>("kind");
    // The port of a service outside of the mesh is that of its endpoints.
    if matches!(kind, Ok(Some(kind)) if kind != ReachableKind::MeshExternalService)
        && reference.has("port") == Ok(false)
    {
        reference.problem(at, "port", "nothing", "the port of the service");
    }
}

fn listener(one: &Part<'_>, default: Result<IpAddr, Reported>) -> Result<SocketAddr, Reported> {
    let ip = one.get("address")?.map_or(default, Ok)?;
    Ok(SocketAddr::new(ip, one.need::<Port>("port")?.0))
}

fn once(
    one: &Part<'_>,
    listener: Result<SocketAddr, Reported>,
    seen: &mut BTreeSet<SocketAddr>,
    at: &mut At<'_>,
) {
    if let Ok(listener) = listener
        && !seen.insert(listener)
    {
        // The address of a name is not known here.
        let found = match listener.ip() == BY_NAME {
            true => format!("port {} again", listener.port()),
            false => format!("{listener} again"),
        };
        one.problem(at, "port", found, "one listener for an address and port");
    }
}

/// Checks that a sidecar forwards to its own workload only.
fn serves_itself(
    inbound: &Part<'_>,
    address: Result<IpAddr, Reported>,
    at: &mut At<'_>,
) -> Result<(), Reported> {
    let Some(service) = inbound.get::<IpAddr>("serviceAddress")? else { return Ok(()) };
    // Of loopback these two alone are let through to the application by the redirect rules.
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let own = address? == service && service != BY_NAME;
    if !loopback.contains(&service) && !own && inbound.get("address")? != Some(service) {
        let allowed = "127.0.0.1, ::1, or this workload's own address: a sidecar is no way to another host";
        inbound.problem(at, "serviceAddress", format!("\"{service}\""), allowed);
    }
    Ok(())
}

/// Checks that an application at an address of the workload's own has another port than the listener: else the sidecar would
/// call itself.
fn differs_from_its_listener(
    inbound: &Part<'_>,
    address: Result<IpAddr, Reported>,
    at: &mut At<'_>,
) -> Result<(), Reported> {
    let Some(service) = inbound.get::<IpAddr>("serviceAddress")? else { return Ok(()) };
    let port = inbound.need::<Port>("port")?;
    let same_port = inbound.get::<Port>("servicePort")?.is_none_or(|service_port| service_port == port);
    let own = address == Ok(service) || inbound.get("address")? == Some(service);
    if same_port && own {
        let allowed = "another address or servicePort than the listener's";
        inbound.problem(at, "serviceAddress", format!("\"{service}\" with the listener's port"), allowed);
    }
    Ok(())
}

/// Returns true for inbound and for outbound if connections are redirected to the sidecar, and notes ports that differ from its
/// options.
fn redirected(networking: &Part<'_>, context: &Context, at: &mut At<'_>) -> [Result<bool, Reported>; 2] {
    let transparent = networking.field("transparentProxying");
    let ports = [
        ("redirectPortInbound", "--inbound-port", context.inbound_port),
        ("redirectPortInboundV6", "--inbound-port", context.inbound_port),
        ("redirectPortOutbound", "--outbound-port", context.outbound_port),
    ];
    let [inbound, _, outbound] = ports.map(|(field, option, listens)| {
        if !networking.has("transparentProxying")? {
            return Ok(false);
        }
        let port = transparent.get::<RedirectPort>(field)?.unwrap_or_default().0;
        let old = field == "redirectPortInboundV6" && port == OLD_V6;
        if port != 0 && listens != 0 && port != listens && !old {
            let allowed = format!("{listens}, which is {option}; or 0");
            transparent.problem(at, field, port.to_string(), allowed);
        }
        Ok(port != 0 && listens != 0)
    });
    [inbound, outbound]
}

fn can_be_served(
    inbound: &Part<'_>,
    address: Result<IpAddr, Reported>,
    redirected: Result<bool, Reported>,
    context: &Context,
    at: &mut At<'_>,
) -> Result<(), Reported> {
    let ours = |port: Port| context.is_own_port(port.0);
    let service_port = inbound.get::<Port>("servicePort");
    let port = inbound.need::<Port>("port");
    if let Ok(Some(application)) = service_port
        && ours(application)
    {
        inbound.problem(at, "servicePort", application.0.to_string(), NOT_OURS);
    }
    if let Ok(port) = port
        && ours(port)
        // The port is the listener's where the sidecar binds it, and the application's where it has no other.
        && (redirected == Ok(false) || service_port == Ok(None))
    {
        inbound.problem(at, "port", port.0.to_string(), NOT_OURS);
    }
    let listener = listener(inbound, address)?;
    if redirected? {
        if is_loopback(listener.ip()) && inbound.has("address")? {
            let allowed = "an address outside of loopback, as connections are redirected";
            inbound.problem(at, "address", format!("\"{}\"", listener.ip()), allowed);
        }
        return Ok(());
    }
    // Where the document names the address, that is an error of every pod.
    let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
    let port = service_port?.map_or(listener.port(), |port| port.0);
    if !inbound.has("serviceAddress")? && listener == SocketAddr::new(ip, port) {
        inbound.problem_here(
            at,
            format!("{listener} as both listener and application"),
            "two addresses or ports; without transparentProxying the sidecar binds the listener's",
        );
    }
    Ok(())
}

fn can_be_called(
    outbound: &Part<'_>,
    redirected: Result<bool, Reported>,
    context: &Context,
    at: &mut At<'_>,
) -> Result<(), Reported> {
    // Traffic to loopback is never redirected, so the application can only reach a port that is bound.
    let ip = outbound.get::<IpAddr>("address")?.unwrap_or(Ipv4Addr::LOCALHOST.into());
    if !is_loopback(ip) {
        if !redirected? {
            let allowed = "an address of loopback, as nothing is redirected: peers could reach any other";
            outbound.problem(at, "address", format!("\"{ip}\""), allowed);
        }
        return Ok(());
    }
    let port = outbound.need::<Port>("port")?;
    if context.is_own_port(port.0) {
        outbound.problem(at, "port", port.0.to_string(), NOT_OURS);
    }
    Ok(())
}
