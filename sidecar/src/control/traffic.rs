// SPDX-License-Identifier: Apache-2.0
//! Connections of the pod by peer, as the controller is told of them: every few seconds on its stream, for its picture of the
//! mesh. Workers count; the stream reports.

use crate::net::addrs::Direction;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use culvert_control::MAX_TRAFFIC;
use culvert_control::messages::{Report, Traffic};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Peers that are counted between two reports, some 100 bytes each. Those that come later have no place.
const MOST_PEERS: usize = 1024;
/// Reports after which open connections are told again though nothing changed, a minute: the picture shows some minutes.
const REPEAT: u32 = 12;

/// One peer of the pod, in one direction and at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Peer {
    pub(crate) direction: Direction,
    /// Outbound the address that the client dialled, inbound the client's.
    pub(crate) address: IpAddr,
    /// Outbound the port that was dialled, inbound the pod's own.
    pub(crate) port: u16,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) reason: CloseReason,
    /// True if it was counted as open.
    pub(crate) was_open: bool,
    /// Protocol that the peer spoke, where it is known.
    pub(crate) spoken: Option<Spoken>,
    /// Bytes of both ways.
    pub(crate) bytes: u64,
}

/// Connections with one peer since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers {
    ended: u64,
    failed: u64,
    tls: u64,
    plain: u64,
    plain_failed: u64,
    bytes: u64,
    open: u64,
    /// The number of open ones differs from the last report's.
    changed: bool,
}

#[derive(Debug, Default)]
struct Counted {
    peers: HashMap<Peer, Numbers>,
    left_out: u64,
    /// Reports since open connections were told.
    repeated: u32,
}

/// Connections of the pod by peer.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Counted>);

impl Ledger {
    /// Counts a connection that begins.
    pub(crate) fn opened(&self, peer: Peer) {
        let mut counted = self.counted();
        match counted.at(peer) {
            Some(numbers) => (numbers.open, numbers.changed) = (numbers.open + 1, true),
            None => counted.left_out += 1,
        }
    }

    /// Counts a connection that ended, or was refused before it began.
    pub(crate) fn ended(&self, peer: Peer, Ended { reason, was_open, spoken, bytes }: Ended) {
        let mut counted = self.counted();
        let Some(numbers) = counted.at(peer) else {
            counted.left_out += u64::from(!was_open);
            return;
        };
        numbers.open = numbers.open.saturating_sub(u64::from(was_open));
        numbers.ended += 1;
        let failed = is_failure(reason);
        let plain = peer.direction == Direction::Inbound && is_plain(spoken, reason);
        numbers.failed += u64::from(failed);
        numbers.tls += u64::from(spoken == Some(Spoken::MeshTls) && !failed);
        numbers.plain += u64::from(plain);
        numbers.plain_failed += u64::from(plain && failed);
        numbers.bytes = numbers.bytes.saturating_add(bytes);
    }

    /// Begins a stream: open connections are told again, and those that ended before it are not of the last seconds.
    pub(super) fn begin_again(&self) {
        let mut counted = self.counted();
        counted.forget_ended();
        counted.repeated = REPEAT;
    }

    /// Returns what happened since the last report, with all open connections; `None` for nothing.
    pub(super) fn report(&self) -> Option<Report> {
        let mut counted = self.counted();
        counted.repeated += 1;
        let repeats = counted.repeated >= REPEAT;
        let is_news = |one: &Numbers| one.ended > 0 || one.changed || (repeats && one.open > 0);
        if counted.left_out == 0 && !counted.peers.values().any(is_news) {
            return None;
        }
        counted.repeated = 0;
        // All open connections are told: those of a report take the place of the last one's.
        let mut told: Vec<(Peer, Numbers)> = counted.peers.iter().map(|(peer, one)| (*peer, *one)).collect();
        let left_out = counted.left_out;
        counted.forget_ended();
        drop(counted);
        // The order of a map must not decide which are told.
        told.sort_by_key(|(peer, one)| (Reverse(one.ended + one.open), *peer));
        let rest = told.split_off(told.len().min(MAX_TRAFFIC));
        let rest: u64 = rest.iter().map(|(_, one)| one.ended).sum();
        Some(Report { traffic: told.into_iter().map(line).collect(), left_out: left_out + rest })
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn forget_ended(&mut self) {
        self.left_out = 0;
        self.peers.retain(|_, one| {
            *one = Numbers { open: one.open, ..Numbers::default() };
            one.open > 0
        });
    }

    /// Returns the numbers of a peer; `None` where there is no place for it.
    fn at(&mut self, peer: Peer) -> Option<&mut Numbers> {
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            return None;
        }
        Some(self.peers.entry(peer).or_default())
    }
}

/// Returns true for an end that a user would call a failure. A client that goes away is none, nor is a limit of time.
fn is_failure(reason: CloseReason) -> bool {
    !matches!(
        reason,
        CloseReason::Ok | CloseReason::ClientReset | CloseReason::IdleTimeout | CloseReason::DrainTimeout
    )
}

/// Returns true if a client spoke no mesh TLS to a port where members do.
fn is_plain(spoken: Option<Spoken>, reason: CloseReason) -> bool {
    let refused = matches!(reason, CloseReason::Plaintext | CloseReason::ForeignTls);
    refused || matches!(spoken, Some(Spoken::Plain | Spoken::OwnTls))
}

fn line((peer, numbers): (Peer, Numbers)) -> Traffic {
    let Peer { direction, address, port } = peer;
    let Numbers { ended, failed, tls, plain, plain_failed, bytes, open, changed: _ } = numbers;
    let address = match address.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let outbound = direction == Direction::Outbound;
    Traffic { outbound, address, port: port.into(), ended, failed, tls, bytes, open, plain, plain_failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u16) -> Peer {
        let [high, low] = last.to_be_bytes();
        Peer { direction: Direction::Outbound, address: [10, 0, high, low].into(), port: 80 }
    }

    fn end(reason: CloseReason, was_open: bool) -> Ended {
        Ended { reason, was_open, spoken: was_open.then_some(Spoken::MeshTls), bytes: 10 }
    }

    #[test]
    fn a_report_has_what_happened_since_the_last_one() {
        let ledger = Ledger::default();
        assert_eq!(ledger.report(), None);
        ledger.opened(peer(1));
        ledger.opened(peer(1));
        ledger.ended(peer(1), end(CloseReason::Ok, true));
        ledger.ended(peer(1), end(CloseReason::ConnectRefused, false));
        ledger.ended(peer(2), end(CloseReason::ClientReset, false));
        let report = ledger.report().unwrap();
        assert_eq!(report.left_out, 0);
        let [one, two] = &report.traffic[..] else { panic!("{report:?}") };
        let expected = Traffic {
            outbound: true,
            address: vec![10, 0, 0, 1],
            port: 80,
            ended: 2,
            failed: 1,
            tls: 1,
            bytes: 20,
            open: 1,
            ..Traffic::default()
        };
        assert_eq!(*one, expected);
        assert_eq!((two.address[3], two.ended, two.failed, two.open), (2, 1, 0, 0));
        // The open one changed nothing since.
        assert_eq!(ledger.report(), None);
        ledger.ended(peer(1), end(CloseReason::Ok, true));
        let report = ledger.report().unwrap();
        assert_eq!((report.traffic[0].ended, report.traffic[0].open), (1, 0));
        assert!(ledger.counted().peers.is_empty());
    }

    #[test]
    fn a_client_past_its_sidecar_is_told_apart() {
        let ledger = Ledger::default();
        let inbound = Peer { direction: Direction::Inbound, ..peer(1) };
        for (reason, spoken) in [
            (CloseReason::Ok, Some(Spoken::MeshTls)),
            (CloseReason::Forbidden, Some(Spoken::MeshTls)),
            (CloseReason::Ok, Some(Spoken::Plain)),
            (CloseReason::Ok, Some(Spoken::OwnTls)),
            (CloseReason::Plaintext, None),
            // Without TLS of the mesh nothing is plain.
            (CloseReason::Ok, None),
        ] {
            ledger.ended(inbound, Ended { reason, was_open: false, spoken, bytes: 0 });
        }
        let told = &ledger.report().unwrap().traffic[0];
        assert_eq!((told.ended, told.failed, told.tls, told.plain, told.plain_failed), (6, 2, 1, 3, 1));
    }

    #[test]
    fn what_ended_before_a_stream_is_not_told() {
        let ledger = Ledger::default();
        ledger.opened(peer(1));
        ledger.ended(peer(2), end(CloseReason::Ok, false));
        ledger.begin_again();
        let report = ledger.report().unwrap();
        assert_eq!((report.traffic.len(), report.traffic[0].open), (1, 1));
    }

    #[test]
    fn open_connections_are_told_again_after_a_while_and_to_another_controller() {
        let ledger = Ledger::default();
        ledger.opened(peer(1));
        let told = |ledger: &Ledger| ledger.report().is_some_and(|report| report.traffic[0].open == 1);
        assert!(told(&ledger));
        let silent = (0..).take_while(|_| !told(&ledger)).count();
        assert_eq!(silent, usize::try_from(REPEAT).unwrap() - 1);
        assert!(!told(&ledger));
        ledger.begin_again();
        assert!(told(&ledger) && !told(&ledger));
    }

    #[test]
    fn many_peers_are_bounded_and_the_busiest_are_told() {
        let ledger = Ledger::default();
        for last in 0..u16::try_from(MOST_PEERS).unwrap() + 5 {
            ledger.ended(peer(last), end(CloseReason::Ok, false));
        }
        ledger.ended(peer(700), end(CloseReason::Ok, false));
        let report = ledger.report().unwrap();
        assert_eq!(
            (report.traffic.len(), &report.traffic[0].address[2..]),
            (MAX_TRAFFIC, &700_u16.to_be_bytes()[..])
        );
        let told: u64 = report.traffic.iter().map(|one| one.ended).sum();
        assert_eq!(told + report.left_out, u64::try_from(MOST_PEERS).unwrap() + 6);
        // An end whose beginning had no place counts nothing twice.
        ledger.ended(peer(1), end(CloseReason::Ok, true));
        assert_eq!(ledger.report().unwrap().traffic[0].open, 0);
    }
}
