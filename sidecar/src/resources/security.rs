// SPDX-License-Identifier: Apache-2.0
//! Which documents decide how this pod speaks TLS, and who may call it.

use super::dataplane::Dataplane;
use super::document::{Document, Spec};
use super::logs::{self, Pod};
use super::mesh::{Mesh, MtlsMode};
use super::mesh_access_log::TargetRef;
use super::mesh_tls::{Cipher, Conf, Mode, Version};
use super::mesh_traffic_permission::{ActionWord, MatchKind, MeshTrafficPermission};
use super::read::SERVICE;
use crate::plan::{Mtls, TlsMode};
use crate::tls::permissions::{Action, Permission, Permissions, Who};
use crate::tls::{TlsSettings, TlsVersion};
use rustls::CipherSuite;

/// What the pod speaks; `None` where the mesh has no TLS.
pub(super) fn mtls(
    mesh: Option<&Mesh>,
    this: Option<&Dataplane>,
    ours: &[&Document],
    pod: &Pod<'_>,
) -> Option<Mtls> {
    let backend = mesh?.mtls.as_ref()?.enabled()?;
    let (mode, settings) = tls(ours, pod);
    let mode = mode.unwrap_or(match backend.mode {
        None | Some(MtlsMode::Strict) => TlsMode::Strict,
        Some(MtlsMode::Permissive) => TlsMode::Permissive,
    });
    // A gateway is there for strangers, and its clients' TLS is its own.
    let gateway = this.is_some_and(|this| this.networking.gateway.is_some());
    Some(Mtls {
        mode: if gateway { TlsMode::Permissive } else { mode },
        named_only: this.is_some(),
        settings,
        permissions: permissions(ours, pod),
    })
}

/// The documents that are about this pod, the least specific first; by name where that is even.
fn about<'d, T>(
    ours: &[&'d Document],
    pod: &Pod<'_>,
    of: impl Fn(&'d Spec) -> Option<(&'d T, Option<&'d TargetRef>)>,
) -> Vec<&'d T> {
    let mut about: Vec<_> = ours
        .iter()
        .filter_map(|document| {
            let (policy, target) = of(&document.spec)?;
            Some((logs::rank(target, pod)?, std::cmp::Reverse(&document.name), policy))
        })
        .collect();
    about.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    about.into_iter().map(|(_, _, policy)| policy).collect()
}

/// What `MeshTLS` documents say: field by field, the most specific that says anything.
fn tls(ours: &[&Document], pod: &Pod<'_>) -> (Option<TlsMode>, TlsSettings) {
    let policies = about(ours, pod, |spec| match spec {
        Spec::MeshTls(policy) => Some((policy, policy.target_ref.as_ref())),
        _ => None,
    });
    let (mut mode, mut settings) = (None, TlsSettings::default());
    for Conf { mode: says, version, ciphers } in policies.iter().flat_map(|policy| policy.confs()) {
        mode = match says {
            Some(Mode::Strict) => Some(TlsMode::Strict),
            Some(Mode::Permissive) => Some(TlsMode::Permissive),
            None => mode,
        };
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
            settings.suites = TLS13.into_iter().chain(ciphers.iter().map(|cipher| suite(*cipher))).collect();
        }
    }
    (mode, settings)
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

fn permissions(ours: &[&Document], pod: &Pod<'_>) -> Permissions {
    let policies: Vec<&MeshTrafficPermission> = about(ours, pod, |spec| match spec {
        Spec::MeshTrafficPermission(policy) => Some((policy, policy.target_ref.as_ref())),
        _ => None,
    });
    // The most specific caller first; of two, what the more specific document says; of one document, a denial.
    let mut ordered: Vec<_> = policies
        .iter()
        .enumerate()
        .flat_map(|(rank, policy)| policy.from.iter().map(move |from| (rank, from)))
        .map(|(rank, from)| {
            let action = match from.default.action {
                ActionWord::Allow => Action::Allow,
                ActionWord::Deny => Action::Deny,
                ActionWord::AllowWithShadowDeny => Action::AllowWithShadowDeny,
            };
            let (specific, who) = match &from.target_ref {
                TargetRef::Tags(tags) => {
                    ((tags.0.contains_key(SERVICE), tags.0.len()), Who::Tags(tags.clone()))
                }
                TargetRef::Mesh | TargetRef::Dataplane(_) => ((false, 0), Who::Everyone),
            };
            (specific, rank, Permission { who, action })
        })
        .collect();
    ordered.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then(a.2.action.cmp(&b.2.action)));
    let unordered = policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| {
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
