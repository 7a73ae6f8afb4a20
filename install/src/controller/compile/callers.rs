// SPDX-License-Identifier: Apache-2.0
//! Callers by their accounts. Pure.
//!
//! A certificate names an account, and no tags. So a choice of callers by tags is compared with the pods of each account.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_mesh::document::Document;
use culvert_mesh::kinds::FromSpec as _;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::model::tags::Tags;
use culvert_mesh::target::Pods;

use super::dataplane::{of_services, read, tags_without_port};
use super::{Identities, mesh_of};
use crate::controller::key::Key;
use crate::controller::world::{Pod, Service, World};

/// Accounts of each mesh, made once for each state of the cluster: every stream asks for them after a change of a policy, and
/// they are read of a thousand Dataplanes.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<String, Made>>);

/// Accounts, and the state of the cluster that they were made of.
type Made = (u64, Arc<Vec<Account>>);

impl Callers {
    /// Returns the accounts of a mesh's members as they were at a version of the cluster or later, or the pods that they are made
    /// of.
    pub(crate) fn known(&self, world: &World, mesh: &str, since: u64) -> Result<Arc<Vec<Account>>, Members> {
        let known = self.made().get(mesh).cloned();
        let current = known.filter(|(version, _)| *version >= since);
        current.map(|(_, accounts)| accounts).ok_or_else(|| Members::of(world, mesh))
    }

    /// Makes the accounts of a mesh's members. The world may be another one meanwhile: whoever they matter to is told again then.
    pub(crate) fn make(&self, identities: &Identities, members: &Members) -> Arc<Vec<Account>> {
        let Members { version, mesh, .. } = members;
        let accounts = Arc::new(accounts(identities, members));
        let mut made = self.made();
        // Meshes of another state are not needed any more.
        made.retain(|_, (other, _)| other == version);
        made.insert(mesh.clone(), (*version, Arc::clone(&accounts)));
        accounts
    }

    fn made(&self) -> MutexGuard<'_, HashMap<String, Made>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pods of a mesh, one with a sidecar of each kind, with the Services in front of them, at a state of the cluster. Cheap to take:
/// what is made of them takes a second where kinds are thousands, and the world is not held for so long.
#[derive(Debug)]
pub(crate) struct Members {
    version: u64,
    mesh: String,
    pods: Vec<(Arc<Pod>, Vec<Arc<Service>>)>,
}

impl Members {
    fn of(world: &World, mesh: &str) -> Self {
        let is_member = |pod: &&Arc<Pod>| pod.is_onboarded() && mesh_of(pod) == mesh;
        let pods = world.one_pod_of_each_kind().filter(is_member);
        let pods = pods.map(|pod| (Arc::clone(pod), world.services_of(&pod.key).cloned().collect()));
        Self { version: world.callers_version(), mesh: mesh.to_owned(), pods: pods.collect() }
    }
}

/// Callers of one account: one for each kind of pod that it runs.
#[derive(Debug)]
pub(crate) struct Account {
    /// Namespace and name.
    pub key: Key,
    /// SPIFFE ID.
    pub id: String,
    /// Its kinds of pods, at least one.
    pub kinds: Vec<Caller>,
}

/// A pod that stands for all of its kind.
#[derive(Debug)]
pub(crate) struct Caller {
    dataplane: Document,
    /// Tags of a pod that offers no port, and so has no inbound with tags: it calls, as a job does.
    portless: Option<Tags>,
}

/// Part of an account's pods that a choice of callers takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Some,
    None,
}

impl Account {
    /// Part of its pods that a choice takes.
    pub(super) fn part(&self, takes: impl Fn(&Caller) -> bool) -> Part {
        match self.kinds.iter().filter(|caller| takes(caller)).count() {
            0 => Part::None,
            count if count == self.kinds.len() => Part::All,
            _ => Part::Some,
        }
    }
}

impl Caller {
    /// Name of the pod; its namespace is the account's.
    pub(super) fn name(&self) -> &str {
        &self.dataplane.name
    }

    /// Returns true if a choice of pods takes it.
    pub(super) fn is_among(&self, pods: &Pods) -> bool {
        match pods {
            Pods::Mesh | Pods::Dataplanes => true,
            Pods::Tags(wanted) => self.has(wanted),
            Pods::Labels(wanted) => self.dataplane.has_labels(wanted),
            Pods::Dataplane { name, .. } => self.dataplane.is_named(name),
        }
    }

    /// Returns true if it has these tags.
    pub(super) fn has(&self, wanted: &Tags) -> bool {
        let of_inbounds = Dataplane::from_spec(&self.dataplane.spec);
        let mut tags = of_inbounds.into_iter().flat_map(Dataplane::tags).chain(&self.portless);
        tags.any(|tags| wanted.select(tags))
    }
}

/// Accounts of the mesh's members. All pods with the same labels count as one.
fn accounts(identities: &Identities, members: &Members) -> Vec<Account> {
    let mut accounts: BTreeMap<Key, Vec<Caller>> = BTreeMap::new();
    for (pod, services) in &members.pods {
        let own = of_services(services.iter().map(Arc::as_ref), None, pod);
        let Some(dataplane) = read(&members.mesh, &own.text) else { continue };
        let has_tags = Dataplane::from_spec(&dataplane.spec).is_some_and(|own| own.tags().next().is_some());
        let portless = (!has_tags).then(|| tags_without_port(pod));
        let key = Key::new(pod.key.namespace(), &pod.account);
        accounts.entry(key).or_default().push(Caller { dataplane, portless });
    }
    let account = |(key, mut kinds): (Key, Vec<Caller>)| {
        // The world knows no order, and the words about an account have one.
        kinds.sort_by(|one, other| one.name().cmp(other.name()));
        Account { id: identities.id(key.namespace(), key.name()), key, kinds }
    };
    accounts.into_iter().map(account).collect()
}
