// SPDX-License-Identifier: Apache-2.0
//! Metrics, each declared in one place: the field that code counts in, its OpenMetrics name and help on `/metrics`, and
//! the names that Envoy has for it among the admin statistics.
//!
//! ```text
//! metrics! {
//!     /// Connections to servers.
//!     pub(crate) struct UpstreamMetrics {
//!         total: Counter = "upstream_connections", "Connections dialled" => "cluster.{cluster}.upstream_cx_total";
//!     }
//! }
//! ```
//!
//! | part of a line | meaning |
//! |---|---|
//! | `= "name", "help"` | the series on `/metrics`; without it the metric is a statistic only |
//! | `{ label: "value" }` | a label of this field alone; later fields of the same name leave out the help |
//! | `buckets CONST` | the upper bounds of a histogram |
//! | `=> "a.{label}.b", …` | its statistics; values of the same name are added up |
//!
//! A type is a [`Counter`], [`Gauge`] or [`Histogram`], another struct of this kind, or [`By`], which has one of these for
//! each value of an enum and adds that enum's label. Every series is registered at the start with all its labels, so it
//! is there, as 0, before anything happens, and the number of series is fixed at compile time. The exception is [`ByMember`],
//! whose series begin with their first count and are bounded.
//!
//! Listeners and clusters of documents have the same structs unregistered: only statistics show them, by [`Stats::read`].

mod by;
mod by_member;
mod lazy;
mod registry;

pub(crate) use by::{By, Label, labels};
pub(crate) use by_member::{ByMember, OfMember};
pub(crate) use lazy::{Lazy, RareCounter};
pub(crate) use prometheus_client::metrics::counter::Counter;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
pub(crate) use prometheus_client::metrics::histogram::Histogram;
pub(crate) use registry::{MetricRegistry, Stats};
use std::sync::Arc;

/// Names and values of labels. A few static strings: enough, as only the label of [`ByMember`] comes from documents or peers.
pub(crate) type Labels = Vec<(&'static str, &'static str)>;

/// One line of [`metrics!`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) series: Option<Series>,
    /// Names of statistics, with a label's name in braces where its value goes.
    pub(crate) stats: &'static [&'static str],
}

/// A series of `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// Empty where a field before has the same name.
    pub(crate) help: &'static str,
    pub(crate) label: Option<(&'static str, &'static str)>,
    /// Upper bounds, of a histogram.
    pub(crate) buckets: &'static [f64],
}

/// A metric, or a group of them.
pub(crate) trait Metric: Sized {
    /// Creates it under these labels and registers it.
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self;

    /// Adds its statistics. One whose name has a placeholder that `labels` does not give is left out.
    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats);
}

impl<M: Metric> Metric for Arc<M> {
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        Self::new(M::register(registry, declared, labels))
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        M::read(self, declared, labels, stats);
    }
}

/// Declares a struct of metrics; the module's documentation has the grammar.
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident: $type:ty
                    $(= $series:literal $(, $help:literal)? $({ $label:ident: $value:expr })? $(buckets $buckets:path)?)?
                    $(=> $($stat:literal),+)?;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)*
        }

        #[allow(clippy::needless_update, reason = "some lines have all parts")]
        impl $crate::metrics::Metric for $name {
            fn register(
                registry: &mut $crate::metrics::MetricRegistry,
                _: $crate::metrics::Declared,
                labels: &$crate::metrics::Labels,
            ) -> Self {
                Self {
                    $($field: $crate::metrics::Metric::register(
                        registry,
                        $crate::metrics::metrics!(@declared
                            $([$series $(, $help)? $({ $label: $value })? $(buckets $buckets)?])? $(=> $($stat),+)?),
                        labels,
                    ),)*
                }
            }

            fn read(
                &self,
                _: $crate::metrics::Declared,
                labels: &[(&str, &str)],
                stats: &mut $crate::metrics::Stats,
            ) {
                $($crate::metrics::Metric::read(
                    &self.$field,
                    $crate::metrics::metrics!(@declared
                        $([$series $(, $help)? $({ $label: $value })? $(buckets $buckets)?])? $(=> $($stat),+)?),
                    labels,
                    stats,
                );)*
            }
        }
    };
    (@declared $([$($series:tt)+])? $(=> $($stat:literal),+)?) => {
        $crate::metrics::Declared {
            $(series: Some($crate::metrics::metrics!(@series $($series)+)),)?
            $(stats: &[$($stat),+],)?
            ..Default::default()
        }
    };
    (@series $name:literal $(, $help:literal)? $({ $label:ident: $value:expr })? $(buckets $buckets:path)?) => {
        $crate::metrics::Series {
            name: $name,
            $(help: $help,)?
            $(label: Some((stringify!($label), $value)),)?
            $(buckets: &$buckets,)?
            ..Default::default()
        }
    };
}
pub(crate) use metrics;

#[cfg(test)]
mod tests;
