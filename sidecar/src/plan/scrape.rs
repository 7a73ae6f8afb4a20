// SPDX-License-Identifier: Apache-2.0
//! Metrics that Prometheus finds on ports of their own: the sidecar's, and those of the pod's applications.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Memory that a compiled expression may take. Kuma's own selectors take some 10 KiB.
const PATTERN_MEMORY: usize = 256 * 1024;

/// Metrics of a pod, as its MeshMetrics say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrape {
    /// Ports on which they are found; no two are the same.
    pub ports: Vec<ScrapePort>,
    /// Applications whose metrics are joined.
    pub applications: Vec<ScrapedApplication>,
    /// Labels that every series gets, with their values.
    pub labels: Vec<(&'static str, Arc<str>)>,
    /// The sidecar's metrics that are shown.
    pub selection: Selection,
}

/// A port on which Prometheus finds metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapePort {
    /// Address of the server's socket.
    pub listen: SocketAddr,
    /// Paths of the metrics.
    pub paths: Vec<String>,
}

/// An application of the pod that shows metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapedApplication {
    /// Name that tells its series apart.
    pub name: Arc<str>,
    /// Address on which it listens; `None` = the pod's, which no Dataplane says.
    pub address: Option<IpAddr>,
    /// Port on which it listens.
    pub port: u16,
    /// Path of its metrics, which begins with a slash.
    pub path: Arc<str>,
}

/// A set of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// No metric.
    None,
    /// The metrics that dashboards and alerts are made of.
    #[default]
    Basic,
    /// Every metric.
    All,
}

/// The sidecar's metrics that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The set that they are chosen from.
    pub profile: Profile,
    /// Those of the set that are left out.
    pub exclude: Vec<NameSelector>,
    /// Those that are shown all the same.
    pub include: Vec<NameSelector>,
    /// True: counters and histograms that never counted are shown, too.
    pub include_unused: bool,
}

/// Metrics by the name of their family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSelector {
    /// The whole name.
    Exact(String),
    /// The beginning of the name.
    Prefix(String),
    /// A part of the name.
    Contains(String),
    /// A regular expression that fits a part of the name.
    Regex(Pattern),
}

impl NameSelector {
    /// Returns true if the selector means the name.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text.as_str()),
            Self::Contains(text) => name.contains(text.as_str()),
            Self::Regex(Pattern(pattern)) => pattern.is_match(name),
        }
    }
}

/// A regular expression. It takes linear time, as RE2 does. Names of metrics are ASCII, so the small library is enough.
#[derive(Clone, Debug)]
pub struct Pattern(regex_lite::Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The words say what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let built = regex_lite::RegexBuilder::new(text).size_limit(PATTERN_MEMORY).build();
        built.map(Self).map_err(|error| error.to_string())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Returns the value of a label as it stands in quotes.
pub fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_what_kumas_means() {
        let (name, regex) =
            ("envoy_cluster_upstream_rq_time", |text: &str| NameSelector::Regex(Pattern::new(text).unwrap()));
        for (selector, fits) in [
            (NameSelector::Exact(name.into()), true),
            (NameSelector::Exact("envoy_cluster".into()), false),
            (NameSelector::Prefix("envoy_cluster".into()), true),
            (NameSelector::Prefix("cluster".into()), false),
            (NameSelector::Contains("rq_time".into()), true),
            (NameSelector::Contains("rq_times".into()), false),
            // Not anchored, as Go's MatchString.
            (regex("upstream_rq_.*"), true),
            (regex("^upstream_rq_.*"), false),
            (regex("(?i)UPSTREAM"), true),
            (regex("rq_(time|total)$"), true),
        ] {
            assert_eq!(selector.fits(name), fits, "{selector:?}");
        }
    }

    #[test]
    fn an_expression_is_bounded_and_a_wrong_one_says_why() {
        assert!(Pattern::new("())(!(").is_err());
        assert!(Pattern::new(&"(a{100}){100}".repeat(10)).is_err(), "its memory is bounded");
        assert!(Pattern::new("envoy_cluster_external_upstream_rq_.*").is_ok());
    }

    #[test]
    fn a_value_stays_in_its_quotes() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
