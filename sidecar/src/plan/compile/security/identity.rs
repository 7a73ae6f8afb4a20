// SPDX-License-Identifier: Apache-2.0
//! The MeshIdentity of the pod, and the trust that MeshTrusts add to it.

use crate::options::config::{Config, IdentitySource};
use crate::plan::compile::error::CompileError;
use crate::plan::decisions::Claim;
use crate::plan::tls::trust::{LocalTrust, Trust};
use culvert_mesh::document::{Document, DocumentError, ZONE};
use culvert_mesh::kinds::FromSpec;
use culvert_mesh::kinds::identity::{MeshIdentity, MeshTrust};
use culvert_mesh::model::labels::Labels;
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use culvert_mesh::select::{self, Subject};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Most authorities of all MeshTrusts: as many as `ca.crt` may have.
const MOST_AUTHORITIES: usize = 1024;
/// Label with the namespace of a Dataplane, in Kubernetes.
const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// Kuma's name of the only zone of a mesh.
const ONLY_ZONE: &str = "default";

/// The MeshIdentity that is about the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen<'d> {
    pub(super) document: &'d Document,
    pub(super) identity: &'d MeshIdentity,
}

/// Returns the documents of a kind, but those of another zone.
fn of_kind<'d, K: FromSpec + 'd>(
    ours: &[&'d Document],
    pod: &Subject<'_>,
) -> impl Iterator<Item = (&'d Document, &'d K)> {
    // The kind comes first, as most documents are Dataplanes.
    let all = ours.iter().filter_map(|&document| Some((document, K::from_spec(&document.spec)?)));
    all.filter(move |(document, _)| !select::is_of_another_zone(document, pod))
}

/// Returns the MeshIdentity about the pod: the one with the most labels, then the first by name, as in Kuma. One without a
/// provider issues no certificate, so the pod has none.
pub(super) fn chosen<'d>(ours: &[&'d Document], pod: &Subject<'_>) -> Option<Chosen<'d>> {
    best(ours, pod).filter(|chosen| chosen.identity.issuer().is_some())
}

fn best<'d>(ours: &[&'d Document], pod: &Subject<'_>) -> Option<Chosen<'d>> {
    let labels = pod.pod.map(|(this, _)| this.labels.clone()).unwrap_or_default();
    let about = of_kind::<MeshIdentity>(ours, pod)
        .filter_map(|(document, identity)| Some((identity.chooses(&labels)?, document, identity)));
    let best = about.min_by_key(|(labels, document, _)| (Reverse(*labels), document.name.as_str()));
    best.map(|(_, document, identity)| Chosen { document, identity })
}

/// Identities that the pods of a mesh prove.
pub(in crate::plan::compile) struct Names<'d> {
    said: Said<'d>,
    /// Each list once: replicas have the same labels, and the same account.
    by_labels: RefCell<HashMap<Key, Ids>>,
    by_id: RefCell<HashMap<SpiffeId, Ids>>,
}

/// Labels, namespace and annotation of a Dataplane.
type Key = (Arc<Labels>, Option<String>, Option<SpiffeId>);

/// Identities of which a pod proves one; `None` where that is not known.
type Ids = Option<Arc<[SpiffeId]>>;

/// The place where identities are said.
enum Said<'d> {
    /// In the Dataplanes' annotations.
    ByAnnotations,
    /// By MeshIdentities and labels.
    ByLabels {
        config: &'d Config,
        pod: Subject<'d>,
        identities: Vec<(&'d Document, &'d MeshIdentity)>,
        /// Trust domains of the workloads of this zone.
        local: BTreeSet<TrustDomain>,
    },
}

impl<'d> Names<'d> {
    pub(in crate::plan::compile) fn new(
        config: &'d Config,
        ours: &[&'d Document],
        pod: &Subject<'d>,
    ) -> Self {
        let by_labels = || {
            // Reported where the plan's own trust is made.
            let own = domain(config, &chosen(ours, pod)?, pod, &mut Vec::new())?;
            let local = local(config, ours, pod, &own).domains;
            let identities = of_kind::<MeshIdentity>(ours, pod).collect();
            Some(Said::ByLabels { config, pod: *pod, identities, local })
        };
        let said = by_labels().unwrap_or(Said::ByAnnotations);
        Self { said, by_labels: RefCell::default(), by_id: RefCell::default() }
    }

    /// Returns the identities of which the pod of a Dataplane proves one. The controller's word, in the annotation, is about the
    /// certificate that it signs, whatever a MeshIdentity gives.
    pub(in crate::plan::compile) fn of(&self, dataplane: &Document) -> Ids {
        let Said::ByLabels { pod, .. } = &self.said else { return self.of_annotation(dataplane) };
        // The MeshIdentity of another zone's pod is a document of that zone.
        if is_elsewhere(dataplane, pod) {
            return self.of_annotation(dataplane);
        }
        let key = (Arc::clone(&dataplane.labels), dataplane.namespace.clone(), dataplane.spiffe_id.clone());
        let made = || match self.said.of(dataplane) {
            Some(ids) => Some(ids.into_iter().chain(dataplane.spiffe_id.clone()).collect()),
            None => self.of_annotation(dataplane),
        };
        self.by_labels.borrow_mut().entry(key).or_insert_with(made).clone()
    }

    fn of_annotation(&self, dataplane: &Document) -> Ids {
        let id = dataplane.spiffe_id.as_ref()?;
        let mut known = self.by_id.borrow_mut();
        known.entry(id.clone()).or_insert_with(|| Some([id.clone()].into())).clone()
    }
}

/// Returns true for the Dataplane of another zone. A mesh of one zone says none.
fn is_elsewhere(dataplane: &Document, pod: &Subject<'_>) -> bool {
    dataplane.label_or_tag(ZONE).is_some_and(|zone| pod.zone() != Some(zone))
}

impl Said<'_> {
    /// Returns the identities that MeshIdentities give a pod. All that choose it count, in all trust domains of the zone: while
    /// documents change, it has the certificate of before. `None` where they do not tell.
    fn of(&self, dataplane: &Document) -> Option<BTreeSet<SpiffeId>> {
        let Self::ByLabels { config, pod, identities, local } = self else { return None };
        let mut labels = (*dataplane.labels).clone();
        if let Some(namespace) = dataplane.label(NAMESPACE) {
            labels.0.insert(NAMESPACE.to_owned(), namespace.to_owned());
        }
        let mut ids = BTreeSet::new();
        for (document, identity) in identities {
            if identity.chooses(&labels).is_none() || identity.issuer().is_none() {
                continue;
            }
            // One that cannot be told may be any.
            let domain = identity.trust_domain(&document.labels, &config.mesh, zone_of(document, pod))?;
            let path = identity.path(&labels, &domain)?;
            let domains = local.iter().map(TrustDomain::as_str).chain([domain.as_str()]);
            ids.extend(domains.filter_map(|domain| format!("spiffe://{domain}{path}").parse().ok()));
        }
        (!ids.is_empty()).then_some(ids)
    }
}

/// Returns identity and trust of the pod; `None` where no MeshIdentity is about it, or where that is wrong.
pub(super) fn trust(
    config: &Config,
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
    warnings: &mut Vec<String>,
) -> Option<Trust> {
    if pod.pod.is_none() && !config.any_pod {
        let choosy = of_kind::<MeshIdentity>(ours, pod).filter(|(_, identity)| identity.is_choosy());
        errors.extend(choosy.map(|(document, _)| undecided(document).into()));
    }
    // A pod that such a document was meant for would be open to every caller.
    if let Some((this, _)) = pod.pod.filter(|(this, _)| !this.labelled) {
        let choosy = of_kind::<MeshIdentity>(ours, pod).filter(|(_, identity)| identity.is_choosy());
        errors.extend(choosy.map(|(document, _)| unlabelled(document, &this.name).into()));
    }
    // First, as a MeshTrust that holds no certificates is wrong for every pod.
    let authorities = authorities(ours, pod, errors);
    let Some(chosen) = chosen(ours, pod) else {
        warnings.extend(unused(ours, pod));
        return None;
    };
    errors.extend(without_certificate(config, &chosen).map(Into::into));
    let domain = domain(config, &chosen, pod, errors)?;
    let local = local(config, ours, pod, &domain);
    let id = id(&chosen, pod, &domain);
    Some(Trust::new(domain, id, authorities, local))
}

fn undecided(document: &Document) -> DocumentError {
    const ALLOWED: &str = "all pods of the mesh; or --dataplane, so that one knows which pod this is";
    document.error("spec.selector.dataplane.matchLabels", "a choice of pods", ALLOWED)
}

fn unlabelled(document: &Document, pod: &str) -> DocumentError {
    let allowed =
        format!("labels of Dataplane {pod}, which has none; `labels: {{}}` there says that this is meant");
    document.error("spec.selector.dataplane.matchLabels", "a choice by labels", allowed)
}

/// Warns of documents that say something of identities and are not about the pod.
fn unused(ours: &[&Document], pod: &Subject<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(Chosen { document, .. }) = best(ours, pod) {
        let name = &document.name;
        warnings.push(format!("MeshIdentity {name} has no provider: this pod gets no certificate by it"));
    }
    let trusts = of_kind::<MeshTrust>(ours, pod).map(|(document, _)| {
        format!("MeshTrust {} has no effect: no MeshIdentity is about this pod", document.name)
    });
    warnings.extend(trusts);
    warnings
}

/// Returns an error where nothing gives the pod its certificate. `validate` and `inspect` need none.
fn without_certificate(config: &Config, chosen: &Chosen<'_>) -> Option<DocumentError> {
    let kind = chosen.identity.issuer().filter(|_| config.identity.is_none() && !config.checks_only)?;
    const ALLOWED: &str = "--identity with the pod's certificate, or a controller that signs one (--control with --control-token)";
    Some(chosen.document.error("spec.provider.type", format!("{:?} and no --identity", kind.name()), ALLOWED))
}

/// Returns the trust domain of the pod's identity.
fn domain(
    config: &Config,
    chosen: &Chosen<'_>,
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) -> Option<TrustDomain> {
    let Chosen { document, identity } = chosen;
    let mut wrong = |found: String, allowed: &str| {
        errors.push(document.error("spec.spiffeID.trustDomain", found, allowed).into());
    };
    let Some(text) = identity.trust_domain(&document.labels, &config.mesh, zone_of(document, pod)) else {
        wrong("a label that this document does not have".into(), "labels of the MeshIdentity itself");
        return None;
    };
    let Ok(domain) = text.parse::<TrustDomain>() else {
        const ALLOWED: &str =
            "a template that makes lower-case letters, digits, dots, dashes and underscores";
        wrong(format!("{text:?} of this mesh and zone"), ALLOWED);
        return None;
    };
    if let Some(IdentitySource { trust_domain: option, names_services: false, .. }) = &config.identity
        && *option != domain
    {
        wrong(domain.to_string(), &format!("{option}, as --trust-domain says; or no --trust-domain"));
        return None;
    }
    Some(domain)
}

/// Returns the zone that a MeshIdentity's template means.
fn zone_of<'z>(document: &'z Document, pod: &Subject<'z>) -> &'z str {
    document.labels.get(ZONE).or_else(|| pod.zone()).unwrap_or(ONLY_ZONE)
}

/// Returns the trust domains that documents give workloads of this pod's zone. The labels by which a MeshIdentity chooses
/// them are not known here, so those of all count; beside them those of MeshTrusts of the zone, and the mesh's own name, of
/// which the certificates of workloads without a MeshIdentity are.
fn local(config: &Config, ours: &[&Document], pod: &Subject<'_>, own: &TrustDomain) -> LocalTrust {
    let identities = of_kind::<MeshIdentity>(ours, pod).filter(|(_, identity)| {
        let chooses = identity.selector.as_ref().is_some_and(|selector| selector.dataplane.is_some());
        chooses && identity.issuer().is_some()
    });
    let said = identities.filter_map(|(document, identity)| {
        identity.trust_domain(&document.labels, &config.mesh, zone_of(document, pod))?.parse().ok()
    });
    let trusts = of_kind::<MeshTrust>(ours, pod);
    let trusts = trusts.filter(|(document, _)| {
        let zone = document.labels.get(ZONE);
        zone.is_some() && zone == pod.zone()
    });
    let mut domains: BTreeSet<TrustDomain> = said.collect();
    domains.extend(trusts.map(|(_, trust)| trust.trust_domain.clone()));
    domains.extend(config.mesh.parse::<TrustDomain>().ok());
    domains.insert(own.clone());
    LocalTrust { zone: pod.zone().map(Into::into), domains }
}

/// Returns the pod's identity, as far as its labels say it.
fn id(chosen: &Chosen<'_>, pod: &Subject<'_>, domain: &TrustDomain) -> Option<SpiffeId> {
    let (this, _) = pod.pod?;
    let path = chosen.identity.path(&this.labels, domain.as_str())?;
    format!("spiffe://{domain}{path}").parse().ok()
}

/// Returns the authorities of all MeshTrusts; those of one trust domain add up.
fn authorities(
    ours: &[&Document],
    pod: &Subject<'_>,
    errors: &mut Vec<CompileError>,
) -> BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
    let mut all: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> = BTreeMap::new();
    let mut count = 0;
    for (document, trust) in of_kind::<MeshTrust>(ours, pod) {
        let known = all.entry(trust.trust_domain.clone()).or_default();
        for (index, bundle) in trust.ca_bundles.iter().enumerate() {
            let field = format!("spec.caBundles[{index}].pem.value");
            match certificates(&bundle.pem.value) {
                Ok(certificates) => {
                    count += certificates.len();
                    known.extend(certificates);
                }
                Err(found) => {
                    errors.push(document.error(&field, found, "certificates of authorities").into())
                }
            }
            if count > MOST_AUTHORITIES {
                let found = format!("more than {MOST_AUTHORITIES} authorities of all MeshTrusts");
                errors.push(document.error(&field, found, "fewer").into());
                return all;
            }
        }
    }
    for known in all.values_mut() {
        // The order of files must not matter.
        known.sort_by_cached_key(|one| one.to_vec());
        known.dedup();
    }
    all
}

/// Reads certificates that can be authorities; the error is what was found instead.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| "text that is not PEM".to_owned())?;
    if all.is_empty() {
        return Err("no certificate".into());
    }
    for (one, number) in all.iter().zip(1..) {
        let added = RootCertStore::empty().add(one.clone());
        added.map_err(|error| format!("certificate {number}, which cannot be an authority: {error}"))?;
    }
    Ok(all)
}

/// Returns the documents that say who the pod is and whose members it believes; none where no MeshIdentity is about it.
pub(in crate::plan::compile) fn reasons(
    config: &Config,
    ours: &[&Document],
    pod: &Subject<'_>,
) -> Vec<Claim> {
    let mut reasons = Vec::new();
    let Some(chosen) = chosen(ours, pod) else { return reasons };
    let Some(trust) = trust(config, ours, pod, &mut Vec::new(), &mut Vec::new()) else { return reasons };
    let name = trust.id.map_or_else(|| format!("a path of spiffe://{}/", trust.domain), |id| id.to_string());
    let issuer = chosen.identity.issuer().map_or("none", |kind| kind.name());
    reasons.push(Claim::of(format!("this pod is {name}"), chosen.document, issuer));
    let of_files = format!("members of {} by ca.crt", trust.domain);
    reasons.push(Claim::new(of_files, "--identity"));
    reasons.extend(of_kind::<MeshTrust>(ours, pod).map(|(document, trust)| {
        let says = format!("members of {} by {} bundles", trust.trust_domain, trust.ca_bundles.len());
        Claim::of(says, document, "")
    }));
    reasons
}
