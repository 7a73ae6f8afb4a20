// SPDX-License-Identifier: Apache-2.0
//! Kuma's `traffic.kuma.io/transparent-proxy-config`: YAML that Kong Mesh's injector writes on a pod, read as values of
//! culvert's settings. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::grammar;
use crate::metadata::Annotations;
use crate::redirect::policy::{Ports, Ranges};
use crate::shown::{plain, shown};

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
                    .map_err(|allowed| format!("{name} must be {allowed}: it is {}", shown(value)))?;
                ports.push(port.get()..=port.get());
            }
        }
    }
    Ok(Ranges::new(ports))
}

/// Parse the YAML. An unknown key with a value is an error, and so is a key that asks for a function that culvert does not
/// have.
pub(crate) fn parse(yaml: &str) -> Result<Config, String> {
    let mut root = Keys::read(yaml)?;
    let mut log = root.below("log")?;
    let mut ebpf = root.below("ebpf")?;
    let mut redirect = root.below("redirect")?;
    let mut inbound = redirect.below("inbound")?;
    let mut outbound = redirect.below("outbound")?;
    let mut dns = redirect.below("dns")?;
    let mut vnet = redirect.below("vnet")?;
    for (asked, key) in [
        (root.switch("storeFirewalld")? == Some(true), "storeFirewalld"),
        (ebpf.switch("enabled")? == Some(true), "ebpf.enabled"),
        (!inbound.text("excludePortsForUIDs", ",").is_empty(), "redirect.inbound.excludePortsForUIDs"),
    ] {
        if asked {
            return Err(format!("{key} is set, which culvert cannot do"));
        }
    }
    let mut values = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut set = |name: &'static str, value: String| {
        // Empty counts as absent: Kuma writes every key, and an empty list means none.
        if !value.is_empty() {
            values.insert(name, value);
        }
    };
    set("proxy-uid", root.text("kumaDPUser", ","));
    set("ip-family", root.text("ipFamilyMode", ","));
    set("drop-invalid", spelled(root.switch("dropInvalidPackets")?));
    set("trace", spelled(log.switch("enabled")?));

    let is_on = inbound.switch("enabled")?;
    set("redirect-inbound", spelled(is_on));
    set("inbound-port", inbound.port(is_on != Some(false)));
    set("include-inbound-ports", inbound.text("includePorts", ","));
    set("exclude-inbound-ports", inbound.text("excludePorts", ","));
    set("exclude-inbound-cidrs", inbound.text("excludePortsForIPs", ","));
    let is_on = outbound.switch("enabled")?;
    set("redirect-outbound", spelled(is_on));
    set("outbound-port", outbound.port(is_on != Some(false)));
    set("include-outbound-ports", outbound.text("includePorts", ","));
    set("exclude-outbound-ports", outbound.text("excludePorts", ","));
    set("exclude-outbound-cidrs", outbound.text("excludePortsForIPs", ","));
    set("exclude-outbound-ports-for-uids", outbound.text("excludePortsForUIDs", ";"));
    set("virtual-interfaces", vnet.text("networks", ","));

    let (is_on, captures_all) = (dns.switch("enabled")?, dns.switch("captureAll")? == Some(true));
    let captures = captures_all || is_on == Some(true);
    if captures && !captures_all {
        // Kuma captures the servers in resolv.conf here, but its CNI plugin reads the node's file, not the pod's.
        warnings.push("redirect.dns without captureAll: every DNS server's queries are captured".to_owned());
    }
    let capture = if captures { "all".to_owned() } else { spelled(is_on) };
    set("redirect-dns", capture);
    set("dns-port", dns.port(captures));

    let parts = [root, log, redirect, inbound, outbound, dns, vnet];
    let unknown: Vec<String> = parts.into_iter().flat_map(Keys::unknown).collect();
    if unknown.is_empty() {
        Ok(Config { values, warnings })
    } else {
        Err(format!("unknown, and so is its effect: {}", shown(unknown.join(", "))))
    }
}

/// Spell a switch as an annotation does; an absent one is empty.
fn spelled(on: Option<bool>) -> String {
    on.map_or("", |on| if on { "enabled" } else { "disabled" }).to_owned()
}

/// Keys of Kuma's own programs, which say how they run iptables and what they print.
const IGNORED: [&str; 13] = [
    "wait",
    "waitInterval",
    "retry",
    "iptablesExecutables",
    "comments",
    "cniMode",
    "verbose",
    "dryRun",
    "log.level",
    "redirect.inbound.insertRedirectInsteadOfAppend",
    "redirect.outbound.insertRedirectInsteadOfAppend",
    "redirect.dns.skipConntrackZoneSplit",
    "redirect.dns.resolvConfigPath",
];

/// Keys at one place of the YAML that nothing has read yet.
struct Keys {
    /// Path of the place with a dot behind it, or empty.
    path: String,
    fields: Map<String, Value>,
}

impl Keys {
    fn read(yaml: &str) -> Result<Self, String> {
        // The lines behind the first show the place in the text.
        let said = |error: serde_saphyr::Error| plain(error.to_string().lines().next().unwrap_or_default());
        let value =
            serde_saphyr::from_str_with_options(yaml, serde_saphyr::options! { emit_comments: false })
                .map_err(said)?;
        Self::at(String::new(), "the annotation", value)
    }

    fn below(&mut self, key: &str) -> Result<Self, String> {
        let name = format!("{}{key}", self.path);
        Self::at(format!("{name}."), &name, self.take(key))
    }

    fn at(path: String, name: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self { path, fields: Map::new() }),
            Value::Object(fields) => Ok(Self { path, fields }),
            other => Err(format!("{name} must hold keys: it is {}", shown(other.to_string()))),
        }
    }

    fn take(&mut self, key: &str) -> Value {
        self.fields.remove(key).unwrap_or_default()
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.take(key) {
            Value::Null => Ok(None),
            Value::Bool(on) => Ok(Some(on)),
            other => {
                Err(format!("{}{key} must be true or false: it is {}", self.path, shown(other.to_string())))
            }
        }
    }

    /// Returns a number, a string or a list of them as text: Kuma writes ports as numbers and uids as strings, and users
    /// write either, and a list as one string with commas.
    fn text(&mut self, key: &str, separator: &str) -> String {
        fn text(value: &Value, separator: &str) -> String {
            match value {
                Value::Null => String::new(),
                Value::String(text) => text.trim().to_owned(),
                Value::Array(items) => {
                    items.iter().map(|item| text(item, separator)).collect::<Vec<_>>().join(separator)
                }
                other => other.to_string(),
            }
        }
        text(&self.take(key), separator)
    }

    /// Returns the port; none for the 0 that Kuma writes where nothing is redirected.
    fn port(&mut self, is_used: bool) -> String {
        let port = self.text("port", ",");
        if is_used || port != "0" { port } else { String::new() }
    }

    /// Paths of the keys that are unknown and may ask for something, since they have a value. A newer injector writes its
    /// new keys on each pod, with the zero of their type where nobody set them.
    fn unknown(self) -> Vec<String> {
        let Self { path, fields } = self;
        let with_value = fields.iter().filter(|(_, value)| !is_zero(value));
        let paths = with_value.map(|(key, _)| format!("{path}{key}"));
        paths.filter(|path| !IGNORED.contains(&path.as_str())).collect()
    }
}

/// Returns true for the zero of a type of Go: nothing, false, 0, an empty text, list or map, and a map of zeros.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_zero),
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
            "redirekt: {inbound: {enabled: true}}",
            "redirect: {inbound: {prot: 1}}",
            "redirect: {dns: {upstreamTargetChain: DOCKER}}",
            "redirect: [inbound]",
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
        for yaml in ["{}", "", "null", "redirect:", "redirect: {inbound: null, dns: {}}", "kumaDPUser: ''"] {
            assert!(parse(yaml).unwrap().values.is_empty(), "{yaml}");
        }
    }

    #[test]
    fn a_port_of_zero_is_none_where_nothing_is_redirected() {
        let rows = [
            ("dns: {captureAll: false, enabled: false, port: 0}", "dns-port", None),
            ("dns: {captureAll: false, enabled: false, port: '0'}", "dns-port", None),
            ("dns: {enabled: false, port: 7053}", "dns-port", Some("7053")),
            ("dns: {port: 0}", "dns-port", None),
            ("inbound: {enabled: false, port: 0}", "inbound-port", None),
            ("outbound: {enabled: false, port: 0}", "outbound-port", None),
            // Refused later, by the setting's own rule.
            ("dns: {enabled: true, port: 0}", "dns-port", Some("0")),
            ("dns: {captureAll: true, port: 0}", "dns-port", Some("0")),
            ("inbound: {port: 0}", "inbound-port", Some("0")),
            ("outbound: {enabled: true, port: 0}", "outbound-port", Some("0")),
        ];
        for (yaml, name, expected) in rows {
            let config = parse(&format!("redirect: {{{yaml}}}")).unwrap();
            assert_eq!(config.values.get(name).map(String::as_str), expected, "{yaml}");
        }
    }

    #[test]
    fn unknown_keys_without_a_value_ask_for_nothing() {
        let zeros = ["null", "false", "0", "0.0", "''", "[]", "{}", "{enabled: false, ports: []}"];
        for (before, after) in [("", ""), ("redirect: {", "}"), ("redirect: {dns: {", "}}")] {
            for zero in zeros {
                let yaml = format!("{before}later: {zero}{after}");
                assert!(parse(&yaml).is_ok_and(|config| config.values.is_empty()), "{yaml}");
            }
            for value in ["true", "1", "x", "[a]", "{enabled: true}"] {
                let error = parse(&format!("{before}later: {value}{after}")).unwrap_err();
                assert!(error.contains("later"), "{value}: {error}");
            }
        }
    }
}
