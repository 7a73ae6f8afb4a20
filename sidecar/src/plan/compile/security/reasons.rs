// SPDX-License-Identifier: Apache-2.0
//! The documents behind the gates of a pod, in the order in which they decide: the answer to "why may this caller in?".

use super::{Base, Gate, Item, List, Policies, conf_of, gate, items};
use crate::plan::permissions::{Action, Peer, Permission, Verdict, Who};
use culvert_mesh::document::Document;
use culvert_mesh::select::Subject;

/// A port of the pod, and what decides who may call it.
#[derive(Debug)]
pub(crate) struct PortReasons {
    /// Address of the inbound, or the words for the ports that none names.
    pub(crate) port: String,
    /// Mode and permissions.
    pub(crate) gate: Gate,
    /// What says the mode, the deciding one first.
    pub(crate) modes: Vec<Reason>,
    /// Permissions, the deciding one first.
    pub(crate) callers: Vec<(Permission, Reason)>,
}

/// What a document says, and its place.
#[derive(Debug)]
pub(crate) struct Reason {
    /// In few words.
    pub(crate) says: String,
    /// Kind and name of the document, its place, and the field.
    pub(crate) by: String,
}

/// Returns the ports of the pod; none where it has no TLS, so that nobody knows a caller.
pub(in crate::plan::compile) fn reasons(
    base: Option<Base>,
    ours: &[&Document],
    pod: &Subject<'_>,
) -> Vec<PortReasons> {
    let Some(base) = base else { return Vec::new() };
    let policies = Policies::of(ours);
    let each: Vec<_> = pod.tags.chunks(1).map(|tags| Subject { tags, ..*pod }).collect();
    let others = if each.is_empty() { std::slice::from_ref(pod) } else { &each };
    let of = |port: String, subjects: &[Subject<'_>]| {
        let modes = conf_of(&policies.live, subjects).into_iter().filter_map(|(document, conf)| {
            Some(Reason { says: format!("{:?}", conf.mode?), by: named(document, "") })
        });
        let by = if base.closed { "the default with a MeshIdentity" } else { "the Mesh" };
        let default = Reason { says: base.mode.name().into(), by: by.into() };
        PortReasons {
            port,
            gate: gate(&policies, subjects, base),
            modes: modes.chain([default]).collect(),
            callers: items(&policies.live, subjects, base)
                .unwrap_or_default()
                .into_iter()
                .map(reason)
                .collect(),
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
    ports.push(of("ports that no inbound names".into(), others));
    ports
}

pub(super) fn named(document: &Document, field: &str) -> String {
    let field = if field.is_empty() { String::new() } else { format!(", {field}") };
    format!("{} {} ({}{field})", document.kind().name(), document.name, document.place)
}

fn reason(Item { document, list, index, permission }: Item<'_>) -> (Permission, Reason) {
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
    let by = named(document, &format!("{list}[{index}]"));
    (permission, Reason { says: format!("{action} {who}"), by })
}

impl PortReasons {
    /// Returns the verdict about a member, and the number of the permission that decides it, from 1.
    pub(crate) fn decide(&self, peer: &Peer, names_services: bool) -> (Verdict, Option<usize>) {
        let verdict = self.gate.permissions.decide(peer, names_services);
        let action = match verdict {
            Verdict::Allowed => Action::Allow,
            Verdict::ShadowDenied => Action::AllowWithShadowDeny,
            Verdict::Denied => Action::Deny,
        };
        let decides = |(permission, _): &(Permission, Reason)| {
            permission.action == action && permission.who.may_mean(peer, names_services, action)
        };
        (verdict, self.callers.iter().position(decides).map(|index| index + 1))
    }
}
