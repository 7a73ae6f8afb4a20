// SPDX-License-Identifier: Apache-2.0
//! The documents behind the gates of a pod, in the order in which they decide: the answer to "why may this caller in?".

use super::{Base, Gate, Item, List, Policies, conf_of, gate, items, settings};
use crate::plan::compile::metric;
use crate::plan::decisions::Claim;
use crate::plan::tls::TlsVersion;
use crate::plan::tls::permissions::{Action, Peer, Permission, Verdict, Who};
use crate::plan::{Plan, TlsMode};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh_tls::TlsConf;
use culvert_mesh::select::Subject;

/// A port of the pod, and what decides who may call it.
#[derive(Debug)]
pub(crate) struct PortReasons {
    /// Address of the inbound, or the words for the ports that none names.
    pub(crate) port: String,
    /// Mode and permissions.
    pub(crate) gate: Gate,
    /// What says the mode, the deciding one first.
    pub(crate) modes: Vec<Claim>,
    /// Permissions, the deciding one first.
    pub(crate) callers: Vec<(Permission, Claim)>,
    /// The permissions that would be in force with the policies on trial; empty where they change nothing.
    pub(crate) on_trial: Vec<Claim>,
    /// True for ports that STRICT closes, as no inbound names them.
    pub(crate) closed: bool,
}

/// Returns the ports of the pod; none where it has no TLS, so that nobody knows a caller. `metrics` are those of MeshMetrics.
pub(in crate::plan::compile) fn reasons(
    base: Option<Base>,
    ours: &[&Document],
    pod: &Subject<'_>,
    metrics: &[u16],
) -> Vec<PortReasons> {
    let Some(base) = base else { return Vec::new() };
    let policies = Policies::of(ours);
    let each: Vec<_> = pod.tags.chunks(1).map(|tags| Subject { tags, ..*pod }).collect();
    let others = if each.is_empty() { std::slice::from_ref(pod) } else { &each };
    let of = |port: String, subjects: &[Subject<'_>]| {
        let modes = conf_of(&policies.live, subjects)
            .into_iter()
            .filter_map(|(document, conf)| Some(Claim::of(format!("{:?}", conf.mode?), document, "")));
        let by = if base.closed { "the default with a MeshIdentity" } else { "the Mesh" };
        let default = Claim::new(base.mode.name(), by);
        let callers = |policies: &[&Document]| -> Vec<(Permission, Claim)> {
            items(policies, subjects, base).unwrap_or_default().into_iter().map(reason).collect()
        };
        let gate = gate(&policies, subjects, base);
        let changes = gate.shadow.as_ref().is_some_and(|shadow| shadow.permissions != gate.permissions);
        PortReasons {
            port,
            modes: modes.chain([default]).collect(),
            callers: callers(&policies.live),
            on_trial: if changes { claims(callers(&policies.tried)) } else { Vec::new() },
            gate,
            closed: false,
        }
    };
    let inbounds = pod.pod.into_iter().flat_map(|(_, this)| {
        this.networking.inbound.iter().map(move |inbound| (this.listener(inbound), inbound))
    });
    let mut ports: Vec<_> = inbounds
        .map(|(address, inbound)| {
            let subject = Subject { tags: &[&inbound.tags], inbound: Some(inbound), ..*pod };
            of(address.to_string(), &[subject])
        })
        .collect();
    let tags = metric::tags_of_port(ours, pod);
    let of_tags = tags.as_ref().map(|tags| [tags]);
    let of_metrics = of_tags.as_ref().map(|tags| [Subject { tags, inbound: None, ..*pod }]);
    let of_metrics = of_metrics.as_ref().map_or(others, |subject| subject.as_slice());
    ports.extend(metrics.iter().map(|port| of(format!("port {port}, of metrics"), of_metrics)));
    let mut unnamed = of("ports that no inbound names".into(), others);
    if let Some((this, dataplane)) = pod.pod {
        if dataplane.networking.gateway.is_some() {
            unnamed.is_for_strangers(this);
        }
        unnamed.closed = unnamed.gate.mode == TlsMode::Strict;
    }
    ports.push(unnamed);
    ports
}

fn claims(permissions: Vec<(Permission, Claim)>) -> Vec<Claim> {
    permissions.into_iter().map(|(_, claim)| claim).collect()
}

/// Notes where versions and suites of TLS come from.
pub(crate) fn explain_settings(plan: &mut Plan, ours: &[&Document], pod: &Subject<'_>) {
    if plan.mtls.is_none() || !plan.decisions.are_kept() {
        return;
    }
    let each: Vec<_> = pod.tags.chunks(1).map(|tags| Subject { tags, ..*pod }).collect();
    let others = if each.is_empty() { std::slice::from_ref(pod) } else { &each };
    let confs = conf_of(ours, others);
    let versions = |conf: Option<TlsConf>| {
        let name = |version: TlsVersion| if version == TlsVersion::V12 { "1.2" } else { "1.3" };
        let of = settings(conf);
        format!("{} to {}", name(of.min), name(of.max))
    };
    let suites = |conf: Option<TlsConf>| {
        if conf.is_none() {
            return "all".to_owned();
        }
        let suites: Vec<_> = settings(conf).suites.iter().map(|suite| format!("{suite:?}")).collect();
        suites.join(", ")
    };
    let said = |says: &dyn Fn(&TlsConf) -> bool, words: &dyn Fn(Option<TlsConf>) -> String| {
        let confs = confs.iter().filter(|(_, conf)| says(conf));
        let claims = confs.map(|(document, conf)| Claim::of(words(Some((*conf).clone())), document, ""));
        claims.chain([Claim::new(words(None), "default")]).collect::<Vec<_>>()
    };
    plan.decisions.first("TLS", "versions", || said(&|conf: &TlsConf| conf.version.is_some(), &versions));
    plan.decisions
        .first("TLS", "cipher suites", || said(&|conf: &TlsConf| !conf.ciphers.is_empty(), &suites));
}

fn reason(Item { document, list, index, permission }: Item<'_>) -> (Permission, Claim) {
    let action = match permission.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::AllowWithShadowDeny => "allow, and count as denied",
    };
    let who = match &permission.who {
        Who::Everyone => "every member".into(),
        Who::Tags(tags) => {
            let tags = tags.0.iter().map(|(key, value)| format!("{key}={value}"));
            tags.collect::<Vec<_>>().join(", ")
        }
        Who::Exactly(id) => id.clone(),
        Who::Prefix(prefix) => format!("{prefix}…"),
    };
    let list = match list {
        List::From => "from",
        List::Rules => "rules",
        List::Sources => "sources",
    };
    let claim = Claim::of(format!("{action} {who}"), document, &format!("{list}[{index}]"));
    (permission, claim)
}

impl PortReasons {
    /// Notes that the pod is a gateway, whose clients are not members.
    fn is_for_strangers(&mut self, dataplane: &Document) {
        self.gate.mode = TlsMode::Permissive;
        self.gate.shadow.iter_mut().for_each(|shadow| shadow.mode = TlsMode::Permissive);
        self.modes.insert(0, Claim::of(TlsMode::Permissive.name(), dataplane, "networking.gateway"));
    }

    /// Returns the verdict about a member with the policies on trial in force, if they change the port.
    pub(crate) fn decide_on_trial(&self, peer: &Peer, names_services: bool) -> Option<Verdict> {
        self.gate.shadow.as_ref().map(|shadow| shadow.permissions.decide(peer, names_services))
    }

    /// Returns the mode that the port would have with the policies on trial in force, if it is another one.
    pub(crate) fn mode_on_trial(&self) -> Option<TlsMode> {
        self.gate.shadow.as_ref().map(|shadow| shadow.mode).filter(|mode| *mode != self.gate.mode)
    }

    /// Returns the verdict about a member, and the number of the permission that decides it, from 1.
    pub(crate) fn decide(&self, peer: &Peer, names_services: bool) -> (Verdict, Option<usize>) {
        let verdict = self.gate.permissions.decide(peer, names_services);
        let action = match verdict {
            Verdict::Allowed => Action::Allow,
            Verdict::ShadowDenied => Action::AllowWithShadowDeny,
            Verdict::Denied => Action::Deny,
        };
        let decides = |(permission, _): &(Permission, Claim)| {
            permission.action == action && permission.who.may_mean(peer, names_services, action)
        };
        (verdict, self.callers.iter().position(decides).map(|index| index + 1))
    }
}
