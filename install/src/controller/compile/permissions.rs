// SPDX-License-Identifier: Apache-2.0
//! Permissions by the tags of callers, turned into permissions by their identities. Pure.
//!
//! A permission by tags is sent as the accounts of the pods that have them. An account may also run pods without those tags: then
//! a permission does not hold for it, and a denial does.

use std::collections::BTreeMap;

use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh_traffic_permission::{ActionWord, MeshTrafficPermission, PermissionFrom};
use culvert_mesh::kinds::proxy_template::Selector;
use culvert_mesh::kinds::traffic_permission::TrafficPermission;
use culvert_mesh::kinds::{FromSpec as _, Spec};
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select::{Subject, effective};
use culvert_mesh::target::Pods;
use serde_json::{Value, json};

use super::callers::{Account, Part};
use super::{API_VERSION, Identities, MESH, Named, OWN};

/// Permissions that are about a pod or one of its inbounds.
#[derive(Debug)]
pub(super) struct Permissions<'d> {
    /// MeshTrafficPermissions in force.
    newer: Vec<&'d Document>,
    /// TrafficPermissions; none where sidecars pass them over.
    older: Vec<&'d Document>,
}

impl<'d> Permissions<'d> {
    /// Takes the permissions out of documents. `has_identity` is true for a pod with a MeshIdentity: its sidecar passes over the
    /// older kind, and so does this.
    pub(super) fn of(documents: &[&'d Document], has_identity: bool) -> Self {
        let (mut newer, mut older) = (Vec::new(), Vec::new());
        for &document in documents {
            match &document.spec {
                Spec::MeshTrafficPermission(_) if !document.is_shadow() => newer.push(document),
                Spec::TrafficPermission(_) if !has_identity => older.push(document),
                _ => {}
            }
        }
        Self { newer, older }
    }

    /// Returns true if a document is sent by accounts, and not as it is. One on trial is in force nowhere, and goes as it is.
    pub(super) fn replace(&self, document: &Document) -> bool {
        let is_in = |list: &[&Document]| list.iter().any(|one| std::ptr::eq(*one, document));
        is_in(&self.older)
            || is_in(&self.newer) && MeshTrafficPermission::from_spec(&document.spec).is_some_and(is_by_tags)
    }

    /// Returns true if none is sent by accounts.
    pub(super) fn are_by_identity(&self) -> bool {
        !self.older.iter().chain(&self.newer).any(|one| self.replace(one))
    }
}

fn is_by_tags(permission: &MeshTrafficPermission) -> bool {
    !permission.from.is_empty()
}

/// Decisions about callers, as `rules` says them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lists {
    allow: Vec<Value>,
    deny: Vec<Value>,
    shadow: Vec<Value>,
}

/// Returns the permissions by tags as permissions by identity: one for all inbounds of a pod, or one for each where they differ.
/// `subjects` begins with the pod, its inbounds follow.
pub(super) fn rules(
    accounts: &[Account],
    identities: &Identities,
    mesh: &str,
    permissions: &Permissions<'_>,
    subjects: &[Subject<'_>],
) -> Vec<Named> {
    let Some((pod, inbounds)) = subjects.split_first() else { return Vec::new() };
    let Some((this, _)) = pod.pod else { return Vec::new() };
    let lists = |subject: &Subject<'_>| decided(identities, permissions, subject, accounts);
    let each: Vec<_> = inbounds.iter().map(|subject| (subject, lists(subject))).collect();
    let named = |section: Option<u16>, lists: Lists| {
        let Lists { allow, deny, shadow } = lists;
        let mut target = json!({ "kind": "Dataplane", "name": this.name, "namespace": this.namespace });
        let mut name = format!("{OWN}-callers");
        if let Some(port) = section {
            target["sectionName"] = port.to_string().into();
            name = format!("{name}-{port}");
        }
        let mut default = json!({ "allow": allow, "deny": deny, "allowWithShadowDeny": shadow });
        // An empty list is no list.
        if let Some(lists) = default.as_object_mut() {
            lists.retain(|_, list| list.as_array().is_some_and(|list| !list.is_empty()));
        }
        let document = json!({
            "apiVersion": API_VERSION, "kind": "MeshTrafficPermission",
            "metadata": { "name": name, "namespace": this.namespace, "labels": { MESH: mesh } },
            "spec": { "targetRef": target, "rules": [{ "default": default }] },
        });
        Named::of("MeshTrafficPermission", &name, &document)
    };
    let all_equal = each.windows(2).all(|pair| pair[0].1 == pair[1].1);
    match each.first() {
        Some(_) if !all_equal => each
            .into_iter()
            .filter_map(|(subject, lists)| Some(named(Some(subject.inbound?.port.0), lists?)))
            .collect(),
        Some(_) => each
            .into_iter()
            .next()
            .and_then(|(_, lists)| lists)
            .map(|lists| named(None, lists))
            .into_iter()
            .collect(),
        None => lists(pod).map(|lists| named(None, lists)).into_iter().collect(),
    }
}

/// Returns the decisions that hold for a subject, as a sidecar takes them: those of the newer kind, else the most specific of the
/// older kind alone. `None` where no policy by tags is about it.
fn decided(
    identities: &Identities,
    permissions: &Permissions<'_>,
    subject: &Subject<'_>,
    accounts: &[Account],
) -> Option<Lists> {
    let mut newer = effective::<MeshTrafficPermission>(&permissions.newer, std::slice::from_ref(subject));
    if newer.is_empty() {
        let older = effective::<TrafficPermission>(&permissions.older, std::slice::from_ref(subject));
        return older.first().map(|one| sources(identities, &one.policy.sources, accounts));
    }
    let others = newer.len();
    newer.retain(|one| is_by_tags(one.policy));
    if newer.is_empty() {
        return None;
    }
    // The last one that fits a caller decides, and the most specific policy comes last.
    newer.reverse();
    let items = newer.iter().flat_map(|one| &one.policy.from);
    Some(from(identities, items, accounts, others > newer.len()))
}

/// Decisions of `from`, of which the last item that fits a caller decides. `beside` is true if other policies about the subject
/// let callers in by their identity: a denial must hold against these.
fn from<'p>(
    identities: &Identities,
    items: impl Iterator<Item = &'p PermissionFrom>,
    accounts: &[Account],
    beside: bool,
) -> Lists {
    let mut rest = None;
    let mut decided: BTreeMap<&str, Option<ActionWord>> =
        accounts.iter().map(|one| (&*one.id, None)).collect();
    for PermissionFrom { target_ref, default } in items {
        let action = default.action;
        if target_ref.pods == Pods::Mesh {
            rest = Some(action);
        }
        for account in accounts {
            let holds = match account.part(|caller| caller.is_among(&target_ref.pods)) {
                Part::All => true,
                Part::Some => action == ActionWord::Deny,
                Part::None => false,
            };
            if holds {
                decided.insert(&account.id, Some(action));
            }
        }
    }
    let mut lists = Lists::default();
    let is_denied_to_all =
        rest == Some(ActionWord::Deny) && decided.values().all(|action| *action == Some(ActionWord::Deny));
    match rest {
        Some(ActionWord::Allow) => lists.allow.push(everyone(identities)),
        Some(ActionWord::AllowWithShadowDeny) => lists.shadow.push(everyone(identities)),
        Some(ActionWord::Deny) if beside && is_denied_to_all => lists.deny.push(everyone(identities)),
        Some(ActionWord::Deny) | None => {}
    }
    // Others are not let in without a rule, so a denial needs one only as an exception from what lets in.
    let must_deny = beside && !is_denied_to_all
        || matches!(rest, Some(ActionWord::Allow | ActionWord::AllowWithShadowDeny));
    for (id, action) in decided {
        match action {
            Some(ActionWord::Deny) if must_deny => lists.deny.push(exact(id)),
            Some(ActionWord::Deny) | None => {}
            Some(action) if Some(action) == rest => {}
            Some(ActionWord::Allow) => lists.allow.push(exact(id)),
            Some(ActionWord::AllowWithShadowDeny) => lists.shadow.push(exact(id)),
        }
    }
    or_nobody(identities, lists)
}

/// Decisions of `sources`, of which one has to fit a caller.
fn sources(identities: &Identities, sources: &[Selector], accounts: &[Account]) -> Lists {
    let mut lists = Lists::default();
    if sources.iter().any(|source| is_everyone(&source.tags)) {
        lists.allow.push(everyone(identities));
    } else {
        let takes_all = |account: &&Account| {
            account.part(|caller| sources.iter().any(|source| caller.has(&source.tags))) == Part::All
        };
        lists.allow.extend(accounts.iter().filter(takes_all).map(|account| exact(&account.id)));
    }
    or_nobody(identities, lists)
}

/// Returns true for the selector that takes members of any service.
pub(super) fn is_everyone(tags: &Tags) -> bool {
    tags.0.iter().all(|(key, value)| key == SERVICE && value == "*")
}

fn everyone(identities: &Identities) -> Value {
    json!({ "spiffeID": { "type": "Prefix", "value": format!("spiffe://{}/", identities.trust_domain) } })
}

fn exact(id: &str) -> Value {
    json!({ "spiffeID": { "type": "Exact", "value": id } })
}

/// A rule must name a caller. No account has a path of this form.
fn or_nobody(identities: &Identities, mut lists: Lists) -> Lists {
    if lists == Lists::default() {
        lists.allow.push(exact(&format!("spiffe://{}/none", identities.trust_domain)));
    }
    lists
}
