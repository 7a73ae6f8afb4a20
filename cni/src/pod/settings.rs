// SPDX-License-Identifier: Apache-2.0
//! One table of settings (contract §1): each with its annotation, its key in the conflist, its Kuma name, and what it does
//! to a [`Policy`].

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Annotations, Decision, Reason, grammar};
use crate::protocol::{Fields, repeated};
use crate::redirect::policy::{Policy, Toggle};

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
    /// Kuma's annotations for the same.
    kuma: &'static [&'static str],
    /// What it does; `None`: in the contract, not yet built.
    apply: Option<Apply>,
    /// What Kuma's annotation does, where its values are read another way.
    kuma_apply: Option<Apply>,
}

const fn built(
    name: &'static str,
    key: &'static str,
    kuma: &'static [&'static str],
    apply: Apply,
) -> Setting {
    Setting { name, key, kuma, apply: Some(apply), kuma_apply: Some(apply) }
}

const fn to_come(name: &'static str, key: &'static str, kuma: &'static [&'static str]) -> Setting {
    Setting { name, key, kuma, apply: None, kuma_apply: None }
}

const SETTINGS: [Setting; 22] = [
    built("proxy-uid", "proxyUid", &["kuma.io/sidecar-uid"], |policy, value| {
        grammar::proxy_uid(value).map(|uid| policy.proxy_uid = uid)
    }),
    Setting {
        name: "redirect-inbound",
        key: "redirectInbound",
        // A gateway of Kuma's takes its connections itself.
        kuma: &["kuma.io/gateway"],
        apply: Some(|policy, value| grammar::toggle(value).map(|toggle| policy.inbound.redirect = toggle)),
        kuma_apply: Some(|policy, value| {
            grammar::kuma_toggle(value).map(|gateway| policy.inbound.redirect = gateway.inverse())
        }),
    },
    built("redirect-outbound", "redirectOutbound", &[], |policy, value| {
        grammar::toggle(value).map(|toggle| policy.outbound.redirect = toggle)
    }),
    built("inbound-port", "inboundPort", &["kuma.io/transparent-proxying-inbound-port"], |policy, value| {
        grammar::port(value).map(|port| policy.inbound.port = port)
    }),
    built(
        "outbound-port",
        "outboundPort",
        &["kuma.io/transparent-proxying-outbound-port"],
        |policy, value| grammar::port(value).map(|port| policy.outbound.port = port),
    ),
    built("status-port", "statusPort", &[], |policy, value| {
        grammar::port(value).map(|port| policy.inbound.status_port = port)
    }),
    built(
        "exclude-inbound-ports",
        "excludeInboundPorts",
        &["traffic.kuma.io/exclude-inbound-ports"],
        |policy, value| grammar::ports(value).map(|ports| policy.inbound.exclude_ports = ports),
    ),
    built(
        "exclude-outbound-ports",
        "excludeOutboundPorts",
        &["traffic.kuma.io/exclude-outbound-ports"],
        |policy, value| grammar::ports(value).map(|ports| policy.outbound.exclude_ports = ports),
    ),
    to_come("include-inbound-ports", "includeInboundPorts", &[]),
    to_come("include-outbound-ports", "includeOutboundPorts", &[]),
    to_come("exclude-inbound-cidrs", "excludeInboundCidrs", &["traffic.kuma.io/exclude-inbound-ips"]),
    to_come("exclude-outbound-cidrs", "excludeOutboundCidrs", &["traffic.kuma.io/exclude-outbound-ips"]),
    to_come(
        "exclude-outbound-ports-for-uids",
        "excludeOutboundPortsForUids",
        &["traffic.kuma.io/exclude-outbound-ports-for-uids"],
    ),
    to_come("virtual-interfaces", "virtualInterfaces", &[]),
    to_come("closed-ports", "closedPorts", &[]),
    to_come("outbound-udp", "outboundUdp", &[]),
    to_come("redirect-dns", "redirectDns", &["kuma.io/builtin-dns"]),
    to_come("dns-port", "dnsPort", &["kuma.io/builtin-dns-port"]),
    to_come("ip-family", "ipFamily", &["kuma.io/transparent-proxying-ip-family-mode"]),
    to_come("drop-invalid", "dropInvalid", &["traffic.kuma.io/drop-invalid-packets"]),
    to_come("trace", "trace", &["traffic.kuma.io/iptables-logs"]),
    to_come("engine", "engine", &["traffic.kuma.io/transparent-proxy-config"]),
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

/// Decide by the pod's annotations over the node's `defaults`.
///
/// Precedence: our names, then Kuma's, then the node's; an empty value clears the node's. All errors are told at once, and
/// our own annotations are checked on a pod that is not onboarded too: a `redirekt` must not pass in silence.
pub fn decide_policy(annotations: &Annotations, defaults: &Settings) -> Result<Decision, SettingsError> {
    let mut errors = unknown(annotations);
    let onboarded = onboarded(annotations, &mut errors);
    let mut policy = Policy::default();
    for setting in &SETTINGS {
        let own = annotations.get(&format!("{OWN}{}", setting.name));
        let mut apply = |apply: Option<Apply>, name: &str, value: &str| match apply {
            None => errors.push(format!("{name} is not built yet in this version of culvert: leave it out")),
            // Empty: the product's default, whatever the node's is.
            Some(_) if value.is_empty() => {}
            Some(apply) => {
                if let Err(allowed) = apply(&mut policy, value.trim()) {
                    errors.push(format!("{name} is {value:?}: it must be {allowed}"));
                }
            }
        };
        let kuma = setting.kuma.iter().find_map(|name| annotations.get_key_value(*name));
        let node = defaults.values.get(setting.key);
        match (own, kuma, node) {
            (Some(value), _, _) => apply(setting.apply, &format!("{OWN}{}", setting.name), value),
            (None, Some((name, value)), _) if onboarded.is_ok() => apply(setting.kuma_apply, name, value),
            (None, _, Some(value)) => {
                apply(setting.apply, &format!("redirect.{} in the conflist", setting.key), value)
            }
            (None, _, None) => {}
        }
        let pods = own.or(kuma.map(|(_, value)| value));
        if let Some(value) =
            pods.filter(|value| defaults.locked.contains(&setting.key) && Some(*value) != node)
        {
            errors.push(format!(
                "{} is locked on this node: the pod may not set it to {value:?}",
                setting.name
            ));
        }
    }
    errors.extend(clashes(&policy));
    match onboarded {
        _ if !errors.is_empty() => Err(SettingsError(errors)),
        Ok(()) => Ok(Decision::Redirect(Box::new(policy))),
        Err(reason) => Ok(Decision::PassThrough(reason)),
    }
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

/// Ports of the sidecar that are the same: only one of its listeners could have it.
fn clashes(policy: &Policy) -> Option<String> {
    let ports = policy.sidecar_ports();
    let twice = ports.iter().enumerate().find(|(index, port)| ports[..*index].contains(port))?.1;
    Some(format!("inbound-port, outbound-port and status-port must differ: two of them are {twice}"))
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
mod tests {
    use super::*;
    use crate::redirect::policy::Port;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn node(json: &str, locked: &[&str]) -> Settings {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        let locked: Vec<String> = locked.iter().map(|key| (*key).to_owned()).collect();
        Settings::of_node(Some(&raw), &locked).unwrap()
    }

    fn redirected(pairs: &[(&str, &str)], defaults: &Settings) -> Policy {
        match decide_policy(&annotations(pairs), defaults) {
            Ok(Decision::Redirect(policy)) => *policy,
            other => panic!("{pairs:?}: {other:?}"),
        }
    }

    fn refused(pairs: &[(&str, &str)], defaults: &Settings) -> String {
        decide_policy(&annotations(pairs), defaults).expect_err("must be refused").to_string()
    }

    const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");

    #[test]
    fn who_is_onboarded() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<Reason>);
        let rows: [Row<'_>; 8] = [
            (&[], Some(Reason::NotOnboarded)),
            (&[("culvert.dev/redirect", "disabled")], Some(Reason::Disabled)),
            (&[ON], None),
            (&[("kuma.io/sidecar-injected", "true")], None),
            (&[("kuma.io/sidecar-injected", "false")], Some(Reason::NotOnboarded)),
            (
                &[("culvert.dev/redirect", "disabled"), ("kuma.io/sidecar-injected", "true")],
                Some(Reason::Disabled),
            ),
            (&[("inject.culvert.dev/redirekt", "x")], Some(Reason::NotOnboarded)),
            (&[("kuma.io/gateway", "perhaps")], Some(Reason::NotOnboarded)),
        ];
        for (pairs, reason) in rows {
            match (decide_policy(&annotations(pairs), &Settings::default()), reason) {
                (Ok(Decision::Redirect(_)), None) => {}
                (Ok(Decision::PassThrough(found)), Some(reason)) => assert_eq!(found, reason, "{pairs:?}"),
                (other, _) => panic!("{pairs:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn our_names_go_before_kumas_and_those_before_the_nodes() {
        let defaults = node(r#"{"proxyUid": 1000, "inboundPort": "16006", "outboundPort": 16001}"#, &[]);
        let pairs = [
            ON,
            ("culvert.dev/proxy-uid", "3000"),
            ("kuma.io/sidecar-uid", "2000"),
            ("kuma.io/transparent-proxying-inbound-port", "17006"),
        ];
        let policy = redirected(&pairs, &defaults);
        assert_eq!(policy.proxy_uid.get(), 3000);
        assert_eq!(policy.inbound.port, Port::new(17006).unwrap());
        assert_eq!(policy.outbound.port, Port::new(16001).unwrap());
    }

    #[test]
    fn an_empty_value_clears_the_nodes_default_unless_it_is_locked() {
        let json = r#"{"excludeInboundPorts": "22"}"#;
        assert_eq!(redirected(&[ON], &node(json, &[])).inbound.exclude_ports.to_string(), "22");
        let cleared = [ON, ("culvert.dev/exclude-inbound-ports", "")];
        assert!(redirected(&cleared, &node(json, &[])).inbound.exclude_ports.is_empty());
        let told = refused(&cleared, &node(json, &["excludeInboundPorts"]));
        assert_eq!(told, "exclude-inbound-ports is locked on this node: the pod may not set it to \"\"");
    }

    #[test]
    fn what_is_locked_may_be_said_again_but_not_changed() {
        let defaults = node(r#"{"proxyUid": 5678}"#, &["proxyUid"]);
        assert_eq!(redirected(&[ON, ("culvert.dev/proxy-uid", "5678")], &defaults).proxy_uid.get(), 5678);
        for name in ["culvert.dev/proxy-uid", "kuma.io/sidecar-uid"] {
            assert!(refused(&[ON, (name, "1")], &defaults).contains("locked"), "{name}");
        }
    }

    #[test]
    fn errors_name_the_annotation_the_value_and_what_is_allowed() {
        let rows = [
            (
                "culvert.dev/redirect",
                "yes",
                "culvert.dev/redirect is \"yes\": it must be enabled or disabled",
            ),
            (
                "culvert.dev/proxy-uid",
                "0",
                "culvert.dev/proxy-uid is \"0\": it must be a uid from 1 to 4294967294",
            ),
            (
                "culvert.dev/inbound-port",
                "70000",
                "culvert.dev/inbound-port is \"70000\": it must be a port from 1 to 65535",
            ),
        ];
        for (name, value, expected) in rows {
            assert_eq!(refused(&[(name, value)], &Settings::default()), expected);
        }
        let told = refused(&[("culvert.dev/redirekt", "enabled")], &Settings::default());
        assert!(
            told.starts_with("culvert.dev/redirekt is no annotation of culvert: known are redirect, "),
            "{told}"
        );
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let pairs =
            [ON, ("culvert.dev/inbound-port", "x"), ("culvert.dev/proxy-uid", "x"), ("culvert.dev/x", "")];
        assert_eq!(refused(&pairs, &Settings::default()).matches("; ").count(), 2);
    }

    #[test]
    fn listeners_on_one_port_are_refused() {
        assert!(
            refused(&[ON, ("culvert.dev/inbound-port", "15001")], &Settings::default())
                .contains("must differ")
        );
    }

    #[test]
    fn an_unknown_key_of_the_nodes_defaults_is_refused() {
        for json in [r#"{"redirect": "enabled"}"#, r#"{"proxy-uid": 1}"#, r#"{"proxyUid": [1]}"#, "[]", "5"] {
            let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
            assert!(Settings::of_node(Some(&raw), &[]).is_err(), "{json}");
        }
        assert!(Settings::of_node(None, &["proxy-uid".to_owned()]).is_err());
    }
}
