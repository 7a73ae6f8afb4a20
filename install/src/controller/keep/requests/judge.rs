// SPDX-License-Identifier: Apache-2.0
//! The decision about a PodCertificateRequest, pure.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::core::Object;
use rcgen::SubjectPublicKeyInfo;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::controller::authority::{Proof, ProofError};
use crate::controller::key::Key;
use crate::controller::world::{Life, Pod};
use crate::inject::SIGNER;

/// Shortest life of a certificate that the API server takes.
const SHORTEST: Duration = Duration::from_secs(3600);
/// Longest life where a request names none.
const USUAL: Duration = Duration::from_secs(24 * 3600);

/// A request as the API server sends it, as far as it is read.
pub(super) type Request = Object<RequestSpec, RequestStatus>;

/// Parts of a request's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RequestSpec {
    pub signer_name: String,
    pub pod_name: String,
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub service_account_name: String,
    pub node_name: String,
    pub max_expiration_seconds: Option<u32>,
    /// Base64, as are the two below. From Kubernetes 1.36 on.
    #[serde(rename = "stubPKCS10Request")]
    pub stub: Option<String>,
    #[serde(rename = "pkixPublicKey")]
    pub key: Option<String>,
    pub proof_of_possession: Option<String>,
    pub unverified_user_annotations: Option<BTreeMap<String, IgnoredAny>>,
}

/// Parts of a request's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RequestStatus {
    certificate_chain: Option<String>,
    conditions: Option<Vec<IgnoredAny>>,
}

/// Reasons why a request is denied. That is final: the kubelet does not ask again for this pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("there is no pod of this name and uid")]
    NoPod,
    #[error("the pod has ended")]
    Ended,
    #[error("the pod has no sidecar that knows the controller")]
    NotOnboarded,
    #[error("the pod runs by another account than {0}")]
    Account(String),
    #[error("the pod is on another node than {0}")]
    Node(String),
    #[error("this signer knows no user annotations, and the request has {0}")]
    Annotations(String),
    #[error(transparent)]
    Key(#[from] ProofError),
}

impl Denied {
    /// Reason of the condition.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NoPod => "PodNotFound",
            Self::Ended => "PodEnded",
            Self::NotOnboarded => "NotOnboarded",
            Self::Account(_) => "OtherAccount",
            Self::Node(_) => "OtherNode",
            Self::Annotations(_) => "UnknownUserAnnotation",
            // Kubernetes' own name for it.
            Self::Key(ProofError::Unsupported(_)) => "UnsupportedKeyType",
            Self::Key(_) => "InvalidProof",
        }
    }
}

/// Returns true for a request to this signer that has no answer yet. Those of other signers are theirs.
pub(super) fn is_open(request: &Request) -> bool {
    let is_answered = request.status.as_ref().is_some_and(|status| {
        status.certificate_chain.as_ref().is_some_and(|chain| !chain.is_empty())
            || status.conditions.as_ref().is_some_and(|all| !all.is_empty())
    });
    request.spec.signer_name == SIGNER && !is_answered
}

/// The pod that a request is for.
pub(super) fn pod_of(request: &Request) -> Key {
    Key::new(request.metadata.namespace.as_deref().unwrap_or_default(), &request.spec.pod_name)
}

/// Checks a request against its pod, and returns the key that is to be signed.
pub(super) fn judge(request: &Request, pod: Option<&Pod>) -> Result<SubjectPublicKeyInfo, Denied> {
    let spec = &request.spec;
    let pod = pod.filter(|pod| *pod.uid == *spec.pod_uid).ok_or(Denied::NoPod)?;
    if pod.life == Life::Ended {
        return Err(Denied::Ended);
    }
    if !pod.is_onboarded() {
        return Err(Denied::NotOnboarded);
    }
    if *pod.account != *spec.service_account_name {
        return Err(Denied::Account(spec.service_account_name.clone()));
    }
    if *pod.node != *spec.node_name {
        return Err(Denied::Node(spec.node_name.clone()));
    }
    if let Some(name) = spec.unverified_user_annotations.iter().flat_map(BTreeMap::keys).next() {
        return Err(Denied::Annotations(name.clone()));
    }
    key(spec).map_err(Denied::Key)
}

fn key(spec: &RequestSpec) -> Result<SubjectPublicKeyInfo, ProofError> {
    let bytes = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        BASE64_STANDARD.decode(text).map_err(|error| ProofError::Unreadable(error.to_string()))
    };
    let stub = bytes(&spec.stub)?;
    if !stub.is_empty() {
        return Proof::Request(&stub).key();
    }
    let (key, signature) = (bytes(&spec.key)?, bytes(&spec.proof_of_possession)?);
    Proof::Signature { key: &key, signature: &signature, uid: &spec.pod_uid }.key()
}

/// Life of the certificate: the controller's setting, within the bounds of the API and of the request.
pub(super) fn life(spec: &RequestSpec, setting: Duration) -> Duration {
    let most = spec.max_expiration_seconds.map_or(USUAL, |seconds| Duration::from_secs(seconds.into()));
    setting.min(most).max(SHORTEST)
}

/// Returns true if the API server takes a certificate of such a life.
pub(super) fn is_long_enough(life: Duration) -> bool {
    life >= SHORTEST
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As Kubernetes 1.36 sends it, with a key of its own.
    fn request(change: impl FnOnce(&mut Value)) -> Request {
        let key = rcgen::KeyPair::generate().unwrap();
        let stub = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let mut request = json!({
            "apiVersion": "certificates.k8s.io/v1beta1", "kind": "PodCertificateRequest",
            "metadata": { "name": "req-web-0-x", "namespace": "shop", "uid": "u", "resourceVersion": "7" },
            "spec": {
                "signerName": "culvert.dev/identity", "podName": "web-0", "podUID": "c0ffee",
                "serviceAccountName": "web", "serviceAccountUID": "a2c4", "nodeName": "node-1", "nodeUID": "b",
                "maxExpirationSeconds": 86400, "stubPKCS10Request": BASE64_STANDARD.encode(stub.der()),
            },
        });
        change(&mut request);
        serde_json::from_value(request).unwrap()
    }

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let sidecar = json!({ "name": "culvert-sidecar", "image": "c:1", "args": ["--control=https://c:1"] });
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "web-0", "namespace": "shop", "uid": "c0ffee" },
            "spec": { "serviceAccountName": "web", "nodeName": "node-1", "containers": [sidecar] },
            "status": { "phase": "Pending" },
        });
        change(&mut pod);
        Pod::read(serde_json::from_value(pod).unwrap()).unwrap()
    }

    #[test]
    fn requests_that_are_denied() {
        assert!(judge(&request(|_| {}), Some(&pod(|_| {}))).is_ok());
        assert_eq!(judge(&request(|_| {}), None).unwrap_err(), Denied::NoPod);
        let of_pod: [(&str, Value, &str); 5] = [
            ("/metadata/uid", json!("other"), "PodNotFound"),
            ("/status/phase", json!("Succeeded"), "PodEnded"),
            ("/spec/containers/0/args", json!([]), "NotOnboarded"),
            ("/spec/serviceAccountName", json!("db"), "OtherAccount"),
            ("/spec/nodeName", json!("node-2"), "OtherNode"),
        ];
        for (path, value, reason) in of_pod {
            let pod = pod(|pod| *pod.pointer_mut(path).unwrap() = value);
            assert_eq!(judge(&request(|_| {}), Some(&pod)).unwrap_err().reason(), reason, "{path}");
        }
        let of_request: [(&str, Value, &str); 6] = [
            ("podUID", json!("other"), "PodNotFound"),
            ("serviceAccountName", json!("admin"), "OtherAccount"),
            ("nodeName", json!("node-2"), "OtherNode"),
            ("unverifiedUserAnnotations", json!({ "a.b/c": "d" }), "UnknownUserAnnotation"),
            ("stubPKCS10Request", json!("no base64!"), "InvalidProof"),
            ("stubPKCS10Request", Value::Null, "InvalidProof"),
        ];
        for (field, value, reason) in of_request {
            let request = request(|request| request["spec"][field] = value);
            assert_eq!(judge(&request, Some(&pod(|_| {}))).unwrap_err().reason(), reason, "{field}");
        }
    }

    #[test]
    fn only_open_requests_to_this_signer_are_answered() {
        assert!(is_open(&request(|_| {})));
        assert!(is_open(&request(|request| request["status"] = json!({ "conditions": null }))));
        assert!(!is_open(&request(|request| request["spec"]["signerName"] = "example.com/other".into())));
        let answered = json!({ "conditions": [{ "type": "Denied", "status": "True" }] });
        assert!(!is_open(&request(|request| request["status"] = answered)));
        assert!(!is_open(&request(|request| request["status"] = json!({ "certificateChain": "PEM" }))));
    }

    #[test]
    fn lives_keep_within_the_bounds_of_all() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (most, setting, expected) in [
            (Some(86_400), hours(24), hours(24)),
            (Some(7_862_400), hours(48), hours(48)),
            (None, hours(48), hours(24)),
            (Some(3600), hours(24), hours(1)),
            // The API server takes none that ends sooner.
            (Some(86_400), Duration::from_secs(120), hours(1)),
        ] {
            let spec = RequestSpec { max_expiration_seconds: most, ..RequestSpec::default() };
            assert_eq!(life(&spec, setting), expected, "{most:?} {setting:?}");
        }
    }
}
