// SPDX-License-Identifier: Apache-2.0
//! Ports for Prometheus, and what is found there, by MeshMetric. Where none is about the pod, its ancestor says that: `metrics`
//! of the Mesh, which the pod's Dataplane may change.
//!
//! | the pod's inbound connections are | the server's socket | a scraper comes to it |
//! |---|---|---|
//! | redirected | the port, on every address | by 15006: the mesh's TLS and permissions first, then a hop from `127.0.0.6` or `::6`, by which the server knows that they were passed |
//! | not redirected | the port, on loopback | by a listener that binds the Dataplane's address, with the mesh's TLS and permissions |
//!
//! The port is none of those that the loop guard refuses: a connection to it is served and not relayed on, so it ends there.

mod reasons;

use crate::net::addrs::Direction;
use crate::options::config::Config;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::limits::Numbers;
use crate::plan::compile::{push_cluster, push_listener};
use crate::plan::scrape::{
    NameSelector, Pattern, Profile, Scrape, ScrapePort, ScrapedApplication, Selection,
};
use crate::plan::{Discovery, ListenerPlan, Origin, Plan, Serve, hop_source};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::mesh::Mesh;
use culvert_mesh::kinds::mesh_metric::{
    Application, Backend, MeshMetric, MetricConf, MetricSelector, OlderPrometheus, ProfileName, Prometheus,
    PrometheusTlsMode, SelectorKind, SidecarMetrics,
};
use culvert_mesh::kinds::{FromSpec, Kind};
use culvert_mesh::merge::{Merge, merged};
use culvert_mesh::model::tags::Tags;
use culvert_mesh::select::{self, Subject};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Label of a Dataplane with its workload.
const WORKLOAD: &str = "kuma.io/workload";
/// Kuma's name of the ancestor's listener.
const OLDER_LISTENER: &str = "_kuma:metrics:prometheus";
/// The name of a backend that has no `clientId`: Kuma's.
const UNNAMED: &str = "default-backend";

/// Adds the listeners of this pod's metrics, and what is found there.
pub(super) fn add(
    plan: &mut Plan,
    config: &Config,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) {
    wrong_expressions(ours, errors);
    let policies = MetricPolicies::of(ours, pod);
    let Some(conf) = merged(policies.confs().map(|(_, conf)| conf.clone())) else { return };
    let backends = conf.backends.as_deref().unwrap_or_default();
    if !backends.iter().any(|backend| backend.prometheus.is_some()) {
        return;
    }
    let ports = add_ports(plan, (config, pod), (backends, &policies), errors);
    if ports.is_empty() && policies.older {
        return;
    }
    let applications = conf.applications.as_deref().unwrap_or_default();
    let mut own: BTreeSet<u16> = ports.iter().map(|port| port.listen.port()).collect();
    own.extend(config.context().own_ports);
    plan.scrape = Some(Scrape {
        applications: applications_of(applications, pod, (&own, &policies), errors),
        labels: labels(plan, pod),
        selection: selection(conf.sidecar),
        ports,
    });
    policies.explain(plan);
}

/// What documents say of this pod's metrics, the one that decides first.
struct MetricPolicies<'d> {
    all: Vec<(&'d Document, MetricConf)>,
    /// True where no MeshMetric is about the pod, and the Mesh says it.
    older: bool,
}

impl<'d> MetricPolicies<'d> {
    fn of(ours: &[&'d Document], pod: &Subject<'d>) -> Self {
        let newer = select::effective::<MeshMetric>(ours, std::slice::from_ref(pod));
        if newer.is_empty() {
            let older = of_pod(ours, pod).into_iter();
            return Self { all: older.map(|(of, conf)| (of, conf.conf())).collect(), older: true };
        }
        let all = newer.iter().filter_map(|one| Some((one.document, one.policy.default.clone()?)));
        Self { all: all.collect(), older: false }
    }

    fn confs(&self) -> impl Iterator<Item = (&'d Document, &MetricConf)> {
        self.all.iter().map(|(document, conf)| (*document, conf))
    }

    /// Returns the document that decides a part, for errors about it.
    fn says(&self, says: impl Fn(&MetricConf) -> bool) -> Option<&'d Document> {
        self.confs().find(|(_, conf)| says(conf)).map(|(document, _)| document)
    }

    /// Returns the path of a field of a policy, or of the ancestor as a whole.
    fn path(&self, field: &str) -> String {
        if self.older { "metrics".into() } else { format!("spec.default.{field}") }
    }
}

/// Returns the metrics that the Mesh turns on, behind what the pod's Dataplane changes of them.
fn older<'d>(ours: &[&'d Document], pod: &Subject<'d>) -> Vec<(&'d Document, OlderPrometheus)> {
    let find = || {
        let (document, mesh) = ours.iter().find_map(|one| Some((*one, Mesh::from_spec(&one.spec)?)))?;
        let backend = mesh.metrics.as_ref()?.enabled()?;
        Some((document, backend.conf.clone().unwrap_or_else(OlderPrometheus::unsaid)))
    };
    let Some((document, conf)) = find() else { return Vec::new() };
    let own = pod.pod.and_then(|(of, this)| Some((of, this.metrics.as_ref()?.conf.clone()?)));
    let own = own.map(|(of, own)| (of, own.over(conf.clone())));
    own.into_iter().chain([(document, conf)]).collect()
}

/// Returns the same for a pod with a Dataplane: without one Kuma has no proxy, and an old Mesh must not open a port.
fn of_pod<'d>(ours: &[&'d Document], pod: &Subject<'d>) -> Vec<(&'d Document, OlderPrometheus)> {
    if pod.pod.is_some() { older(ours, pod) } else { Vec::new() }
}

/// Returns the tags by which permissions choose the port of metrics; `None` where they choose it as the whole pod.
pub(super) fn tags_of_port<'d>(ours: &[&'d Document], pod: &Subject<'d>) -> Option<Tags> {
    let newer = select::effective::<MeshMetric>(ours, std::slice::from_ref(pod));
    let older = if newer.is_empty() { of_pod(ours, pod) } else { Vec::new() };
    older.first().map(|(_, conf)| conf.tags())
}

/// Adds a listener for each port. Backends of one port differ by their paths.
fn add_ports(
    plan: &mut Plan,
    (config, pod): (&Config, &Subject<'_>),
    (backends, policies): (&[Backend], &MetricPolicies<'_>),
    errors: &mut Vec<CompileError>,
) -> Vec<ScrapePort> {
    let of = policies.says(|conf| conf.backends.is_some());
    let mut ports: Vec<ScrapePort> = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let Some(backend) = &backend.prometheus else { continue };
        let (port, path) = (backend.port(), backend.path().to_owned());
        if backend.tls() == PrometheusTlsMode::Provided {
            plan.warnings.push(format!(
                "MeshMetric: the port {port} has no TLS of its own (ProvidedTLS), as in Kuma where its sidecar has no \
                 certificate for it; under mTLS it has the mesh's"
            ));
        }
        if let Some(there) = ports.iter_mut().find(|there| there.listen.port() == port) {
            if !there.paths.contains(&path) {
                there.paths.push(path);
            }
            continue;
        }
        let taken = config.sidecar_ports().contains(port).then(|| "a port of the sidecar".to_owned());
        if let Some(taken) = taken.or_else(|| inbound_of(plan, pod, port)) {
            // As in Kuma the ancestor then opens no port.
            if policies.older {
                plan.warnings.push(format!("Mesh {}: metrics have no port, as {port} is {taken}", plan.mesh));
                continue;
            }
            errors.extend(of.map(|document| {
                let field = policies.path(&format!("backends[{index}].prometheus.port"));
                CompileError::from(document.error(&field, format!("{port}, {taken}"), "a port of its own"))
            }));
            continue;
        }
        let listen = match pod.pod {
            Some((_, this)) => add_listener(plan, config, this, (backend, policies.older)),
            None => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        };
        ports.push(ScrapePort { listen, paths: vec![path] });
    }
    ports
}

/// Returns the name of the pod's listener that has the port already.
fn inbound_of(plan: &Plan, pod: &Subject<'_>, port: u16) -> Option<String> {
    let address = SocketAddr::new(pod.pod?.1.networking.address.ip(), port);
    let has = |listener: &&Arc<ListenerPlan>| {
        let clashes = listener.direction == Direction::Inbound || listener.binds;
        clashes && listener.origin != Origin::Transparent && listener.address == address
    };
    plan.listeners.iter().find(has).map(|listener| format!("that of {}", listener.name))
}

/// Adds the listener of a port, and returns the address of the server's socket.
fn add_listener(
    plan: &mut Plan,
    config: &Config,
    this: &Dataplane,
    (backend, older): (&Prometheus, bool),
) -> SocketAddr {
    let redirected = this.redirected(&config.context())[0];
    let address = SocketAddr::new(this.networking.address.ip(), backend.port());
    let listen = if redirected && this.networking.gateway.is_some() {
        // A gateway lets every peer in to its other addresses, by the same hop.
        address
    } else if redirected {
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), backend.port())
    } else {
        // The listener binds the Dataplane's address, which may be loopback itself.
        let taken = address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST);
        let loopback = if taken { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST };
        SocketAddr::new(loopback.into(), backend.port())
    };
    let server = if redirected { address } else { listen };
    let name = if older { OLDER_LISTENER.into() } else { listener_name(plan, backend) };
    let numbers = Numbers::of_passthrough(config);
    let upstream = Discovery::Application { address: server, source: hop_source(server.ip(), redirected) };
    let cluster = push_cluster(plan, numbers.cluster(Arc::clone(&name), Origin::Prometheus, upstream));
    let listener = ListenerPlan {
        name,
        direction: Direction::Inbound,
        origin: Origin::Prometheus,
        address,
        binds: !redirected,
        serve: Serve::Tcp,
        http: None,
        cluster: Some(cluster),
        split: Vec::new(),
        idle_timeout: numbers.idle_timeout,
        service: None,
        rate: None,
    };
    push_listener(plan, listener);
    listen
}

/// Returns Kuma's name of the listener; a second one of the same client has its port behind it.
fn listener_name(plan: &Plan, backend: &Prometheus) -> Arc<str> {
    let client = backend.client_id.as_ref().map_or(UNNAMED, |client| client.0.trim());
    let name = format!("_kuma:metrics:prometheus:{client}");
    let taken = plan.listeners.iter().any(|listener| *listener.name == *name);
    if taken { format!("{name}:{}", backend.port()).into() } else { name.into() }
}

fn applications_of(
    applications: &[Application],
    pod: &Subject<'_>,
    (own, policies): (&BTreeSet<u16>, &MetricPolicies<'_>),
    errors: &mut Vec<CompileError>,
) -> Vec<ScrapedApplication> {
    let of = policies.says(|conf| conf.applications.is_some());
    let own_address = pod.pod.map(|(_, this)| this.networking.address.ip());
    let mut all = Vec::new();
    for (index, application) in applications.iter().enumerate() {
        let port = application.port.0;
        if own.contains(&port) {
            // The sidecar would ask itself, and by a MeshMetric's port without end.
            errors.extend(of.map(|document| {
                let field = policies.path(&format!("applications[{index}].port"));
                let found = format!("{port}, a port of the sidecar");
                CompileError::from(document.error(&field, found, "a port of an application"))
            }));
            continue;
        }
        let name = application.name.as_ref().map(|name| name.0.as_str()).filter(|name| !name.is_empty());
        all.push(ScrapedApplication {
            name: name.map_or_else(|| port.to_string().into(), Into::into),
            address: application.address.or(own_address),
            port,
            path: application.path().into(),
        });
    }
    all
}

/// Returns the labels that Kuma gives each series, as far as the documents say their values.
fn labels(plan: &Plan, pod: &Subject<'_>) -> Vec<(&'static str, Arc<str>)> {
    let of = pod.pod.map(|(document, _)| document);
    let workload = of.and_then(|document| document.label_or_tag(WORKLOAD));
    let all = [
        ("mesh", Some(Arc::clone(&plan.mesh))),
        ("dataplane", of.map(|document| document.name.as_str().into())),
        ("zone", plan.zone.clone()),
        ("kuma_io_service", plan.service.clone()),
        ("kuma_workload", workload.map(Into::into)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn selection(sidecar: Option<SidecarMetrics>) -> Selection {
    let Some(SidecarMetrics { profiles, include_unused }) = sidecar else { return Selection::default() };
    let include_unused = include_unused.unwrap_or_default();
    let Some(profiles) = profiles else { return Selection { include_unused, ..Selection::default() } };
    let widest = profiles.append_profiles.iter().map(|profile| match profile.name {
        ProfileName::All => Profile::All,
        ProfileName::Basic => Profile::Basic,
        ProfileName::None => Profile::None,
    });
    // Wrong ones were reported by `wrong_expressions`.
    let compiled = |selectors: Option<Vec<MetricSelector>>| {
        selectors.unwrap_or_default().into_iter().filter_map(|one| name_selector(one).ok()).collect()
    };
    Selection {
        profile: widest.max().unwrap_or_default(),
        exclude: compiled(profiles.exclude),
        include: compiled(profiles.include),
        include_unused,
    }
}

/// Reports wrong expressions, also those of policies that decide nothing here: such a document is wrong by itself.
fn wrong_expressions(ours: &[&Document], errors: &mut Vec<CompileError>) {
    for document in ours {
        let conf = MeshMetric::from_spec(&document.spec).and_then(|policy| policy.default.as_ref());
        let Some(profiles) = conf.and_then(|conf| conf.sidecar.as_ref()?.profiles.as_ref()) else { continue };
        for (list, selectors) in [("exclude", &profiles.exclude), ("include", &profiles.include)] {
            for (index, selector) in selectors.iter().flatten().enumerate() {
                let Err((text, error)) = name_selector(selector.clone()) else { continue };
                let field = format!("spec.default.sidecar.profiles.{list}[{index}].match");
                let words = error.lines().last().unwrap_or_default();
                let allowed = format!("a regular expression ({words})");
                errors.push(document.error(&field, format!("{text:?}"), allowed).into());
            }
        }
    }
}

fn name_selector(MetricSelector { kind, text }: MetricSelector) -> Result<NameSelector, (String, String)> {
    let text = text.0;
    Ok(match kind {
        SelectorKind::Exact => NameSelector::Exact(text),
        SelectorKind::Prefix => NameSelector::Prefix(text),
        SelectorKind::Contains => NameSelector::Contains(text),
        SelectorKind::Regex => {
            NameSelector::Regex(Pattern::new(&text).map_err(|error| (text.clone(), error))?)
        }
    })
}

/// Returns the ports for Prometheus at which members of the mesh are asked by the mesh's TLS: those of all MeshMetrics and of
/// the Mesh, since the labels of other pods are not known here. `tls: {mode: Disabled}` keeps a port out, for pods whose sidecar is Kong
/// Mesh's own: that shows metrics plainly.
pub(super) fn ports_of_members(ours: &[&Document]) -> BTreeSet<u16> {
    let policies = ours.iter().filter(|document| document.kind() == Kind::MeshMetric);
    let confs = policies.filter_map(|document| MeshMetric::from_spec(&document.spec)?.default.as_ref());
    let backends = confs.flat_map(|conf| conf.backends.as_deref().unwrap_or_default());
    let plain = |backend: &Prometheus| {
        backend.tls.as_ref().is_some_and(|tls| tls.mode == Some(PrometheusTlsMode::Disabled))
    };
    // Dataplanes of other pods may change the port; that is not known here.
    let older = older(ours, &Subject { pod: None, tags: &[], inbound: None });
    let older: Vec<_> =
        older.iter().filter_map(|(_, conf)| conf.conf().backends?.pop()?.prometheus).collect();
    let newer = backends.filter_map(|backend| backend.prometheus.as_ref());
    newer.chain(&older).filter(|backend| !plain(backend)).map(Prometheus::port).collect()
}

#[cfg(test)]
mod tests;
