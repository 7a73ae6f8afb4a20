// SPDX-License-Identifier: Apache-2.0
//! One table of settings (contract §1): each with its annotation, its key in the conflist, its Kuma name, and what it does
//! to a [`Policy`].

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Annotations, Decision, Reason, grammar, kuma};
use crate::protocol::{Fields, repeated};
use crate::redirect::policy::{
    ClosedPorts, DnsCapture, EngineChoice, IpFamilies, OutboundUdp, Policy, Ports, Toggle,
};

/// The prefix of our own annotations.
const OWN: &str = "culvert.dev/";
/// Who onboards a pod, by our name and by Kuma's.
const ONBOARD: &str = "redirect";
const KUMA_ONBOARD: &str = "kuma.io/sidecar-injected";

/// How a value becomes part of the policy; the error says what is allowed.
type Apply = fn(&mut Policy, &str) -> Result<(), grammar::Allowed>;

/// One setting.
struct Setting {
    /// The annotation's name behind `culvert.dev/`.
    name: &'static str,
    /// The key in the conflist's `redirect`.
    key: &'static str,
    /// Kuma's annotation for the same.
    kuma: Option<&'static str>,
    /// What it does.
    apply: Apply,
    /// What Kuma's annotation does, where its values are read another way.
    kuma_apply: Apply,
}

const fn own(name: &'static str, key: &'static str, apply: Apply) -> Setting {
    Setting { name, key, kuma: None, apply, kuma_apply: apply }
}

const fn both(name: &'static str, key: &'static str, kuma: &'static str, apply: Apply) -> Setting {
    Setting { name, key, kuma: Some(kuma), apply, kuma_apply: apply }
}

/// A toggle that Kuma spells in more ways.
const fn toggle(
    name: &'static str,
    key: &'static str,
    kuma: &'static str,
    apply: Apply,
    kuma_apply: Apply,
) -> Setting {
    Setting { name, key, kuma: Some(kuma), apply, kuma_apply }
}

const SETTINGS: [Setting; 22] = [
    both("proxy-uid", "proxyUid", "kuma.io/sidecar-uid", |policy, value| {
        grammar::proxy_uid(value).map(|uid| policy.proxy_uid = uid)
    }),
    toggle(
        "redirect-inbound",
        "redirectInbound",
        // A gateway of Kuma's takes its connections itself.
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

/// A setting that cannot be followed: CNI code 7. Each line names the setting, its value and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(Vec<String>);

impl From<String> for SettingsError {
    fn from(line: String) -> Self {
        Self(vec![line])
    }
}

/// The node's defaults: the conflist's `redirect` and `locked`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
    locked: Vec<&'static str>,
}

impl Settings {
    /// Read the conflist's `redirect` (an object of strings, numbers and booleans) and `locked`.
    pub fn of_node(redirect: Option<&RawValue>, locked: &[String]) -> Result<Self, SettingsError> {
        let allowed = || SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>().join(", ");
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        let fields = match redirect.map(|raw| serde_json::from_str::<Fields<'_>>(raw.get())) {
            None => Vec::new(),
            Some(Ok(Fields(fields))) => fields,
            Some(Err(error)) => {
                return Err(format!("the conflist's redirect is no JSON object: {error}").into());
            }
        };
        if let Some(key) = repeated(&fields) {
            errors.push(format!("redirect.{key} stands twice in the conflist: which value should count?"));
        }
        for (key, raw) in &fields {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
                errors.push(format!("redirect.{key} in the conflist is unknown; known are {}", allowed()));
                continue;
            };
            match scalar(raw) {
                Some(value) => drop(values.insert(setting.key, value)),
                None => errors.push(format!(
                    "redirect.{key} in the conflist is {raw}: it must be a string, a number, true or false"
                )),
            }
        }
        let mut locked_keys = Vec::new();
        for key in locked {
            match SETTINGS.iter().find(|setting| setting.key == key) {
                Some(setting) => locked_keys.push(setting.key),
                None => {
                    errors.push(format!("locked names {key:?}, which is unknown; known are {}", allowed()))
                }
            }
        }
        if errors.is_empty() { Ok(Self { values, locked: locked_keys }) } else { Err(SettingsError(errors)) }
    }
}

/// The pod's annotations from `runtimeConfig`: an object of strings, or `null` for none.
pub fn parse_annotations(raw: Option<&RawValue>) -> Result<Annotations, SettingsError> {
    let Some(raw) = raw else { return Ok(Annotations::new()) };
    let wrong = |what: String| SettingsError(vec![format!("runtimeConfig's pod annotations {what}")]);
    let Fields(fields) =
        serde_json::from_str(raw.get()).map_err(|error| wrong(format!("are no JSON object: {error}")))?;
    if let Some(key) = repeated(&fields) {
        return Err(wrong(format!("hold {key:?} twice: which value should count?")));
    }
    let text = |(key, value): (String, &RawValue)| match serde_json::from_str(value.get()) {
        Ok(text) => Ok((key, text)),
        Err(_) => Err(wrong(format!("hold {key:?} with a value that is no string"))),
    };
    fields.into_iter().map(text).collect()
}

/// A decision, and what an operator should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What to do with the pod.
    pub decision: Decision,
    /// Settings that don't do what their author may believe.
    pub warnings: Vec<String>,
    /// Where each setting that is not the product's default comes from, by its name behind `culvert.dev/`.
    pub sources: BTreeMap<&'static str, String>,
}

/// Decide by the pod's annotations over the node's `defaults`.
///
/// Precedence: our names, then Kuma's configuration, then Kuma's other names, then the node's; an empty value clears the
/// node's. All errors are told at once, and our own annotations are checked on a pod that is not onboarded too: a
/// `redirekt` must not pass in silence.
pub fn decide_policy(annotations: &Annotations, defaults: &Settings) -> Result<Decided, SettingsError> {
    let mut errors = unknown(annotations);
    let onboarded = onboarded(annotations, &mut errors);
    let mut warnings = Vec::new();
    let kuma_config = match annotations.get(kuma::CONFIG).filter(|_| onboarded.is_ok()) {
        None => None,
        Some(yaml) => match kuma::parse(yaml) {
            Ok(config) => {
                warnings.extend(config.warnings);
                Some(config.values)
            }
            Err(error) => {
                errors.push(format!("{}: {error}", kuma::CONFIG));
                None
            }
        },
    };
    let mut policy = Policy::default();
    let mut sources = BTreeMap::new();
    let own_onboard = format!("{OWN}{ONBOARD}");
    let onboarded_by =
        if annotations.contains_key(&own_onboard) { own_onboard.as_str() } else { KUMA_ONBOARD };
    sources.insert(ONBOARD, onboarded_by.to_owned());
    for setting in &SETTINGS {
        let own_name = format!("{OWN}{}", setting.name);
        let node_name = format!("redirect.{} in the conflist", setting.key);
        let config_value = kuma_config.as_ref().and_then(|values| values.get(setting.name));
        let kuma_value =
            setting.kuma.filter(|_| onboarded.is_ok()).and_then(|name| annotations.get_key_value(name));
        let node_value = defaults.values.get(setting.key);
        let (name, value, apply) = if let Some(value) = annotations.get(&own_name) {
            (own_name.as_str(), value, setting.apply)
        } else if let Some(value) = config_value {
            (kuma::CONFIG, value, setting.apply)
        } else if let Some((name, value)) = kuma_value {
            (name.as_str(), value, setting.kuma_apply)
        } else if let Some(value) = node_value {
            (node_name.as_str(), value, setting.apply)
        } else {
            continue;
        };
        let of_pod = name != node_name;
        if of_pod && defaults.locked.contains(&setting.key) && Some(value) != node_value {
            errors
                .push(format!("{} is locked on this node: {name} may not set it to {value:?}", setting.name));
            continue;
        }
        // Empty: the product's default, whatever the node's is.
        if value.trim().is_empty() {
            continue;
        }
        match apply(&mut policy, value.trim()) {
            Ok(()) => drop(sources.insert(setting.name, name.to_owned())),
            Err(allowed) => errors.push(format!("{name} is {value:?}: it must be {allowed}")),
        }
    }
    if onboarded.is_ok() && onboarded_by == KUMA_ONBOARD && kuma_config.is_none() {
        match kuma::own_ports(annotations) {
            Ok(ports) => policy.inbound.kuma_ports = ports,
            Err(error) => errors.push(error),
        }
    }
    errors.extend(clashes(&policy));
    warnings.extend(surprises(&policy));
    let decision = match onboarded {
        _ if !errors.is_empty() => return Err(SettingsError(errors)),
        Ok(()) => Decision::Redirect(Box::new(policy)),
        Err(reason) => {
            warnings.clear();
            Decision::PassThrough(reason)
        }
    };
    Ok(Decided { decision, warnings, sources })
}

/// The name, behind `culvert.dev/`, and the key in the conflist of every setting: for option parsers.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    SETTINGS.iter().map(|setting| (setting.name, setting.key))
}

/// The prefixes of annotations that a decision may hang on: ours, and Kuma's.
const PREFIXES: [&str; 3] = [OWN, "kuma.io/", "traffic.kuma.io/"];

/// Whether an annotation may matter to a decision; all others need not be kept anywhere.
pub fn concerns_us(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Settings that don't do what their author may believe.
fn surprises(policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    let not_consulted = |include: &Ports, exclude: &Ports, direction: &str| {
        (!include.is_empty() && !exclude.is_empty()).then(|| {
            format!(
                "include-{direction}-ports is set: exclude-{direction}-ports ({exclude}) is not consulted"
            )
        })
    };
    let Policy { inbound, outbound, .. } = policy;
    warnings.extend(not_consulted(&inbound.include_ports, &inbound.exclude_ports, "inbound"));
    warnings.extend(not_consulted(&outbound.include_ports, &outbound.exclude_ports, "outbound"));
    if outbound.udp == OutboundUdp::Reject && policy.dns.capture == DnsCapture::Off {
        warnings.push(
            "outbound-udp is reject and redirect-dns is disabled: the application's DNS over UDP is rejected too".into(),
        );
    }
    if !policy.virtual_interfaces.is_empty() && !outbound.redirect.is_enabled() {
        warnings.push(
            "virtual-interfaces is set, but redirect-outbound is disabled: nothing of it is redirected"
                .into(),
        );
    }
    warnings
}

/// Annotations of ours that are not in the contract.
fn unknown(annotations: &Annotations) -> Vec<String> {
    let known = |name: &str| name == ONBOARD || SETTINGS.iter().any(|setting| setting.name == name);
    annotations
        .keys()
        .filter(|key| key.strip_prefix(OWN).is_some_and(|name| !known(name)))
        .map(|key| {
            let names = SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
            format!("{key} is no annotation of culvert: known are {ONBOARD}, {names}")
        })
        .collect()
}

/// Whether the pod is onboarded, or why not.
fn onboarded(annotations: &Annotations, errors: &mut Vec<String>) -> Result<(), Reason> {
    match annotations.get(&format!("{OWN}{ONBOARD}")).map(|value| (value, grammar::toggle(value.trim()))) {
        Some((_, Ok(Toggle::Enabled))) => Ok(()),
        Some((_, Ok(Toggle::Disabled))) => Err(Reason::Disabled),
        Some((value, Err(allowed))) => {
            errors.push(format!("{OWN}{ONBOARD} is {value:?}: it must be {allowed}"));
            Err(Reason::NotOnboarded)
        }
        None if annotations.get(KUMA_ONBOARD).is_some_and(|value| value == "true") => Ok(()),
        None => Err(Reason::NotOnboarded),
    }
}

/// Settings that contradict each other.
fn clashes(policy: &Policy) -> Vec<String> {
    let mut errors = Vec::new();
    let ports = policy.sidecar_ports();
    if let Some((_, port)) = ports.iter().enumerate().find(|(index, port)| ports[..*index].contains(port)) {
        errors.push(format!(
            "the sidecar's ports (inbound, outbound, status, DNS) must differ: two of them are {port}"
        ));
    }
    let by_iptables = matches!(
        policy.engine,
        EngineChoice::Iptables | EngineChoice::IptablesNft | EngineChoice::IptablesLegacy
    );
    if by_iptables && policy.inbound.closed_ports == ClosedPorts::Refuse {
        errors.push("closed-ports is refuse, which iptables cannot: engine must be auto or nftables".into());
    }
    errors
}

/// A string, number or boolean as the text that an annotation would hold.
fn scalar(raw: &RawValue) -> Option<String> {
    match serde_json::from_str(raw.get()).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(true) => Some("enabled".to_owned()),
        serde_json::Value::Bool(false) => Some("disabled".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
