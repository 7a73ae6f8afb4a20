// SPDX-License-Identifier: Apache-2.0
//! One metric for each value of an enum.

use super::{Declared, Labels, Metric, MetricRegistry, Stats};
use std::marker::PhantomData;
use std::ops::Index;

/// An enum whose values a label has.
pub(crate) trait Label: Copy + 'static {
    /// Name of the label.
    const LABEL: &'static str;
    /// All values, in the order of their declaration.
    const VALUES: &'static [Self];

    /// Value of the label.
    fn value(self) -> &'static str;

    /// Index of the value in [`Self::VALUES`].
    fn index(self) -> usize;
}

/// Makes labels of enums that have `ALL` and `name`: `labels! { Direction: "direction" }`.
macro_rules! labels {
    ($($type:ty: $label:literal),+ $(,)?) => {$(
        impl $crate::metrics::Label for $type {
            const LABEL: &'static str = $label;
            const VALUES: &'static [Self] = &Self::ALL;

            fn value(self) -> &'static str {
                self.name()
            }

            fn index(self) -> usize {
                // A subtraction and no search: this is called for each chunk of a relayed stream.
                self as usize - Self::ALL[0] as usize
            }
        }
    )+};
}
pub(crate) use labels;

/// A metric for each value of `L`, by index: `closed[reason].inc()`.
#[derive(Clone, Debug)]
pub(crate) struct By<L, M = super::Counter> {
    metrics: Box<[M]>,
    label: PhantomData<L>,
}

impl<L: Label, M> By<L, M> {
    fn each(new: impl FnMut(&L) -> M) -> Self {
        Self { metrics: L::VALUES.iter().map(new).collect(), label: PhantomData }
    }
}

/// Metrics that no registry knows.
impl<L: Label, M: Default> Default for By<L, M> {
    fn default() -> Self {
        Self::each(|_| M::default())
    }
}

impl<L: Label, M> Index<L> for By<L, M> {
    type Output = M;

    fn index(&self, value: L) -> &M {
        &self.metrics[value.index()]
    }
}

impl<L: Label, M: Metric> Metric for By<L, M> {
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        Self::each(|value| {
            let mut labels = labels.clone();
            labels.push((L::LABEL, value.value()));
            M::register(registry, declared, &labels)
        })
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        for (metric, value) in self.metrics.iter().zip(L::VALUES) {
            let labels = [labels, &[(L::LABEL, value.value())]].concat();
            metric.read(declared, &labels, stats);
        }
    }
}
