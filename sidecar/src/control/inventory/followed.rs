// SPDX-License-Identifier: Apache-2.0
//! Destinations that the stream follows: what was told of each, and what of that is in force.

use super::{DocumentText, source};
use crate::plan::load::destination::Asked;
use culvert_mesh::load::Text;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A destination that is followed.
#[derive(Clone, Debug, Default)]
struct Followed {
    /// `None` until the first answer.
    version: Option<String>,
    /// Documents as they were told.
    told: Vec<DocumentText>,
    /// Documents in force, where they are others.
    others: Option<Others>,
    /// Order of arrival: of two destinations with the same document the later one's is shown.
    arrival: u64,
}

/// Documents in force that are not those which were told.
#[derive(Clone, Debug, Default)]
struct Others {
    in_force: Vec<DocumentText>,
    /// The reason, where what was told was compiled and is wrong.
    why: Option<String>,
}

/// A destination to put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToCompile {
    pub(crate) asked: Asked,
    /// Documents as they were told. Without any, no document names the destination.
    pub(crate) texts: Vec<Text>,
}

/// Outcome of compiling a destination.
#[derive(Debug)]
pub(crate) struct CompiledDestination {
    pub(crate) asked: Asked,
    /// What was compiled, so that something told meanwhile does not count for compiled.
    pub(crate) told: Vec<Text>,
    /// What is in force now; `None` = what was before.
    pub(crate) in_force: Option<Vec<Text>>,
    /// The reason why that is not what was told.
    pub(crate) why: Option<String>,
}

/// All destinations that are followed.
#[derive(Debug, Default)]
pub(crate) struct FollowedDestinations {
    /// In boxes, as half of the places of the map may be empty.
    all: HashMap<Asked, Box<Followed>>,
    arrivals: u64,
    /// Destinations whose documents changed, came or went since they were compiled.
    changed: HashSet<Asked>,
}

fn texts(documents: &[DocumentText]) -> Vec<Text> {
    let text = |(name, text): &DocumentText| Text { name: source(name), text: Arc::clone(text) };
    documents.iter().map(text).collect()
}

impl Followed {
    fn in_force(&self) -> &[DocumentText] {
        self.others.as_ref().map_or(&self.told, |others| &others.in_force)
    }

    /// Returns true for one whose answer is in force as it was told.
    fn is_answered(&self) -> bool {
        self.version.is_some() && self.others.is_none()
    }

    fn bytes(&self) -> usize {
        self.told.iter().map(|(_, text)| text.len()).sum()
    }
}

impl FollowedDestinations {
    pub(super) fn has(&self, asked: &Asked) -> bool {
        self.all.contains_key(asked)
    }

    /// Begins to follow a destination. Returns false for one that is followed.
    pub(super) fn follow(&mut self, asked: &Asked) -> bool {
        let is_new = !self.has(asked);
        if is_new {
            self.all.insert(asked.clone(), Box::default());
        }
        is_new
    }

    /// Gives a destination up. Returns `None` for one that is not followed, and true if documents go with it.
    pub(super) fn give_up(&mut self, asked: &Asked) -> Option<bool> {
        let gone = self.all.remove(asked)?;
        let had = !gone.told.is_empty() || !gone.in_force().is_empty();
        if had {
            self.changed.insert(asked.clone());
        }
        Some(had)
    }

    /// Returns the number of documents of a destination, and their bytes.
    pub(super) fn size_of(&self, asked: &Asked) -> (usize, usize) {
        self.all.get(asked).map_or((0, 0), |one| (one.told.len(), one.bytes()))
    }

    /// Returns the number of documents, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let all = self.all.values();
        all.fold((0, 0), |(count, bytes), one| (count + one.told.len(), bytes + one.bytes()))
    }

    /// Takes what was told of a destination. Returns true if that is another thing than before.
    pub(super) fn tell(&mut self, asked: &Asked, version: String, told: Vec<DocumentText>) -> bool {
        let Some(one) = self.all.get_mut(asked) else { return false };
        self.arrivals += 1;
        one.arrival = self.arrivals;
        one.version = Some(version);
        if one.told == told {
            return false;
        }
        let before = std::mem::replace(&mut one.told, told);
        let others = one.others.get_or_insert(Others { in_force: before, why: None });
        others.why = None;
        self.changed.insert(asked.clone());
        true
    }

    /// Returns all, with the versions of those that are in force as they were told.
    pub(super) fn versions(&self) -> impl Iterator<Item = (&Asked, Option<&String>)> {
        let version = |one: &Followed| one.others.as_ref().is_none_or(|others| others.why.is_none());
        self.all.iter().map(move |(asked, one)| (asked, one.version.as_ref().filter(|_| version(one))))
    }

    /// Returns true if some changed since they were compiled.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Returns the destinations that changed, to be compiled.
    pub(crate) fn changed(&self) -> Vec<ToCompile> {
        self.changed.iter().map(|asked| self.to_compile(asked)).collect()
    }

    /// Returns all destinations with documents, and those that changed.
    pub(crate) fn all(&self) -> Vec<ToCompile> {
        let told = self.all.iter().filter(|(_, one)| !one.told.is_empty()).map(|(asked, _)| asked);
        let all: BTreeSet<&Asked> = told.chain(&self.changed).collect();
        all.into_iter().map(|asked| self.to_compile(asked)).collect()
    }

    fn to_compile(&self, asked: &Asked) -> ToCompile {
        let told = self.all.get(asked).map(|one| texts(&one.told)).unwrap_or_default();
        ToCompile { asked: asked.clone(), texts: told }
    }

    /// Returns the texts with the last good ones in the place of bad ones; one that was never good is left out.
    pub(crate) fn without(&self, asked: &Asked, told: &[Text], bad: &BTreeSet<Arc<str>>) -> Vec<Text> {
        let in_force = self.all.get(asked).map(|one| texts(one.in_force())).unwrap_or_default();
        let good = |text: &Text| match bad.contains(&text.name) {
            true => in_force.iter().find(|one| one.name == text.name && one.text != text.text).cloned(),
            false => Some(text.clone()),
        };
        told.iter().filter_map(good).collect()
    }

    /// Notes what came of compiling a destination.
    pub(super) fn compiled(&mut self, outcome: CompiledDestination) {
        let CompiledDestination { asked, told, in_force, why } = outcome;
        let Some(one) = self.all.get_mut(&asked) else {
            // Given up: one that was put in force meanwhile has to be forgotten still.
            if told.is_empty() {
                self.changed.remove(&asked);
            }
            return;
        };
        let is_latest = texts(&one.told) == told;
        let documents = in_force.map(|texts| {
            let document = |text: &Text| (super::name_of(&text.name).into(), Arc::clone(&text.text));
            texts.iter().map(document).collect::<Vec<DocumentText>>()
        });
        if is_latest {
            self.changed.remove(&asked);
        }
        match (&why, is_latest) {
            (None, true) => one.others = None,
            _ => {
                let before = one.in_force().to_vec();
                let in_force = documents.unwrap_or(before);
                one.others = Some(Others { in_force, why: why.filter(|_| is_latest) });
            }
        }
    }

    /// Returns true for a destination that is followed and was not compiled since it changed.
    pub(super) fn is_changed(&self, asked: &Asked) -> bool {
        self.changed.contains(asked) && self.has(asked)
    }

    /// Returns true if what was told of a destination is in force.
    pub(super) fn is_answered(&self, asked: &Asked) -> bool {
        // One that was given up and asked for again may be in force as it was before.
        !self.changed.contains(asked) && self.all.get(asked).is_some_and(|one| one.is_answered())
    }

    /// Returns the reason why what was told of a destination is not in force.
    pub(super) fn why_not(&self, asked: &Asked) -> Option<&str> {
        self.all.get(asked)?.others.as_ref()?.why.as_deref()
    }

    /// Returns all these reasons.
    pub(super) fn bad(&self) -> impl Iterator<Item = &String> {
        self.all.values().filter_map(|one| one.others.as_ref()?.why.as_ref())
    }

    /// Returns the documents in force, those that came last at the end.
    pub(super) fn in_force(&self) -> impl Iterator<Item = &DocumentText> {
        let mut all: Vec<&Followed> = self.all.values().map(|one| &**one).collect();
        all.sort_by_key(|one| one.arrival);
        all.into_iter().flat_map(Followed::in_force)
    }
}
