// SPDX-License-Identifier: Apache-2.0
//! Documents that the controller has told, and those of them in force. Pure: no time, no socket.
//!
//! ```text
//! response ─▶ take ─▶ texts ─▶ (compile) ─▶ settle ─▶ ACK or NACK
//! ```
//! A document that does not compile is kept, and its last good text is used in its place: the server takes it for sent, and
//! sends it again only when it changes.

use culvert_control::messages::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, Node, Resource, Status,
};
use culvert_control::{DESTINATION, DOCUMENT, WILDCARD};
use culvert_mesh::load::Text;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Most documents of all resources, and their bytes. The documents of files have bounds of the same size.
const MOST_DOCUMENTS: usize = 50_000;
const MOST_BYTES: usize = 64 << 20;
/// Longest name and version of a resource, in bytes.
const LONGEST_NAME: usize = 1024;
/// Longest reason of a refusal, in bytes.
const LONGEST_REASON: usize = 2048;
/// Responses that wait to be acknowledged. With more, none is read: the server waits for its window.
pub(super) const MOST_UNSETTLED: usize = 64;
/// `INVALID_ARGUMENT` of gRPC.
const INVALID_ARGUMENT: i32 = 3;
/// Begins the names of the sources of documents, where the path of a file would stand.
const SOURCE: &str = "control: ";

/// Reason why a response is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("resources of the type {0:?} were not asked for")]
    Type(String),
    #[error("the resource {0:?} has no content of its type")]
    Content(String),
    #[error("the resource {0:?} stands in the response twice")]
    Twice(String),
    #[error("a name or version is longer than {LONGEST_NAME} bytes")]
    Name,
    #[error(
        "there would be {documents} documents of {bytes} bytes; allowed: {MOST_DOCUMENTS} of {MOST_BYTES}"
    )]
    TooMuch { documents: usize, bytes: usize },
}

/// Effect of a response that was taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// True if documents changed, so that they have to be compiled.
    pub(super) changed: bool,
    /// True if documents about the pod are among them.
    pub(super) about_pod: bool,
    /// Destinations whose answer changes no document, as where no member is.
    pub(super) answered: Vec<SocketAddr>,
}

/// A resource about the pod.
#[derive(Clone, Debug)]
struct Told {
    version: String,
    text: Arc<str>,
}

/// A destination that is followed.
#[derive(Clone, Debug, Default)]
struct Followed {
    /// `None` until the first answer.
    version: Option<String>,
    documents: Vec<(Arc<str>, Arc<str>)>,
    /// Order of arrival: of two destinations with the same document the later one's counts.
    arrival: u64,
    /// Generation with which its documents are compiled.
    generation: u64,
}

impl Followed {
    fn bytes(&self) -> usize {
        self.documents.iter().map(|(_, text)| text.len()).sum()
    }
}

/// A response that is not acknowledged yet.
#[derive(Debug)]
struct Unsettled {
    kind: &'static str,
    nonce: String,
    /// Generation with which its documents are compiled.
    generation: u64,
    names: Vec<Arc<str>>,
}

/// Outcome of a compilation.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Generation of the texts that were compiled.
    pub(crate) generation: u64,
    /// Texts that are in force; `None` = those before still are.
    pub(crate) in_force: Option<Vec<Text>>,
    /// Sources that are not in force as they were told, each with the reason.
    pub(crate) bad: Vec<(Arc<str>, String)>,
    /// Reason where nothing of the change is in force, and no single document is at fault.
    pub(crate) failed: Option<String>,
}

/// Everything that was told. It outlives the stream.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    about: BTreeMap<Arc<str>, Told>,
    destinations: HashMap<SocketAddr, Followed>,
    unsettled: VecDeque<Unsettled>,
    /// Counts the changes of documents.
    generation: u64,
    arrivals: u64,
    /// Last good texts, by source.
    good: HashMap<Arc<str>, Arc<str>>,
    /// Sources of documents that are not in force as they were told.
    bad: HashMap<Arc<str>, String>,
    /// Names that were removed and were never there.
    pub(super) strays: u64,
}

fn source(name: &str) -> Arc<str> {
    format!("{SOURCE}{name}").into()
}

/// Returns true for the name of a source of the controller's.
pub(crate) fn is_told(source: &str) -> bool {
    source.starts_with(SOURCE)
}

/// Returns the controller's name for the document of a source.
pub(super) fn name_of(source: &str) -> &str {
    source.strip_prefix(SOURCE).unwrap_or(source)
}

fn shortened(mut reason: String) -> String {
    if reason.len() > LONGEST_REASON {
        reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
    }
    reason
}

fn known_kind(kind: &str) -> Result<&'static str, Refused> {
    [DOCUMENT, DESTINATION]
        .into_iter()
        .find(|known| *known == kind)
        .ok_or_else(|| Refused::Type(kind.chars().take(128).collect()))
}

fn content<M: Message + Default>(resource: &Resource, kind: &str) -> Result<M, Refused> {
    let wrong = || Refused::Content(resource.name.clone());
    let Any { type_url, value } = resource.resource.as_ref().ok_or_else(wrong)?;
    if type_url != kind {
        return Err(wrong());
    }
    M::decode(&**value).map_err(|_| wrong())
}

impl Inventory {
    /// Returns the first requests of a stream: everything is asked for, with the versions that are there.
    pub(super) fn opening(&mut self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        // Nonces are those of a stream.
        self.unsettled.clear();
        let is_good = |name: &Arc<str>| !self.bad.contains_key(&source(name));
        let documents = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: DOCUMENT.to_owned(),
            resource_names_subscribe: vec![WILDCARD.to_owned()],
            // A bad one is named without its version: it comes again, or it is told that it is gone.
            initial_resource_versions: self
                .about
                .iter()
                .map(|(name, told)| {
                    let version = if is_good(name) { told.version.clone() } else { String::new() };
                    (name.to_string(), version)
                })
                .collect(),
            ..Default::default()
        };
        let mut requests = vec![documents];
        if !self.destinations.is_empty() {
            let versions = self.destinations.iter().filter_map(|(at, one)| {
                let all = one.documents.iter().all(|(name, _)| is_good(name));
                Some((at.to_string(), one.version.clone().filter(|_| all)?))
            });
            requests.push(DeltaDiscoveryRequest {
                type_url: DESTINATION.to_owned(),
                initial_resource_versions: versions.collect(),
                resource_names_subscribe: self.destinations.keys().map(ToString::to_string).collect(),
                ..Default::default()
            });
        }
        requests
    }

    /// Follows destinations and gives others up. Returns the request that says so, and true if documents go with those.
    pub(super) fn follow(
        &mut self,
        asked: &[SocketAddr],
        given_up: &[SocketAddr],
    ) -> (Option<DeltaDiscoveryRequest>, bool) {
        let mut changed = false;
        let mut request = DeltaDiscoveryRequest { type_url: DESTINATION.to_owned(), ..Default::default() };
        for at in given_up {
            if let Some(gone) = self.destinations.remove(at) {
                changed |= !gone.documents.is_empty();
                request.resource_names_unsubscribe.push(at.to_string());
            }
        }
        for at in asked {
            self.destinations.entry(*at).or_insert_with(|| {
                request.resource_names_subscribe.push(at.to_string());
                Followed::default()
            });
        }
        if changed {
            self.generation += 1;
        }
        let says =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        (says.then_some(request), changed)
    }

    /// Takes a response. Refused, it changes nothing, and the request that says so is in the error.
    pub(super) fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<Taken, Box<(Refused, DeltaDiscoveryRequest)>> {
        let (kind, nonce) = (response.type_url.clone(), response.nonce.clone());
        self.checked(response).map_err(|refused| {
            let nack = nack(&kind, nonce, refused.to_string());
            Box::new((refused, nack))
        })
    }

    fn checked(&mut self, response: DeltaDiscoveryResponse) -> Result<Taken, Refused> {
        let kind = known_kind(&response.type_url)?;
        let DeltaDiscoveryResponse { resources, nonce, removed_resources: removed, .. } = &response;
        let mut seen = HashSet::new();
        let versions = resources.iter().map(|one| &one.version);
        if nonce.len() > LONGEST_NAME || versions.chain(removed).any(|text| text.len() > LONGEST_NAME) {
            return Err(Refused::Name);
        }
        for name in resources.iter().map(|one| &one.name).chain(removed) {
            if name.is_empty() || name.len() > LONGEST_NAME {
                return Err(Refused::Name);
            }
            if !seen.insert(name.as_str()) {
                return Err(Refused::Twice(name.clone()));
            }
        }
        match kind {
            DOCUMENT => self.take_documents(response),
            _ => self.take_destinations(response),
        }
    }

    fn take_documents(&mut self, response: DeltaDiscoveryResponse) -> Result<Taken, Refused> {
        let DeltaDiscoveryResponse { resources, nonce, removed_resources, .. } = response;
        let mut told = Vec::with_capacity(resources.len());
        let (mut documents, mut bytes) = self.size();
        for resource in resources {
            let Document { text } = content(&resource, DOCUMENT)?;
            let before = self.about.get(&*resource.name);
            documents += usize::from(before.is_none());
            bytes = bytes + text.len() - before.map_or(0, |told| told.text.len());
            told.push((
                Arc::<str>::from(resource.name),
                Told { version: resource.version, text: text.into() },
            ));
        }
        within(documents, bytes)?;
        let mut taken = Taken::default();
        let mut names = Vec::with_capacity(told.len());
        for (name, new) in told {
            names.push(source(&name));
            let same = self.about.get(&name).is_some_and(|old| old.text == new.text);
            taken.changed |= !same;
            self.about.insert(name, new);
        }
        for name in removed_resources {
            match self.about.remove(&*name) {
                Some(_) => taken.changed = true,
                None => self.strays += 1,
            }
        }
        taken.about_pod = taken.changed;
        self.note(DOCUMENT, nonce, names, taken.changed);
        Ok(taken)
    }

    fn take_destinations(&mut self, response: DeltaDiscoveryResponse) -> Result<Taken, Refused> {
        let DeltaDiscoveryResponse { resources, nonce, removed_resources, .. } = response;
        let mut told = Vec::with_capacity(resources.len());
        let (mut documents, mut bytes) = self.size();
        for resource in resources {
            let destination: Destination = content(&resource, DESTINATION)?;
            // Given up meanwhile, or never asked for.
            let at = resource.name.parse::<SocketAddr>().ok();
            let Some((at, before)) = at.and_then(|at| Some((at, self.destinations.get(&at)?))) else {
                self.strays += 1;
                continue;
            };
            let new: Vec<(Arc<str>, Arc<str>)> = destination
                .documents
                .into_iter()
                .map(|one| (Arc::<str>::from(one.name), Arc::<str>::from(one.text)))
                .collect();
            if new.iter().any(|(name, _)| name.is_empty() || name.len() > LONGEST_NAME) {
                return Err(Refused::Name);
            }
            documents = documents + new.len() - before.documents.len();
            bytes = bytes + new.iter().map(|(_, text)| text.len()).sum::<usize>() - before.bytes();
            told.push((at, Some(resource.version), new));
        }
        within(documents, bytes)?;
        for name in removed_resources {
            match name.parse().ok().filter(|at| self.destinations.contains_key(at)) {
                // Nobody is there any more, which is an answer too.
                Some(at) => told.push((at, Some(String::new()), Vec::new())),
                None => self.strays += 1,
            }
        }
        let mut taken = Taken::default();
        let mut names = Vec::new();
        for (at, version, documents) in told {
            names.extend(documents.iter().map(|(name, _)| source(name)));
            self.arrivals += 1;
            let old = self.destinations.get(&at);
            let same = old.is_some_and(|old| old.documents == documents);
            let generation = if same { old.map_or(0, |old| old.generation) } else { self.generation + 1 };
            taken.changed |= !same;
            taken.answered.extend(same.then_some(at));
            let new = Followed { version, documents, arrival: self.arrivals, generation };
            self.destinations.insert(at, new);
        }
        self.note(DESTINATION, nonce, names, taken.changed);
        Ok(taken)
    }

    fn note(&mut self, kind: &'static str, nonce: String, names: Vec<Arc<str>>, changed: bool) {
        if changed {
            self.generation += 1;
        }
        self.unsettled.push_back(Unsettled { kind, nonce, generation: self.generation, names });
    }

    /// Returns the number of documents, and their bytes.
    fn size(&self) -> (usize, usize) {
        let of_destinations = self.destinations.values();
        let (count, bytes) = of_destinations
            .fold((0, 0), |(count, bytes), one| (count + one.documents.len(), bytes + one.bytes()));
        (self.about.len() + count, self.about.values().map(|told| told.text.len()).sum::<usize>() + bytes)
    }

    /// Returns the number of documents about the pod, and of those of destinations.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.about.len(), self.destinations.values().map(|one| one.documents.len()).sum())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns all texts as they were told. What is told about the pod comes before the same of a destination.
    pub(super) fn texts(&self) -> Vec<Text> {
        let mut texts: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
        let mut followed: Vec<_> = self.destinations.values().collect();
        followed.sort_by_key(|one| one.arrival);
        texts.extend(followed.iter().flat_map(|one| one.documents.iter().map(|(name, text)| (name, text))));
        texts.extend(self.about.iter().map(|(name, told)| (name, &told.text)));
        texts.into_iter().map(|(name, text)| Text { name: source(name), text: Arc::clone(text) }).collect()
    }

    /// Returns the texts with the last good ones in the place of bad ones; one that was never good is left out.
    pub(super) fn texts_without(&self, texts: &[Text], bad: &BTreeSet<Arc<str>>) -> Vec<Text> {
        let usable = |text: &Text| match bad.contains(&text.name) {
            true => {
                let good = self.good.get(&text.name).filter(|good| **good != text.text)?;
                Some(Text { name: Arc::clone(&text.name), text: Arc::clone(good) })
            }
            false => Some(text.clone()),
        };
        texts.iter().filter_map(usable).collect()
    }

    /// Returns the texts in force.
    pub(super) fn in_force(&self) -> Vec<Text> {
        let mut texts: Vec<_> = self
            .good
            .iter()
            .map(|(name, text)| Text { name: Arc::clone(name), text: Arc::clone(text) })
            .collect();
        texts.sort_by(|a, b| a.name.cmp(&b.name));
        texts
    }

    /// Returns the reasons for which documents are not in force as they were told.
    pub(super) fn bad(&self) -> Vec<String> {
        let mut bad: Vec<_> = self.bad.values().cloned().collect();
        bad.sort();
        bad
    }

    /// Notes what came of compiling.
    pub(super) fn settle(&mut self, settled: &Settled) {
        if let Some(in_force) = &settled.in_force {
            self.good =
                in_force.iter().map(|text| (Arc::clone(&text.name), Arc::clone(&text.text))).collect();
        }
        self.bad = settled.bad.iter().cloned().collect();
    }

    /// Returns the requests for responses that were compiled, refused or have nothing to compile.
    pub(super) fn due(&mut self, settled: &Settled) -> Vec<DeltaDiscoveryRequest> {
        let mut due = Vec::new();
        while self.unsettled.front().is_some_and(|one| one.generation <= settled.generation) {
            let Some(Unsettled { kind, nonce, names, .. }) = self.unsettled.pop_front() else { break };
            let bad: Vec<&str> =
                names.iter().filter_map(|name| self.bad.get(name)).map(String::as_str).collect();
            let reason = match (&settled.failed, bad.is_empty()) {
                (_, false) => Some(bad.join("\n")),
                (Some(failed), true) => Some(failed.clone()),
                (None, true) => None,
            };
            due.push(match reason {
                Some(reason) => nack(kind, nonce, reason),
                None => ack(kind, nonce),
            });
        }
        due
    }

    /// Returns true if no more responses may be read now.
    pub(super) fn is_behind(&self) -> bool {
        self.unsettled.len() >= MOST_UNSETTLED
    }

    /// Returns the destinations whose answer was compiled by then.
    pub(super) fn answered(&self, generation: u64) -> impl Iterator<Item = SocketAddr> {
        self.destinations.iter().filter(move |(_, one)| self.is_in_force(one, generation)).map(|(at, _)| *at)
    }

    /// Returns true if the answer about a destination was compiled by then.
    pub(super) fn is_answered(&self, at: &SocketAddr, generation: u64) -> bool {
        self.destinations.get(at).is_some_and(|one| self.is_in_force(one, generation))
    }

    fn is_in_force(&self, one: &Followed, generation: u64) -> bool {
        let good = || one.documents.iter().all(|(name, _)| !self.bad.contains_key(&source(name)));
        one.version.is_some() && one.generation <= generation && (self.bad.is_empty() || good())
    }
}

fn within(documents: usize, bytes: usize) -> Result<(), Refused> {
    match documents > MOST_DOCUMENTS || bytes > MOST_BYTES {
        true => Err(Refused::TooMuch { documents, bytes }),
        false => Ok(()),
    }
}

fn ack(kind: &str, nonce: String) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.to_owned(), response_nonce: nonce, ..Default::default() }
}

fn nack(kind: &str, nonce: String, reason: String) -> DeltaDiscoveryRequest {
    let error_detail = Some(Status { code: INVALID_ARGUMENT, message: shortened(reason) });
    DeltaDiscoveryRequest { error_detail, ..ack(kind, nonce) }
}
