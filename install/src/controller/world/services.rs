// SPDX-License-Identifier: Apache-2.0
//! Services by their addresses, and by the words of host names. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::key::Key;
use super::names::Host;
use super::objects::Service;

/// All Services.
#[derive(Debug, Default)]
pub(super) struct AllServices {
    all: HashMap<Key, Arc<Service>>,
    of_address: HashMap<IpAddr, Key>,
    of_word: HashMap<Box<str>, BTreeSet<Key>>,
}

impl AllServices {
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.all.keys()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Service>> {
        self.all.get(key)
    }

    pub(super) fn at(&self, address: IpAddr) -> Option<&Service> {
        self.of_address.get(&address).and_then(|key| self.all.get(key)).map(Arc::as_ref)
    }

    /// Services that a host name could mean, as a word of it is their name or the value of a label. Those whose namespace is a word
    /// of it come first, of these and of the others those whose name is one, then in order of key.
    pub(super) fn named(&self, host: &Host, most: usize) -> impl Iterator<Item = &Service> {
        let words = host.words();
        let all = words.iter().filter_map(|word| Some((*word, self.of_word.get(*word)?)));
        let found = all.flat_map(|(word, keys)| keys.iter().map(move |key| (word, key)));
        // That a label has the namespace's name says nothing: a chart's release may be called so, with all Services of it.
        let means = |(word, key): &(&str, &Key)| {
            *word != key.namespace() || *word == key.name() || host.begins_with(word)
        };
        let rank = |key: &Key| (!words.contains(key.namespace()), !words.contains(key.name()));
        let mut ranked: BTreeMap<_, &Service> = BTreeMap::new();
        for (_, key) in found.filter(means) {
            let Some(service) = self.all.get(key) else { continue };
            ranked.insert((rank(key), key), service);
            // A word may be a label of all Services.
            if ranked.len() > most {
                ranked.pop_last();
            }
        }
        ranked.into_values()
    }

    /// Takes a Service in that is not known.
    pub(super) fn insert(&mut self, service: Service) {
        let key = &service.key;
        for address in &service.addresses {
            self.of_address.insert(*address, key.clone());
        }
        for word in service.words.iter() {
            self.of_word.entry(word.into()).or_default().insert(key.clone());
        }
        self.all.insert(key.clone(), Arc::new(service));
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Service>> {
        let old = self.all.remove(key)?;
        for address in &old.addresses {
            // The address may be another Service's by now.
            if self.of_address.get(address) == Some(key) {
                self.of_address.remove(address);
            }
        }
        for word in old.words.iter() {
            if let Some(keys) = self.of_word.get_mut(word) {
                keys.remove(key);
                if keys.is_empty() {
                    self.of_word.remove(word);
                }
            }
        }
        Some(old)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.of_address.is_empty() && self.of_word.is_empty()
    }
}
