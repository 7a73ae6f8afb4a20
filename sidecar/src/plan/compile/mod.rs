// SPDX-License-Identifier: Apache-2.0
//! Options and documents → [`Plan`]. Pure: every error is reported at once, and then there is no plan.

mod balance;
mod endpoints;
mod error;
mod explain;
mod external;
mod hosts;
mod limits;
mod logs;
mod metric;
mod passthrough;
mod patch;
mod routes;
mod security;
mod services;
mod ways;

pub use error::CompileError;
pub(crate) use security::reasons::PortReasons;

use crate::net::addrs::{Direction, is_loopback};
use crate::options::config::Config;
use crate::plan::compile::endpoints::{members, workloads};
use crate::plan::compile::limits::{Limits, Numbers};
use crate::plan::compile::logs::Logs;
use crate::plan::compile::routes::Routes;
use crate::plan::compile::security::Names;
use crate::plan::compile::services::Services;
use crate::plan::compile::ways::{Way, Ways};
use crate::plan::decisions::{Claim, Decisions};
use crate::plan::names::Standing;
use crate::plan::{ClusterPlan, Discovery, ListenerPlan, Origin, Plan, Serve, hop_source};
use culvert_mesh::document::{Document, Found, HostAddresses, Lost, ZONE};
use culvert_mesh::kinds::dataplane::{Dataplane, Inbound, Networking};
use culvert_mesh::kinds::mesh::Mesh;
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::select::{self, Subject};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Names of others that an error lists.
const NAMED: usize = 10;

/// Documents that make a plan.
pub(in crate::plan) struct Documents<'f> {
    all: Vec<&'f Document>,
    lost: &'f [Lost],
    /// Addresses of hosts outside of the mesh.
    addresses: &'f HostAddresses,
    /// True where documents of a destination are among them.
    of_destination: bool,
}

impl<'f> Documents<'f> {
    fn of(found: &'f Found) -> Self {
        Self {
            all: found.documents.iter().collect(),
            lost: &found.lost,
            addresses: &found.addresses,
            of_destination: false,
        }
    }
}

/// Compiles options and documents to a plan.
///
/// # Errors
/// Every error of the documents together.
pub fn compile(config: &Config, found: &Found) -> Result<Plan, Vec<CompileError>> {
    compile_after(config, found, &Standing::default())
}

/// Compiles to the plan that follows the one in force: names keep their addresses.
///
/// # Errors
/// Every error of the documents together.
pub(crate) fn compile_after(
    config: &Config,
    found: &Found,
    standing: &Standing,
) -> Result<Plan, Vec<CompileError>> {
    in_force((config, standing), &Documents::of(found), Decisions::default())
}

/// Compiles documents beside those that the plan in force was made of. One that these have too stands for theirs, unless they
/// have it `for_good`.
///
/// # Errors
/// Every error of the documents together.
pub(crate) fn compile_beside(
    config: &Config,
    (base, for_good): (&Found, impl Fn(&Document) -> bool),
    added: &[Document],
    standing: &Standing,
) -> Result<Plan, Vec<CompileError>> {
    let fixed: HashSet<_> = base.documents.iter().filter(|one| for_good(one)).map(key).collect();
    let added: Vec<&Document> = added.iter().filter(|one| !fixed.contains(&key(one))).collect();
    let replaced: HashSet<_> = added.iter().map(|one| key(one)).collect();
    let kept = base.documents.iter().filter(|one| !replaced.contains(&key(one)));
    let all = kept.chain(added.iter().copied()).collect();
    let (lost, addresses) = (&base.lost, &base.addresses);
    let documents = Documents { all, lost, addresses, of_destination: true };
    in_force((config, standing), &documents, Decisions::default())
}

/// Returns the addresses of the workloads that documents name.
pub(crate) fn workloads_of(config: &Config, documents: &[Document]) -> Vec<IpAddr> {
    let ours: Vec<_> = documents.iter().filter(|document| document.mesh == config.mesh).collect();
    workloads(&ours).into_iter().collect()
}

/// Returns what no two documents may have in common.
fn key(document: &Document) -> (Kind, &str, &str, Option<&str>) {
    (document.kind(), &document.mesh, &document.name, document.namespace.as_deref())
}

/// Makes a plan that says which documents decided what; with `on_trial` as it would be with the policies on trial in force.
///
/// # Errors
/// Every error of the documents together.
pub(crate) fn explained(config: &Config, found: &Found, on_trial: bool) -> Result<Plan, Vec<CompileError>> {
    let standing = &Standing::default();
    if on_trial {
        return compiled((config, standing), &Documents::of(found), Decisions::kept(), true);
    }
    in_force((config, standing), &Documents::of(found), Decisions::kept())
}

/// Makes the plan that is put in force, with what its connections count of policies on trial.
fn in_force(
    (config, standing): (&Config, &Standing),
    documents: &Documents<'_>,
    decisions: Decisions,
) -> Result<Plan, Vec<CompileError>> {
    let mut plan = compiled((config, standing), documents, decisions, false)?;
    explain::add_trial(&mut plan, (config, standing), documents);
    Ok(plan)
}

fn compiled(
    (config, standing): (&Config, &Standing),
    found: &Documents<'_>,
    decisions: Decisions,
    on_trial: bool,
) -> Result<Plan, Vec<CompileError>> {
    let mut errors = duplicates(&found.all);
    let all: Vec<&Document> =
        found.all.iter().copied().filter(|document| document.mesh == config.mesh).collect();
    let (shadow, ours): (Vec<&Document>, Vec<&Document>) =
        all.iter().copied().partition(|one| one.is_shadow() && !on_trial);
    let mesh = this_mesh(config, &ours, found, &mut errors);
    let this = config.dataplane.as_deref().and_then(|name| this_pod(name, config, &ours, found, &mut errors));
    let tags: Option<Vec<_>> = this.map(|(_, this)| this.tags().collect());
    let pod = Subject { pod: this, tags: tags.as_deref().unwrap_or_default(), inbound: None };
    let names = Names::new(config, &ours, &pod);
    let mut plan = Plan {
        mesh: config.mesh.as_str().into(),
        zone: this.and_then(|(document, _)| document.label_or_tag(ZONE)).map(Into::into),
        workload: this.and_then(|(document, _)| document.workload()).map(Into::into),
        service: this.and_then(|(_, this)| this.tags().find_map(|tags| tags.service()).map(Into::into)),
        members: members(&ours, &names, this.map(|(document, _)| document)),
        workloads: workloads(&ours),
        documents: found.all.len(),
        decisions,
        ..Plan::default()
    };
    passthrough::add(&mut plan, (config, mesh), &ours, &pod, &mut errors);
    explain::explain_passthrough(&mut plan, &ours, &pod);
    let limits = Limits::new(config, &ours, pod);
    let logs = Logs::new(mesh, &ours, pod);
    let known = (&ours[..], found.addresses);
    let services =
        Services::new(known, (&pod, &names, &plan.members), &config.mesh, (&mut plan.warnings, &mut errors));
    let routes = Routes::new(&ours, pod, &services, &mut plan.warnings);
    let on_trial = on_trial || !shadow.is_empty();
    let mut ways = Ways::new(&plan, (&ours[..], &services, on_trial), &routes, (&limits, &logs));
    if let Some(this) = this {
        let redirected = this.1.redirected(&config.context());
        if !redirected[0] {
            errors.extend(circles(this));
        }
        add_pod(&mut plan, this, (redirected, &limits), (&routes, &mut ways));
    }
    let caught = this.filter(|(_, this)| this.redirected(&config.context())[1]);
    // A controller knows all pods of this pod's services: their names are asked for, as those of others.
    let is_told = config.control.is_some() && !config.checks_only && !found.of_destination;
    let own = this.map(|(document, _)| document).filter(|_| is_told && dataplanes(&ours).count() == 1);
    hosts::add(&mut plan, (&services, &mut ways), (&ours[..], caught, own), standing, &mut errors);
    metric::add(&mut plan, config, &ours, &pod, &mut errors);
    limits::explain_passthrough(&mut plan, config);
    plan.warnings.extend(limits.warnings());
    plan.warnings.extend(external::notes(&ours));
    patch::apply(&mut plan, config, &ours, &pod, &mut errors);
    logs.add(&mut plan, &ours, &mut errors);
    logs.explain(&mut plan, &ours);
    // A pod whose Dataplane is wrong or missing has an error already, and its policies cannot be known.
    if this.is_some() || config.dataplane.is_none() {
        plan.mtls = security::mtls((config, mesh), &all, &pod, &mut errors, &mut plan.warnings);
        security::reasons::explain_settings(&mut plan, &ours, &pod);
    }
    if plan.mtls.is_some() && config.identity.is_none() {
        plan.warnings.push(
            "the pod's mTLS is on, and there is no --identity: no member can be reached or let in".into(),
        );
    }
    plan.warnings.extend(out_of_force(config, &ours, &shadow));
    if errors.is_empty() { Ok(plan) } else { Err(errors) }
}

/// Notes policies that are not in force: those on trial, and those that choose pods where this pod is not known.
fn out_of_force(config: &Config, ours: &[&Document], shadow: &[&Document]) -> Vec<String> {
    let on_trial = shadow.iter().map(|document| explain::trial_warning(document));
    let unknown = ours.iter().filter(|document| config.dataplane.is_none() && select::chooses(document));
    let undecided = unknown.map(|document| {
        format!(
            "{} {} chooses pods, and without --dataplane nobody knows whether this is one: it does not hold here",
            document.kind().name(),
            document.name
        )
    });
    on_trial.chain(undecided).collect()
}

/// Returns what says who the pod is, and what decides who may call each of its ports, for documents that make this plan.
pub(crate) fn reasons(config: &Config, found: &Found, plan: &Plan) -> (Vec<Claim>, Vec<PortReasons>) {
    // Reported where the plan is made.
    let mut errors = Vec::new();
    let found = &Documents::of(found);
    let documents = found.all.iter().copied();
    let ours: Vec<&Document> = documents.filter(|document| document.mesh == config.mesh).collect();
    let mesh = this_mesh(config, &ours, found, &mut errors);
    let this = config.dataplane.as_deref().and_then(|name| this_pod(name, config, &ours, found, &mut errors));
    let tags: Option<Vec<_>> = this.map(|(_, this)| this.tags().collect());
    let pod = Subject { pod: this, tags: tags.as_deref().unwrap_or_default(), inbound: None };
    let identity = security::identity_reasons(config, &ours, &pod);
    let metrics: Vec<u16> =
        plan.scrape.iter().flat_map(|scrape| &scrape.ports).map(|port| port.listen.port()).collect();
    (identity, security::reasons::reasons(security::base(mesh, &ours, &pod), &ours, &pod, &metrics))
}

/// Reports two documents of a kind and name: chance would decide which of them holds.
fn duplicates(documents: &[&Document]) -> Vec<CompileError> {
    let mut seen = HashMap::new();
    let mut errors = Vec::new();
    for &document in documents {
        let key = key(document);
        if let Some(&first) = seen.get(&key) {
            let first: &Document = first;
            let found = format!("the same {} again, after {}", document.kind().name(), first.place);
            errors.push(
                document.error(document.name_field, found, "one document of a kind, mesh and name").into(),
            );
        } else {
            seen.insert(key, document);
        }
    }
    errors
}

/// Returns the pod's Mesh if it is right; reports an error if there is none. A missing Mesh must not pass for one without
/// mTLS and with passthrough: it opened everything that the lost one closed.
fn this_mesh<'d>(
    config: &Config,
    ours: &[&'d Document],
    found: &Documents<'_>,
    errors: &mut Vec<CompileError>,
) -> Option<&'d Mesh> {
    let is_mesh = |document: &&&Document| document.kind() == Kind::Mesh;
    let meant = ours.iter().find(is_mesh);
    let expected = !config.resources.is_empty() || config.identity.is_some() || config.control.is_some();
    let mesh = &config.mesh;
    if expected && meant.is_none() && !found.lost.iter().any(|lost| lost.may_be(Kind::Mesh, mesh, mesh)) {
        let all = found.all.iter().filter(|document| document.kind() == Kind::Mesh);
        let there = all.take(NAMED).map(|document| document.name.clone()).collect();
        errors.push(CompileError::NoMesh { mesh: mesh.clone(), there });
    }
    match &meant?.spec {
        Spec::Mesh(mesh) => Some(mesh),
        _ => None,
    }
}

/// Returns this pod's Dataplane if it is right; reports an error if there is none or several.
fn this_pod<'d>(
    name: &str,
    config: &Config,
    ours: &[&'d Document],
    found: &Documents<'_>,
    errors: &mut Vec<CompileError>,
) -> Option<(&'d Document, &'d Dataplane)> {
    let all = || ours.iter().filter(|document| document.kind() == Kind::Dataplane);
    let mut meant: Vec<_> = all().filter(|document| document.is_named(name)).collect();
    // A name may look like another's with its namespace.
    if meant.iter().any(|document| document.name == name) {
        meant.retain(|document| document.name == name);
    }
    let spelt = |document: &&&Document| match &document.namespace {
        Some(namespace) => format!("{}.{namespace}", document.name),
        None => document.name.clone(),
    };
    let mut told_apart: Vec<_> = meant.iter().map(spelt).collect();
    told_apart.dedup();
    let mesh = config.mesh.clone();
    if told_apart.len() > 1 {
        told_apart.truncate(NAMED);
        errors.push(CompileError::Ambiguous { name: name.into(), mesh, there: told_apart });
        return None;
    }
    if meant.is_empty() && !found.lost.iter().any(|lost| lost.may_be(Kind::Dataplane, &mesh, name)) {
        let there = all().take(NAMED).map(|document| document.name.clone()).collect();
        errors.push(CompileError::NoDataplane { name: name.into(), mesh, there });
    }
    let document = meant.first()?;
    dataplanes(ours).find(|(one, _)| one.place == document.place)
}

fn dataplanes<'d>(documents: &[&'d Document]) -> impl Iterator<Item = (&'d Document, &'d Dataplane)> {
    documents.iter().filter_map(|document| match &document.spec {
        Spec::Dataplane(dataplane) => Some((*document, dataplane)),
        _ => None,
    })
}

/// Adds the listeners and clusters of the pod's own Dataplane.
fn add_pod(
    plan: &mut Plan,
    this: (&Document, &Dataplane),
    ([redirects_in, redirects_out], limits): ([bool; 2], &Limits<'_>),
    (routes, ways): (&Routes<'_>, &mut Ways<'_>),
) {
    let Networking { inbound, outbound, .. } = &this.1.networking;
    for (index, inbound) in inbound.iter().enumerate() {
        add_inbound(plan, ways, (this.1, inbound), redirects_in, &limits.inbound(inbound));
        explain::explain_inbound(plan, this.0, index);
        limits.explain_inbound(plan, inbound);
    }
    debug_assert!(redirects_out || outbound.iter().all(|one| is_loopback(one.listener().ip())));
    for (index, outbound) in outbound.iter().enumerate() {
        let to = &routes.own(this.0, outbound);
        let path = format!("networking.outbound[{index}]");
        let way = Way { to, address: outbound.listener(), by: (this.0, &path) };
        ways.add(plan, way);
        ways.warn(plan, way);
    }
}

fn push_cluster(plan: &mut Plan, cluster: ClusterPlan) -> Arc<str> {
    let name = Arc::clone(&cluster.name);
    plan.clusters.push(Arc::new(cluster));
    name
}

fn push_listener(plan: &mut Plan, listener: ListenerPlan) {
    plan.listeners.push(Arc::new(listener));
}

/// Returns the address of the application behind an inbound.
fn application(this: &Dataplane, inbound: &Inbound, redirected: bool) -> SocketAddr {
    let listener = this.listener(inbound);
    let port = inbound.service_port.unwrap_or(inbound.port).0;
    // Where the sidecar itself binds that address and port, the application can only be on loopback.
    let taken = !redirected && port == listener.port();
    let default = if taken { std::net::Ipv4Addr::LOCALHOST.into() } else { listener.ip() };
    SocketAddr::new(inbound.service_address.unwrap_or(default), port)
}

/// Reports inbounds whose application is the listener of an inbound: a connection would go round in the sidecar.
fn circles((document, this): (&Document, &Dataplane)) -> Vec<CompileError> {
    let inbounds = &this.networking.inbound;
    let listeners: HashSet<_> = inbounds.iter().map(|inbound| this.listener(inbound)).collect();
    let circle = |(index, inbound): (usize, &Inbound)| {
        let application = application(this, inbound, false);
        // One that leads to itself has an error by itself.
        let is_circle = application != this.listener(inbound) && listeners.contains(&application);
        is_circle.then(|| {
            let allowed = "an address and port that no inbound listens on; serviceAddress may be 127.0.0.1";
            let path = format!("networking.inbound[{index}]");
            document
                .error(&path, format!("the application at {application}, another inbound"), allowed)
                .into()
        })
    };
    inbounds.iter().enumerate().filter_map(circle).collect()
}

fn add_inbound(
    plan: &mut Plan,
    ways: &mut Ways<'_>,
    (this, inbound): (&Dataplane, &Inbound),
    redirected: bool,
    numbers: &Numbers,
) {
    let listener = this.listener(inbound);
    let application = application(this, inbound, redirected);
    let upstream =
        Discovery::Application { address: application, source: hop_source(application.ip(), redirected) };
    let name = format!("localhost:{}", application.port());
    let cluster = ways.named_cluster(plan, numbers.cluster(name.into(), Origin::Inbound, upstream));
    push_listener(
        plan,
        ListenerPlan {
            name: format!("inbound:{listener}").into(),
            direction: Direction::Inbound,
            origin: Origin::Inbound,
            address: listener,
            binds: !redirected,
            serve: Serve::of_inbound(inbound),
            http: numbers.http.clone(),
            cluster: Some(cluster),
            split: Vec::new(),
            idle_timeout: numbers.idle_timeout,
            service: inbound.tags.service().map(Into::into),
            rate: numbers.rate,
        },
    );
}

/// Reads documents, with a Mesh that says nothing where they have none.
#[cfg(test)]
pub(crate) fn read_with_mesh(config: &Config, text: &str, file: &str) -> culvert_mesh::load::Loaded {
    let mut loaded = culvert_mesh::load::Loaded::default();
    loaded.add(&config.context(), text, file.as_ref());
    let mesh = &config.mesh;
    let found = &loaded.found;
    let there =
        found.documents.iter().any(|document| document.kind() == Kind::Mesh && document.mesh == *mesh);
    if !there && !found.lost.iter().any(|lost| lost.may_be(Kind::Mesh, mesh, mesh)) {
        loaded.add(
            &config.context(),
            &format!("{{type: Mesh, name: {mesh}}}"),
            "mesh-of-the-test.yaml".as_ref(),
        );
    }
    loaded
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod together;
