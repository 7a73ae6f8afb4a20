// SPDX-License-Identifier: Apache-2.0
//! States that outlive a plan.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Returns the state of a key: the one in use, else a new one.
pub(super) fn reuse_one<K: Clone + Eq + Hash, T>(
    states: &Mutex<HashMap<K, Weak<T>>>,
    key: K,
    new: impl Fn(&K) -> T,
) -> Arc<T> {
    one(&mut states.lock().unwrap_or_else(PoisonError::into_inner), key, &new)
}

/// Returns the state of each key: the one in use, else a new one. Drops those that neither a plan nor a connection uses,
/// so that the map cannot grow without bound.
pub(super) fn reuse<K: Clone + Eq + Hash, T>(
    states: &Mutex<HashMap<K, Weak<T>>>,
    keys: impl Iterator<Item = K>,
    new: impl Fn(&K) -> T,
) -> Vec<Arc<T>> {
    let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
    let used = keys.map(|key| one(&mut states, key, &new)).collect();
    states.retain(|_, state| state.strong_count() != 0);
    used
}

fn one<K: Clone + Eq + Hash, T>(states: &mut HashMap<K, Weak<T>>, key: K, new: &impl Fn(&K) -> T) -> Arc<T> {
    if let Some(there) = states.get(&key).and_then(Weak::upgrade) {
        return there;
    }
    let made = Arc::new(new(&key));
    // Before the map grows: as long as only destinations change nothing else drops what is gone.
    if states.len() == states.capacity() {
        states.retain(|_, state| state.strong_count() != 0);
    }
    states.insert(key, Arc::downgrade(&made));
    made
}
