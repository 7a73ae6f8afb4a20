// SPDX-License-Identifier: Apache-2.0
//! `metrics` of a Mesh and of a Dataplane, the ancestor of MeshMetric: its settings, and what they are in the newer words.

use super::{
    Application, ApplicationName, Backend, BackendKind, MOST_APPLICATIONS, MetricConf, MetricPath,
    MetricSelector, Profile, ProfileName, Profiles, Prometheus, PrometheusTls, PrometheusTlsMode,
    SelectorKind, SelectorText, SidecarMetrics, at_most,
};
use crate::merge::Merge;
use crate::model::tags::{SERVICE, Tags};
use crate::read::part::Part;
use crate::read::{At, Port, fields, words};
use std::net::IpAddr;

/// The service that selectors of permissions know the port by, where no tags are said: Kuma's.
const UNNAMED: &str = "dataplane-metrics";
/// The path of an application that says none.
const APPLICATION_PATH: &str = "/metrics";

fields! {
    /// A port that Prometheus asks.
    pub struct OlderPrometheus {
        /// The port. Default: 5670.
        port: optional Port = "port",
        /// Path of the metrics. Default: /metrics.
        path: optional MetricPath = "path",
        /// Tags by which permissions choose the port. Default: kuma.io/service is dataplane-metrics.
        tags: optional Tags = "tags",
        /// True: as tls.mode disabled, in the older spelling.
        skip_mtls: optional bool = "skipMTLS",
        /// TLS of the port.
        tls: optional OlderTls = "tls",
        /// Applications of the pod whose metrics are joined.
        aggregate: default Vec<Aggregate> = "aggregate",
        /// Metrics of the sidecar that are shown. Absent: all.
        envoy: optional OlderSelection = "envoy",
    }
}

fields! {
    /// TLS of the port.
    pub struct OlderTls {
        /// Kind of TLS. Default: activeMTLSBackend.
        mode: optional OlderTlsMode = "mode",
    }
}

words! {
    /// Kinds of TLS of the port.
    pub enum OlderTlsMode {
        /// The mesh's.
        Active = "activeMTLSBackend",
        /// A certificate that the user gives to the sidecar.
        Provided = "providedTLS",
        /// None of its own; under mTLS the port has the mesh's, as every inbound.
        Disabled = "disabled",
    }
}

fields! {
    /// An application of the pod that shows metrics.
    pub struct Aggregate {
        /// Its name, by which a Dataplane changes what its Mesh says.
        name: required ApplicationName = "name",
        /// Port on which it listens.
        port: optional Port = "port",
        /// Path of its metrics. Default: /metrics.
        path: optional MetricPath = "path",
        /// Address on which it listens. Default: that of the Dataplane.
        address: optional IpAddr = "address",
        /// False: it is not asked.
        enabled: optional bool = "enabled",
    }
}

fields! {
    /// Metrics of the sidecar that are shown.
    pub struct OlderSelection {
        /// Those whose names the expression fits in a part. Absent: all.
        filter_regex: optional SelectorText = "filterRegex",
        /// True: without counters and histograms that never counted.
        used_only: optional bool = "usedOnly",
    }
}

impl Merge for OlderPrometheus {
    /// Returns what a Dataplane says over its Mesh: an application by the same name is the Dataplane's as a whole.
    fn over(self, less_specific: Self) -> Self {
        let Self { port, path, tags, skip_mtls, tls, mut aggregate, envoy } = less_specific;
        aggregate.retain(|one| !self.aggregate.iter().any(|own| own.name == one.name));
        aggregate.extend(self.aggregate);
        // Each of the two spellings of TLS takes the other one's place.
        let says_tls = self.skip_mtls.is_some() || self.tls.is_some();
        let (skip_mtls, tls) = if says_tls { (self.skip_mtls, self.tls) } else { (skip_mtls, tls) };
        let tags = match (self.tags, tags) {
            (Some(own), Some(of_mesh)) => Some(Tags(of_mesh.0.into_iter().chain(own.0).collect())),
            (own, of_mesh) => own.or(of_mesh),
        };
        Self {
            port: self.port.over(port),
            path: self.path.over(path),
            tags,
            skip_mtls,
            tls,
            aggregate,
            envoy: self.envoy.over(envoy),
        }
    }
}

impl OlderPrometheus {
    /// Returns the settings of a backend that has none.
    pub fn unsaid() -> Self {
        Self {
            port: None,
            path: None,
            tags: None,
            skip_mtls: None,
            tls: None,
            aggregate: Vec::new(),
            envoy: None,
        }
    }

    /// Returns the tags by which permissions choose the port.
    pub fn tags(&self) -> Tags {
        let unnamed = || Tags([(SERVICE.to_owned(), UNNAMED.to_owned())].into());
        self.tags.clone().unwrap_or_else(unnamed)
    }

    fn tls(&self) -> PrometheusTlsMode {
        match (self.tls.as_ref().and_then(|tls| tls.mode), self.skip_mtls) {
            (Some(OlderTlsMode::Disabled), _) | (None, Some(true)) => PrometheusTlsMode::Disabled,
            (Some(OlderTlsMode::Provided), _) => PrometheusTlsMode::Provided,
            (Some(OlderTlsMode::Active), _) | (None, _) => PrometheusTlsMode::ActiveMtls,
        }
    }

    /// Returns the same in the words of a MeshMetric.
    pub fn conf(&self) -> MetricConf {
        let prometheus = Prometheus {
            client_id: None,
            port: self.port,
            path: self.path.clone(),
            tls: Some(PrometheusTls { mode: Some(self.tls()) }),
        };
        let backend =
            Backend { kind: BackendKind::Prometheus, prometheus: Some(prometheus), open_telemetry: None };
        let asked = self.aggregate.iter().filter(|one| one.enabled != Some(false));
        let application = |one: &Aggregate| {
            Some(Application {
                name: Some(one.name.clone()),
                path: Some(one.path.clone().unwrap_or_else(|| MetricPath(APPLICATION_PATH.into()))),
                address: one.address,
                port: one.port?,
            })
        };
        let filter = self.envoy.as_ref().and_then(|envoy| envoy.filter_regex.clone());
        let used_only = self.envoy.as_ref().and_then(|envoy| envoy.used_only).unwrap_or_default();
        let name = if filter.is_some() { ProfileName::None } else { ProfileName::All };
        let selector = |text| vec![MetricSelector { kind: SelectorKind::Regex, text }];
        let profiles = Profiles {
            append_profiles: vec![Profile { name }],
            exclude: None,
            include: filter.map(selector),
        };
        MetricConf {
            sidecar: Some(SidecarMetrics { profiles: Some(profiles), include_unused: Some(!used_only) }),
            applications: Some(asked.filter_map(application).collect()),
            backends: Some(vec![backend]),
        }
    }
}

/// Notes problems that several fields make together.
pub(in crate::kinds) fn check_older(conf: &Part<'_>, at: &mut At<'_>) {
    at_most(conf, "aggregate", MOST_APPLICATIONS, at);
    for one in conf.items("aggregate").unwrap_or_default() {
        if one.has("port") == Ok(false) && one.get::<bool>("enabled") != Ok(Some(false)) {
            one.problem(at, "port", "nothing", "the application's port, or enabled: false");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Problems, Read};
    use serde_json::{Value, json};

    fn read(value: Value) -> OlderPrometheus {
        let mut problems = Problems::default();
        OlderPrometheus::read(&value, &mut At::root(&mut problems))
            .unwrap_or_else(|| panic!("{value}: {problems:?}"))
    }

    #[test]
    fn a_dataplane_changes_what_its_mesh_says_and_an_application_by_its_name() {
        let mesh = read(
            json!({"port": 1234, "path": "/a", "tags": {"kuma.io/service": "m", "a": "b"}, "skipMTLS": true,
            "aggregate": [{"name": "my-service", "path": "/m", "port": 8888}, {"name": "other", "port": 8000}]}),
        );
        let own = read(
            json!({"path": "/overridden", "tags": {"kuma.io/service": "own"}, "tls": {"mode": "activeMTLSBackend"},
            "aggregate": [{"name": "my-service", "enabled": false}, {"name": "other", "port": 1234, "address": "127.0.0.1"}, {"name": "app", "path": "/stats", "port": 80}]}),
        );
        let both = own.over(mesh);
        let tags = both.tags();
        assert_eq!((tags.service(), tags.0.get("a").map(String::as_str)), (Some("own"), Some("b")));
        let conf = both.conf();
        let backend = conf.backends.as_ref().unwrap()[0].prometheus.as_ref().unwrap();
        assert_eq!(
            (backend.port(), backend.path(), backend.tls()),
            (1234, "/overridden", PrometheusTlsMode::ActiveMtls)
        );
        let applications: Vec<_> =
            conf.applications.iter().flatten().map(|one| (one.port.0, one.path())).collect();
        assert_eq!(applications, [(1234, "/metrics"), (80, "/stats")]);
    }

    #[test]
    fn without_settings_every_metric_is_at_kumas_port() {
        let conf = read(json!({}));
        assert_eq!(conf.tags().service(), Some("dataplane-metrics"));
        let conf = conf.conf();
        let backend = conf.backends.as_ref().unwrap()[0].prometheus.as_ref().unwrap();
        assert_eq!(
            (backend.port(), backend.path(), backend.tls()),
            (5670, "/metrics", PrometheusTlsMode::ActiveMtls)
        );
        let sidecar = conf.sidecar.unwrap();
        assert_eq!(sidecar.include_unused, Some(true));
        assert_eq!(sidecar.profiles.unwrap().append_profiles[0].name, ProfileName::All);
        let some =
            read(json!({"envoy": {"filterRegex": "http2_act.*", "usedOnly": true}, "skipMTLS": true})).conf();
        let sidecar = some.sidecar.unwrap();
        let profiles = sidecar.profiles.unwrap();
        assert_eq!(
            (sidecar.include_unused, profiles.append_profiles[0].name),
            (Some(false), ProfileName::None)
        );
        assert_eq!(profiles.include.unwrap()[0].text.0, "http2_act.*");
        assert_eq!(some.backends.unwrap()[0].prometheus.as_ref().unwrap().tls(), PrometheusTlsMode::Disabled);
    }
}
