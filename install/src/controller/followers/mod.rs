// SPDX-License-Identifier: Apache-2.0
//! Streams by the things that they follow, so that a change wakes those whom it concerns and no others.

mod unacknowledged;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::unacknowledged::Unacknowledged;
use crate::controller::key::Key;
use crate::controller::world::Touched;

/// Changes that a stream has not looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    pub notify: Notify,
    /// Responses that the sidecar has not answered yet.
    pub unacknowledged: Unacknowledged,
}

/// Changes for one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// True if documents about the pod may differ.
    pub documents: bool,
    /// Addresses of destinations that may differ.
    pub addresses: HashSet<IpAddr>,
}

impl Inbox {
    /// Takes all changes out.
    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}

/// Number of a stream, unique while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StreamId(u64);

impl StreamId {
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    next: u64,
    all: HashMap<StreamId, Arc<Inbox>>,
    of_pod: HashMap<Key, HashSet<StreamId>>,
    of_address: HashMap<IpAddr, HashSet<StreamId>>,
}

impl Followers {
    /// Adds a stream of a pod.
    pub(crate) fn add(&mut self, pod: &Key) -> (StreamId, Arc<Inbox>) {
        let id = StreamId(self.next);
        self.next += 1;
        let inbox = Arc::<Inbox>::default();
        self.all.insert(id, Arc::clone(&inbox));
        self.of_pod.entry(pod.clone()).or_default().insert(id);
        (id, inbox)
    }

    /// Returns true if a pod has a stream here.
    pub(crate) fn has(&self, pod: &Key) -> bool {
        self.of_pod.contains_key(pod)
    }

    /// Pods that have a stream here.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Key> {
        self.of_pod.keys()
    }

    /// Notes that a stream follows an address.
    pub(crate) fn follow(&mut self, id: StreamId, address: IpAddr) {
        self.of_address.entry(address).or_default().insert(id);
    }

    /// Notes that it does not any more.
    pub(crate) fn leave(&mut self, id: StreamId, address: IpAddr) {
        drop_from(&mut self.of_address, &address, id);
    }

    /// Removes a stream that followed these addresses.
    pub(crate) fn remove(&mut self, id: StreamId, pod: &Key, addresses: impl IntoIterator<Item = IpAddr>) {
        self.all.remove(&id);
        drop_from(&mut self.of_pod, pod, id);
        for address in addresses {
            drop_from(&mut self.of_address, &address, id);
        }
    }

    /// Wakes the streams that a change concerns.
    pub(crate) fn tell(&self, touched: &Touched) {
        let Touched { addresses, pods, documents } = touched;
        if *documents {
            self.all.values().for_each(|inbox| inbox.put(|waiting| waiting.documents = true));
        }
        for id in pods.iter().filter_map(|pod| self.of_pod.get(pod)).flatten() {
            if let Some(inbox) = self.all.get(id) {
                inbox.put(|waiting| waiting.documents = true);
            }
        }
        for address in addresses {
            for id in self.of_address.get(address).into_iter().flatten() {
                if let Some(inbox) = self.all.get(id) {
                    inbox.put(|waiting| _ = waiting.addresses.insert(*address));
                }
            }
        }
    }

    /// Age of the oldest response that a sidecar has not answered.
    pub(crate) fn oldest_unacknowledged(&self) -> Duration {
        self.all.values().filter_map(|inbox| inbox.unacknowledged.age()).max().unwrap_or_default()
    }

    /// Wakes all streams, after a change of what every pod is told.
    pub(crate) fn tell_all(&self) {
        self.tell(&Touched { documents: true, ..Touched::default() });
    }
}

fn drop_from<K: std::hash::Hash + Eq>(index: &mut HashMap<K, HashSet<StreamId>>, key: &K, id: StreamId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_wakes_those_whom_it_concerns() {
        let mut followers = Followers::default();
        let (web, db) = (Key::new("shop", "web"), Key::new("shop", "db"));
        let ((one, first), (two, second)) = (followers.add(&web), followers.add(&db));
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        followers.follow(one, address);
        followers.tell(&Touched { addresses: [address].into(), ..Touched::default() });
        assert_eq!(first.take(), Waiting { documents: false, addresses: [address].into() });
        assert_eq!(second.take(), Waiting::default());
        followers.tell(&Touched { pods: [db.clone()].into(), ..Touched::default() });
        assert_eq!((first.take().documents, second.take().documents), (false, true));
        assert!(followers.has(&web) && followers.pods().count() == 2);
        followers.tell_all();
        assert_eq!((first.take().documents, second.take().documents), (true, true));
        followers.leave(one, address);
        followers.tell(&Touched { addresses: [address].into(), ..Touched::default() });
        assert_eq!(first.take(), Waiting::default());
        followers.follow(one, address);
        followers.remove(one, &web, [address]);
        followers.remove(two, &db, []);
        assert!(followers.all.is_empty() && followers.of_pod.is_empty() && followers.of_address.is_empty());
    }
}
