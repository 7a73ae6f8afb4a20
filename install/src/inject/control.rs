// SPDX-License-Identifier: Apache-2.0
//! The parts of a sidecar that a controller tells the rest: its address, the token for it, and the pod as it knows itself.

use serde_json::{Value, json};

use super::identity::Identity;
use super::pod::Pod;

/// Volume with the token that is shown to the controller. Only the sidecar mounts it.
const TOKEN: &str = "culvert-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/culvert";
/// Audience of the token: the API server takes no such token for itself.
const AUDIENCE: &str = "culvert.dev";
/// Life of the token in seconds; the kubelet renews it at four fifths.
const TOKEN_LIFE: u32 = 3600;
/// Volume with the pod's labels.
const LABELS: &str = "culvert-pod";
const LABELS_FOLDER: &str = "/etc/culvert/pod";
/// Option with the ports of the application.
pub(super) const POD_PORTS: &str = "--pod-ports=";
/// Label with the mesh of a pod, as Kuma reads it.
const MESH: &str = "kuma.io/mesh";
/// Most ports that the sidecar takes.
const MOST_PORTS: usize = 512;
/// Facts of the pod by their variables. A native sidecar starts once the pod has its addresses.
const FACTS: [(&str, &str); 5] = [
    ("CULVERT_POD_NAME", "metadata.name"),
    ("CULVERT_POD_NAMESPACE", "metadata.namespace"),
    ("CULVERT_POD_IP", "status.podIPs"),
    ("CULVERT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ("CULVERT_NODE_NAME", "spec.nodeName"),
];

/// The controller of the pods' cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    /// `https://NAME:PORT`
    pub url: String,
    /// Trust domain of its identities.
    pub trust_domain: String,
    /// Source of the pod's identity, unless its annotation names a volume.
    pub identity: Identity,
}

impl Control {
    /// Arguments of the sidecar. `authorities` is their folder.
    pub(super) fn args(&self, authorities: &str, pod: &Pod<'_>) -> Vec<String> {
        let mut args = vec![
            format!("--control={}", self.url),
            format!("--control-ca={authorities}/ca.crt"),
            format!("--control-token={TOKEN_FOLDER}/token"),
        ];
        args.extend(pod_ports(pod));
        // The controller goes by the same label, and a sidecar takes documents of its own mesh alone.
        args.extend(
            pod.labels.get(MESH).filter(|mesh| !mesh.is_empty()).map(|mesh| format!("--mesh={mesh}")),
        );
        args
    }
}

/// Variables of the sidecar.
pub(super) fn variables() -> Vec<Value> {
    let fact = |(name, path): (&str, &str)| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let labels = json!({ "name": "CULVERT_POD_LABELS", "value": format!("{LABELS_FOLDER}/labels") });
    FACTS.into_iter().map(fact).chain([labels]).collect()
}

/// Volumes of the pod, each with the folder that the sidecar mounts it at. `mode` is that of their files.
pub(super) fn volumes(mode: u32) -> [(&'static str, &'static str, Value); 2] {
    let token = json!({ "audience": AUDIENCE, "expirationSeconds": TOKEN_LIFE, "path": "token" });
    let labels = json!({ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } });
    [
        (
            TOKEN,
            TOKEN_FOLDER,
            json!({ "name": TOKEN, "projected": { "defaultMode": mode, "sources": [{ "serviceAccountToken": token }] } }),
        ),
        (
            LABELS,
            LABELS_FOLDER,
            json!({ "name": LABELS, "downwardAPI": { "defaultMode": mode, "items": [labels] } }),
        ),
    ]
}

/// The option with the TCP ports that the application declares. `None` where it declares none, or more than the sidecar
/// takes: its ports are not known then.
pub(super) fn pod_ports(pod: &Pod<'_>) -> Option<String> {
    let declared = |container: &Value| container["ports"].as_array().cloned().unwrap_or_default();
    let ports: Vec<_> =
        pod.applications().flat_map(|place| declared(place.container)).filter_map(|port| of(&port)).collect();
    (1..=MOST_PORTS).contains(&ports.len()).then(|| format!("{POD_PORTS}{}", ports.join(",")))
}

/// `NAME:PORT`, or `PORT`. `None` for a port that is none of TCP.
fn of(port: &Value) -> Option<String> {
    let is_tcp = matches!(port["protocol"].as_str(), None | Some("TCP"));
    let number = port["containerPort"].as_u64().filter(|number| is_tcp && (1..=65535).contains(number))?;
    let fits = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    Some(match port["name"].as_str().filter(fits) {
        Some(name) => format!("{name}:{number}"),
        None => number.to_string(),
    })
}
