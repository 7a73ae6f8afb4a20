// SPDX-License-Identifier: Apache-2.0
//! Kuma's `traffic.kuma.io/transparent-proxy-config`: YAML that Kong Mesh's injector writes on a pod, read as values of
//! culvert's settings. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::grammar;
use crate::metadata::Annotations;
use crate::redirect::policy::{Ports, Ranges};

/// Name of the annotation.
pub(crate) const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";
/// Ports of Kuma's data plane proxy that peers and probes reach directly, with Kuma's defaults.
const OWN_PORTS: [(&str, u16); 2] =
    [("kuma.io/envoy-admin-port", 9901), ("kuma.io/application-probe-proxy-port", 9001)];

/// The configuration in terms of culvert's settings.
#[derive(Debug)]
pub(crate) struct Config {
    /// Value of each setting that the YAML has, by the setting's name.
    pub(crate) values: BTreeMap<&'static str, String>,
    /// Keys whose effect here differs from Kuma's.
    pub(crate) warnings: Vec<String>,
}

/// Returns the ports of Kuma's proxy; for pods without [`CONFIG`], which excludes them itself.
pub(crate) fn own_ports(annotations: &Annotations) -> Result<Ports, String> {
    let mut ports = Vec::new();
    for (name, default) in OWN_PORTS {
        match annotations.get(name).map(|value| value.trim()) {
            None | Some("") => ports.push(default..=default),
            // In Kuma a port of 0 switches the probe proxy off.
            Some("0") => {}
            Some(value) => {
                let port = grammar::port(value)
                    .map_err(|allowed| format!("{name} is {value:?}: it must be {allowed}"))?;
                ports.push(port.get()..=port.get());
            }
        }
    }
    Ok(Ranges::new(ports))
}

/// Parse the YAML. An unknown key is an error, and so is a key that asks for a function that culvert does not have.
pub(crate) fn parse(yaml: &str) -> Result<Config, String> {
    let document: Document = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    let mut values = BTreeMap::new();
    let mut warnings = Vec::new();
    let Document {
        kuma_dp_user,
        ip_family_mode,
        redirect,
        drop_invalid_packets,
        log,
        store_firewalld,
        ebpf,
        ..
    } = document;
    for (asked, key) in [
        (store_firewalld == Some(true), "storeFirewalld"),
        (ebpf.is_some_and(|ebpf| ebpf.enabled), "ebpf.enabled"),
        (!redirect.inbound.exclude_ports_for_uids.is_empty(), "redirect.inbound.excludePortsForUIDs"),
    ] {
        if asked {
            return Err(format!("{key} is set, which culvert cannot do"));
        }
    }
    let mut set = |name: &'static str, value: Option<String>| {
        // Empty counts as absent: Kuma writes every key, and an empty list means none.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            values.insert(name, value);
        }
    };
    set("proxy-uid", kuma_dp_user.map(|uid| uid.text()));
    set("ip-family", ip_family_mode);
    set("drop-invalid", drop_invalid_packets.map(enabled));
    set("trace", log.and_then(|log| log.enabled).map(enabled));

    let Redirect { inbound, outbound, dns, vnet } = redirect;
    set("redirect-inbound", inbound.enabled.map(enabled));
    set("inbound-port", inbound.port.map(|port| port.text()));
    set("include-inbound-ports", Some(inbound.include_ports.text()));
    set("exclude-inbound-ports", Some(inbound.exclude_ports.text()));
    set("exclude-inbound-cidrs", Some(inbound.exclude_ports_for_ips.text()));
    set("redirect-outbound", outbound.enabled.map(enabled));
    set("outbound-port", outbound.port.map(|port| port.text()));
    set("include-outbound-ports", Some(outbound.include_ports.text()));
    set("exclude-outbound-ports", Some(outbound.exclude_ports.text()));
    set("exclude-outbound-cidrs", Some(outbound.exclude_ports_for_ips.text()));
    set("exclude-outbound-ports-for-uids", Some(outbound.exclude_ports_for_uids.joined(";")));
    set("virtual-interfaces", Some(vnet.networks.text()));

    set("redirect-dns", dns_capture(&dns, &mut warnings));
    set("dns-port", dns.port.map(|port| port.text()));
    Ok(Config { values, warnings })
}

/// Returns the value of `redirect-dns`, if the YAML sets it.
fn dns_capture(dns: &DnsConfig, warnings: &mut Vec<String>) -> Option<String> {
    if dns.capture_all == Some(true) {
        return Some("all".to_owned());
    }
    dns.enabled.map(|on| {
        if on {
            // Kuma captures the servers in resolv.conf here, but its CNI plugin reads the node's file, not the pod's.
            warnings
                .push("redirect.dns without captureAll: every DNS server's queries are captured".to_owned());
        }
        if on { "all" } else { "disabled" }.to_owned()
    })
}

fn enabled(on: bool) -> String {
    if on { "enabled" } else { "disabled" }.to_owned()
}

/// `config.Config` of Kuma's `pkg/transparentproxy/config`. Keys that configure Kuma's own programs are accepted and
/// ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct Document {
    #[serde(rename = "kumaDPUser")]
    kuma_dp_user: Option<Scalar>,
    ip_family_mode: Option<String>,
    redirect: Redirect,
    drop_invalid_packets: Option<bool>,
    log: Option<LogConfig>,
    store_firewalld: Option<bool>,
    ebpf: Option<Ebpf>,
    wait: Option<u64>,
    wait_interval: Option<u64>,
    retry: Option<Retry>,
    iptables_executables: Option<serde::de::IgnoredAny>,
    comments: Option<Comments>,
    cni_mode: Option<bool>,
    verbose: Option<bool>,
    dry_run: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Redirect {
    inbound: Direction,
    outbound: Direction,
    dns: DnsConfig,
    vnet: Vnet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct Direction {
    enabled: Option<bool>,
    port: Option<Scalar>,
    include_ports: List,
    exclude_ports: List,
    #[serde(rename = "excludePortsForIPs")]
    exclude_ports_for_ips: List,
    #[serde(rename = "excludePortsForUIDs")]
    exclude_ports_for_uids: List,
    insert_redirect_instead_of_append: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct DnsConfig {
    enabled: Option<bool>,
    capture_all: Option<bool>,
    port: Option<Scalar>,
    skip_conntrack_zone_split: Option<bool>,
    resolv_config_path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Vnet {
    networks: List,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct LogConfig {
    enabled: Option<bool>,
    level: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct Retry {
    max_retries: Option<u64>,
    sleep_between_retries: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code, reason = "accepted keys without a meaning here")]
struct Comments {
    disabled: Option<bool>,
}

/// Only `enabled` is read: culvert has no eBPF mode, so `true` is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ebpf {
    enabled: bool,
}

/// A number or a string: Kuma writes ports as numbers and uids as strings, and users write either.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.trim().to_owned(),
        }
    }
}

/// A list, or one string with commas.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum List {
    Items(Vec<Scalar>),
    One(Scalar),
    Absent(()),
}

impl Default for List {
    fn default() -> Self {
        Self::Absent(())
    }
}

impl List {
    fn is_empty(&self) -> bool {
        self.text().is_empty()
    }

    fn text(&self) -> String {
        self.joined(",")
    }

    fn joined(&self, separator: &str) -> String {
        match self {
            Self::Items(items) => items.iter().map(Scalar::text).collect::<Vec<_>>().join(separator),
            Self::One(scalar) => scalar.text(),
            Self::Absent(()) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The annotation as Kong Mesh 2.x writes it.
    const INJECTED: &str = r#"
cniMode: true
comments: {disabled: false}
dropInvalidPackets: false
dryRun: false
ebpf: {enabled: false, instanceIPEnvVarName: INSTANCE_IP}
ipFamilyMode: dualstack
iptablesExecutables: {}
kumaDPUser: "5678"
log: {enabled: false, level: 7}
redirect:
  dns: {captureAll: true, enabled: true, port: 15053, resolvConfigPath: /etc/resolv.conf, skipConntrackZoneSplit: false}
  inbound:
    enabled: true
    excludePorts: [9901, 9001]
    excludePortsForIPs: []
    excludePortsForUIDs: []
    includePorts: []
    insertRedirectInsteadOfAppend: false
    port: 15006
  outbound:
    enabled: true
    excludePorts: "4321,7654"
    excludePortsForIPs: [10.0.0.0/8, "fd00::/8"]
    excludePortsForUIDs: ["tcp:80:1234", "1000-1010"]
    includePorts: null
    port: 15001
  vnet: {networks: ["docker0:172.17.0.0/16"]}
retry: {maxRetries: 4, sleepBetweenRetries: 2s}
storeFirewalld: false
verbose: false
wait: 5
waitInterval: 0
"#;

    #[test]
    fn the_configuration_of_kong_mesh_is_read() {
        let config = parse(INJECTED).unwrap();
        let expected = [
            ("dns-port", "15053"),
            ("drop-invalid", "disabled"),
            ("exclude-inbound-ports", "9901,9001"),
            ("exclude-outbound-cidrs", "10.0.0.0/8,fd00::/8"),
            ("exclude-outbound-ports", "4321,7654"),
            ("exclude-outbound-ports-for-uids", "tcp:80:1234;1000-1010"),
            ("inbound-port", "15006"),
            ("ip-family", "dualstack"),
            ("outbound-port", "15001"),
            ("proxy-uid", "5678"),
            ("redirect-dns", "all"),
            ("redirect-inbound", "enabled"),
            ("redirect-outbound", "enabled"),
            ("trace", "disabled"),
            ("virtual-interfaces", "docker0:172.17.0.0/16"),
        ];
        let found: Vec<(&str, &str)> =
            config.values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(found, expected);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn unknown_and_unsupported_keys_are_refused() {
        for yaml in [
            "redirekt: {}",
            "redirect: {inbound: {prot: 1}}",
            "ebpf: {enabled: true}",
            "storeFirewalld: true",
            "redirect: {inbound: {excludePortsForUIDs: ['1']}}",
            "- a",
            "a: [",
            "dropInvalidPackets: perhaps",
        ] {
            assert!(parse(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn an_empty_configuration_sets_nothing() {
        assert!(parse("{}").unwrap().values.is_empty());
    }
}
