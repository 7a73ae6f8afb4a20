// SPDX-License-Identifier: Apache-2.0
//! Streams by the things that they follow, so that a change wakes those whom it concerns and no others.

mod unacknowledged;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::unacknowledged::Unacknowledged;
use crate::controller::key::Key;
use crate::controller::world::{Host, Touched, Words};

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
    /// Host names of destinations that may differ.
    pub names: HashSet<Host>,
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
    of_name: HashMap<Host, HashSet<StreamId>>,
    /// Names that are followed, by their words.
    names: HashMap<Box<str>, HashSet<Host>>,
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
        drop_from(&mut self.of_address, &address, &id);
    }

    /// Notes that a stream follows a host name.
    pub(crate) fn follow_name(&mut self, id: StreamId, name: &Host) {
        if let Some(ids) = self.of_name.get_mut(name) {
            ids.insert(id);
            return;
        }
        self.of_name.insert(name.clone(), [id].into());
        for word in name.words() {
            self.names.entry(word.into()).or_default().insert(name.clone());
        }
    }

    /// Notes that it does not any more.
    pub(crate) fn leave_name(&mut self, id: StreamId, name: &Host) {
        drop_from(&mut self.of_name, name, &id);
        if !self.of_name.contains_key(name) {
            name.words().into_iter().for_each(|word| drop_from(&mut self.names, word, name));
        }
    }

    /// Removes a stream that followed these addresses and names.
    pub(crate) fn remove(
        &mut self,
        id: StreamId,
        pod: &Key,
        addresses: impl IntoIterator<Item = IpAddr>,
        names: impl IntoIterator<Item = Host>,
    ) {
        self.all.remove(&id);
        drop_from(&mut self.of_pod, pod, &id);
        addresses.into_iter().for_each(|address| self.leave(id, address));
        names.into_iter().for_each(|name| self.leave_name(id, &name));
    }

    /// Wakes the streams that a change concerns.
    pub(crate) fn tell(&self, touched: &Touched) {
        let Touched { addresses, services, pods, documents } = touched;
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
        self.tell_names(services);
    }

    /// Wakes the streams that follow a name with a word of these Services.
    fn tell_names(&self, services: &HashSet<Words>) {
        // Most clusters ask for no name.
        if self.names.is_empty() {
            return;
        }
        let words = services.iter().flat_map(Words::iter);
        let names: HashSet<&Host> = words.filter_map(|word| self.names.get(word)).flatten().collect();
        for name in names {
            for id in self.of_name.get(name).into_iter().flatten() {
                if let Some(inbox) = self.all.get(id) {
                    inbox.put(|waiting| _ = waiting.names.insert(name.clone()));
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

fn drop_from<K, Q, V>(index: &mut HashMap<K, HashSet<V>>, key: &Q, one: &V)
where
    K: Borrow<Q> + Hash + Eq,
    Q: Hash + Eq + ?Sized,
    V: Hash + Eq,
{
    if let Some(all) = index.get_mut(key) {
        all.remove(one);
        if all.is_empty() {
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
        assert_eq!(first.take(), Waiting { addresses: [address].into(), ..Waiting::default() });
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
        followers.remove(one, &web, [address], []);
        followers.remove(two, &db, [], []);
        assert!(followers.all.is_empty() && followers.of_pod.is_empty() && followers.of_address.is_empty());
    }

    #[test]
    fn a_service_wakes_those_who_follow_a_name_with_a_word_of_it() {
        let mut followers = Followers::default();
        let pod = Key::new("shop", "web");
        let ((one, first), (two, second)) = (followers.add(&pod), followers.add(&pod));
        let [web, db, kuma] =
            ["web.shop.mesh", "db.shop.mesh", "web_shop_svc_80.mesh"].map(|name| Host::read(name).unwrap());
        let service = |name: &str, labels: &[&str]| {
            let labels = labels.iter().map(|value| ((*value).to_owned(), (*value).to_owned())).collect();
            Touched { services: [Words::of(name, &labels)].into(), ..Touched::default() }
        };
        let names = |names: &[&Host]| Waiting {
            names: names.iter().map(|name| (*name).clone()).collect(),
            ..Waiting::default()
        };
        for name in [&web, &kuma] {
            followers.follow_name(one, name);
        }
        for name in [&web, &db] {
            followers.follow_name(two, name);
        }
        for (touched, expected) in [
            (service("web", &[]), [names(&[&web, &kuma]), names(&[&web])]),
            (service("x", &["db", "a"]), [names(&[]), names(&[&db])]),
            (service("x", &["svc"]), [names(&[&kuma]), names(&[])]),
            (service("mesh", &["web"]), [names(&[&web, &kuma]), names(&[&web, &db])]),
            (service("other", &["shop_svc", "web-1"]), [names(&[]), names(&[])]),
        ] {
            followers.tell(&touched);
            assert_eq!([first.take(), second.take()], expected, "{touched:?}");
        }
        followers.leave_name(one, &web);
        followers.tell(&service("web", &[]));
        assert_eq!([first.take(), second.take()], [names(&[&kuma]), names(&[&web])]);
        followers.remove(one, &pod, [], [kuma]);
        followers.remove(two, &pod, [], [web, db]);
        assert!(followers.of_name.is_empty() && followers.names.is_empty());
    }
}
