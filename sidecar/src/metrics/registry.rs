// SPDX-License-Identifier: Apache-2.0
//! All metrics of the process: as OpenMetrics text, and as statistics under Envoy's names.

use super::{Counter, Declared, Gauge, Histogram, Labels, Metric, Series};
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry;
use std::collections::BTreeMap;
use std::fmt;

/// Begins every name on `/metrics`.
const PREFIX: &str = "culvert";

/// Statistics by name; values of the same name are added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats(BTreeMap<String, i64>);

impl Stats {
    /// Adds a value to the statistic of this name.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: i64) {
        let sum = self.0.entry(name.into()).or_default();
        *sum = sum.saturating_add(value);
    }

    /// Adds the statistics of a group whose names these labels fill in.
    pub(crate) fn read(&mut self, group: &impl Metric, labels: &[(&str, &str)]) {
        group.read(Declared::default(), labels, self);
    }

    /// Names and values, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    fn add_declared(&mut self, declared: Declared, labels: &[(&str, &str)], value: i64) {
        for name in declared.stats.iter().filter_map(|name| filled_in(name, labels)) {
            self.add(name, value);
        }
    }
}

/// Puts the labels' values into the placeholders of a name; `None` when one of them has no value.
fn filled_in(name: &str, labels: &[(&str, &str)]) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('{') {
        let (placeholder, after) = after.split_once('}')?;
        text.push_str(before);
        text.push_str(labels.iter().find(|(label, _)| *label == placeholder)?.1);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Makes the metrics of a family.
#[derive(Clone, Debug)]
struct Constructor<M> {
    buckets: &'static [f64],
    make: fn(&'static [f64]) -> M,
}

impl<M> MetricConstructor<M> for Constructor<M> {
    fn new_metric(&self) -> M {
        (self.make)(self.buckets)
    }
}

/// A family of counters whose labels are not known before the first count.
pub(super) type OpenFamily = Family<Vec<(&'static str, String)>, Counter>;

type Families<M> = BTreeMap<&'static str, Family<Labels, M, Constructor<M>>>;

/// A statistic that is read when it is asked for.
#[derive(Debug)]
enum Source {
    Counter(Counter),
    Gauge(Gauge),
}

/// All metrics of the process. Filled at the start, then shared and only read.
#[derive(Debug)]
pub(crate) struct MetricRegistry {
    series: registry::Registry,
    counters: Families<Counter>,
    gauges: Families<Gauge>,
    histograms: Families<Histogram>,
    open: BTreeMap<&'static str, OpenFamily>,
    stats: Vec<(String, Source)>,
}

impl MetricRegistry {
    pub(crate) fn new() -> Self {
        Self {
            series: registry::Registry::with_prefix(PREFIX),
            counters: Families::new(),
            gauges: Families::new(),
            histograms: Families::new(),
            open: BTreeMap::new(),
            stats: Vec::new(),
        }
    }

    /// Registers a room's metrics.
    pub(crate) fn add<M: Metric>(&mut self) -> M {
        M::register(self, Declared::default(), &Labels::new())
    }

    /// All series as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.series) {
            Ok(()) => text,
            // Writing to a String does not fail; a half-written page would be worse than an empty one.
            Err(fmt::Error) => String::new(),
        }
    }

    /// The statistics of all registered metrics.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for (name, source) in &self.stats {
            stats.add(
                name,
                match source {
                    Source::Counter(counter) => signed(counter.get()),
                    Source::Gauge(gauge) => gauge.get(),
                },
            );
        }
        stats
    }

    /// Registers a family, or returns the one of the same name.
    pub(super) fn open_family(&mut self, declared: Declared) -> OpenFamily {
        let Some(Series { name, help, .. }) = declared.series else { return OpenFamily::default() };
        let family = self.open.entry(name).or_insert_with(|| {
            let family = OpenFamily::default();
            self.series.register(name, help, family.clone());
            family
        });
        family.clone()
    }

    fn keep(&mut self, declared: Declared, labels: &Labels, source: impl Fn() -> Source) {
        let names = declared.stats.iter().filter_map(|name| filled_in(name, labels));
        self.stats.extend(names.map(|name| (name, source())));
    }
}

/// Registers one metric: alone where it has no label, else in the family of its name.
fn register<M>(
    series: &mut registry::Registry,
    families: &mut Families<M>,
    declared: Option<Series>,
    labels: &Labels,
    make: fn(&'static [f64]) -> M,
) -> M
where
    M: EncodeMetric + TypedMetric + Clone + fmt::Debug + Send + Sync + 'static,
{
    let Some(Series { name, help, label, buckets }) = declared else { return make(&[]) };
    let constructor = Constructor { buckets, make };
    if labels.is_empty() && label.is_none() {
        let metric = constructor.new_metric();
        series.register(name, help, metric.clone());
        return metric;
    }
    let family = families.entry(name).or_insert_with(|| {
        debug_assert!(!help.is_empty(), "{name} has no help");
        let family = Family::new_with_constructor(constructor);
        series.register(name, help, family.clone());
        family
    });
    let labels = labels.iter().copied().chain(label).collect();
    family.get_or_create_owned(&labels)
}

impl Metric for Counter {
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        let MetricRegistry { series, counters, .. } = registry;
        let counter = register(series, counters, declared.series, labels, |_| Self::default());
        registry.keep(declared, labels, || Source::Counter(counter.clone()));
        counter
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        stats.add_declared(declared, labels, signed(self.get()));
    }
}

impl Metric for Gauge {
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        let MetricRegistry { series, gauges, .. } = registry;
        let gauge = register(series, gauges, declared.series, labels, |_| Self::default());
        registry.keep(declared, labels, || Source::Gauge(gauge.clone()));
        gauge
    }

    fn read(&self, declared: Declared, labels: &[(&str, &str)], stats: &mut Stats) {
        stats.add_declared(declared, labels, self.get());
    }
}

/// Envoy's histograms are percentiles, which ours have no statistic for.
impl Metric for Histogram {
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        let MetricRegistry { series, histograms, .. } = registry;
        register(series, histograms, declared.series, labels, |buckets| Self::new(buckets.iter().copied()))
    }

    fn read(&self, _: Declared, _: &[(&str, &str)], _: &mut Stats) {}
}
