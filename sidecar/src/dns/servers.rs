// SPDX-License-Identifier: Apache-2.0
//! The servers of the pod, and which of them a query asks in which order.
//!
//! A server that was silent or could not be reached is away. No query waits for it any more: queries go to the others first, and
//! once a second one of them goes to it as well, beside its own way. Any answer brings the server back.

use crate::dns::loops::PodServer;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two trials of a server that is away.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// One server. Its state survives a change of resolv.conf that keeps it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Time of the next trial while it is away.
    next_trial: Mutex<Option<Instant>>,
    /// Present in the pod itself: it may ask the sidecar again.
    pub(crate) in_pod: Option<Arc<PodServer>>,
}

/// The servers in the order of resolv.conf.
#[derive(Debug, Default)]
pub(crate) struct Servers(Vec<Arc<Server>>);

/// The way of one query.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// A server that is away and may be back. No query waits for it.
    pub(crate) trial: Option<Arc<Server>>,
    /// Servers that are asked one after the other.
    pub(crate) present: Vec<Arc<Server>>,
    /// Servers that are asked last, all at once.
    pub(crate) away: Vec<Arc<Server>>,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(address: SocketAddr, is_in_pod: bool) -> Arc<Self> {
        let in_pod = is_in_pod.then(|| PodServer::new(address));
        Arc::new(Self { address, next_trial: Mutex::new(None), in_pod })
    }

    /// Returns true if queries to it come back.
    fn comes_back(&self, now: Instant) -> bool {
        self.in_pod.as_ref().is_some_and(|server| server.is_closed(now))
    }

    /// Notes that it did not answer.
    pub(crate) fn is_away(&self, now: Instant) {
        let mut next_trial = self.next_trial();
        if next_trial.is_none() {
            tracing::debug!(server = %self.address, "the DNS server does not answer, others are asked first");
        }
        *next_trial = Some(now + TRIAL_EVERY);
    }

    /// Notes that it answered.
    pub(crate) fn is_back(&self) {
        *self.next_trial() = None;
    }

    fn next_trial(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Servers ===

impl Servers {
    /// Makes the list of a resolv.conf. Servers that were in the old one keep their state.
    pub(crate) fn follow(&self, addresses: &[SocketAddr], is_in_pod: impl Fn(IpAddr) -> bool) -> Self {
        let known = |address: SocketAddr| self.0.iter().find(|server| server.address == address).cloned();
        let new = |address: SocketAddr| Server::new(address, is_in_pod(address.ip()));
        Self(addresses.iter().map(|&address| known(address).unwrap_or_else(|| new(address))).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if queries to one of them come back.
    pub(crate) fn come_back(&self, now: Instant) -> bool {
        self.0.iter().any(|server| server.comes_back(now))
    }

    /// Returns the addresses, for the log.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|server| server.address).collect()
    }

    /// Returns the addresses with words for their states.
    pub(crate) fn states(&self, now: Instant) -> Vec<(SocketAddr, &'static str)> {
        let state = |server: &Server| match *server.next_trial() {
            _ if server.comes_back(now) => "not asked, as its own queries come back here",
            Some(_) => "silent, asked last",
            None => "in use",
        };
        self.0.iter().map(|server| (server.address, state(server))).collect()
    }

    /// Returns the way of a query that comes now.
    pub(crate) fn order(&self, now: Instant) -> Order {
        let asked = || self.0.iter().filter(move |server| !server.comes_back(now));
        if let (Some(only), 1) = (asked().next(), asked().count()) {
            // A datagram may be lost, and a client that gets an error from each of its servers gives up.
            return Order { present: vec![Arc::clone(only), Arc::clone(only)], ..Order::default() };
        }
        let mut order = Order::default();
        for server in asked() {
            let mut next_trial = server.next_trial();
            match *next_trial {
                None => order.present.push(Arc::clone(server)),
                Some(at) if at <= now && order.trial.is_none() => {
                    // The next query leaves it alone again.
                    *next_trial = Some(now + TRIAL_EVERY);
                    order.trial = Some(Arc::clone(server));
                }
                Some(_) => order.away.push(Arc::clone(server)),
            }
        }
        if order.present.is_empty() {
            // There is no other way to go beside: the trial is the way.
            order.away.extend(order.trial.take());
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u8) -> Servers {
        let addresses: Vec<_> = (1..=count).map(|last| SocketAddr::from(([192, 0, 2, last], 53))).collect();
        Servers::default().follow(&addresses, |_| false)
    }

    /// The last bytes of the addresses.
    fn order(servers: &Servers, now: Instant) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let last = |server: &Arc<Server>| match server.address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let Order { trial, present, away } = servers.order(now);
        (
            trial.iter().map(last).collect(),
            present.iter().map(last).collect(),
            away.iter().map(last).collect(),
        )
    }

    #[test]
    fn a_server_that_is_away_is_asked_last_and_tried_once_a_second() {
        let (servers, now) = (servers(3), Instant::now());
        assert_eq!(order(&servers, now), (vec![], vec![1, 2, 3], vec![]));
        servers.0[0].is_away(now);
        assert_eq!(order(&servers, now), (vec![], vec![2, 3], vec![1]));
        let later = now + TRIAL_EVERY;
        assert_eq!(order(&servers, later), (vec![1], vec![2, 3], vec![]));
        assert_eq!(order(&servers, later), (vec![], vec![2, 3], vec![1]), "one query tries it");
        servers.0[0].is_back();
        assert_eq!(order(&servers, later), (vec![], vec![1, 2, 3], vec![]));
    }

    #[test]
    fn where_all_are_away_all_are_asked_at_once() {
        let (servers, now) = (servers(2), Instant::now());
        servers.0.iter().for_each(|server| server.is_away(now));
        assert_eq!(order(&servers, now), (vec![], vec![], vec![1, 2]));
        assert_eq!(order(&servers, now + TRIAL_EVERY), (vec![], vec![], vec![2, 1]));
    }

    #[test]
    fn a_server_whose_queries_come_back_is_not_asked() {
        let (addresses, now) = (servers(2).addresses(), Instant::now());
        let servers = Servers::default().follow(&addresses, |ip| ip == addresses[0].ip());
        let in_pod = servers.0[0].in_pod.as_ref().unwrap();
        assert!(servers.0[1].in_pod.is_none());
        servers.0[1].is_away(now);
        // More equal questions than a server in the pod may have before it is known to be none of a loop.
        let question = [&[0; 12][..], b"\x01a\0\0\x01\0\x01"].concat();
        let mut asked = Vec::new();
        while let Some(leave) = in_pod.enter(&question, now) {
            asked.push(leave);
        }
        assert_eq!(order(&servers, now), (vec![], vec![2, 2], vec![]));
        assert!(servers.come_back(now));
        let states: Vec<_> = servers.states(now).into_iter().map(|(_, state)| state).collect();
        assert_eq!(states, ["not asked, as its own queries come back here", "silent, asked last"]);
        in_pod.answered(now);
        assert_eq!(order(&servers, now), (vec![], vec![1], vec![2]));
        assert!(!servers.come_back(now));
    }

    #[test]
    fn the_only_server_is_asked_twice() {
        let (servers, now) = (servers(1), Instant::now());
        assert_eq!(order(&servers, now), (vec![], vec![1, 1], vec![]));
        servers.0[0].is_away(now);
        assert_eq!(order(&servers, now), (vec![], vec![1, 1], vec![]));
    }

    #[test]
    fn a_changed_list_keeps_what_is_known() {
        let (servers, now) = (servers(2), Instant::now());
        servers.0[1].is_away(now);
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 53)));
        let three = SocketAddr::from(([192, 0, 2, 3], 53));
        let changed = servers.follow(&[three, two], |_| false);
        assert_eq!(order(&changed, now), (vec![], vec![3], vec![2]));
        assert_eq!(changed.follow(&[one], |_| false).addresses(), [one]);
        assert!(changed.follow(&[], |_| false).is_empty());
    }
}
