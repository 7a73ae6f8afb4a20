// SPDX-License-Identifier: Apache-2.0
//! Settings of a pod: annotations over Kuma's annotations over the node's defaults, made into a [`Policy`].

mod node;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub(super) use self::node::parse_annotations;
pub use self::node::{Settings, SettingsError};
use self::table::{Apply, SETTINGS, Setting};
use super::decision::{Decided, Decision, Reason};
use super::{grammar, kuma};
use crate::metadata::Annotations;
use crate::redirect::policy::{ClosedPorts, DnsCapture, EngineChoice, OutboundUdp, Policy, Ports, Toggle};
use crate::shown::shown;

/// Prefix of culvert's own annotations.
const OWN: &str = "culvert.dev/";
/// Annotation that onboards a pod, behind [`OWN`], and Kuma's for the same.
const ONBOARD: &str = "redirect";
const KUMA_ONBOARD: &str = "kuma.io/sidecar-injected";

/// Decide by the pod's annotations over the node's `defaults`.
///
/// Precedence: culvert's names, then Kuma's configuration, then Kuma's other names, then the node's; an empty value clears
/// the node's. All errors are returned at once. Annotations under `culvert.dev/` are checked on a pod that is not onboarded
/// too: a misspelled `culvert.dev/redirekt` must not leave a pod outside the mesh without an error.
pub fn decide_policy(annotations: &Annotations, defaults: &Settings) -> Result<Decided, SettingsError> {
    let mut errors = Vec::new();
    let onboarded = onboarded(annotations, &mut errors);
    let mut warnings = Vec::new();
    let kuma_config =
        match annotations.get(kuma::CONFIG).filter(|_| onboarded.is_ok()).map(|yaml| kuma::parse(yaml)) {
            None => None,
            Some(Ok(config)) => {
                warnings.extend(config.warnings);
                Some(config.values)
            }
            Some(Err(error)) => {
                errors.push(format!("{}: {error}", kuma::CONFIG));
                None
            }
        };
    let own_onboard = format!("{OWN}{ONBOARD}");
    let onboarded_by =
        if annotations.contains_key(&own_onboard) { own_onboard.as_str() } else { KUMA_ONBOARD };
    let mut policy = Policy::default();
    let mut sources = BTreeMap::from([(ONBOARD, onboarded_by.to_owned())]);
    let layers =
        Layers { annotations, defaults, kuma_config: kuma_config.as_ref(), with_kuma: onboarded.is_ok() };
    for setting in &SETTINGS {
        let Some(Given { name, value, apply, of_pod }) = layers.given(setting) else { continue };
        let default = defaults.values.get(setting.key).map(String::as_str);
        if of_pod && defaults.locked.contains(&setting.key) && Some(value) != default {
            errors.push(format!(
                "{} is locked on this node: {name} may not set it to {}",
                setting.name,
                shown(value)
            ));
            continue;
        }
        // An empty value stands for culvert's default, not for the node's.
        if value.trim().is_empty() {
            continue;
        }
        match apply(&mut policy, value.trim()) {
            Ok(()) => drop(sources.insert(setting.name, name.into_owned())),
            Err(allowed) => errors.push(format!("{name} must be {allowed}: it is {}", shown(value))),
        }
    }
    if onboarded.is_ok() && onboarded_by == KUMA_ONBOARD && kuma_config.is_none() {
        match kuma::own_ports(annotations) {
            Ok(ports) => policy.inbound.kuma_ports = ports,
            Err(error) => errors.push(error),
        }
    }
    errors.extend(clashes(&policy));
    errors.extend(unknown(annotations));
    warnings.extend(surprises(&policy));
    match onboarded {
        _ if !errors.is_empty() => Err(SettingsError(errors)),
        Ok(()) => Ok(Decided { decision: Decision::Redirect(Box::new(policy)), warnings, sources }),
        Err(reason) => Ok(Decided { sources, ..Decided::pass_through(reason) }),
    }
}

/// The layers that a setting's value can come from.
struct Layers<'a> {
    annotations: &'a Annotations,
    defaults: &'a Settings,
    kuma_config: Option<&'a BTreeMap<&'static str, String>>,
    /// False on a pod that is not onboarded: Kuma's annotations are then none of culvert's business.
    with_kuma: bool,
}

/// A value from the highest layer that has one.
struct Given<'a> {
    /// Name of the annotation or of the key, for messages.
    name: Cow<'a, str>,
    value: &'a str,
    apply: Apply,
    /// True if the value comes from the pod, false if from the node's defaults.
    of_pod: bool,
}

impl<'a> Layers<'a> {
    fn given(&self, setting: &Setting) -> Option<Given<'a>> {
        let own_name = format!("{OWN}{}", setting.name);
        if let Some(value) = self.annotations.get(&own_name) {
            return Some(Given { name: own_name.into(), value, apply: setting.apply, of_pod: true });
        }
        if let Some(value) = self.kuma_config.and_then(|values| values.get(setting.name)) {
            return Some(Given { name: kuma::CONFIG.into(), value, apply: setting.apply, of_pod: true });
        }
        let kuma_name = setting.kuma.filter(|_| self.with_kuma);
        if let Some((name, value)) = kuma_name.and_then(|name| self.annotations.get_key_value(name)) {
            return Some(Given { name: name.into(), value, apply: setting.kuma_apply, of_pod: true });
        }
        let value = self.defaults.values.get(setting.key)?;
        let name = format!("redirect.{} in the conflist", setting.key);
        Some(Given { name: name.into(), value, apply: setting.apply, of_pod: false })
    }
}

/// Names of every setting, for option parsers: behind `culvert.dev/`, and as a key in the conflist.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    SETTINGS.iter().map(|setting| (setting.name, setting.key))
}

/// Prefixes of the annotations that can influence a decision: culvert's and Kuma's.
const PREFIXES: [&str; 3] = [OWN, "kuma.io/", "traffic.kuma.io/"];

/// Returns true if the annotation can influence a decision; no other is kept or sent anywhere.
pub fn concerns_us(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Warnings about settings that have no effect, or another one than their author may expect.
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

/// One error for all unknown annotations under `culvert.dev/`.
fn unknown(annotations: &Annotations) -> Option<String> {
    let known = |name: &str| name == ONBOARD || SETTINGS.iter().any(|setting| setting.name == name);
    let wrong: Vec<&str> = annotations
        .keys()
        .filter(|key| key.strip_prefix(OWN).is_some_and(|name| !known(name)))
        .map(String::as_str)
        .collect();
    let names = SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
    (!wrong.is_empty()).then(|| {
        format!("no annotation of culvert: {} (known are {ONBOARD}, {names})", shown(wrong.join(", ")))
    })
}

/// Returns `Ok` if an annotation onboards the pod, ours before Kuma's.
fn onboarded(annotations: &Annotations, errors: &mut Vec<String>) -> Result<(), Reason> {
    match annotations.get(&format!("{OWN}{ONBOARD}")).map(|value| (value, grammar::toggle(value.trim()))) {
        Some((_, Ok(Toggle::Enabled))) => Ok(()),
        Some((_, Ok(Toggle::Disabled))) => Err(Reason::Disabled),
        Some((value, Err(allowed))) => {
            errors.push(format!("{OWN}{ONBOARD} must be {allowed}: it is {}", shown(value)));
            Err(Reason::NotOnboarded)
        }
        None if annotations.get(KUMA_ONBOARD).is_some_and(|value| value == "true") => Ok(()),
        None => Err(Reason::NotOnboarded),
    }
}

/// Errors for settings that contradict each other.
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

#[cfg(test)]
mod tests;
