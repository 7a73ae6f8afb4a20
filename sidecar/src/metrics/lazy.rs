// SPDX-License-Identifier: Apache-2.0
//! Metrics that are made when something is counted.

use super::{Counter, Declared, Labels, Metric, MetricRegistry, Stats};
use std::ops::Deref;
use std::sync::OnceLock;

/// A group of metrics that is made by the first count in it. Documents may name thousands of listeners and clusters, of which a
/// pod uses few, and the counters of one are some 500 bytes. Until then all of them are shown as 0.
#[derive(Debug)]
pub(crate) struct Lazy<M>(OnceLock<Box<M>>);

impl<M> Default for Lazy<M> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<M: Default> Lazy<M> {
    /// Reads the metrics without making them.
    pub(crate) fn view<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        match self.0.get() {
            Some(metrics) => read(metrics),
            None => read(&M::default()),
        }
    }
}

/// For counting. [`Lazy::view`] is for reading.
impl<M: Default> Deref for Lazy<M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.0.get_or_init(Box::default)
    }
}

impl<M: Metric + Default> Metric for Lazy<M> {
    /// Makes them at once: every series of `/metrics` is there from the start.
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        Self(OnceLock::from(Box::new(M::register(registry, declared, labels))))
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        self.view(|metrics| metrics.read(declared, labels, stats));
    }
}

/// A counter that is made by its first count. A counter is memory of its own, some 40 bytes, and most clusters never count a
/// failure. It is no handle that can be cloned: two of them would count apart.
#[derive(Debug, Default)]
pub(crate) struct RareCounter(OnceLock<Counter>);

impl RareCounter {
    /// Counts one.
    pub(crate) fn inc(&self) {
        self.0.get_or_init(Counter::default).inc();
    }

    /// Returns the number counted.
    pub(crate) fn get(&self) -> u64 {
        self.0.get().map_or(0, Counter::get)
    }
}

impl Metric for RareCounter {
    /// Makes it at once: every series of `/metrics` is there from the start.
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        Self(OnceLock::from(Counter::register(registry, declared, labels)))
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        match self.0.get() {
            Some(counter) => counter.read(declared, labels, stats),
            None => Counter::default().read(declared, labels, stats),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counter, metrics};

    metrics! {
        #[derive(Default)]
        struct Doors {
            opened: Counter = "opened", "Doors opened" => "{house}.opened";
        }
    }

    #[test]
    fn what_was_never_counted_is_shown_as_0_and_not_made() {
        let doors = Lazy::<Doors>::default();
        let shown = || {
            let mut stats = Stats::default();
            stats.read(&doors, &[("house", "ours")]);
            stats.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(shown(), ["ours.opened: 0"]);
        assert_eq!(doors.view(|doors| doors.opened.get()), 0);
        assert!(doors.0.get().is_none());
        doors.opened.inc();
        assert_eq!(doors.view(|doors| doors.opened.get()), 1);
        assert_eq!(shown(), ["ours.opened: 1"]);
    }

    #[test]
    fn a_registered_one_is_there_from_the_start() {
        let mut registry = MetricRegistry::new();
        let doors: Lazy<Doors> = registry.add();
        assert!(registry.text().contains("culvert_opened_total 0"));
        doors.opened.inc();
        assert!(registry.text().contains("culvert_opened_total 1"));
    }
}
