// SPDX-License-Identifier: Apache-2.0
//! Documents that stand in for those which have not come: the pod's own Dataplane, made from what is known of the pod, and a
//! closed Mesh where a controller is expected to tell the real one.

mod labels;

pub(crate) use labels::LabelsError;

use crate::options::config::Config;
use crate::options::facts::PodFacts;
use culvert_mesh::document::{Document, Found};
use culvert_mesh::kinds::Kind;
use culvert_mesh::load::Loaded;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Source of the documents that stand in, where the path of a file would stand.
const PLACE: &str = "this pod";

/// Label with the service account, as Kuma has it.
const ACCOUNT: &str = "k8s.kuma.io/service-account";
const NAMESPACE: &str = "k8s.kuma.io/namespace";
const MESH: &str = "kuma.io/mesh";

/// The documents that stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandIns {
    /// True while no Mesh document has come: the mesh counts as STRICT, and nothing leaves.
    pub mesh: bool,
    /// True while no Dataplane document of the pod has come.
    pub dataplane: bool,
}

impl StandIns {
    /// Returns the number of documents.
    pub(crate) fn count(self) -> usize {
        usize::from(self.mesh) + usize::from(self.dataplane)
    }
}

/// Adds what stands in to the documents. `had_mesh` is true where the plan in force has a Mesh: it then stays in force, as one
/// that was lost must not be replaced by another.
///
/// # Errors
/// The file with the pod's labels cannot be read.
pub(crate) fn add(config: &Config, loaded: &mut Loaded, had_mesh: bool) -> Result<StandIns, LabelsError> {
    let mut stand_ins = StandIns::default();
    let context = config.context();
    if config.control.is_some()
        && !config.checks_only
        && !had_mesh
        && !is_there(&loaded.found, config, Kind::Mesh, &config.mesh)
    {
        loaded.add(&context, &closed_mesh(&config.mesh).to_string(), Path::new(PLACE));
        stand_ins.mesh = true;
    }
    if let (Some(pod), Some(name)) = (&config.pod, &config.dataplane)
        && !is_there(&loaded.found, config, Kind::Dataplane, name)
    {
        let labels = pod.labels.as_deref().map(labels::read).transpose()?.unwrap_or_default();
        loaded.add(&context, &dataplane(config, pod, name, labels).to_string(), Path::new(PLACE));
        stand_ins.dataplane = true;
    }
    Ok(stand_ins)
}

/// Returns true if the ports of the pod are not known: the document that stands in names none, and closes none.
pub(crate) fn has_unknown_ports(config: &Config, this: &Document) -> bool {
    &*this.place.file == PLACE && config.pod.as_ref().is_some_and(|pod| pod.ports.is_none())
}

/// Returns true if a document of this kind and name was read, or may be among those that cannot be read.
fn is_there(found: &Found, config: &Config, kind: Kind, name: &str) -> bool {
    let mesh = &config.mesh;
    found.lost.iter().any(|lost| lost.may_be(kind, mesh, name))
        || found.documents.iter().any(|one| one.kind() == kind && one.mesh == *mesh && one.is_named(name))
}

fn closed_mesh(name: &str) -> Value {
    const BACKEND: &str = "not-known-yet";
    json!({
        "type": Kind::Mesh.name(),
        "name": name,
        "mtls": {"enabledBackend": BACKEND, "backends": [{"name": BACKEND, "mode": "STRICT"}]},
        "networking": {"outbound": {"passthrough": false}},
    })
}

/// Makes the pod's Dataplane in the spelling without tags, as Kuma's control plane makes it from a pod.
fn dataplane(config: &Config, pod: &PodFacts, name: &str, labels: Map<String, Value>) -> Value {
    let PodFacts { name: _, namespace, addresses, account, node: _, labels: _, ports } = pod;
    let name = match namespace {
        Some(namespace) => name.strip_suffix(namespace.as_str()).and_then(|rest| rest.strip_suffix('.')),
        None => None,
    }
    .unwrap_or(name);
    let mut labels = labels;
    let ours = [(MESH, Some(&config.mesh)), (NAMESPACE, namespace.as_ref()), (ACCOUNT, account.as_ref())];
    for (key, value) in ours {
        if let Some(value) = value {
            labels.insert(key.into(), value.as_str().into());
        }
    }
    let own = config.sidecar_ports();
    let ports = ports.iter().flatten().filter(|port| !own.contains(port.port));
    let inbounds: Vec<Value> = ports
        .flat_map(|port| {
            addresses.iter().map(|address| {
                let mut inbound = Map::new();
                inbound.insert("address".into(), address.to_string().into());
                inbound.insert("port".into(), port.port.into());
                for (key, value) in [("name", &port.name), ("protocol", &port.protocol)] {
                    if let Some(value) = value {
                        inbound.insert(key.into(), value.as_str().into());
                    }
                }
                Value::Object(inbound)
            })
        })
        .collect();
    let mut metadata = json!({"name": name, "labels": labels});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.as_str().into();
    }
    json!({
        "apiVersion": "kuma.io/v1alpha1",
        "kind": Kind::Dataplane.name(),
        "mesh": config.mesh,
        "metadata": metadata,
        "spec": {"networking": {
            "address": addresses[0].to_string(),
            "inbound": inbounds,
            "transparentProxying": {
                "redirectPortInbound": config.inbound_port,
                "redirectPortOutbound": config.outbound_port,
            },
        }},
    })
}

#[cfg(test)]
mod tests;
