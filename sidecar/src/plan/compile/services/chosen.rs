// SPDX-License-Identifier: Apache-2.0
//! Things chosen by pairs of key and value: only the pairs that some selector asks for are looked up, in a map.

use std::collections::{BTreeMap, HashMap, HashSet};

type Pair<'a> = (&'a str, &'a str);

/// The places of things by those of their pairs that selectors ask for.
pub(super) struct Chosen<'a> {
    by_pair: HashMap<Pair<'a>, Vec<u32>>,
    all: u32,
}

/// Returns the pairs that a selector asks for. A star, which takes any value, is none.
fn pairs(wanted: &BTreeMap<String, String>) -> impl Iterator<Item = Pair<'_>> {
    wanted.iter().map(|(key, value)| (key.as_str(), value.as_str())).filter(|(_, value)| *value != "*")
}

impl<'a> Chosen<'a> {
    /// Makes the map for selectors.
    pub(super) fn new(selectors: impl Iterator<Item = &'a BTreeMap<String, String>>) -> Self {
        let wanted: HashSet<Pair<'a>> = selectors.flat_map(pairs).collect();
        Self { by_pair: wanted.into_iter().map(|pair| (pair, Vec::new())).collect(), all: 0 }
    }

    /// Returns the keys that selectors ask for.
    pub(super) fn keys(&self) -> HashSet<&'a str> {
        self.by_pair.keys().map(|(key, _)| *key).collect()
    }

    /// Adds the next thing with its pairs.
    pub(super) fn add(&mut self, has: impl Iterator<Item = Pair<'a>>) {
        let place = self.all;
        self.all += 1;
        for pair in has {
            if let Some(list) = self.by_pair.get_mut(&pair).filter(|list| list.last() != Some(&place)) {
                list.push(place);
            }
        }
    }

    /// Returns the places of things that may fit a selector: those with its rarest pair.
    pub(super) fn candidates(&self, wanted: &BTreeMap<String, String>) -> Vec<u32> {
        let lists = pairs(wanted).map(|pair| self.by_pair.get(&pair).map_or(&[][..], Vec::as_slice));
        lists.min_by_key(|list| list.len()).map_or_else(|| (0..self.all).collect(), <[u32]>::to_vec)
    }
}
