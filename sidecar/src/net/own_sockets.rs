// SPDX-License-Identifier: Apache-2.0
//! The sockets by which the sidecar called servers, so that a connection of its own that comes back is recognised.
//!
//! conntrack may keep the decision of an earlier connection with the same addresses and ports: then the sidecar's own
//! connection is redirected to its outbound listener. Its client is the local end of a socket noted here, and its original
//! destination the remote end. Addresses and ports of both ends belong to one open socket at a time, so that a client with a
//! port of ours and another destination is not taken for us.
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
/// Pauses for which a socket has to stay noted until a client is taken for it.
const PAUSES: usize = 200;

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

/// The result of a look.
enum Look {
    Ours,
    Foreign,
    /// Sockets to that destination are being opened.
    Unsure,
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

    /// Returns true if an accepted connection is the other end of a socket of the sidecar's.
    pub(crate) async fn contain(&self, client: ClientAddr, original: OrigDst) -> bool {
        let destination = self.destination(original.get());
        let key = self.key(client.get(), destination);
        // Its own socket was announced before it could be accepted; later ones do not matter.
        let mut tickets = None;
        let (mut looks, mut pauses) = (0, 0);
        loop {
            match self.look(key, destination, &mut tickets) {
                // A socket that a reset has ended is noted until its task sees that, and its port is free meanwhile.
                Look::Ours if pauses < PAUSES => {
                    pauses += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Look::Ours => return true,
                Look::Foreign => return false,
                Look::Unsure if looks < LOOKS => tokio::task::yield_now().await,
                Look::Unsure => tokio::time::sleep(PAUSE).await,
            }
            looks += 1;
        }
    }

    /// Looks once. `tickets` are those below which it asks for sockets that are being opened; the first look sets it.
    fn look(&self, key: Key, destination: u64, tickets: &mut Option<u64>) -> Look {
        let shard = self.shard(destination);
        if shard.open.contains(&key) {
            return Look::Ours;
        }
        let below = *tickets.get_or_insert(shard.next_ticket);
        let awaited = |one: &Opening| one.destination == destination && one.ticket < below;
        if shard.opening.iter().any(awaited) { Look::Unsure } else { Look::Foreign }
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
    /// Notes the socket, now that it has a local end.
    pub(crate) fn note(self, local: SocketAddr) -> OwnSocket {
        let key = self.sockets.key(local, self.opening.destination);
        self.sockets.shard(key.0).open.insert(key);
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
        self.sockets.shard(self.key.0).open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn to(text: &str) -> DialAddr {
        DialAddr::new(addr(text))
    }

    async fn contain(sockets: &OwnSockets, client: &str, original: &str) -> bool {
        sockets.contain(ClientAddr::new(addr(client)), OrigDst::new(addr(original))).await
    }

    #[tokio::test]
    async fn a_socket_is_recognised_by_both_ends_until_it_is_dropped() {
        let sockets = Arc::new(OwnSockets::default());
        let noted = sockets.announce(to("192.0.2.1:80")).note(addr("10.0.0.2:4000"));
        let _other = sockets.announce(to("[2001:db8::1]:80")).note(addr("[fd00::2]:4001"));
        for (client, original, expected) in [
            ("10.0.0.2:4000", "192.0.2.1:80", true),
            // As a dual-stack listener shows it.
            ("[::ffff:10.0.0.2]:4000", "192.0.2.1:80", true),
            ("[fd00::2]:4001", "[2001:db8::1]:80", true),
            // The application shares the port, for another destination.
            ("10.0.0.2:4000", "192.0.2.1:81", false),
            ("10.0.0.2:4000", "192.0.2.2:80", false),
            ("10.0.0.2:4001", "192.0.2.1:80", false),
            ("10.0.0.3:4000", "192.0.2.1:80", false),
        ] {
            assert_eq!(contain(&sockets, client, original).await, expected, "{client} to {original}");
        }
        drop(noted);
        assert!(!contain(&sockets, "10.0.0.2:4000", "192.0.2.1:80").await);
        assert!(contain(&sockets, "[fd00::2]:4001", "[2001:db8::1]:80").await, "another socket's");
    }

    #[tokio::test]
    async fn a_client_waits_for_the_sockets_that_are_being_opened_to_its_destination_and_for_no_others() {
        let sockets = Arc::new(OwnSockets::default());
        let client = || contain(&sockets, "10.0.0.2:4000", "192.0.2.1:80");
        for (local, ours) in [(Some("10.0.0.2:4000"), true), (Some("10.0.0.2:4001"), false), (None, false)] {
            let announced = sockets.announce(to("192.0.2.1:80"));
            let _elsewhere = sockets.announce(to("192.0.2.2:80"));
            let mut waiting = std::pin::pin!(client());
            let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
            assert!(early.is_err(), "{local:?}: it did not wait");
            // Began after the client was accepted, so it is not the client's.
            let _later = sockets.announce(to("192.0.2.1:80"));
            let _noted = match local {
                Some(local) => Some(announced.note(addr(local))),
                None => {
                    drop(announced);
                    None
                }
            };
            assert_eq!(waiting.await, ours, "{local:?}");
        }
        assert!(!client().await, "all are forgotten");
    }

    /// On a clock that runs ahead whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_forgotten_while_a_client_has_its_port_is_not_that_client() {
        let sockets = Arc::new(OwnSockets::default());
        for (forgotten_after, ours) in [(Some(PAUSE * 20), false), (None, true)] {
            let mut noted = Some(sockets.announce(to("192.0.2.1:80")).note(addr("10.0.0.2:4000")));
            let forgets = async {
                if let Some(after) = forgotten_after {
                    tokio::time::sleep(after).await;
                    noted = None;
                }
            };
            let client = contain(&sockets, "10.0.0.2:4000", "192.0.2.1:80");
            let (found, ()) = tokio::join!(client, forgets);
            assert_eq!(found, ours, "{forgotten_after:?}");
            drop(noted);
        }
    }

    #[test]
    fn all_shards_are_used_and_emptied() {
        let sockets = Arc::new(OwnSockets::default());
        let note =
            |port| sockets.announce(DialAddr::new(([192, 0, 2, 1], port).into())).note(addr("10.0.0.2:4000"));
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
