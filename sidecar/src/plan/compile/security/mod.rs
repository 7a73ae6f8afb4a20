// SPDX-License-Identifier: Apache-2.0
//! TLS of this pod and the members that may call it, by Mesh, MeshTLS and MeshTrafficPermission.

use crate::plan::compile::error::CompileError;
use crate::plan::permissions::{Action, Permission, Permissions, Who};
use crate::plan::tls::{TlsSettings, TlsVersion};
use crate::plan::{Gate, Mtls, TlsMode};
use culvert_mesh::document::{Document, DocumentError};
use culvert_mesh::kinds::Kind;
use culvert_mesh::kinds::mesh::{Mesh, MtlsMode};
use culvert_mesh::kinds::mesh_tls::{Cipher, MeshTls, TlsConf, TlsModeWord, Version};
use culvert_mesh::kinds::mesh_traffic_permission::{ActionWord, MatchKind, MeshTrafficPermission};
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

/// Kinds whose policies decide mode, settings and permissions.
const DECIDES: [Kind; 2] = [Kind::MeshTls, Kind::MeshTrafficPermission];

/// Returns TLS settings and gates of the pod; `None` where the mesh has no TLS.
pub(super) fn mtls(
    mesh: Option<&Mesh>,
    ours: &[&Document],
    (pod, any_pod): (&Subject<'_>, bool),
    errors: &mut Vec<CompileError>,
    warnings: &mut Vec<String>,
) -> Option<Mtls> {
    let backend = mesh?.mtls.as_ref()?.enabled()?;
    // Each inbound goes through the policies, so they are picked out of thousands of Dataplanes once.
    let policies: Vec<_> = ours.iter().copied().filter(|one| DECIDES.contains(&one.kind())).collect();
    if !any_pod {
        errors.extend(policies.iter().filter_map(|policy| undecided(policy, pod)).map(Into::into));
    }
    warnings.extend(policies.iter().filter_map(|policy| unlabelled(policy, pod)));
    let default = match backend.mode {
        None | Some(MtlsMode::Strict) => TlsMode::Strict,
        Some(MtlsMode::Permissive) => TlsMode::Permissive,
    };
    // A policy about each of the pod's inbounds is also about the ports that no inbound names.
    let each: Vec<_> = pod.tags.chunks(1).map(|tags| Subject { tags, ..*pod }).collect();
    let others = if each.is_empty() { std::slice::from_ref(pod) } else { &each };
    let mut mtls = Mtls {
        others: gate(&policies, others, default),
        inbounds: HashMap::new(),
        named_only: pod.pod.is_some(),
        settings: settings(conf(&policies, others)),
    };
    let Some((_, this)) = pod.pod else { return Some(mtls) };
    let mut count = mtls.others.permissions.len();
    for inbound in &this.networking.inbound {
        let subject = Subject { tags: &[&inbound.tags], inbound: Some(inbound), ..*pod };
        let gate = gate(&policies, &[subject], default);
        count += add_inbound(&mut mtls, this.listener(inbound), gate);
        if count > MOST_PERMISSIONS {
            let permission = policies.iter().find(|one| one.kind() == Kind::MeshTrafficPermission);
            let found = format!("more than {MOST_PERMISSIONS} permissions of all inbounds");
            errors.extend(permission.map(|one| one.error("spec", found, "fewer").into()));
            break;
        }
    }
    // The clients of a gateway are not members, and it terminates their TLS itself.
    if this.networking.gateway.is_some() {
        mtls.others.mode = TlsMode::Permissive;
    }
    Some(mtls)
}

/// Adds an inbound's gate, and returns the number of its permissions; 0 where another gate has the same.
fn add_inbound(mtls: &mut Mtls, address: SocketAddr, mut gate: Gate) -> usize {
    let mut known = mtls.inbounds.values().chain([&mtls.others]).map(|known| &known.permissions);
    let same = known.find(|known| **known == gate.permissions).cloned();
    drop(known);
    let count = if same.is_some() { 0 } else { gate.permissions.len() };
    if let Some(same) = same {
        gate.permissions = same;
    }
    mtls.inbounds.insert(address, gate);
    count
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

fn gate(policies: &[&Document], subjects: &[Subject<'_>], default: TlsMode) -> Gate {
    let mode = conf(policies, subjects).and_then(|conf| conf.mode).map(|mode| match mode {
        TlsModeWord::Strict => TlsMode::Strict,
        TlsModeWord::Permissive => TlsMode::Permissive,
    });
    Gate {
        mode: mode.unwrap_or(default),
        permissions: Arc::new(permissions(&select::effective::<MeshTrafficPermission>(policies, subjects))),
    }
}

/// Merges the `MeshTLS` policies in effect, field by field.
fn conf(policies: &[&Document], subjects: &[Subject<'_>]) -> Option<TlsConf> {
    let effective = select::effective::<MeshTls>(policies, subjects);
    merged(effective.iter().flat_map(|one| one.policy.confs()).cloned())
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
        settings.max = version(range.max, TlsVersion::V13);
        settings.min = version(range.min, settings.max);
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

fn permissions(policies: &[Effective<'_, MeshTrafficPermission>]) -> Permissions {
    // The most specific caller comes first; of two the one of the more specific document; within a document, a denial.
    let mut ordered: Vec<_> = policies
        .iter()
        .rev()
        .enumerate()
        .flat_map(|(rank, one)| one.policy.from.iter().map(move |from| (rank, from)))
        .map(|(rank, from)| {
            let action = match from.default.action {
                ActionWord::Allow => Action::Allow,
                ActionWord::Deny => Action::Deny,
                ActionWord::AllowWithShadowDeny => Action::AllowWithShadowDeny,
            };
            let (specific, who) = match &from.target_ref.pods {
                Pods::Tags(tags) => ((tags.0.contains_key(SERVICE), tags.0.len()), Who::Tags(tags.clone())),
                // The check of the document refuses other targets.
                _ => ((false, 0), Who::Everyone),
            };
            (specific, rank, Permission { who, action })
        })
        .collect();
    ordered.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then(a.2.action.cmp(&b.2.action)));
    let unordered = policies.iter().rev().flat_map(|one| &one.policy.rules).flat_map(|rule| {
        let lists = &rule.default;
        [
            (Action::Allow, &lists.allow),
            (Action::Deny, &lists.deny),
            (Action::AllowWithShadowDeny, &lists.shadow),
        ]
        .into_iter()
        .flat_map(|(action, list)| list.iter().map(move |one| (action, &one.spiffe_id)))
        .map(|(action, id)| Permission {
            who: match id.kind {
                MatchKind::Exact => Who::Exactly(id.value.clone()),
                MatchKind::Prefix => Who::Prefix(id.value.clone()),
            },
            action,
        })
    });
    Permissions {
        restricted: !policies.is_empty(),
        unordered: unordered.collect(),
        ordered: ordered.into_iter().map(|(_, _, permission)| permission).collect(),
    }
}

#[cfg(test)]
mod tests;
