// SPDX-License-Identifier: Apache-2.0
//! The sockets by which the sidecar called servers, so that a connection of its own that comes back is recognised.
//!
//! conntrack may keep the decision of an earlier connection with the same addresses and ports: then the sidecar's own
//! connection is redirected to its outbound listener. Its client is the local end of a socket noted here, and its original
//! destination the remote end. Addresses and ports of both ends belong to one open socket at a time, so that a client with a
//! port of ours and another destination is not taken for us.

use crate::net::addrs::{ClientAddr, DialAddr, OrigDst};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts with a lock each, so that workers rarely wait for each other.
const SHARDS: usize = 16;

/// The sockets that are open; the limits on connections bound their number.
///
/// Kept as hashes of 64 bits with a random key: 10 to 20 bytes a socket, where both addresses would take 64. Among 10,000
/// sockets a foreign connection is taken for one of them once in 10^15.
#[derive(Debug, Default)]
pub(crate) struct OwnSockets {
    hasher: RandomState,
    shards: [Mutex<HashSet<u64>>; SHARDS],
}

/// A socket that is noted until this is dropped. Drop it before the socket is closed: its addresses and ports may belong to
/// another connection right after.
#[derive(Debug)]
#[must_use = "dropping it forgets the socket"]
pub(crate) struct OwnSocket {
    sockets: Arc<OwnSockets>,
    hash: u64,
}

impl OwnSockets {
    /// Notes a socket of the sidecar's.
    pub(crate) fn note(self: &Arc<Self>, local: SocketAddr, to: DialAddr) -> OwnSocket {
        let hash = self.hash(local, to.get());
        self.shard(hash).insert(hash);
        OwnSocket { sockets: Arc::clone(self), hash }
    }

    /// Returns true if an accepted connection is the other end of a socket that is noted.
    pub(crate) fn contains(&self, client: ClientAddr, original: OrigDst) -> bool {
        let hash = self.hash(client.get(), original.get());
        self.shard(hash).contains(&hash)
    }

    fn hash(&self, local: SocketAddr, remote: SocketAddr) -> u64 {
        // By address and port alone: a link-local address has its scope at one end and not at the other.
        let of = |end: SocketAddr| (end.ip().to_canonical(), end.port());
        self.hasher.hash_one((of(local), of(remote)))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashSet<u64>> {
        // The low bits choose the place within a set.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        self.sockets.shard(self.hash).remove(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_socket_is_recognised_by_both_ends_until_it_is_dropped() {
        let sockets = Arc::new(OwnSockets::default());
        let noted = sockets.note(addr("10.0.0.2:4000"), DialAddr::new(addr("192.0.2.1:80")));
        let _other = sockets.note(addr("[fd00::2]:4001"), DialAddr::new(addr("[2001:db8::1]:80")));
        let contains = |client: &str, original: &str| {
            sockets.contains(ClientAddr::new(addr(client)), OrigDst::new(addr(original)))
        };
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
            assert_eq!(contains(client, original), expected, "{client} to {original}");
        }
        drop(noted);
        assert!(!contains("10.0.0.2:4000", "192.0.2.1:80"));
        assert!(contains("[fd00::2]:4001", "[2001:db8::1]:80"), "another socket's");
    }

    #[test]
    fn all_shards_are_used_and_emptied() {
        let sockets = Arc::new(OwnSockets::default());
        let to = DialAddr::new(addr("192.0.2.1:80"));
        let noted: Vec<_> = (0..1000).map(|port| sockets.note(([10, 0, 0, 2], port).into(), to)).collect();
        let lens = || sockets.shards.each_ref().map(|shard| shard.lock().unwrap().len());
        assert!(lens().iter().all(|&len| len > 0), "{:?}", lens());
        drop(noted);
        assert_eq!(lens(), [0; SHARDS]);
    }
}
