// SPDX-License-Identifier: Apache-2.0
//! State of one sidecar's stream by the delta discovery protocol. Pure.
//!
//! Responses are not held back until the one before is acknowledged: a destination that a connection waits for must not wait for
//! a sidecar that compiles another one. The channel to the connection bounds how many are under way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use culvert_control::messages::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, NamedDocument, Resource,
    Status,
};
use culvert_control::{DESTINATION, DOCUMENT, MAX_DESTINATIONS, MAX_NAMES, WILDCARD};
use prost::Message;

use super::place::Place;
use crate::controller::compile::Named;
use crate::controller::world::Host;

/// Bytes of resources after which a response ends and the next one begins. A sidecar reads messages of 4 MiB; one document has at
/// most the API server's 1.5 MiB, and a destination [`MOST_BYTES`](crate::controller::compile::MOST_BYTES).
pub(crate) const PIECE: usize = 1 << 20;
/// Characters of a peer's words in an answer and in the log.
const MAX_WORDS: usize = 64;

/// Content of a resource, told apart from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version([u8; 8]);

impl Version {
    /// The same on every replica, so that a sidecar that changes replicas is sent only what differs.
    fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for piece in pieces {
            context.update(&piece.len().to_be_bytes());
            context.update(piece);
        }
        let mut version = [0; 8];
        version.copy_from_slice(&context.finish().as_ref()[..8]);
        Self(version)
    }

    fn text(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read(text: &str) -> Option<Self> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16)?;
        Some(Self(number.to_be_bytes()))
    }
}

/// A request that no answer can follow: the stream ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("{0:?} is neither an address and port nor a host name in lower case")]
    Name(String),
    #[error("more than {MAX_DESTINATIONS} destinations or {MAX_NAMES} host names are followed at a time")]
    TooMany,
}

/// The things that a request asks to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// True for the documents about the pod.
    pub documents: bool,
    /// Destinations that are new, or asked again.
    pub destinations: Vec<Place>,
    /// Destinations that are given up.
    pub given_up: Vec<Place>,
    /// Nonce and words of a refused response.
    pub refused: Option<(String, String)>,
    /// Type that is not known, where it is the stream's first.
    pub unknown: Option<String>,
}

/// State of one stream.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Documents that the sidecar has, with their versions where they are known; `None` until it asks for them.
    documents: Option<BTreeMap<String, Option<Version>>>,
    /// Destinations that it follows, with the versions that it has.
    destinations: HashMap<SocketAddr, Option<Version>>,
    /// Host names that it follows.
    names: HashMap<Host, Option<Version>>,
    /// True once it has asked for a type that is not known.
    asked_unknown: bool,
    nonce: u64,
}

impl Session {
    /// Takes a request in.
    pub(crate) fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<Asked, Wrong> {
        let mut asked = Asked::default();
        if !is_known(&request.type_url) {
            // A sidecar that is newer than the controller asks for more, and does without it.
            let is_first = !std::mem::replace(&mut self.asked_unknown, true);
            asked.unknown = is_first.then(|| request.type_url.chars().take(MAX_WORDS).collect());
            return Ok(asked);
        }
        if let Some(Status { code: _, message }) = request.error_detail.clone() {
            asked.refused = Some((request.response_nonce.clone(), message));
        }
        if request.type_url == DESTINATION {
            self.take_destinations(&request, &mut asked)?;
        } else if request.resource_names_subscribe.iter().any(|name| name == WILDCARD)
            && self.documents.is_none()
        {
            let had = request.initial_resource_versions.iter();
            let had = had.map(|(name, version)| (name.clone(), Version::read(version)));
            self.documents = Some(had.collect());
            asked.documents = true;
        }
        Ok(asked)
    }

    fn take_destinations(&mut self, request: &DeltaDiscoveryRequest, asked: &mut Asked) -> Result<(), Wrong> {
        // All names are read first: what a stream that ends with this request followed stays known until it is gone.
        let all = |names: &[String]| names.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>();
        let given_up = all(&request.resource_names_unsubscribe)?;
        let subscribed = all(&request.resource_names_subscribe)?;
        asked.given_up = given_up.into_iter().filter(|place| self.give_up(place)).collect();
        // One that is named many times is compiled once.
        let mut seen = HashSet::new();
        for (name, place) in request.resource_names_subscribe.iter().zip(subscribed) {
            let had = request.initial_resource_versions.get(name).and_then(|text| Version::read(text));
            self.follow(&place, had);
            if self.destinations.len() > MAX_DESTINATIONS || self.names.len() > MAX_NAMES {
                asked.given_up.iter().for_each(|place| self.follow(place, None));
                return Err(Wrong::TooMany);
            }
            if seen.insert(place.clone()) {
                asked.destinations.push(place);
            }
        }
        Ok(())
    }

    fn follow(&mut self, place: &Place, had: Option<Version>) {
        match place {
            Place::At(at) => _ = self.destinations.insert(*at, had),
            Place::Named(host) => _ = self.names.insert(host.clone(), had),
        }
    }

    /// Forgets a destination. Returns true if it was followed.
    fn give_up(&mut self, place: &Place) -> bool {
        match place {
            Place::At(at) => self.destinations.remove(at).is_some(),
            Place::Named(host) => self.names.remove(host).is_some(),
        }
    }

    pub(crate) fn wants_documents(&self) -> bool {
        self.documents.is_some()
    }

    /// Followed destinations at these addresses.
    pub(crate) fn at(&self, is: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
        self.destinations.keys().filter(|at| is(at.ip())).copied().collect()
    }

    /// Followed host names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Host> {
        self.names.keys()
    }

    /// Everything that is followed.
    pub(crate) fn all(&self) -> Vec<Place> {
        self.at(|_| true).into_iter().map(Place::At).chain(self.names().cloned().map(Place::Named)).collect()
    }

    /// Followed destinations at these addresses and of these names.
    pub(crate) fn among(&self, addresses: &HashSet<IpAddr>, names: &HashSet<Host>) -> Vec<Place> {
        let at = match addresses.is_empty() {
            true => Vec::new(),
            false => self.at(|ip| addresses.contains(&ip)),
        };
        let named = names.iter().filter(|name| self.names.contains_key(*name)).cloned();
        at.into_iter().map(Place::At).chain(named.map(Place::Named)).collect()
    }

    /// Returns the change to the documents about the pod, in pieces. The first time there is one even if it is empty, so that the
    /// sidecar knows that it has been told.
    pub(crate) fn documents(&mut self, now: Vec<Named>, is_first: bool) -> Vec<DeltaDiscoveryResponse> {
        let Some(had) = self.documents.as_mut() else { return Vec::new() };
        let (mut pieces, mut resources, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut there = BTreeMap::new();
        for Named { name, text } in now {
            let version = Version::of([text.as_bytes()]);
            if had.get(&name) != Some(&Some(version)) {
                if bytes + text.len() > PIECE && !resources.is_empty() {
                    pieces.push(std::mem::take(&mut resources));
                    bytes = 0;
                }
                bytes += text.len();
                resources.push(resource(name.clone(), version, DOCUMENT, &Document { text }));
            }
            there.insert(name, Some(version));
        }
        let removed: Vec<String> = had.keys().filter(|name| !there.contains_key(*name)).cloned().collect();
        *had = there;
        let mut responses: Vec<_> =
            pieces.into_iter().map(|piece| self.response(DOCUMENT, piece, Vec::new())).collect();
        if is_first || !resources.is_empty() || !removed.is_empty() {
            responses.push(self.response(DOCUMENT, resources, removed));
        }
        responses
    }

    /// Returns the change to destinations. One that is asked for anew, and of which the sidecar has no version, is always in it.
    pub(crate) fn destinations(&mut self, now: Vec<(Place, Vec<Named>)>) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (place, documents) in now {
            let had = match &place {
                Place::At(at) => self.destinations.get_mut(at),
                Place::Named(host) => self.names.get_mut(host),
            };
            // Given up meanwhile.
            let Some(had) = had else { continue };
            let pieces = documents.iter().flat_map(|one| [one.name.as_bytes(), one.text.as_bytes()]);
            let version = Version::of(pieces);
            if *had == Some(version) {
                continue;
            }
            *had = Some(version);
            let documents = documents.into_iter().map(|Named { name, text }| NamedDocument { name, text });
            let destination = Destination { documents: documents.collect() };
            resources.push(resource(place.to_string(), version, DESTINATION, &destination));
        }
        (!resources.is_empty()).then(|| self.response(DESTINATION, resources, Vec::new()))
    }

    fn response(
        &mut self,
        kind: &str,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: kind.to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: removed,
        }
    }
}

fn resource(name: String, version: Version, kind: &str, content: &impl Message) -> Resource {
    let resource = Any { type_url: kind.to_owned(), value: content.encode_to_vec() };
    Resource { version: version.text(), resource: Some(resource), name }
}

fn read(name: &str) -> Result<Place, Wrong> {
    Place::read(name).ok_or_else(|| Wrong::Name(name.chars().take(MAX_WORDS).collect()))
}

fn is_known(kind: &str) -> bool {
    [DOCUMENT, DESTINATION].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, text: &str) -> Named {
        Named { name: name.to_owned(), text: text.to_owned() }
    }

    fn ask(kind: &str, subscribe: &[&str]) -> DeltaDiscoveryRequest {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        DeltaDiscoveryRequest {
            type_url: kind.to_owned(),
            resource_names_subscribe: texts(subscribe),
            ..Default::default()
        }
    }

    fn place(name: &str) -> Place {
        Place::read(name).unwrap()
    }

    fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
        response.resources.iter().map(|one| one.name.as_str()).collect()
    }

    /// The only response, where there is one.
    fn one(mut responses: Vec<DeltaDiscoveryResponse>) -> Option<DeltaDiscoveryResponse> {
        assert!(responses.len() < 2, "{responses:?}");
        responses.pop()
    }

    #[test]
    fn documents_come_whole_at_first_and_then_as_they_change() {
        let mut session = Session::default();
        assert_eq!(one(session.documents(vec![named("Mesh/default", "a")], false)), None, "nobody asked");
        assert!(session.take(ask(DOCUMENT, &["*"])).unwrap().documents);
        assert!(!session.take(ask(DOCUMENT, &["*"])).unwrap().documents, "asked twice");
        let first = one(session.documents(vec![named("Mesh/default", "a"), named("Dataplane/x", "b")], true))
            .unwrap();
        assert_eq!((names(&first), first.nonce.as_str()), (vec!["Mesh/default", "Dataplane/x"], "1"));
        let same = one(session.documents(vec![named("Dataplane/x", "b"), named("Mesh/default", "a")], false));
        assert_eq!(same, None);
        let next = one(session.documents(vec![named("Mesh/default", "c")], false)).unwrap();
        assert_eq!(names(&next), ["Mesh/default"]);
        assert_eq!((next.removed_resources, next.nonce.as_str()), (vec!["Dataplane/x".to_owned()], "2"));
        let document = Document::decode(&*next.resources[0].resource.as_ref().unwrap().value).unwrap();
        assert_eq!(document.text, "c");
    }

    #[test]
    fn documents_that_are_many_come_in_pieces() {
        let mut session = Session::default();
        session.take(ask(DOCUMENT, &["*"])).unwrap();
        let long = "x".repeat(PIECE / 2);
        let documents: Vec<_> = (0..5).map(|n| named(&format!("P/{n}"), &long)).collect();
        let responses = session.documents(documents, true);
        let counts: Vec<_> = responses.iter().map(|one| one.resources.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
        assert!(responses.iter().all(|one| one.encoded_len() < culvert_control::MAX_MESSAGE));
        let nonces: Vec<_> = responses.iter().map(|one| one.nonce.as_str()).collect();
        assert_eq!(nonces, ["1", "2", "3"]);
        assert!(
            session.documents((0..5).map(|n| named(&format!("P/{n}"), &long)).collect(), false).is_empty()
        );
    }

    #[test]
    fn a_document_without_its_version_comes_again_or_is_told_to_be_gone() {
        let mut session = Session::default();
        let mut request = ask(DOCUMENT, &["*"]);
        let unknown = |name: &str| (name.to_owned(), String::new());
        request.initial_resource_versions = [unknown("Mesh/default"), unknown("P/gone")].into();
        session.take(request).unwrap();
        let response = one(session.documents(vec![named("Mesh/default", "a")], true)).unwrap();
        assert_eq!(
            (names(&response), response.removed_resources.clone()),
            (vec!["Mesh/default"], vec!["P/gone".to_owned()])
        );
    }

    #[test]
    fn an_empty_first_answer_says_that_there_is_nothing() {
        let mut session = Session::default();
        session.take(ask(DOCUMENT, &["*"])).unwrap();
        assert!(one(session.documents(Vec::new(), true)).unwrap().resources.is_empty());
        assert_eq!(one(session.documents(Vec::new(), false)), None);
    }

    #[test]
    fn a_sidecar_that_comes_back_is_sent_what_differs() {
        let mut before = Session::default();
        before.take(ask(DOCUMENT, &["*"])).unwrap();
        before.take(ask(DESTINATION, &["10.0.0.1:80", "10.0.0.2:80"])).unwrap();
        let documents = || vec![named("Mesh/default", "a"), named("Dataplane/x", "b")];
        let destination = |text: &str| {
            let at = |ip: &str| place(&format!("{ip}:80"));
            vec![
                (at("10.0.0.1"), vec![named("Dataplane/y", "y")]),
                (at("10.0.0.2"), vec![named("Dataplane/z", text)]),
            ]
        };
        let versions = |response: DeltaDiscoveryResponse| {
            response.resources.into_iter().map(|one| (one.name, one.version)).collect::<BTreeMap<_, _>>()
        };
        let (first, second) = (
            one(before.documents(documents(), true)).unwrap(),
            before.destinations(destination("z")).unwrap(),
        );
        let mut again = Session::default();
        let mut request = ask(DOCUMENT, &["*"]);
        request.initial_resource_versions = versions(first);
        request.initial_resource_versions.insert("Dataplane/gone".to_owned(), "0011223344556677".to_owned());
        again.take(request).unwrap();
        let response = one(again.documents(documents(), true)).unwrap();
        assert!(response.resources.is_empty());
        assert_eq!(response.removed_resources, ["Dataplane/gone"]);
        let mut request = ask(DESTINATION, &["10.0.0.1:80", "10.0.0.2:80"]);
        request.initial_resource_versions = versions(second);
        assert_eq!(again.take(request).unwrap().destinations.len(), 2);
        assert_eq!(names(&again.destinations(destination("other")).unwrap()), ["10.0.0.2:80"]);
    }

    #[test]
    fn destinations_are_answered_followed_and_given_up() {
        let mut session = Session::default();
        let (one, two, web) = (place("10.0.0.1:80"), place("[fd00::1]:443"), place("web.shop.mesh"));
        let asked =
            session.take(ask(DESTINATION, &["10.0.0.1:80", "[fd00::1]:443", "web.shop.mesh"])).unwrap();
        assert_eq!(asked.destinations, [one.clone(), two.clone(), web.clone()]);
        let full = || vec![named("Dataplane/y", "y")];
        let now = vec![(one.clone(), Vec::new()), (web.clone(), Vec::new()), (two.clone(), full())];
        let answer = session.destinations(now).unwrap();
        assert_eq!(
            names(&answer),
            ["10.0.0.1:80", "web.shop.mesh", "[fd00::1]:443"],
            "nobody is an answer too"
        );
        assert_eq!(session.destinations(vec![(one.clone(), Vec::new()), (web.clone(), Vec::new())]), None);
        let (ips, hosts) = (
            ["10.0.0.1".parse().unwrap()].into(),
            ["web.shop.mesh", "x"].map(|name| Host::read(name).unwrap()).into(),
        );
        assert_eq!(session.among(&ips, &hosts), [one.clone(), web.clone()]);
        assert_eq!(session.among(&HashSet::new(), &HashSet::new()), []);
        assert_eq!(names(&session.destinations(vec![(web.clone(), full())]).unwrap()), ["web.shop.mesh"]);
        let mut request = ask(DESTINATION, &[]);
        request.resource_names_unsubscribe =
            ["10.0.0.1:80", "10.9.9.9:1", "web.shop.mesh", "x"].map(str::to_owned).to_vec();
        assert_eq!(session.take(request).unwrap().given_up, [one.clone(), web.clone()]);
        assert_eq!(session.destinations(vec![(one, full()), (web.clone(), Vec::new())]), None);
        // Asked again without a version: it has forgotten it. With one: it has it.
        let mut request = ask(DESTINATION, &["[fd00::1]:443", "web.shop.mesh", "[fd00::1]:443"]);
        let version = answer.resources[1].version.clone();
        request.initial_resource_versions = [("web.shop.mesh".to_owned(), version)].into();
        assert_eq!(session.take(request).unwrap().destinations, [two.clone(), web.clone()]);
        assert_eq!(session.destinations(vec![(web, Vec::new())]), None);
        assert!(session.destinations(vec![(two, full())]).is_some());
    }

    #[test]
    fn requests_that_break_the_protocol() {
        let mut session = Session::default();
        for name in ["", "web:80", "10.0.0.1:99999", "Web", "web.", "*", &"x".repeat(1000)] {
            assert!(matches!(session.take(ask(DESTINATION, &[name])), Err(Wrong::Name(_))), "{name}");
        }
        let addresses: Vec<String> =
            (0..=MAX_DESTINATIONS).map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect();
        let hosts: Vec<String> = (0..=MAX_NAMES).map(|n| format!("web-{n}.mesh")).collect();
        let [addresses, hosts] =
            [&addresses, &hosts].map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        for names in [&addresses, &hosts] {
            assert_eq!(Session::default().take(ask(DESTINATION, names)), Err(Wrong::TooMany));
        }
        // Both at once, and the same ones again.
        let most = [&addresses[1..], &hosts[1..]].concat();
        assert!(session.take(ask(DESTINATION, &most)).is_ok());
        assert!(session.take(ask(DESTINATION, &most)).is_ok());
        // What it followed stays known to the end, so that it is followed no more then.
        for (names, wrong) in
            [(vec!["no name"], None), (vec![addresses[0], hosts[0], hosts[1]], Some(Wrong::TooMany))]
        {
            let mut request = ask(DESTINATION, &names);
            request.resource_names_unsubscribe = vec![addresses[1].to_owned(), hosts[1].to_owned()];
            let error = session.take(request).unwrap_err();
            assert!(wrong.is_none_or(|wrong| wrong == error));
            let all = session.at(|_| true);
            assert!(
                all.contains(&addresses[1].parse().unwrap())
                    && session.names().any(|name| name.to_string() == hosts[1])
            );
        }
    }

    #[test]
    fn a_request_of_an_unknown_type_is_passed_over() {
        let mut session = Session::default();
        session.take(ask(DESTINATION, &["web.shop.mesh"])).unwrap();
        let mut request = ask(&"new".repeat(100), &["*", "no name"]);
        request.resource_names_unsubscribe = vec!["web.shop.mesh".to_owned()];
        request.response_nonce = "1".to_owned();
        request.error_detail = Some(Status { code: 3, message: "no".to_owned() });
        let unknown = |kind: &str| Ok(Asked { unknown: Some(kind.to_owned()), ..Asked::default() });
        assert_eq!(session.take(request.clone()), unknown(&"new".repeat(100)[..MAX_WORDS]));
        assert_eq!(session.take(request), Ok(Asked::default()), "it is said once");
        assert_eq!(session.take(ask("other", &["*"])), Ok(Asked::default()));
        assert!(session.documents.is_none() && session.names().count() == 1);
        assert!(session.take(ask(DOCUMENT, &["*"])).unwrap().documents);
        assert_eq!(Session::default().take(ask("", &["*"])), unknown(""));
    }

    #[test]
    fn a_refusal_is_told_and_changes_nothing() {
        let mut session = Session::default();
        session.take(ask(DOCUMENT, &["*"])).unwrap();
        one(session.documents(vec![named("Mesh/default", "a")], true));
        let mut nack = ask(DOCUMENT, &[]);
        nack.response_nonce = "1".to_owned();
        nack.error_detail = Some(Status { code: 3, message: "Mesh default: wrong".to_owned() });
        let asked = session.take(nack).unwrap();
        assert_eq!(asked.refused, Some(("1".to_owned(), "Mesh default: wrong".to_owned())));
        assert_eq!(one(session.documents(vec![named("Mesh/default", "a")], false)), None, "not sent again");
    }
}
