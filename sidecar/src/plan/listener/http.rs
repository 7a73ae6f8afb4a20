// SPDX-License-Identifier: Apache-2.0
//! Rules of the requests to a listener, as documents say them.

use super::rate::RatePlan;
use crate::plan::tls::permissions::{Peer, Who};
use culvert_mesh::model::percentage::Percentage;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Rules of the requests to a listener. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPlan {
    /// Faults that are put upon requests.
    pub faults: Faults,
    /// Rates of requests, by their callers. The first that is about a caller holds alone; without one there is no limit.
    pub rates: Vec<CallerRate>,
    /// Times of requests.
    pub times: HttpTimes,
}

/// Times of requests; `None` = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpTimes {
    /// Time from the end of a request to the end of its response.
    pub request: Option<Duration>,
    /// Longest time without a byte while a request is under way.
    pub stream_idle: Option<Duration>,
    /// Longest time from the first byte of a request to the end of its head.
    pub headers: Option<Duration>,
    /// Longest time from the head of a request to the end of its response.
    pub stream: Option<Duration>,
    /// Longest life of a connection, which ends between two requests.
    pub connection: Option<Duration>,
}

/// The rate of the requests of some callers, which count together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerRate {
    /// Callers that it is about.
    pub from: Callers,
    /// The rate.
    pub rate: RequestRate,
}

/// The rate of requests, and the answer to those above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// Kind and name of the document that says it.
    pub by: Arc<str>,
    /// Requests in a time.
    pub rate: RatePlan,
    /// Status of the answer.
    pub status: u16,
    /// Fields of the answer.
    pub fields: Arc<[(String, String)]>,
}

/// Faults that are put upon requests, by their callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first that is about the caller holds alone.
    pub first: Vec<FaultSet>,
    /// Each that is about the caller holds.
    pub each: Vec<FaultSet>,
}

/// Faults of some callers, in the order in which they come upon a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSet {
    /// Kind and name of the document that says them.
    pub by: Arc<str>,
    /// Callers that they are put upon.
    pub from: Callers,
    /// The faults.
    pub faults: Vec<FaultPlan>,
}

/// A fault that is put upon a share of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The wait before a request goes on.
    pub delay: Option<(Duration, Percentage)>,
    /// Status of an answer in place of the server's.
    pub abort: Option<(u16, Percentage)>,
    /// Most KiB a second of a response's body: Kuma's kbps are Envoy's KiB.
    pub bandwidth: Option<(u64, Percentage)>,
}

/// Callers that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// Members, by what their certificates say: one of these is enough.
    pub who: Vec<Who>,
    /// Addresses from which they call; of use where a caller shows no certificate.
    pub addresses: HashSet<IpAddr>,
}

/// The peer that sent a request, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Member that proved who it is.
    pub peer: Option<&'a Peer>,
    /// True if the path of an identity is a service's name.
    pub names_services: bool,
    /// Address from which it calls.
    pub address: IpAddr,
}

// === impl HttpPlan ===

impl HttpPlan {
    /// Returns the place of the rate that a caller's requests count for.
    pub fn rate_of(&self, caller: Caller<'_>) -> Option<usize> {
        self.rates.iter().position(|one| one.from.has(caller))
    }
}

// === impl CallerRate ===

impl CallerRate {
    /// Returns true if the same requests are above both, whatever their answers are.
    pub(crate) fn counts_as(&self, other: &Self) -> bool {
        (&self.from.who, self.rate.rate) == (&other.from.who, other.rate.rate)
    }
}

// === impl HttpTimes ===

impl HttpTimes {
    /// Returns the shortest of them.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        let Self { request, stream_idle, headers, stream, connection } = *self;
        [request, stream_idle, headers, stream, connection].into_iter().flatten().min()
    }
}

// === impl Faults ===

impl Faults {
    /// Returns the faults of a caller.
    pub fn of(&self, caller: Caller<'_>) -> Vec<FaultPlan> {
        self.sets_of(caller).flat_map(|set| set.faults.iter().copied()).collect()
    }

    /// Returns the document that says one of the faults of a caller.
    pub(crate) fn document_of(&self, caller: Caller<'_>, fault: usize) -> Option<&Arc<str>> {
        let documents = self.sets_of(caller).flat_map(|set| set.faults.iter().map(|_| &set.by));
        documents.into_iter().nth(fault)
    }

    fn sets_of(&self, caller: Caller<'_>) -> impl Iterator<Item = &FaultSet> {
        let first = self.first.iter().find(move |set| set.from.has(caller));
        let each = self.each.iter().filter(move |set| set.from.has(caller));
        first.into_iter().chain(each)
    }
}

/// Returns true if a peer is one of these; `None` if its certificate cannot tell, and it is none of the others.
fn who_are(who: &[Who], peer: &Peer, names_services: bool) -> Option<bool> {
    let mut is = who.iter().map(|who| who.means(peer, names_services));
    is.try_fold(false, |before, is| Some(before || is?))
}

// === impl Callers ===

impl Callers {
    /// Returns all callers.
    pub fn everyone() -> Self {
        Self { who: vec![Who::Everyone], addresses: HashSet::new() }
    }

    /// Returns true if the caller is one of them. One that shows no certificate is known by its address.
    pub fn has(&self, caller: Caller<'_>) -> bool {
        if self.is_everyone() {
            return true;
        }
        match caller.peer {
            Some(peer) => match who_are(&self.who, peer, caller.names_services) {
                Some(is) => is,
                // Its certificate does not say it.
                None => self.addresses.contains(&caller.address),
            },
            None => self.addresses.contains(&caller.address),
        }
    }

    /// Returns true if every caller is one.
    pub fn is_everyone(&self) -> bool {
        self.who.contains(&Who::Everyone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_caller_is_told_by_its_document() {
        let everyone = Callers { who: vec![Who::Everyone], addresses: HashSet::new() };
        let nobody = Callers { who: Vec::new(), addresses: HashSet::new() };
        let set = |by: &str, from: &Callers, number: usize| FaultSet {
            by: by.into(),
            from: from.clone(),
            faults: vec![FaultPlan::default(); number],
        };
        let faults = Faults {
            first: vec![set("a", &nobody, 1), set("b", &everyone, 2), set("c", &everyone, 1)],
            each: vec![set("d", &everyone, 1), set("e", &nobody, 1)],
        };
        let caller = Caller { peer: None, names_services: true, address: [10, 0, 0, 1].into() };
        assert_eq!(faults.of(caller).len(), 3);
        let told = (0..4).map(|fault| faults.document_of(caller, fault).map(|by| &**by));
        assert_eq!(told.collect::<Vec<_>>(), [Some("b"), Some("b"), Some("d"), None]);
    }

    #[test]
    fn a_caller_is_known_by_its_certificate_and_else_by_its_address() {
        let tagged = |key: &str, value: &str| {
            Who::Tags(culvert_mesh::model::tags::Tags([(key.to_owned(), value.to_owned())].into()))
        };
        let service = |name: &str| tagged("kuma.io/service", name);
        let web = Peer { ids: ["spiffe://default/web".parse().unwrap()].into(), tags: [].into() };
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for (who, peer, address, has) in [
            (Who::Everyone, None, there, true),
            (Who::Everyone, Some(&web), there, true),
            (service("web"), Some(&web), there, true),
            (service("api"), Some(&web), here, false),
            (service("web"), None, here, true),
            (service("web"), None, there, false),
            (tagged("version", "v2"), Some(&web), here, true),
            (tagged("version", "v2"), Some(&web), there, false),
        ] {
            let callers = Callers { who: vec![who], addresses: [here].into() };
            let caller = Caller { peer, names_services: true, address };
            assert_eq!(callers.has(caller), has, "{callers:?} {caller:?}");
        }
    }
}
