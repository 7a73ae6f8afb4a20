// SPDX-License-Identifier: Apache-2.0
//! State of one sidecar's stream by the delta discovery protocol. Pure.
//!
//! Responses are not held back until the one before is acknowledged: a destination that a connection waits for must not wait for
//! a sidecar that compiles another one. The channel to the connection bounds how many are under way.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use culvert_control::messages::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, NamedDocument, Resource,
    Status,
};
use culvert_control::{DESTINATION, DOCUMENT, MAX_DESTINATIONS, WILDCARD};
use prost::Message;

use crate::controller::compile::Named;

/// Bytes of resources after which a response ends and the next one begins. A sidecar reads messages of 4 MiB; one document has at
/// most the API server's 1.5 MiB, and a destination [`MOST_BYTES`](crate::controller::compile::MOST_BYTES).
pub(crate) const PIECE: usize = 1 << 20;
/// Longest name of a resource that is read: an IPv6 address and a port take 47 bytes.
const MAX_NAME: usize = 64;

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
    #[error("type {0:?} is not one of this stream's")]
    Type(String),
    #[error("{0:?} is no address and port")]
    Name(String),
    #[error("more than {MAX_DESTINATIONS} destinations are followed at a time")]
    TooMany,
}

/// The things that a request asks to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// True for the documents about the pod.
    pub documents: bool,
    /// Destinations that are new, or asked again.
    pub destinations: Vec<SocketAddr>,
    /// Destinations that are given up.
    pub given_up: Vec<SocketAddr>,
    /// Nonce and words of a refused response.
    pub refused: Option<(String, String)>,
}

/// State of one stream.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Documents that the sidecar has, with their versions where they are known; `None` until it asks for them.
    documents: Option<BTreeMap<String, Option<Version>>>,
    /// Destinations that it follows, with the versions that it has.
    destinations: HashMap<SocketAddr, Option<Version>>,
    nonce: u64,
}

impl Session {
    /// Takes a request in.
    pub(crate) fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<Asked, Wrong> {
        let mut asked = Asked::default();
        if let Some(Status { code: _, message }) = request.error_detail.clone() {
            asked.refused = Some((request.response_nonce.clone(), message));
        }
        match request.type_url.as_str() {
            DOCUMENT => {
                let subscribes = request.resource_names_subscribe.iter().any(|name| name == WILDCARD);
                if subscribes && self.documents.is_none() {
                    let had = request.initial_resource_versions.iter();
                    let had = had.map(|(name, version)| (name.clone(), Version::read(version)));
                    self.documents = Some(had.collect());
                    asked.documents = true;
                }
            }
            DESTINATION => self.take_destinations(&request, &mut asked)?,
            other => return Err(Wrong::Type(other.chars().take(MAX_NAME).collect())),
        }
        Ok(asked)
    }

    fn take_destinations(&mut self, request: &DeltaDiscoveryRequest, asked: &mut Asked) -> Result<(), Wrong> {
        for name in &request.resource_names_unsubscribe {
            let at = address(name)?;
            if self.destinations.remove(&at).is_some() {
                asked.given_up.push(at);
            }
        }
        for name in &request.resource_names_subscribe {
            let at = address(name)?;
            let had = request.initial_resource_versions.get(name).and_then(|text| Version::read(text));
            self.destinations.insert(at, had);
            if self.destinations.len() > MAX_DESTINATIONS {
                return Err(Wrong::TooMany);
            }
            asked.destinations.push(at);
        }
        Ok(())
    }

    pub(crate) fn wants_documents(&self) -> bool {
        self.documents.is_some()
    }

    /// Followed destinations at these addresses.
    pub(crate) fn at(&self, is: impl Fn(std::net::IpAddr) -> bool) -> Vec<SocketAddr> {
        self.destinations.keys().filter(|at| is(at.ip())).copied().collect()
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
    pub(crate) fn destinations(
        &mut self,
        now: Vec<(SocketAddr, Vec<Named>)>,
    ) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (at, documents) in now {
            // Given up meanwhile.
            let Some(had) = self.destinations.get_mut(&at) else { continue };
            let pieces = documents.iter().flat_map(|one| [one.name.as_bytes(), one.text.as_bytes()]);
            let version = Version::of(pieces);
            if *had == Some(version) {
                continue;
            }
            *had = Some(version);
            let documents = documents.into_iter().map(|Named { name, text }| NamedDocument { name, text });
            let destination = Destination { documents: documents.collect() };
            resources.push(resource(at.to_string(), version, DESTINATION, &destination));
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

fn address(name: &str) -> Result<SocketAddr, Wrong> {
    let text = || name.chars().take(MAX_NAME).collect();
    if name.len() > MAX_NAME {
        return Err(Wrong::Name(text()));
    }
    name.parse().map_err(|_| Wrong::Name(text()))
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
            let at = |ip: &str| format!("{ip}:80").parse().unwrap();
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
        let (one, two): (SocketAddr, SocketAddr) =
            ("10.0.0.1:80".parse().unwrap(), "[fd00::1]:443".parse().unwrap());
        let asked = session.take(ask(DESTINATION, &["10.0.0.1:80", "[fd00::1]:443"])).unwrap();
        assert_eq!(asked.destinations, [one, two]);
        let answer =
            session.destinations(vec![(one, Vec::new()), (two, vec![named("Dataplane/y", "y")])]).unwrap();
        assert_eq!(names(&answer), ["10.0.0.1:80", "[fd00::1]:443"], "nobody is an answer too");
        assert_eq!(session.destinations(vec![(one, Vec::new())]), None);
        assert_eq!(session.at(|ip| ip == one.ip()), [one]);
        let mut request = ask(DESTINATION, &[]);
        request.resource_names_unsubscribe = vec![one.to_string(), "10.9.9.9:1".to_owned()];
        assert_eq!(session.take(request).unwrap().given_up, [one]);
        assert_eq!(session.destinations(vec![(one, vec![named("Dataplane/z", "z")])]), None);
        // Asked again without a version: it has forgotten it.
        let asked = session.take(ask(DESTINATION, &["[fd00::1]:443"])).unwrap();
        assert_eq!(asked.destinations, [two]);
        assert!(session.destinations(vec![(two, vec![named("Dataplane/y", "y")])]).is_some());
    }

    #[test]
    fn requests_that_break_the_protocol() {
        let mut session = Session::default();
        assert_eq!(session.take(ask("other", &["*"])), Err(Wrong::Type("other".to_owned())));
        for name in ["", "web", "10.0.0.1", "10.0.0.1:99999", &"x".repeat(1000)] {
            assert!(matches!(session.take(ask(DESTINATION, &[name])), Err(Wrong::Name(_))), "{name}");
        }
        let names: Vec<String> =
            (0..=MAX_DESTINATIONS).map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(Session::default().take(ask(DESTINATION, &names)), Err(Wrong::TooMany));
        assert!(Session::default().take(ask(DESTINATION, &names[1..])).is_ok());
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
