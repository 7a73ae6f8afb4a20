// SPDX-License-Identifier: Apache-2.0
//! The sockets by which the sidecar called servers, so that a connection of its own that comes back is recognised.
//!
//! conntrack may keep the decision of an earlier connection with the same addresses and ports: then the sidecar's own
//! connection is redirected to its outbound listener. Its client is the local end of a socket noted here, and its original
//! destination the remote end. A client with a port of ours and another destination is not taken for us.
//!
//! One with both may be the application all the same. Where it calls two servers from one port, both calls are redirected to
//! the listener's one address, and conntrack gives the second another port towards us, by chance one of ours: of 1,024 calls
//! to two servers one in fifteen such crowds. So a connection that looks like one of ours is served, and the socket that is
//! opened for it is noted as the second of a row. A connection that is the other end of such a socket is a loop: chance does
//! not hit twice.
//!
//! The kernel chooses the local port when it sends the first packet, so that the connection may come back before its socket
//! is noted. So the destination is noted before, and a client of that destination waits until the note is complete.

use crate::net::addrs::{ClientAddr, DialAddr, OrigDst};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts with a lock each, so that workers rarely wait for each other.
const SHARDS: usize = 16;

/// Looks without a pause at a socket that is being opened: another worker needs some microseconds for that.
const LOOKS: usize = 16;
/// The pause between further looks. That worker was interrupted then, and may need this core.
const PAUSE: Duration = Duration::from_millis(1);

/// The sockets that are open; the limits on connections bound their number.
///
/// Kept as hashes with a random key: 10 to 20 bytes a socket, where both addresses would take 64. Among 10,000 sockets a
/// foreign connection is taken for one of them once in 10^14.
#[derive(Debug, Default)]
pub(crate) struct OwnSockets {
    hasher: RandomState,
    /// By destination: all that a look needs is in one.
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    open: HashSet<Key>,
    /// Of these the ones that were opened for a connection which looked like one of ours.
    second: HashSet<Key>,
    /// One for each worker at most.
    opening: Vec<Opening>,
    next_ticket: u64,
}

/// Both ends of a socket: a hash whose last bits are the shard, by the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64);

/// A socket whose first packet is being sent.
#[derive(Clone, Copy, Debug)]
struct Opening {
    destination: u64,
    /// Unique in its shard, ascending.
    ticket: u64,
}

/// The announcement of a socket. Dropped, it is taken back.
#[derive(Debug)]
pub(crate) struct Announced<'s> {
    sockets: &'s Arc<OwnSockets>,
    opening: Opening,
}

/// A socket that is noted until this is dropped. Drop it before the socket is closed: its addresses and ports may belong to
/// another connection right after.
#[derive(Debug)]
#[must_use = "dropping it forgets the socket"]
pub(crate) struct OwnSocket {
    sockets: Arc<OwnSockets>,
    key: Key,
}

/// Times in a row that a call came back to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Its client is the application.
    Never,
    /// Its client looks like a socket of ours.
    Once,
    /// Its client looks like a socket that was opened for such a client.
    Twice,
}

// === impl OwnSockets ===

impl OwnSockets {
    /// Announces a socket, before its first packet is sent. Not to be held over an await: clients that dialled the same
    /// destination wait for it.
    pub(crate) fn announce(self: &Arc<Self>, to: DialAddr) -> Announced<'_> {
        let destination = self.destination(to.get());
        let mut shard = self.shard(destination);
        let opening = Opening { destination, ticket: shard.next_ticket };
        shard.next_ticket += 1;
        shard.opening.push(opening);
        Announced { sockets: self, opening }
    }

    /// Returns how often the call of an accepted connection came back.
    pub(crate) async fn returned(&self, client: ClientAddr, original: OrigDst) -> Returned {
        let destination = self.destination(original.get());
        let key = self.key(client.get(), destination);
        // Its own socket was announced before it could be accepted; later ones do not matter.
        let mut tickets = None;
        let mut looks = 0;
        loop {
            if let Some(returned) = self.look(key, destination, &mut tickets) {
                return returned;
            }
            if looks < LOOKS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
            looks += 1;
        }
    }

    /// Looks once; `None` while sockets to that destination are being opened. `tickets` are those below which it asks for
    /// such sockets; the first look sets it.
    fn look(&self, key: Key, destination: u64, tickets: &mut Option<u64>) -> Option<Returned> {
        let shard = self.shard(destination);
        if shard.open.contains(&key) {
            return Some(if shard.second.contains(&key) { Returned::Twice } else { Returned::Once });
        }
        let below = *tickets.get_or_insert(shard.next_ticket);
        let awaited = |one: &Opening| one.destination == destination && one.ticket < below;
        (!shard.opening.iter().any(awaited)).then_some(Returned::Never)
    }

    fn destination(&self, remote: SocketAddr) -> u64 {
        self.hasher.hash_one(by_address_and_port(remote))
    }

    fn key(&self, local: SocketAddr, destination: u64) -> Key {
        let hash = self.hasher.hash_one((by_address_and_port(local), destination));
        let shards = SHARDS as u64;
        Key(hash / shards * shards + destination % shards)
    }

    fn shard(&self, of: u64) -> MutexGuard<'_, Shard> {
        self.shards[of as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves out the scope of a link-local address, which one end has and the other has not.
fn by_address_and_port(end: SocketAddr) -> (std::net::IpAddr, u16) {
    (end.ip().to_canonical(), end.port())
}

// === impl Announced ===

impl Announced<'_> {
    /// Notes the socket, now that it has a local end. `returned` is that of the connection which it is opened for.
    pub(crate) fn note(self, local: SocketAddr, returned: Returned) -> OwnSocket {
        let key = self.sockets.key(local, self.opening.destination);
        let mut shard = self.sockets.shard(key.0);
        shard.open.insert(key);
        if returned != Returned::Never {
            shard.second.insert(key);
        }
        drop(shard);
        OwnSocket { sockets: Arc::clone(self.sockets), key }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let Opening { destination, ticket } = self.opening;
        self.sockets.shard(destination).opening.retain(|one| one.ticket != ticket);
    }
}

// === impl OwnSocket ===

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let mut shard = self.sockets.shard(self.key.0);
        shard.open.remove(&self.key);
        if !shard.second.is_empty() {
            shard.second.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Returned::{Never, Once, Twice};
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn to(text: &str) -> DialAddr {
        DialAddr::new(addr(text))
    }

    async fn returned(sockets: &OwnSockets, client: &str, original: &str) -> Returned {
        sockets.returned(ClientAddr::new(addr(client)), OrigDst::new(addr(original))).await
    }

    #[tokio::test]
    async fn a_socket_is_recognised_by_both_ends_until_it_is_dropped() {
        let sockets = Arc::new(OwnSockets::default());
        let noted = sockets.announce(to("192.0.2.1:80")).note(addr("10.0.0.2:4000"), Never);
        let _other = sockets.announce(to("[2001:db8::1]:80")).note(addr("[fd00::2]:4001"), Never);
        for (client, original, expected) in [
            ("10.0.0.2:4000", "192.0.2.1:80", Once),
            // As a dual-stack listener shows it.
            ("[::ffff:10.0.0.2]:4000", "192.0.2.1:80", Once),
            ("[fd00::2]:4001", "[2001:db8::1]:80", Once),
            // The application shares the port, for another destination.
            ("10.0.0.2:4000", "192.0.2.1:81", Never),
            ("10.0.0.2:4000", "192.0.2.2:80", Never),
            ("10.0.0.2:4001", "192.0.2.1:80", Never),
            ("10.0.0.3:4000", "192.0.2.1:80", Never),
        ] {
            assert_eq!(returned(&sockets, client, original).await, expected, "{client} to {original}");
        }
        drop(noted);
        assert_eq!(returned(&sockets, "10.0.0.2:4000", "192.0.2.1:80").await, Never);
        assert_eq!(returned(&sockets, "[fd00::2]:4001", "[2001:db8::1]:80").await, Once, "another socket's");
    }

    #[tokio::test]
    async fn a_client_waits_for_the_sockets_that_are_being_opened_to_its_destination_and_for_no_others() {
        let sockets = Arc::new(OwnSockets::default());
        let client = || returned(&sockets, "10.0.0.2:4000", "192.0.2.1:80");
        for (local, ours) in [(Some("10.0.0.2:4000"), Once), (Some("10.0.0.2:4001"), Never), (None, Never)] {
            let announced = sockets.announce(to("192.0.2.1:80"));
            let _elsewhere = sockets.announce(to("192.0.2.2:80"));
            let mut waiting = std::pin::pin!(client());
            let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
            assert!(early.is_err(), "{local:?}: it did not wait");
            // Began after the client was accepted, so it is not the client's.
            let _later = sockets.announce(to("192.0.2.1:80"));
            let _noted = match local {
                Some(local) => Some(announced.note(addr(local), Never)),
                None => {
                    drop(announced);
                    None
                }
            };
            assert_eq!(waiting.await, ours, "{local:?}");
        }
        assert_eq!(client().await, Never, "all are forgotten");
    }

    #[tokio::test]
    async fn a_call_that_comes_back_twice_is_a_loop() {
        let sockets = Arc::new(OwnSockets::default());
        let client = |port: u16| sockets.returned(ClientAddr::new(([10, 0, 0, 2], port).into()), original());
        let open = async |port: u16, client_port| {
            let returned = client(client_port).await;
            sockets.announce(to("192.0.2.1:80")).note(([10, 0, 0, 2], port).into(), returned)
        };
        let _first = open(4000, 3999).await;
        let second = open(4001, 4000).await;
        assert_eq!(client(4001).await, Twice);
        drop(second);
        // The port is another call's now.
        let _other = open(4001, 3998).await;
        assert_eq!(client(4001).await, Once);
    }

    fn original() -> OrigDst {
        OrigDst::new(addr("192.0.2.1:80"))
    }

    #[test]
    fn all_shards_are_used_and_emptied() {
        let sockets = Arc::new(OwnSockets::default());
        let note = |port| {
            sockets.announce(DialAddr::new(([192, 0, 2, 1], port).into())).note(addr("10.0.0.2:4000"), Never)
        };
        let noted: Vec<_> = (0..1000).map(note).collect();
        let count =
            |of: fn(&Shard) -> usize| sockets.shards.each_ref().map(|shard| of(&shard.lock().unwrap()));
        let open = count(|shard| shard.open.len());
        assert!(open.iter().all(|&open| open > 0), "{open:?}");
        assert_eq!(count(|shard| shard.opening.len()), [0; SHARDS]);
        drop(noted);
        assert_eq!(count(|shard| shard.open.len()), [0; SHARDS]);
    }
}
