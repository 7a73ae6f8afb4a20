// SPDX-License-Identifier: Apache-2.0
//! The table of settings: annotation, key in the conflist, Kuma's name, and the effect on a [`Policy`].

use crate::pod::grammar;
use crate::redirect::policy::{
    ClosedPorts, DnsCapture, EngineChoice, IpFamilies, OutboundUdp, Policy, Toggle,
};

/// Writes a value into the policy; the error names the values that are allowed.
pub(super) type Apply = fn(&mut Policy, &str) -> Result<(), grammar::Allowed>;

/// One setting under its three names, with its effect.
pub(super) struct Setting {
    /// Name of the annotation behind `culvert.dev/`.
    pub(super) name: &'static str,
    /// Key in the conflist's `redirect`.
    pub(super) key: &'static str,
    /// Kuma's annotation for the same.
    pub(super) kuma: Option<&'static str>,
    pub(super) apply: Apply,
    /// Effect of Kuma's annotation; another function where Kuma's values are spelled differently.
    pub(super) kuma_apply: Apply,
}

const fn own(name: &'static str, key: &'static str, apply: Apply) -> Setting {
    Setting { name, key, kuma: None, apply, kuma_apply: apply }
}

const fn both(name: &'static str, key: &'static str, kuma: &'static str, apply: Apply) -> Setting {
    Setting { name, key, kuma: Some(kuma), apply, kuma_apply: apply }
}

/// A setting whose values Kuma spells differently.
const fn toggle(
    name: &'static str,
    key: &'static str,
    kuma: &'static str,
    apply: Apply,
    kuma_apply: Apply,
) -> Setting {
    Setting { name, key, kuma: Some(kuma), apply, kuma_apply }
}

pub(super) const SETTINGS: [Setting; 22] = [
    both("proxy-uid", "proxyUid", "kuma.io/sidecar-uid", |policy, value| {
        grammar::proxy_uid(value).map(|uid| policy.proxy_uid = uid)
    }),
    toggle(
        "redirect-inbound",
        "redirectInbound",
        // A gateway listens for its clients itself, so nothing is redirected inbound.
        "kuma.io/gateway",
        |policy, value| grammar::toggle(value).map(|toggle| policy.inbound.redirect = toggle),
        |policy, value| {
            grammar::kuma_toggle(value).map(|gateway| policy.inbound.redirect = gateway.inverse())
        },
    ),
    own("redirect-outbound", "redirectOutbound", |policy, value| {
        grammar::toggle(value).map(|toggle| policy.outbound.redirect = toggle)
    }),
    both("inbound-port", "inboundPort", "kuma.io/transparent-proxying-inbound-port", |policy, value| {
        grammar::port(value).map(|port| policy.inbound.port = port)
    }),
    both("outbound-port", "outboundPort", "kuma.io/transparent-proxying-outbound-port", |policy, value| {
        grammar::port(value).map(|port| policy.outbound.port = port)
    }),
    own("status-port", "statusPort", |policy, value| {
        grammar::port(value).map(|port| policy.inbound.status_port = port)
    }),
    own("include-inbound-ports", "includeInboundPorts", |policy, value| {
        grammar::ports(value).map(|ports| policy.inbound.include_ports = ports)
    }),
    own("include-outbound-ports", "includeOutboundPorts", |policy, value| {
        grammar::ports(value).map(|ports| policy.outbound.include_ports = ports)
    }),
    both(
        "exclude-inbound-ports",
        "excludeInboundPorts",
        "traffic.kuma.io/exclude-inbound-ports",
        |policy, value| grammar::ports(value).map(|ports| policy.inbound.exclude_ports = ports),
    ),
    both(
        "exclude-outbound-ports",
        "excludeOutboundPorts",
        "traffic.kuma.io/exclude-outbound-ports",
        |policy, value| grammar::ports(value).map(|ports| policy.outbound.exclude_ports = ports),
    ),
    both(
        "exclude-inbound-cidrs",
        "excludeInboundCidrs",
        "traffic.kuma.io/exclude-inbound-ips",
        |policy, value| grammar::cidrs(value).map(|nets| policy.inbound.exclude_sources = nets),
    ),
    both(
        "exclude-outbound-cidrs",
        "excludeOutboundCidrs",
        "traffic.kuma.io/exclude-outbound-ips",
        |policy, value| grammar::cidrs(value).map(|nets| policy.outbound.exclude_destinations = nets),
    ),
    both(
        "exclude-outbound-ports-for-uids",
        "excludeOutboundPortsForUids",
        "traffic.kuma.io/exclude-outbound-ports-for-uids",
        |policy, value| grammar::uid_exclusions(value).map(|list| policy.outbound.exclude_uids = list),
    ),
    own("virtual-interfaces", "virtualInterfaces", |policy, value| {
        grammar::virtual_interfaces(value).map(|list| policy.virtual_interfaces = list)
    }),
    own("closed-ports", "closedPorts", |policy, value| {
        policy.inbound.closed_ports = match value {
            "redirect" => ClosedPorts::Redirect,
            "refuse" => ClosedPorts::Refuse,
            _ => return Err("redirect or refuse".to_owned()),
        };
        Ok(())
    }),
    own("outbound-udp", "outboundUdp", |policy, value| {
        policy.outbound.udp = match value {
            "direct" => OutboundUdp::Direct,
            "reject" => OutboundUdp::Reject,
            _ => return Err("direct or reject".to_owned()),
        };
        Ok(())
    }),
    toggle(
        "redirect-dns",
        "redirectDns",
        "kuma.io/builtin-dns",
        |policy, value| {
            policy.dns.capture = match value {
                "disabled" => DnsCapture::Off,
                "all" => DnsCapture::All,
                servers => DnsCapture::Servers(grammar::addresses(servers)?),
            };
            Ok(())
        },
        |policy, value| {
            policy.dns.capture = match grammar::kuma_toggle(value)? {
                Toggle::Enabled => DnsCapture::All,
                Toggle::Disabled => DnsCapture::Off,
            };
            Ok(())
        },
    ),
    both("dns-port", "dnsPort", "kuma.io/builtin-dns-port", |policy, value| {
        grammar::port(value).map(|port| policy.dns.port = port)
    }),
    both("ip-family", "ipFamily", "kuma.io/transparent-proxying-ip-family-mode", |policy, value| {
        policy.families = match value {
            "dual" | "dualstack" => IpFamilies::Dual,
            "ipv4" => IpFamilies::V4,
            "ipv6" => IpFamilies::V6,
            _ => return Err("dual, ipv4 or ipv6".to_owned()),
        };
        Ok(())
    }),
    toggle(
        "drop-invalid",
        "dropInvalid",
        "traffic.kuma.io/drop-invalid-packets",
        |policy, value| grammar::toggle_or_bool(value).map(|toggle| policy.drop_invalid = toggle),
        |policy, value| grammar::kuma_toggle(value).map(|toggle| policy.drop_invalid = toggle),
    ),
    toggle(
        "trace",
        "trace",
        "traffic.kuma.io/iptables-logs",
        |policy, value| grammar::toggle(value).map(|toggle| policy.trace = toggle),
        |policy, value| grammar::kuma_toggle(value).map(|toggle| policy.trace = toggle),
    ),
    own("engine", "engine", |policy, value| {
        policy.engine = match value {
            "auto" => EngineChoice::Auto,
            "nftables" => EngineChoice::Nftables,
            "iptables" => EngineChoice::Iptables,
            "iptables-nft" => EngineChoice::IptablesNft,
            "iptables-legacy" => EngineChoice::IptablesLegacy,
            _ => return Err("auto, nftables, iptables, iptables-nft or iptables-legacy".to_owned()),
        };
        Ok(())
    }),
];
