// SPDX-License-Identifier: Apache-2.0
//! `MeshIdentity`: names of the identities of some pods, and the issuer of their certificates.

use super::template::{Name, PathTemplate, TrustDomainTemplate};
use crate::context::Context;
use crate::kinds::Resource;
use crate::model::labels::Labels;
use crate::read::part::{Part, Reported};
use crate::read::{At, Lifetime, Mapping, Span, fields, words};

/// Label with the namespace of a Dataplane, in Kubernetes.
const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// Label with the service account of a Dataplane, in Kubernetes.
const SERVICE_ACCOUNT: &str = "k8s.kuma.io/service-account";
/// Label with the workload of a Dataplane.
const WORKLOAD: &str = "kuma.io/workload";

fields! {
    /// Names of the identities of some pods, and the issuer of their certificates. Of several about a pod the one with the most labels holds, then the first by name.
    pub struct MeshIdentity {
        /// The pods. Absent: none.
        selector: optional IdentitySelector = "selector",
        /// Names of the identities.
        spiffe_id: optional IdentityName = "spiffeID",
        /// Issuer of the certificates. Absent: these pods get none.
        provider: optional IdentityProvider = "provider",
    }
}

fields! {
    /// Pods that have an identity.
    pub struct IdentitySelector {
        /// Pods by their Dataplanes. Absent: none.
        dataplane: optional DataplaneSelector = "dataplane",
    }
}

fields! {
    /// Pods by the labels of their Dataplanes.
    pub struct DataplaneSelector {
        /// Labels that a Dataplane must have. Empty or absent: every pod of the mesh.
        match_labels: default Labels = "matchLabels",
    }
}

fields! {
    /// Names of identities: spiffe://TRUST-DOMAIN/PATH.
    pub struct IdentityName {
        /// Trust domain, with {{ .Mesh }}, {{ .Zone }} and {{ label "KEY" }}. Default: {{ .Mesh }}.{{ .Zone }}.mesh.local.
        trust_domain: optional TrustDomainTemplate = "trustDomain",
        /// Path, with {{ .Namespace }}, {{ .ServiceAccount }}, {{ .Workload }} and {{ label "KEY" }}. Default: /ns/{{ .Namespace }}/sa/{{ .ServiceAccount }} in Kubernetes, else /workload/{{ .Workload }}.
        path: optional PathTemplate = "path",
    }
}

fields! {
    /// Issuer of certificates. In culvert they come from --identity.
    pub struct IdentityProvider {
        /// Kind of the issuer.
        kind: required ProviderKind = "type",
        /// The control plane signs by these settings; certificates come from --identity here.
        bundled: no_effect Bundled = "bundled",
        /// Kuma's proxies ask SPIRE's agent by these settings; certificates come from --identity here.
        spire: no_effect Spire = "spire",
        /// A program beside the control plane signs by these settings; certificates come from --identity here.
        extension: no_effect Extension = "extension",
    }
}

words! {
    /// Kinds of issuers.
    pub enum ProviderKind {
        /// The control plane.
        Bundled = "Bundled",
        /// SPIRE's agent on the node.
        Spire = "Spire",
        /// A program beside the control plane.
        Extension = "Extension",
    }
}

fields! {
    /// Certificates that the control plane signs.
    pub struct Bundled {
        /// A MeshTrust is made of the authority. Default: Enabled.
        mesh_trust_creation: optional TrustCreation = "meshTrustCreation",
        /// An authority that signed itself is taken.
        self_signed: optional bool = "insecureAllowSelfSigned",
        /// An authority that the control plane makes itself.
        autogenerate: optional Autogenerate = "autogenerate",
        /// An authority of the user's.
        ca: optional UserAuthority = "ca",
        /// Settings of the certificates.
        parameters: optional CertificateParameters = "certificateParameters",
    }
}

words! {
    /// A MeshTrust is made of the authority, or not.
    pub enum TrustCreation {
        /// It is made.
        Enabled = "Enabled",
        /// It is not made.
        Disabled = "Disabled",
    }
}

fields! {
    /// An authority that the control plane makes itself.
    pub struct Autogenerate {
        /// True if it does.
        enabled: optional bool = "enabled",
    }
}

fields! {
    /// An authority of the user's.
    pub struct UserAuthority {
        /// Its certificate.
        certificate: required KeySource = "certificate",
        /// Its key.
        private_key: required KeySource = "privateKey",
    }
}

fields! {
    /// A place of a certificate or key.
    pub struct KeySource {
        /// Kind of the place.
        kind: required KeySourceKind = "type",
        /// A file of the control plane.
        file: optional Mapping = "file",
        /// A secret of the mesh.
        secret: optional Mapping = "secretRef",
        /// A variable of the control plane.
        variable: optional Mapping = "envVar",
        /// The text itself.
        inline: optional Mapping = "insecureInline",
    }
}

words! {
    /// Kinds of places.
    pub enum KeySourceKind {
        /// A file of the control plane.
        File = "File",
        /// A secret of the mesh.
        Secret = "Secret",
        /// A variable of the control plane.
        Variable = "EnvVar",
        /// The text itself.
        Inline = "InsecureInline",
    }
}

fields! {
    /// Settings of certificates.
    pub struct CertificateParameters {
        /// Lifetime of a certificate.
        expiry: optional Lifetime = "expiry",
    }
}

fields! {
    /// Certificates of SPIRE.
    pub struct Spire {
        /// SPIRE's agent.
        agent: optional SpireAgent = "agent",
    }
}

fields! {
    /// SPIRE's agent.
    pub struct SpireAgent {
        /// Time for a connect to it.
        timeout: optional Span = "timeout",
    }
}

fields! {
    /// A program that signs.
    pub struct Extension {
        /// Its name.
        name: required String = "name",
        /// Its settings.
        config: optional Mapping = "config",
    }
}

impl MeshIdentity {
    /// Returns the number of labels by which it chooses a pod with these labels; `None` where it is not about the pod.
    pub fn chooses(&self, pod: &Labels) -> Option<usize> {
        let wanted = &self.dataplanes()?.match_labels;
        pod.has_all(wanted).then_some(wanted.0.len())
    }

    /// Returns true if it is about some pods only.
    pub fn is_choosy(&self) -> bool {
        self.dataplanes().is_some_and(|selector| !selector.match_labels.0.is_empty())
    }

    fn dataplanes(&self) -> Option<&DataplaneSelector> {
        self.selector.as_ref()?.dataplane.as_ref()
    }

    /// Returns the kind of the issuer; `None` where none issues certificates.
    pub fn issuer(&self) -> Option<ProviderKind> {
        Some(self.provider.as_ref()?.kind)
    }

    /// Returns the trust domain in a mesh and zone. `own` are the document's labels; `None` where one of them is missing.
    pub fn trust_domain(&self, own: &Labels, mesh: &str, zone: &str) -> Option<String> {
        let template = self.spiffe_id.as_ref().and_then(|name| name.trust_domain.clone()).unwrap_or_default();
        let name = |name| match name {
            Name::Mesh => Some(mesh),
            Name::Zone => Some(zone),
            _ => None,
        };
        template.0.fill(name, |key| own.get(key))
    }

    /// Returns the path of a pod's identity; `None` where one of its labels is missing.
    pub fn path(&self, pod: &Labels, trust_domain: &str) -> Option<String> {
        let template = self.spiffe_id.as_ref().and_then(|name| name.path.clone());
        let template = template.unwrap_or_else(|| PathTemplate::default_of(pod, NAMESPACE));
        let name = |name| match name {
            Name::TrustDomain => Some(trust_domain),
            Name::Namespace => pod.get(NAMESPACE),
            Name::ServiceAccount => pod.get(SERVICE_ACCOUNT),
            Name::Workload => pod.get(WORKLOAD),
            Name::Mesh | Name::Zone => None,
        };
        template.0.fill(name, |key| pod.get(key))
    }
}

impl ProviderKind {
    /// Returns the word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundled => "Bundled",
            Self::Spire => "Spire",
            Self::Extension => "Extension",
        }
    }
}

impl Resource for MeshIdentity {
    const NAME: &'static str = "MeshIdentity";
    const HAS_SPEC: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let provider = part.field("provider");
        let Ok(Some(kind)) = provider.get::<ProviderKind>("type") else { return };
        let settings = match kind {
            ProviderKind::Bundled => "bundled",
            ProviderKind::Spire => "spire",
            ProviderKind::Extension => "extension",
        };
        if provider.has(settings) == Ok(false) {
            provider.problem(at, settings, "nothing", format!("the settings of type {}", kind.name()));
        } else if kind == ProviderKind::Bundled {
            check_authority(&provider.field(settings), at);
        }
    }
}

/// Notes an authority that is missing, or that is there twice.
fn check_authority(bundled: &Part<'_>, at: &mut At<'_>) {
    let autogenerated = match bundled.has("autogenerate") {
        Ok(true) => bundled.field("autogenerate").get::<bool>("enabled").map(|on| on == Some(true)),
        Ok(false) => Ok(false),
        Err(Reported) => return,
    };
    match (autogenerated, bundled.has("ca")) {
        (Ok(true), Ok(true)) => bundled.problem(at, "ca", "it beside autogenerate", "one or the other"),
        (Ok(false), Ok(false)) => {
            bundled.problem(at, "ca", "nothing", "an authority, or autogenerate: {enabled: true}");
        }
        _ => {}
    }
    let ca = bundled.field("ca");
    for source in ["certificate", "privateKey"].map(|field| ca.field(field)) {
        let Ok(Some(kind)) = source.get::<KeySourceKind>("type") else { continue };
        let field = match kind {
            KeySourceKind::File => "file",
            KeySourceKind::Secret => "secretRef",
            KeySourceKind::Variable => "envVar",
            KeySourceKind::Inline => "insecureInline",
        };
        if source.has(field) == Ok(false) {
            source.problem(at, field, "nothing", "the place of this type");
        }
    }
}
