// SPDX-License-Identifier: Apache-2.0
//! `MeshMetric`: metrics of some pods, and of the applications in them, for Prometheus.

mod older;

pub use older::*;

use crate::context::Context;
use crate::kinds::Resource;
use crate::merge::Merge;
use crate::read::part::Part;
use crate::read::{At, Mapping, Port, Read, fields, words};
use crate::target::{PodsOrGateway, Target};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Most applications of a pod. Each is asked for up to 8 MiB at every scrape.
pub const MOST_APPLICATIONS: usize = 16;
/// Most backends of a pod: each port is a listener.
pub const MOST_BACKENDS: usize = 8;
/// Most selectors of a list. Each is held against the name of each family at every scrape.
pub const MOST_SELECTORS: usize = 100;
/// Longest text of a selector, a path or a name.
const MOST_TEXT: usize = 1_000;

/// The port of a Prometheus backend that says none: Kuma's.
pub const DEFAULT_PORT: u16 = 5670;
/// The path of a Prometheus backend that says none: Kuma's.
pub const DEFAULT_PATH: &str = "/metrics";
/// The path of an application that says none: Kuma's.
pub const DEFAULT_APPLICATION_PATH: &str = "/metrics/prometheus";

fields! {
    /// Metrics of some pods, and of the applications in them, for Prometheus.
    pub struct MeshMetric {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Metrics that are shown, and their place.
        default: optional MetricConf = "default",
    }
}

fields! {
    /// Metrics that are shown, and where; what is absent is left to wider policies.
    pub struct MetricConf {
        /// Metrics of the sidecar.
        sidecar: optional SidecarMetrics = "sidecar",
        /// Applications of the pod whose metrics are joined.
        applications: optional Vec<Application> = "applications",
        /// Ports on which Prometheus finds all of them.
        backends: optional Vec<Backend> = "backends",
    }
}

fields! {
    /// Metrics of the sidecar.
    pub struct SidecarMetrics {
        /// Metrics that are shown.
        profiles: optional Profiles = "profiles",
        /// True: counters and histograms that never counted are shown, too. Default: false.
        include_unused: optional bool = "includeUnused",
    }
}

fields! {
    /// Metrics that are shown: those of the profiles, without those of exclude, with those of include.
    pub struct Profiles {
        /// Sets of metrics; those of all policies about a pod count together, and the widest holds. Default: Basic.
        append_profiles: default Vec<Profile> = "appendProfiles",
        /// Metrics that are left out.
        exclude: optional Vec<MetricSelector> = "exclude",
        /// Metrics that are shown all the same.
        include: optional Vec<MetricSelector> = "include",
    }
}

fields! {
    /// A set of metrics.
    pub struct Profile {
        /// Its name.
        name: required ProfileName = "name",
    }
}

words! {
    /// Sets of metrics.
    pub enum ProfileName {
        /// Every metric.
        All = "All",
        /// The metrics that dashboards and alerts are made of.
        Basic = "Basic",
        /// No metric.
        None = "None",
    }
}

fields! {
    /// Metrics by name.
    pub struct MetricSelector {
        /// The way in which the text is held against a name.
        kind: required SelectorKind = "type",
        /// The text.
        text: required SelectorText = "match",
    }
}

words! {
    /// Ways to hold a text against a name.
    pub enum SelectorKind {
        /// A regular expression that fits a part of the name.
        Regex = "Regex",
        /// The beginning of the name.
        Prefix = "Prefix",
        /// The whole name.
        Exact = "Exact",
        /// A part of the name.
        Contains = "Contains",
    }
}

/// The text of a selector, of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorText(pub String);

impl Read for SelectorText {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = String::read(value, at)?;
        if text.len() <= MOST_TEXT { Some(Self(text)) } else { at.wrong(value, "at most 1000 bytes") }
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": MOST_TEXT})
    }
}

fields! {
    /// An application of the pod that shows metrics.
    pub struct Application {
        /// Its name, which tells its metrics apart. Default: its port.
        name: optional ApplicationName = "name",
        /// Path of its metrics. Default: /metrics/prometheus.
        path: optional MetricPath = "path",
        /// Address on which it listens. Default: that of the Dataplane.
        address: optional IpAddr = "address",
        /// Port on which it listens.
        port: required Port = "port",
    }
}

/// The name of an application, the value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationName(pub String);

impl Read for ApplicationName {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = String::read(value, at)?;
        let fits = text.len() <= MOST_TEXT && !text.contains(char::is_control);
        if fits { Some(Self(text)) } else { at.wrong(value, "at most 1000 bytes of one line") }
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": MOST_TEXT})
    }
}

/// The path of a page of metrics. One without a slash at its beginning gets it, as in Kuma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricPath(pub String);

impl Read for MetricPath {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let Some(text) = value.as_str() else { return at.wrong(value, "a path, as \"/metrics\"") };
        // Each of them would end the path in a request line.
        let is_of_path = |byte: u8| byte.is_ascii_graphic() && !b"#?".contains(&byte);
        if text.len() > MOST_TEXT || !text.bytes().all(is_of_path) {
            const ALLOWED: &str =
                "a path of at most 1000 visible ASCII characters without \"#\" and \"?\", as \"/metrics\"";
            return at.wrong(value, ALLOWED);
        }
        Some(Self(if text.starts_with('/') { text.into() } else { format!("/{text}") }))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[!\"$->@-~]*$", "maxLength": MOST_TEXT})
    }
}

fields! {
    /// A place where metrics are found.
    pub struct Backend {
        /// Prometheus.
        kind: required BackendKind = "type",
        /// The port for Prometheus.
        prometheus: optional Prometheus = "prometheus",
        /// A collector that metrics are pushed to, which is an error.
        open_telemetry: optional Mapping = "openTelemetry",
    }
}

words! {
    /// Types of backends.
    pub enum BackendKind {
        /// A port that Prometheus asks.
        Prometheus = "Prometheus",
        /// A collector that metrics are pushed to.
        OpenTelemetry = "OpenTelemetry",
    }
}

fields! {
    /// A port that Prometheus asks.
    pub struct Prometheus {
        /// Name of the Prometheus, for Kuma's discovery service; part of the listener's name.
        client_id: optional ApplicationName = "clientId",
        /// The port. Default: 5670.
        port: optional Port = "port",
        /// Path of the metrics. Default: /metrics.
        path: optional MetricPath = "path",
        /// TLS of the port.
        tls: optional PrometheusTls = "tls",
    }
}

fields! {
    /// TLS of the port.
    pub struct PrometheusTls {
        /// Kind of TLS. Default: Disabled.
        mode: optional PrometheusTlsMode = "mode",
    }
}

words! {
    /// Kinds of TLS of the port.
    pub enum PrometheusTlsMode {
        /// None of its own; under mTLS the port has the mesh's, as every inbound.
        Disabled = "Disabled",
        /// A certificate that the user gives to the sidecar.
        Provided = "ProvidedTLS",
        /// The mesh's, for a Prometheus inside of the mesh.
        ActiveMtls = "ActiveMTLSBackend",
    }
}

impl Prometheus {
    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port.map_or(DEFAULT_PORT, |port| port.0)
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        self.path.as_ref().map_or(DEFAULT_PATH, |path| &path.0)
    }

    /// Returns the kind of TLS.
    pub fn tls(&self) -> PrometheusTlsMode {
        self.tls.as_ref().and_then(|tls| tls.mode).unwrap_or(PrometheusTlsMode::Disabled)
    }
}

impl Application {
    /// Returns the path.
    pub fn path(&self) -> &str {
        self.path.as_ref().map_or(DEFAULT_APPLICATION_PATH, |path| &path.0)
    }
}

impl Merge for MetricConf {
    fn over(self, less_specific: Self) -> Self {
        let Self { sidecar, applications, backends } = less_specific;
        Self {
            sidecar: filled(self.sidecar, sidecar),
            // A list that is there holds as a whole, an empty one too: it turns off what a wider policy turns on.
            applications: self.applications.over(applications),
            backends: self.backends.over(backends),
        }
    }
}

impl Merge for SidecarMetrics {
    fn over(self, less_specific: Self) -> Self {
        let Self { profiles, include_unused } = less_specific;
        Self {
            profiles: filled(self.profiles, profiles),
            include_unused: self.include_unused.over(include_unused),
        }
    }
}

impl Merge for Profiles {
    /// Profiles add up, as every list of Kuma's that is named "append".
    fn over(mut self, less_specific: Self) -> Self {
        let Self { append_profiles, exclude, include } = less_specific;
        self.append_profiles.extend(append_profiles);
        Self {
            append_profiles: self.append_profiles,
            exclude: self.exclude.over(exclude),
            include: self.include.over(include),
        }
    }
}

/// Merges two mappings that may be absent.
fn filled<T: Merge>(more_specific: Option<T>, less_specific: Option<T>) -> Option<T> {
    match (more_specific, less_specific) {
        (Some(more), Some(less)) => Some(more.over(less)),
        (more, less) => more.or(less),
    }
}

impl Resource for MeshMetric {
    const NAME: &'static str = "MeshMetric";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrGateway::check(&target, at);
        if target.has("sectionName") == Ok(true) {
            target.problem(
                at,
                "sectionName",
                "an inbound",
                "whole pods: a sidecar shows the metrics of its pod",
            );
        }
        let conf = part.field("default");
        for (list, most) in [("applications", MOST_APPLICATIONS), ("backends", MOST_BACKENDS)] {
            at_most(&conf, list, most, at);
        }
        let profiles = conf.field("sidecar").field("profiles");
        for list in ["appendProfiles", "exclude", "include"] {
            at_most(&profiles, list, MOST_SELECTORS, at);
        }
        for backend in conf.items("backends").unwrap_or_default() {
            check_backend(&backend, at);
        }
    }
}

fn at_most(part: &Part<'_>, list: &str, most: usize, at: &mut At<'_>) {
    let count = part.items(list).map_or(0, |items| items.len());
    if count > most {
        part.problem(at, list, format!("{count} entries"), format!("at most {most}"));
    }
}

fn check_backend(backend: &Part<'_>, at: &mut At<'_>) {
    match backend.get::<BackendKind>("type") {
        Ok(Some(BackendKind::OpenTelemetry)) => {
            const ALLOWED: &str = "Prometheus; pushing metrics to a collector is not built, and a collector can scrape the \
                                   port of a Prometheus backend";
            backend.problem(at, "type", "\"OpenTelemetry\"", ALLOWED);
        }
        Ok(Some(BackendKind::Prometheus)) => {
            if backend.has("prometheus") == Ok(false) {
                backend.problem(at, "prometheus", "nothing", "the port, as {port: 5670}");
            }
            if backend.has("openTelemetry") == Ok(true) {
                let found = "it beside type Prometheus";
                backend.problem(at, "openTelemetry", found, "the field of the type alone");
            }
        }
        Ok(None) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
