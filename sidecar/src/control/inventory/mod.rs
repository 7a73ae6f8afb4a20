// SPDX-License-Identifier: Apache-2.0
//! Documents that the controller has told, and those of them in force. Pure: no time, no socket.
//!
//! ```text
//! response ─▶ take ─▶ texts ─▶ (compile) ─▶ settle ─▶ ACK or NACK
//! ```
//! A document that does not compile is kept, and its last good text is used in its place: the server takes it for sent, and
//! sends it again only when it changes.

mod followed;

pub(crate) use followed::{CompiledDestination, ToCompile};

use crate::plan::load::destination::Asked;
use culvert_control::messages::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, Node, Resource, Status,
};
use culvert_control::{DESTINATION, DOCUMENT, WILDCARD};
use culvert_mesh::load::Text;
use followed::FollowedDestinations;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
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
    pub(super) answered: Vec<Asked>,
}

/// A resource about the pod.
#[derive(Clone, Debug)]
struct Told {
    version: String,
    text: Arc<str>,
}

/// A document by its name on the stream, and its text.
type DocumentText = (Arc<str>, Arc<str>);

/// A response that is not acknowledged yet.
#[derive(Debug)]
struct Unsettled {
    about: About,
    nonce: String,
    /// Generation with which its documents are compiled.
    generation: u64,
}

/// Resources of a response.
#[derive(Debug)]
enum About {
    /// Sources of documents about the pod.
    Pod(Vec<Arc<str>>),
    Destinations(Vec<Asked>),
}

impl About {
    fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => DOCUMENT,
            Self::Destinations(_) => DESTINATION,
        }
    }
}

/// Outcome of compiling the documents about the pod.
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
    destinations: FollowedDestinations,
    unsettled: VecDeque<Unsettled>,
    /// Counts the changes of documents.
    generation: u64,
    /// The generation of the last change of documents about the pod.
    about_generation: u64,
    /// Last good texts about the pod, by source.
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
        std::iter::once(documents).chain(self.followed(|asked| matches!(asked, Asked::At(_)))).collect()
    }

    /// Returns the request that follows names again, which not every controller knows.
    pub(super) fn opening_of_names(&self) -> Option<DeltaDiscoveryRequest> {
        self.followed(|asked| matches!(asked, Asked::Name(_)))
    }

    fn followed(&self, is_meant: impl Fn(&Asked) -> bool) -> Option<DeltaDiscoveryRequest> {
        let all = || self.destinations.versions().filter(|(asked, _)| is_meant(asked));
        let request = DeltaDiscoveryRequest {
            type_url: DESTINATION.to_owned(),
            initial_resource_versions: all()
                .filter_map(|(asked, version)| Some((asked.to_string(), version?.clone())))
                .collect(),
            resource_names_subscribe: all().map(|(asked, _)| asked.to_string()).collect(),
            ..Default::default()
        };
        (!request.resource_names_subscribe.is_empty()).then_some(request)
    }

    /// Follows destinations and gives others up. Returns the request that says so, and true if documents go with those.
    pub(super) fn follow(
        &mut self,
        asked: &[Asked],
        given_up: &[Asked],
    ) -> (Option<DeltaDiscoveryRequest>, bool) {
        let mut changed = false;
        let mut request = DeltaDiscoveryRequest { type_url: DESTINATION.to_owned(), ..Default::default() };
        for one in given_up {
            if let Some(had) = self.destinations.give_up(one) {
                changed |= had;
                request.resource_names_unsubscribe.push(one.to_string());
            }
        }
        for one in asked {
            if self.destinations.follow(one) {
                request.resource_names_subscribe.push(one.to_string());
            }
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
        self.note(About::Pod(names), nonce, taken.changed);
        if taken.changed {
            self.about_generation = self.generation;
        }
        Ok(taken)
    }

    fn take_destinations(&mut self, response: DeltaDiscoveryResponse) -> Result<Taken, Refused> {
        let DeltaDiscoveryResponse { resources, nonce, removed_resources, .. } = response;
        let mut told = Vec::with_capacity(resources.len());
        let (mut documents, mut bytes) = self.size();
        for resource in resources {
            let destination: Destination = content(&resource, DESTINATION)?;
            let asked = Asked::read(&resource.name);
            // Given up meanwhile, or never asked for.
            if !self.destinations.has(&asked) {
                self.strays += 1;
                continue;
            }
            let new: Vec<DocumentText> = destination
                .documents
                .into_iter()
                .map(|one| (Arc::<str>::from(one.name), Arc::<str>::from(one.text)))
                .collect();
            if new.iter().any(|(name, _)| name.is_empty() || name.len() > LONGEST_NAME) {
                return Err(Refused::Name);
            }
            let before = self.destinations.size_of(&asked);
            documents = documents + new.len() - before.0;
            bytes = bytes + new.iter().map(|(_, text)| text.len()).sum::<usize>() - before.1;
            told.push((asked, resource.version, new));
        }
        within(documents, bytes)?;
        for name in removed_resources {
            let asked = Asked::read(&name);
            match self.destinations.has(&asked) {
                // Nobody is there any more, which is an answer too.
                true => told.push((asked, String::new(), Vec::new())),
                false => self.strays += 1,
            }
        }
        let mut taken = Taken::default();
        let mut all = Vec::with_capacity(told.len());
        for (asked, version, documents) in told {
            let changed = self.destinations.tell(&asked, version, documents);
            taken.changed |= changed;
            taken.answered.extend(self.destinations.is_answered(&asked).then(|| asked.clone()));
            all.push(asked);
        }
        self.note(About::Destinations(all), nonce, taken.changed);
        Ok(taken)
    }

    fn note(&mut self, about: About, nonce: String, changed: bool) {
        if changed {
            self.generation += 1;
        }
        self.unsettled.push_back(Unsettled { about, nonce, generation: self.generation });
    }

    /// Returns the number of documents, and their bytes.
    fn size(&self) -> (usize, usize) {
        let (count, bytes) = self.destinations.size();
        (self.about.len() + count, self.about.values().map(|told| told.text.len()).sum::<usize>() + bytes)
    }

    /// Returns the number of documents about the pod, and of those of destinations.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.about.len(), self.destinations.size().0)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the generation of the last change of documents about the pod.
    pub(super) fn about_generation(&self) -> u64 {
        self.about_generation
    }

    /// Returns the destinations, to be compiled.
    pub(super) fn destinations(&self) -> &FollowedDestinations {
        &self.destinations
    }

    /// Notes what came of compiling a destination.
    pub(super) fn compiled(&mut self, outcome: CompiledDestination) {
        self.destinations.compiled(outcome);
    }

    /// Returns the texts about the pod as they were told.
    pub(super) fn texts(&self) -> Vec<Text> {
        let text =
            |(name, told): (&Arc<str>, &Told)| Text { name: source(name), text: Arc::clone(&told.text) };
        self.about.iter().map(text).collect()
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

    /// Returns the texts in force. What is told about the pod comes before the same of a destination.
    pub(super) fn in_force(&self) -> Vec<Text> {
        let of_destinations =
            self.destinations.in_force().map(|(name, text)| (source(name), Arc::clone(text)));
        let mut texts: BTreeMap<Arc<str>, Arc<str>> = of_destinations.collect();
        texts.extend(self.good.iter().map(|(name, text)| (Arc::clone(name), Arc::clone(text))));
        texts.into_iter().map(|(name, text)| Text { name, text }).collect()
    }

    /// Returns the reasons for which documents are not in force as they were told.
    pub(super) fn bad(&self) -> Vec<String> {
        let mut bad: Vec<_> = self.bad.values().chain(self.destinations.bad()).cloned().collect();
        bad.sort();
        bad.dedup();
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
        while self.unsettled.front().is_some_and(|one| self.is_compiled(one, settled)) {
            let Some(Unsettled { about, nonce, .. }) = self.unsettled.pop_front() else { break };
            let (bad, failed): (Vec<&str>, _) = match &about {
                About::Pod(sources) => {
                    let bad = sources.iter().filter_map(|name| self.bad.get(name)).map(String::as_str);
                    (bad.collect(), settled.failed.clone())
                }
                About::Destinations(all) => {
                    (all.iter().filter_map(|asked| self.destinations.why_not(asked)).collect(), None)
                }
            };
            let reason = if bad.is_empty() { failed } else { Some(bad.join("\n")) };
            due.push(match reason {
                Some(reason) => nack(about.kind(), nonce, reason),
                None => ack(about.kind(), nonce),
            });
        }
        due
    }

    fn is_compiled(&self, one: &Unsettled, settled: &Settled) -> bool {
        let is_changed = match &one.about {
            About::Pod(_) => false,
            // Where the documents about the pod fail, those of destinations are compiled after them.
            About::Destinations(all) => all.iter().any(|asked| self.destinations.is_changed(asked)),
        };
        one.generation <= settled.generation && !is_changed
    }

    /// Returns true if no more responses may be read now.
    pub(super) fn is_behind(&self) -> bool {
        self.unsettled.len() >= MOST_UNSETTLED
    }

    /// Returns true if what was told of a destination is in force.
    pub(super) fn is_answered(&self, asked: &Asked) -> bool {
        self.destinations.is_answered(asked)
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
