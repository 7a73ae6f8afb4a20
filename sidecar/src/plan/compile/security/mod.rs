// SPDX-License-Identifier: Apache-2.0
//! TLS of this pod and the members that may call it, by Mesh, MeshTLS and MeshTrafficPermission.

mod identity;
pub(crate) mod reasons;

pub(super) use identity::{Names, reasons as identity_reasons};

use crate::options::config::Config;
use crate::plan::compile::error::CompileError;
use crate::plan::compile::metric;
use crate::plan::stand_in;
use crate::plan::tls::permissions::{Action, Permission, Permissions, Who};
use crate::plan::tls::{TlsSettings, TlsVersion};
use crate::plan::{Gate, Mtls, Shadow, TlsMode};
use culvert_mesh::document::{Document, DocumentError};
use culvert_mesh::kinds::Kind;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::mesh::{Mesh, MtlsMode};
use culvert_mesh::kinds::mesh_tls::{Cipher, MeshTls, TlsConf, TlsModeWord, Version};
use culvert_mesh::kinds::mesh_traffic_permission::{
    ActionWord, CallerLists, CallerMatch, MatchKind, MeshTrafficPermission, PermissionRule,
};
use culvert_mesh::kinds::proxy_template::Selector;
use culvert_mesh::kinds::traffic_permission::TrafficPermission;
use culvert_mesh::merge::merged;
use culvert_mesh::model::tags::SERVICE;
use culvert_mesh::select::{self, Effective, Subject};
use culvert_mesh::target::{Pods, Target, TargetRef};
use rustls::CipherSuite;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Permissions of all inbounds, those of equal inbounds counted once. Each takes some 200 bytes, in two plans at a reload.
const MOST_PERMISSIONS: usize = 50_000;
/// Ports that a warning lists; a Dataplane has 512 inbounds.
const LISTED: usize = 10;

/// Kinds whose policies decide mode, settings and permissions.
const DECIDES: [Kind; 3] = [Kind::MeshTls, Kind::MeshTrafficPermission, Kind::TrafficPermission];

/// Policies that decide mode, settings and permissions.
struct Policies<'d> {
    /// Those in force.
    live: Vec<&'d Document>,
    /// These and those on trial; empty where none is on trial.
    tried: Vec<&'d Document>,
}

impl<'d> Policies<'d> {
    /// Each inbound goes through the policies, so they are picked out of thousands of Dataplanes once.
    fn of(ours: &[&'d Document]) -> Self {
        let decides = ours.iter().copied().filter(|one| DECIDES.contains(&one.kind()));
        let (shadow, live): (Vec<_>, Vec<_>) = decides.partition(|one| one.is_shadow());
        let tried = if shadow.is_empty() { Vec::new() } else { live.iter().copied().chain(shadow).collect() };
        Self { live, tried }
    }
}

/// Rules of ports that no policy is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    /// Mode of a port that no MeshTLS is about.
    mode: TlsMode,
    /// True if no member may call a port that no permission is about: the pod has a MeshIdentity.
    closed: bool,
}

/// Returns the rules of ports that no policy is about; `None` where the pod has no TLS.
pub(super) fn base(mesh: Option<&Mesh>, ours: &[&Document], pod: &Subject<'_>) -> Option<Base> {
    if identity::chosen(ours, pod).is_some() {
        return Some(Base { mode: TlsMode::Strict, closed: true });
    }
    let mode = match mesh?.mtls.as_ref()?.enabled()?.mode {
        None | Some(MtlsMode::Strict) => TlsMode::Strict,
        Some(MtlsMode::Permissive) => TlsMode::Permissive,
    };
    Some(Base { mode, closed: false })
}

/// Returns TLS settings and gates of the pod; `None` where it has no TLS.
pub(super) fn mtls(
    (config, mesh): (&Config, Option<&Mesh>),
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
    warnings: &mut Vec<String>,
) -> Option<Mtls> {
    let trust = identity::trust(config, ours, pod, errors, warnings);
    let base = base(mesh, ours, pod)?;
    let policies = Policies::of(ours);
    if !config.any_pod {
        errors.extend(policies.live.iter().filter_map(|policy| undecided(policy, pod)).map(Into::into));
    }
    warnings.extend(policies.live.iter().filter_map(|policy| unlabelled(policy, pod)));
    // A policy about each of the pod's inbounds is also about the ports that no inbound names.
    let each: Vec<_> = pod.tags.chunks(1).map(|tags| Subject { tags, ..*pod }).collect();
    let others = if each.is_empty() { std::slice::from_ref(pod) } else { &each };
    let mut mtls = Mtls {
        others: gate(&policies, others, base),
        metrics: None,
        inbounds: HashMap::new(),
        named_only: pod.pod.is_some_and(|(this, _)| !stand_in::has_unknown_ports(config, this)),
        settings: settings(conf(&policies.live, others)),
    };
    mtls.settings.trust = trust.map(Arc::new);
    if let Some((_, this)) = pod.pod {
        if let Some(error) = add_inbounds(&mut mtls, &policies, (pod, this), base) {
            errors.push(error.into());
        }
        // The clients of a gateway are not members, and it terminates their TLS itself.
        if this.networking.gateway.is_some() {
            mtls.metrics = Some(mtls.others.clone());
            mtls.others.mode = TlsMode::Permissive;
            mtls.others.shadow.iter_mut().for_each(|shadow| shadow.mode = TlsMode::Permissive);
        }
    }
    if let Some(tags) = metric::tags_of_port(ours, pod) {
        mtls.metrics = Some(gate(&policies, &[Subject { tags: &[&tags], inbound: None, ..*pod }], base));
    }
    warnings.extend(without_permission(&mtls, pod, base));
    Some(mtls)
}

/// Adds the gates of the pod's inbounds. Returns an error where their permissions are too many.
fn add_inbounds(
    mtls: &mut Mtls,
    policies: &Policies<'_>,
    (pod, this): (&Subject<'_>, &Dataplane),
    base: Base,
) -> Option<DocumentError> {
    let mut count: usize = mtls.others.all_permissions().map(|permissions| permissions.len()).sum();
    for inbound in &this.networking.inbound {
        let subject = Subject { tags: &[&inbound.tags], inbound: Some(inbound), ..*pod };
        let mut gate = gate(policies, &[subject], base);
        count += share(mtls, &mut gate.permissions);
        if let Some(shadow) = &mut gate.shadow {
            count += share(mtls, &mut shadow.permissions);
        }
        mtls.inbounds.insert(this.listener(inbound), gate);
        if count > MOST_PERMISSIONS {
            let mut all = policies.live.iter().chain(&policies.tried);
            let permission = all.find(|one| one.kind() != Kind::MeshTls);
            let found = format!("more than {MOST_PERMISSIONS} permissions of all inbounds");
            return permission.map(|one| one.error("spec", found, "fewer"));
        }
    }
    None
}

/// Replaces permissions by the equal ones of another gate. Returns the number of those that no other gate has.
fn share(mtls: &Mtls, permissions: &mut Arc<Permissions>) -> usize {
    let gates = mtls.inbounds.values().chain([&mtls.others]);
    match gates.flat_map(Gate::all_permissions).find(|known| **known == *permissions) {
        Some(same) => *permissions = Arc::clone(same),
        None => return permissions.len(),
    }
    0
}

/// Warns of ports that no permission is about: every member may call them, where Kuma refuses each; or with a MeshIdentity
/// none, as in Kuma.
fn without_permission(mtls: &Mtls, pod: &Subject<'_>, base: Base) -> Option<String> {
    let is_without = |gate: &Gate| match base.closed {
        true => gate.permissions.len() == 0,
        false => !gate.permissions.restricted,
    };
    let warning = |ports: &str| {
        let who = match base.closed {
            true => "no member may call, as the mesh has a MeshIdentity",
            false => "every member may call, where Kuma refuses each",
        };
        format!("no MeshTrafficPermission is about {ports}: {who}; one for the mesh says who may")
    };
    let Some((_, this)) = pod.pod else {
        return is_without(&mtls.others).then(|| warning("this pod"));
    };
    let ports = this.networking.inbound.iter().map(|inbound| this.listener(inbound));
    let without = |address: &SocketAddr| mtls.inbounds.get(address).is_some_and(is_without);
    let without: Vec<_> = ports.filter(without).map(|address| address.to_string()).collect();
    match without.len().checked_sub(LISTED).filter(|more| *more > 0) {
        _ if without.is_empty() => None,
        Some(more) => Some(warning(&format!("{} and {more} more ports", without[..LISTED].join(", ")))),
        None => Some(warning(&without.join(", "))),
    }
}

/// A policy that is passed over may be the one that forbids: returns an error where the documents do not decide it.
fn undecided(policy: &Document, pod: &Subject<'_>) -> Option<DocumentError> {
    let Some((this, this_pod)) = pod.pod else {
        const ALLOWED: &str = "all pods of the mesh; or --dataplane, so that one knows which pod this is";
        return select::chooses(policy).then(|| policy.error("spec.targetRef", "a choice of pods", ALLOWED));
    };
    let Target::Ref(Some(target)) = policy.spec.target() else { return None };
    let (Pods::Dataplane { .. }, Some(section)) = (&target.pods, &target.section) else { return None };
    let whole = TargetRef { section: None, ..target.clone() };
    select::rank(&Target::Ref(Some(&whole)), policy, pod)?;
    let inbounds = &this_pod.networking.inbound;
    (!inbounds.iter().any(|inbound| select::is_section(inbound, section))).then(|| {
        let there =
            inbounds.iter().map(|inbound| inbound.name.clone().unwrap_or_else(|| inbound.port.0.to_string()));
        let allowed =
            format!("an inbound of Dataplane {}: {}", this.name, there.collect::<Vec<_>>().join(", "));
        policy.error("spec.targetRef.sectionName", format!("{section:?}"), allowed)
    })
}

/// Warns of a policy that goes by labels where the pod has none: it is passed over, and may have been meant.
fn unlabelled(policy: &Document, pod: &Subject<'_>) -> Option<String> {
    let (this, _) = pod.pod.filter(|(this, _)| !this.labelled)?;
    let Target::Ref(Some(TargetRef { pods: Pods::Labels(wanted), .. })) = policy.spec.target() else {
        return None;
    };
    let unknown = wanted.0.keys().find(|key| this.labels.get(key).is_none())?;
    let (kind, name) = (policy.kind().name(), &policy.name);
    Some(format!(
        "{kind} {name} goes by the label {unknown:?}, and Dataplane {} has no labels: it is not about this pod (`labels: {{}}` says that this is meant)",
        this.name
    ))
}

fn gate(policies: &Policies<'_>, subjects: &[Subject<'_>], base: Base) -> Gate {
    let (mode, permissions) = decided(&policies.live, subjects, base);
    let shadow = (!policies.tried.is_empty()).then(|| decided(&policies.tried, subjects, base));
    let shadow = shadow.filter(|shadow| (&shadow.0, &shadow.1) != (&mode, &permissions));
    let shadow = shadow.map(|(mode, permissions)| Shadow { mode, permissions: Arc::new(permissions) });
    Gate { mode, permissions: Arc::new(permissions), shadow }
}

/// Returns what policies say of a port.
fn decided(policies: &[&Document], subjects: &[Subject<'_>], base: Base) -> (TlsMode, Permissions) {
    let mode = conf(policies, subjects).and_then(|conf| conf.mode).map(|mode| match mode {
        TlsModeWord::Strict => TlsMode::Strict,
        TlsModeWord::Permissive => TlsMode::Permissive,
    });
    (mode.unwrap_or(base.mode), permissions(policies, subjects, base))
}

/// Merges the `MeshTLS` policies in effect, field by field.
fn conf(policies: &[&Document], subjects: &[Subject<'_>]) -> Option<TlsConf> {
    merged(conf_of(policies, subjects).into_iter().map(|(_, conf)| conf.clone()))
}

/// Returns what the `MeshTLS` policies in effect say, the deciding entry first.
fn conf_of<'d>(policies: &[&'d Document], subjects: &[Subject<'_>]) -> Vec<(&'d Document, &'d TlsConf)> {
    let effective = select::effective::<MeshTls>(policies, subjects);
    effective.iter().flat_map(|one| one.policy.confs().map(|conf| (one.document, conf))).collect()
}

fn settings(conf: Option<TlsConf>) -> TlsSettings {
    let mut settings = TlsSettings::default();
    let Some(TlsConf { mode: _, version, ciphers }) = conf else { return settings };
    if let Some(range) = version {
        let version = |version, auto| match version {
            Some(Version::V12) => TlsVersion::V12,
            Some(Version::V13) => TlsVersion::V13,
            None | Some(Version::Auto) => auto,
        };
        settings.max = version(range.max, settings.max);
        settings.min = version(range.min, settings.min);
    }
    if !ciphers.is_empty() {
        settings.suites = TLS13.into_iter().chain(ciphers.into_iter().map(suite)).collect();
    }
    settings
}

const TLS13: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

fn suite(cipher: Cipher) -> CipherSuite {
    match cipher {
        Cipher::EcdsaAes128 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Cipher::EcdsaAes256 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Cipher::EcdsaChacha => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Cipher::RsaAes128 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        Cipher::RsaAes256 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        Cipher::RsaChacha => CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn permissions(policies: &[&Document], subjects: &[Subject<'_>], base: Base) -> Permissions {
    let Some(items) = items(policies, subjects, base) else {
        return Permissions { restricted: base.closed, ..Permissions::default() };
    };
    let (unordered, ordered): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.list == List::Rules);
    let permissions = |items: Vec<Item<'_>>| items.into_iter().map(|item| item.permission).collect();
    Permissions { restricted: true, ordered: permissions(ordered), unordered: permissions(unordered) }
}

/// A permission, and its place in a document.
struct Item<'d> {
    document: &'d Document,
    list: List,
    /// Place in the list.
    index: usize,
    permission: Permission,
}

/// A list of permissions in a document.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    From,
    Rules,
    Sources,
}

/// Returns the items of all policies in effect, the deciding ones first; `None` where no policy is.
fn items<'d>(policies: &[&'d Document], subjects: &[Subject<'_>], base: Base) -> Option<Vec<Item<'d>>> {
    let newer = select::effective::<MeshTrafficPermission>(policies, subjects);
    if !newer.is_empty() {
        return Some(newer.iter().flat_map(of_policy).collect());
    }
    if base.closed {
        // The older kind knows callers by the services of Mesh.mtls only, and Kuma 3.0 passes it over.
        return None;
    }
    // Of the older kind the most specific holds alone.
    let older = select::effective::<TrafficPermission>(policies, subjects);
    let &Effective { document, policy, .. } = older.first()?;
    let item = |(index, Selector { tags }): (usize, &Selector)| {
        let all = tags.0.iter().all(|(key, value)| key == SERVICE && value == "*");
        let who = if all { Who::Everyone } else { Who::Tags(tags.clone()) };
        Item { document, list: List::Sources, index, permission: Permission { who, action: Action::Allow } }
    };
    Some(policy.sources.iter().enumerate().map(item).collect())
}

/// Returns the items of a policy, the deciding one first: of `from` the last item that fits a caller decides.
fn of_policy<'d>(policy: &Effective<'d, MeshTrafficPermission>) -> impl Iterator<Item = Item<'d>> + use<'d> {
    let &Effective { document, policy, .. } = policy;
    let from = policy.from.iter().enumerate().rev().map(move |(index, from)| Item {
        document,
        list: List::From,
        index,
        permission: Permission { who: caller(&from.target_ref), action: action(from.default.action) },
    });
    let rules = policy.rules.iter().enumerate().flat_map(move |(index, rule)| {
        of_rule(rule).map(move |permission| Item { document, list: List::Rules, index, permission })
    });
    from.chain(rules)
}

fn caller(target: &TargetRef) -> Who {
    match &target.pods {
        Pods::Tags(tags) => Who::Tags(tags.clone()),
        // The check of the document refuses other targets.
        _ => Who::Everyone,
    }
}

fn action(word: ActionWord) -> Action {
    match word {
        ActionWord::Allow => Action::Allow,
        ActionWord::Deny => Action::Deny,
        ActionWord::AllowWithShadowDeny => Action::AllowWithShadowDeny,
    }
}

fn of_rule(rule: &PermissionRule) -> impl Iterator<Item = Permission> {
    let CallerLists { allow, deny, shadow } = &rule.default;
    let lists = [(Action::Allow, allow), (Action::Deny, deny), (Action::AllowWithShadowDeny, shadow)];
    lists.into_iter().flat_map(|(action, list)| {
        list.iter().map(move |CallerMatch { spiffe_id: id }| {
            let who = match id.kind {
                MatchKind::Exact => Who::Exactly(id.value.clone()),
                MatchKind::Prefix => Who::Prefix(id.value.clone()),
            };
            Permission { who, action }
        })
    })
}

#[cfg(test)]
mod identities;
#[cfg(test)]
mod merging;
#[cfg(test)]
mod tests;
