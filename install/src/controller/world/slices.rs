// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices by their Services and by their pods. Pure.

use std::collections::{BTreeSet, HashMap};

use super::super::key::Key;
use super::objects::Slice;

/// All EndpointSlices.
#[derive(Debug, Default)]
pub(super) struct Slices {
    all: HashMap<Key, Slice>,
    of_service: HashMap<Key, BTreeSet<Key>>,
    with_pod: HashMap<Key, BTreeSet<Key>>,
}

/// Services and pods for which a slice's change makes a difference.
#[derive(Debug)]
pub(super) struct Differ {
    pub services: BTreeSet<Key>,
    /// Pods that came or went.
    pub pods: BTreeSet<Key>,
}

impl Slices {
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.all.keys()
    }

    pub(super) fn of_service<'a>(&'a self, service: &Key) -> impl Iterator<Item = &'a Slice> + use<'a> {
        self.of_service.get(service).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    pub(super) fn with_pod<'a>(&'a self, pod: &Key) -> impl Iterator<Item = &'a Slice> + use<'a> {
        self.with_pod.get(pod).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// Takes a slice in. `None` if it is the same as before.
    pub(super) fn put(&mut self, slice: Slice) -> Option<Differ> {
        if self.all.get(&slice.key) == Some(&slice) {
            return None;
        }
        let old = self.take(&slice.key);
        let key = slice.key.clone();
        self.of_service.entry(slice.service.clone()).or_default().insert(key.clone());
        for (pod, _) in &slice.pods {
            self.with_pod.entry(pod.clone()).or_default().insert(key.clone());
        }
        let differ = differ(old.as_ref(), Some(&slice));
        self.all.insert(key, slice);
        Some(differ)
    }

    /// Forgets a slice. `None` if it is not known.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Differ> {
        let old = self.take(key)?;
        Some(differ(Some(&old), None))
    }

    fn take(&mut self, key: &Key) -> Option<Slice> {
        let old = self.all.remove(key)?;
        forget(&mut self.of_service, &old.service, key);
        for (pod, _) in &old.pods {
            forget(&mut self.with_pod, pod, key);
        }
        Some(old)
    }
}

fn forget(index: &mut HashMap<Key, BTreeSet<Key>>, of: &Key, slice: &Key) {
    if let Some(slices) = index.get_mut(of) {
        slices.remove(slice);
        if slices.is_empty() {
            index.remove(of);
        }
    }
}

fn differ(old: Option<&Slice>, new: Option<&Slice>) -> Differ {
    let both = || old.into_iter().chain(new);
    let pods = |slice: Option<&Slice>| -> BTreeSet<Key> {
        slice.into_iter().flat_map(|slice| &slice.pods).map(|(pod, _)| pod.clone()).collect()
    };
    let ports = |slice: Option<&Slice>| slice.map(|slice| slice.ports.clone());
    let (before, after) = (pods(old), pods(new));
    let pods = match ports(old) == ports(new) {
        // The readiness of an endpoint is its service's matter alone.
        true => before.symmetric_difference(&after).cloned().collect(),
        false => before.union(&after).cloned().collect(),
    };
    Differ { services: both().map(|slice| slice.service.clone()).collect(), pods }
}
