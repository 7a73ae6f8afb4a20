// SPDX-License-Identifier: Apache-2.0
//! The cluster as far as the controller knows it, and what a change of it concerns. Pure.
//!
//! ```text
//! watches ──put, remove──▶ World ──Touched: addresses, words of Services, pods, documents──▶ the sessions that follow them
//! ```

mod documents;
mod names;
mod objects;
mod services;
mod slices;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use self::documents::{
    ACCEPTED, BY_ACCOUNT, DEFAULT_MESH, Documents, Good, MeshDocument, Stated, Told, first_mesh,
    names_callers,
};
pub(crate) use self::names::{Host, Words};
pub(crate) use self::objects::{
    ContainerPort, Life, Pod, RawPod, RawService, Service, ServicePort, Slice, TargetPort,
};
use self::services::AllServices;
use self::slices::Slices;
use super::key::Key;

/// Label that onboards a namespace.
const INJECT: [&str; 2] = ["culvert.dev/inject", "kuma.io/sidecar-injection"];

/// The cluster as far as the controller knows it.
#[derive(Debug, Default)]
pub(crate) struct World {
    pods: HashMap<Key, Arc<Pod>>,
    /// Pods by their addresses.
    of_address: HashMap<IpAddr, Key>,
    services: AllServices,
    slices: Slices,
    /// Pods with a sidecar by their kinds, those of one account and mesh with the same lasting labels, and by their Services.
    kinds: HashMap<PodKind, BTreeMap<Services, BTreeSet<Key>>>,
    /// Services of each pod with a sidecar, as it is among the kinds.
    services_of_pod: HashMap<Key, Services>,
    /// Changes of that, of sidecars and of Services, so far.
    callers_version: u64,
    /// Labels of namespaces.
    namespaces: BTreeMap<Box<str>, BTreeMap<String, String>>,
    /// Mesh documents.
    pub documents: Documents,
}

/// Namespace, account, mesh and lasting labels: pods that differ in none of them differ for no permission.
type PodKind = (Box<str>, Box<str>, Option<Box<str>>, BTreeMap<String, String>);

/// Services with a pod among their endpoints, in the order of their names. They give it the tag `kuma.io/service`.
type Services = Vec<Key>;

/// Things that a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Addresses behind which something else stands now.
    pub addresses: HashSet<IpAddr>,
    /// Words of Services that differ, or behind which something else stands now.
    pub services: HashSet<Words>,
    /// Pods whose own document may differ.
    pub pods: HashSet<Key>,
    /// True if documents for many pods may differ.
    pub documents: bool,
}

impl Touched {
    pub(crate) fn is_nothing(&self) -> bool {
        let Self { addresses, services, pods, documents } = self;
        addresses.is_empty() && services.is_empty() && pods.is_empty() && !documents
    }

    fn service(&mut self, service: &Service) {
        self.addresses.extend(&service.addresses);
        self.services.insert(service.words.clone());
    }
}

/// An object that changed.
#[derive(Debug)]
pub(crate) enum Put {
    /// A pod with an address of its own.
    Pod(Pod),
    /// A Service that selects pods.
    Service(Service),
    /// Part of a Service's endpoints.
    Slice(Slice),
    /// A namespace and its labels.
    Namespace(Box<str>, BTreeMap<String, String>),
    /// A mesh document.
    Document(Box<MeshDocument>),
}

/// Kinds of objects that are watched one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Of {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// Namespaces.
    Namespaces,
    /// Mesh documents of one kind, by its place in the list of kinds.
    Documents(usize),
}

impl World {
    /// Takes an object in.
    pub(crate) fn put(&mut self, put: Put) -> Touched {
        let mut touched = Touched::default();
        match put {
            Put::Pod(pod) => self.put_pod(pod, &mut touched),
            Put::Service(service) => self.put_service(service, &mut touched),
            Put::Slice(slice) => self.put_slice(slice, &mut touched),
            Put::Namespace(name, labels) => _ = self.namespaces.insert(name, labels),
            Put::Document(document) => touched.documents = self.documents.put(*document),
        }
        touched
    }

    /// Forgets an object.
    pub(crate) fn remove(&mut self, of: Of, key: &Key) -> Touched {
        let mut touched = Touched::default();
        match of {
            Of::Pods => self.remove_pod(key, &mut touched),
            Of::Services => self.remove_service(key, &mut touched),
            Of::Slices => self.remove_slice(key, &mut touched),
            Of::Namespaces => _ = self.namespaces.remove(key.name()),
            Of::Documents(kind) => touched.documents = self.documents.remove(kind, key),
        }
        touched
    }

    /// Keys of all objects of a kind, for a list that was read anew.
    pub(crate) fn keys(&self, of: Of) -> HashSet<Key> {
        match of {
            Of::Pods => self.pods.keys().cloned().collect(),
            Of::Services => self.services.keys().cloned().collect(),
            Of::Slices => self.slices.keys().cloned().collect(),
            Of::Namespaces => self.namespaces.keys().map(|name| Key::new("", name)).collect(),
            Of::Documents(kind) => self.documents.keys(kind).collect(),
        }
    }

    pub(crate) fn pod(&self, key: &Key) -> Option<&Pod> {
        self.pods.get(key).map(Arc::as_ref)
    }

    /// One pod with a sidecar of each kind and set of Services, in no order: all of those look alike to permissions. A pod that no
    /// Service has yet looks like the others of its kind, where one has them.
    pub(crate) fn one_pod_of_each_kind(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let looks = self.kinds.values().flat_map(|kind| {
            let with_services = kind.keys().any(|services| !services.is_empty());
            kind.iter().filter(move |(services, _)| !with_services || !services.is_empty())
        });
        looks.filter_map(|(_, pods)| self.pods.get(pods.first()?))
    }

    /// Takes a pod out of its kind. Returns true if permissions may mean others since.
    fn leave_kind(&mut self, pod: &Key) -> bool {
        let Some(services) = self.services_of_pod.remove(pod) else { return false };
        let Some(kind) = self.pod(pod).and_then(kind_of) else { return false };
        let Some(looks) = self.kinds.get_mut(&kind) else { return false };
        let is_last = looks.get_mut(&services).is_some_and(|pods| {
            pods.remove(pod);
            pods.is_empty()
        });
        if !is_last {
            return false;
        }
        looks.remove(&services);
        let is_gone = looks.is_empty();
        if is_gone {
            self.kinds.remove(&kind);
        }
        is_gone || !services.is_empty()
    }

    /// Puts a pod into its kind. Returns true if permissions may mean others since.
    fn join_kind(&mut self, pod: &Key) -> bool {
        let Some(kind) = self.pod(pod).and_then(kind_of) else { return false };
        let services: Services = self.services_of(pod).map(|service| service.key.clone()).collect();
        let is_new_kind = !self.kinds.contains_key(&kind);
        let pods = self.kinds.entry(kind).or_default().entry(services.clone()).or_default();
        let is_first = pods.is_empty();
        pods.insert(pod.clone());
        let is_new = is_new_kind || (is_first && !services.is_empty());
        self.services_of_pod.insert(pod.clone(), services);
        is_new
    }

    /// Looks at the Services of a pod again. Returns true if permissions may mean others since.
    fn look_again(&mut self, pod: &Key) -> bool {
        let is_as_before = {
            let now = self.services_of(pod).map(|service| &service.key);
            self.services_of_pod.get(pod).is_none_or(|before| before.iter().eq(now))
        };
        if is_as_before {
            return false;
        }
        let left = self.leave_kind(pod);
        self.join_kind(pod) || left
    }

    /// Number that grows as pods of new kinds, sidecars and Services come and go.
    pub(crate) fn callers_version(&self) -> u64 {
        self.callers_version
    }

    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.of_address.get(&address).and_then(|key| self.pod(key))
    }

    pub(crate) fn service_at(&self, address: IpAddr) -> Option<&Service> {
        self.services.at(address)
    }

    /// Services that a host name could mean, the likelier ones first.
    pub(crate) fn services_named(&self, host: &Host, most: usize) -> impl Iterator<Item = &Service> {
        self.services.named(host, most)
    }

    /// Services with the pod among their endpoints, in the order of their names.
    pub(crate) fn services_of<'a>(&'a self, pod: &'a Key) -> impl Iterator<Item = &'a Arc<Service>> {
        let keys: BTreeSet<&Key> = self.slices.with_pod(pod).map(|slice| &slice.service).collect();
        keys.into_iter().filter_map(|key| self.services.get(key))
    }

    /// Pods behind a service with their readiness, and the number of endpoints that are no pods.
    pub(crate) fn behind<'a>(&'a self, service: &'a Key) -> (Vec<(&'a Pod, bool)>, usize) {
        let mut pods = BTreeMap::new();
        let mut others = 0;
        for slice in self.slices.of_service(service) {
            others += slice.others;
            for (key, ready) in &slice.pods {
                // The slices of the two families hold the same pods.
                if let Some(pod) = self.pod(key) {
                    pods.insert(key, (pod, *ready));
                }
            }
        }
        (pods.into_values().collect(), others)
    }

    /// Ready endpoints of a Service: addresses, pods, and the port that is named `status`.
    pub(crate) fn endpoints(
        &self,
        service: &Key,
    ) -> impl Iterator<Item = (IpAddr, Option<&Key>, Option<u16>)> {
        self.slices.of_service(service).flat_map(|slice| {
            slice.addresses.iter().map(|(address, pod)| (*address, pod.as_ref(), slice.status))
        })
    }

    /// Namespaces that a label onboards, and those with a pod that has a sidecar.
    pub(crate) fn onboarded_namespaces(&self) -> BTreeSet<&str> {
        let asks = |labels: &BTreeMap<String, String>| {
            INJECT
                .iter()
                .any(|name| labels.get(*name).is_some_and(|value| value == "enabled" || value == "true"))
        };
        let labelled = self.namespaces.iter().filter(|(_, labels)| asks(labels)).map(|(name, _)| &**name);
        let with_pods = self.pods.values().filter(|pod| pod.is_onboarded()).map(|pod| pod.key.namespace());
        let there = |name: &&str| self.namespaces.contains_key(*name);
        labelled.chain(with_pods).filter(there).collect()
    }

    fn put_pod(&mut self, mut pod: Pod, touched: &mut Touched) {
        let key = pod.key.clone();
        if let Some(old) = self.pods.get(&key) {
            if **old == pod {
                return;
            }
            // A changed pod mostly has the same labels: one set of them stays.
            if old.labels == pod.labels {
                pod.labels = Arc::clone(&old.labels);
            }
        }
        let is_same_kind = self.pod(&key).map(kind_of) == Some(kind_of(&pod));
        let left = !is_same_kind && self.leave_kind(&key);
        let services = is_same_kind.then(|| self.services_of_pod.remove(&key)).flatten();
        self.forget_pod(&key, touched);
        for address in &pod.addresses {
            self.of_address.insert(*address, key.clone());
            touched.addresses.insert(*address);
        }
        self.touch_services_of(&key, touched);
        touched.pods.insert(key.clone());
        self.pods.insert(key.clone(), Arc::new(pod));
        match services {
            // It is where it was among the kinds.
            Some(services) => _ = self.services_of_pod.insert(key, services),
            None => {
                if self.join_kind(&key) || left {
                    self.touch_callers(touched);
                }
            }
        }
    }

    fn remove_pod(&mut self, key: &Key, touched: &mut Touched) {
        if self.leave_kind(key) {
            self.touch_callers(touched);
        }
        self.forget_pod(key, touched);
    }

    fn forget_pod(&mut self, key: &Key, touched: &mut Touched) {
        let Some(old) = self.pods.remove(key) else { return };
        for address in old.addresses.iter().copied() {
            touched.addresses.insert(address);
            // The address may be another pod's by now.
            if self.of_address.get(&address) == Some(key) {
                self.of_address.remove(&address);
            }
        }
        self.touch_services_of(key, touched);
        touched.pods.insert(key.clone());
    }

    fn touch_services_of(&self, pod: &Key, touched: &mut Touched) {
        self.services_of(pod).for_each(|service| touched.service(service));
    }

    fn put_service(&mut self, service: Service, touched: &mut Touched) {
        let key = service.key.clone();
        if self.services.get(&key).is_some_and(|known| **known == service) {
            return;
        }
        self.touch_callers(touched);
        self.remove_service(&key, touched);
        touched.service(&service);
        self.services.insert(service);
        self.touch_pods_of(&key, touched);
    }

    /// Notes that permissions may mean other callers, which they may choose by labels and by the service that they are.
    fn touch_callers(&mut self, touched: &mut Touched) {
        self.callers_version += 1;
        touched.documents |= self.documents.name_callers();
    }

    fn remove_service(&mut self, key: &Key, touched: &mut Touched) {
        let Some(old) = self.services.remove(key) else { return };
        self.touch_callers(touched);
        touched.service(&old);
        self.touch_pods_of(key, touched);
    }

    /// Inbounds of the pods behind a service follow its ports.
    fn touch_pods_of(&mut self, service: &Key, touched: &mut Touched) {
        let slices = self.slices.of_service(service);
        let pods: Vec<Key> = slices.flat_map(|slice| slice.pods.iter().map(|(pod, _)| pod.clone())).collect();
        for pod in &pods {
            // A Service that comes or goes is counted where it does.
            self.look_again(pod);
        }
        self.touch_pods(&pods, touched);
    }

    fn touch_pods<'a>(&self, pods: impl IntoIterator<Item = &'a Key>, touched: &mut Touched) {
        for pod in pods {
            touched.addresses.extend(self.pods.get(pod).into_iter().flat_map(|pod| &pod.addresses));
            touched.pods.insert(pod.clone());
        }
    }

    fn put_slice(&mut self, slice: Slice, touched: &mut Touched) {
        let Some(differ) = self.slices.put(slice) else { return };
        self.touch_slice(differ, touched);
    }

    fn remove_slice(&mut self, key: &Key, touched: &mut Touched) {
        let Some(differ) = self.slices.remove(key) else { return };
        self.touch_slice(differ, touched);
    }

    fn touch_slice(&mut self, differ: slices::Differ, touched: &mut Touched) {
        // Most pods that come or go change nothing for permissions: others of their kind were there, and are.
        let mut changed = false;
        for pod in &differ.pods {
            changed |= self.look_again(pod);
        }
        if changed {
            self.touch_callers(touched);
        }
        for service in differ.services.iter().filter_map(|key| self.services.get(key)) {
            touched.service(service);
        }
        self.touch_pods(&differ.pods, touched);
    }
}

/// Kind of a pod; `None` without a sidecar.
fn kind_of(pod: &Pod) -> Option<PodKind> {
    let lasting = pod.lasting_labels().map(|(name, value)| (name.to_owned(), value.to_owned()));
    pod.is_onboarded()
        .then(|| (pod.key.namespace().into(), pod.account.clone(), pod.mesh.clone(), lasting.collect()))
}
