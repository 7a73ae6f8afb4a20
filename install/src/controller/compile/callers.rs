// SPDX-License-Identifier: Apache-2.0
//! Permissions by the tags of callers, turned into permissions by their identities. Pure.
//!
//! A certificate names an account, and no tags. So a permission by tags is sent as the accounts of the pods that have them. An
//! account may also run pods without those tags: then a permission does not hold for it, and a denial does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::mesh_traffic_permission::{ActionWord, MeshTrafficPermission, PermissionFrom};
use culvert_mesh::kinds::{FromSpec as _, Spec};
use culvert_mesh::select::{Subject, effective};
use culvert_mesh::target::Pods;
use serde_json::{Value, json};

use super::dataplane::{dataplane, read};
use super::{API_VERSION, Identities, MESH, Named, OWN, mesh_of};
use crate::controller::world::World;

/// Accounts of each mesh, made once for each state of the cluster: every stream asks for them after a change of a policy, and
/// they are read of a thousand Dataplanes.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<String, Made>>);

/// Accounts, and the state of the cluster that they were made of.
type Made = (u64, Arc<Vec<Account>>);

impl Callers {
    /// Returns the accounts of a mesh's members.
    pub(super) fn of(&self, world: &World, identities: &Identities, mesh: &str) -> Arc<Vec<Account>> {
        let now = world.callers_version();
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, accounts)) = made.get(mesh)
            && *version == now
        {
            return Arc::clone(accounts);
        }
        let accounts = Arc::new(accounts(world, identities, mesh));
        // Meshes of another state are not needed any more.
        made.retain(|_, (version, _)| *version == now);
        made.insert(mesh.to_owned(), (now, Arc::clone(&accounts)));
        accounts
    }
}

/// Callers of one account: a Dataplane for each kind of pod that it runs.
#[derive(Debug)]
pub(super) struct Account {
    id: String,
    dataplanes: Vec<Document>,
}

/// Decisions about callers, as `rules` says them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lists {
    allow: Vec<Value>,
    deny: Vec<Value>,
    shadow: Vec<Value>,
}

/// Part of an account's pods that a choice of callers takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Some,
    None,
}

/// Returns the permissions by tags as permissions by identity: one for all inbounds of a pod, or one for each where they differ.
/// `subjects` begins with the pod, its inbounds follow.
pub(super) fn rules(
    accounts: &[Account],
    identities: &Identities,
    mesh: &str,
    permissions: &[&Document],
    subjects: &[Subject<'_>],
) -> Vec<Named> {
    let Some((pod, inbounds)) = subjects.split_first() else { return Vec::new() };
    let Some((this, _)) = pod.pod else { return Vec::new() };
    let lists = |subject: &Subject<'_>| lists(identities, permissions, subject, accounts);
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

/// Accounts of the mesh's members. All pods with the same labels count as one.
fn accounts(world: &World, identities: &Identities, mesh: &str) -> Vec<Account> {
    let mut accounts: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for pod in world.one_pod_of_each_kind().filter(|pod| pod.is_onboarded() && mesh_of(pod) == mesh) {
        let read = read(mesh, &dataplane(world, identities, pod).text);
        let id = identities.id(pod.key.namespace(), &pod.account);
        accounts.entry(id).or_default().extend(read);
    }
    accounts.into_iter().map(|(id, dataplanes)| Account { id, dataplanes }).collect()
}

/// Returns the decisions that hold for a subject; `None` where no policy is about it.
fn lists(
    identities: &Identities,
    permissions: &[&Document],
    subject: &Subject<'_>,
    accounts: &[Account],
) -> Option<Lists> {
    let mut effective = effective::<MeshTrafficPermission>(permissions, std::slice::from_ref(subject));
    if effective.is_empty() {
        return None;
    }
    // The last one that fits a caller decides, and the most specific policy comes last.
    effective.reverse();
    let items: Vec<&PermissionFrom> = effective.iter().flat_map(|one| &one.policy.from).collect();
    let mut rest = None;
    let mut decided: BTreeMap<&str, Option<ActionWord>> =
        accounts.iter().map(|one| (&*one.id, None)).collect();
    for PermissionFrom { target_ref, default } in items {
        let action = default.action;
        if target_ref.pods == Pods::Mesh {
            rest = Some(action);
        }
        for account in accounts {
            let holds = match part(account, &target_ref.pods) {
                Part::All => true,
                Part::Some => matches!(action, ActionWord::Deny),
                Part::None => false,
            };
            if holds {
                decided.insert(&account.id, Some(action));
            }
        }
    }
    let mut lists = Lists::default();
    let everyone = json!({ "spiffeID": { "type": "Prefix", "value": format!("spiffe://{}/", identities.trust_domain) } });
    match rest {
        Some(ActionWord::Allow) => lists.allow.push(everyone),
        Some(ActionWord::AllowWithShadowDeny) => lists.shadow.push(everyone),
        Some(ActionWord::Deny) | None => {}
    }
    for (id, action) in decided {
        let one = json!({ "spiffeID": { "type": "Exact", "value": id } });
        match action {
            Some(action) if Some(action) == rest => {}
            Some(ActionWord::Allow) => lists.allow.push(one),
            Some(ActionWord::AllowWithShadowDeny) => lists.shadow.push(one),
            // Others are not let in without a rule, so only an exception from `everyone` needs one.
            Some(ActionWord::Deny) if rest.is_some() => lists.deny.push(one),
            Some(ActionWord::Deny) | None => {}
        }
    }
    if lists == Lists::default() {
        // A rule must name a caller. No account has a path of this form.
        let none = format!("spiffe://{}/none", identities.trust_domain);
        lists.allow.push(json!({ "spiffeID": { "type": "Exact", "value": none } }));
    }
    Some(lists)
}

/// Part of an account's pods that a choice takes.
fn part(account: &Account, pods: &Pods) -> Part {
    let takes = |document: &&Document| match (&document.spec, pods) {
        (_, Pods::Mesh | Pods::Dataplanes) => true,
        (Spec::Dataplane(_), Pods::Tags(wanted)) => Dataplane::from_spec(&document.spec)
            .is_some_and(|dataplane| dataplane.tags().any(|tags| wanted.select(tags))),
        (_, Pods::Labels(wanted)) => document.has_labels(wanted),
        (_, Pods::Dataplane { name, .. }) => document.is_named(name),
        _ => false,
    };
    match account.dataplanes.iter().filter(takes).count() {
        0 => Part::None,
        count if count == account.dataplanes.len() => Part::All,
        _ => Part::Some,
    }
}
