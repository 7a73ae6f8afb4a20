// SPDX-License-Identifier: Apache-2.0
//! Sources of a pod's identity, in a cluster with a controller.

use serde_json::{Value, json};

/// The controller as a signer, in PodCertificateRequests.
pub(crate) const SIGNER: &str = "culvert.dev/identity";
/// ClusterTrustBundle with the authorities. The API wants the signer's name in front, with a colon for the slash.
pub(crate) const TRUST_BUNDLE: &str = "culvert.dev:identity:roots";
/// Volume with certificate, key and authorities. Only the sidecar mounts it.
pub(crate) const VOLUME: &str = "culvert-identity";
/// Place of that volume, or of the pod's own one, in the sidecar.
pub(crate) const FOLDER: &str = "/etc/culvert/identity";
/// Longest life that the API lets a pod ask for, in seconds: the controller decides about a shorter one.
const LONGEST: u32 = 91 * 24 * 3600;

/// Source of a pod's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The sidecar makes its key, and the controller signs over the stream.
    Stream,
    /// The kubelet makes it, and the controller signs PodCertificateRequests.
    Requests,
    /// Another program writes it into a volume that the pod's annotation names.
    Directory,
}

/// The volume that the kubelet fills, by the names that the sidecar's `--identity` reads.
pub(super) fn volume(mode: u32) -> Value {
    let certificate = json!({
        "signerName": SIGNER, "keyType": "ECDSAP256", "keyPath": "tls.key", "certificateChainPath": "tls.crt",
        "maxExpirationSeconds": LONGEST,
    });
    let authorities = json!({ "name": TRUST_BUNDLE, "path": "ca.crt", "optional": true });
    let sources = json!([{ "podCertificate": certificate }, { "clusterTrustBundle": authorities }]);
    json!({ "name": VOLUME, "projected": { "defaultMode": mode, "sources": sources } })
}
