// SPDX-License-Identifier: Apache-2.0
//! The MeshService of a Service.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{API_VERSION, Identities, MESH, NAMESPACE, Named};
use crate::controller::world::{Pod, Service, ServicePort, TargetPort};

/// Makes the MeshService of a Service: its addresses and ports, the pods behind it by their labels, and their identities.
pub(super) fn mesh_service(identities: &Identities, mesh: &str, service: &Service, pods: &[&Pod]) -> Named {
    let (name, namespace) = (service.key.name(), service.key.namespace());
    let accounts: BTreeSet<(&str, &str)> =
        pods.iter().map(|pod| (pod.key.namespace(), &*pod.account)).collect();
    // An identity of another authority has a name that is not known here, and none of the service's may be left out.
    let known = pods.iter().all(|pod| !pod.has_own_identity);
    let ids = accounts.into_iter().filter(|_| known);
    let ids = ids.map(|(namespace, account)| identities.id(namespace, account));
    let ids = ids.map(|id| json!({ "type": "SpiffeID", "value": id }));
    let mut labels: Map<String, Value> =
        service.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    labels.insert(MESH.to_owned(), mesh.into());
    labels.insert(NAMESPACE.to_owned(), namespace.into());
    let mut chosen: Map<String, Value> =
        service.selector.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    chosen.insert(NAMESPACE.to_owned(), namespace.into());
    let vips: Vec<Value> = service.addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    let document = json!({
        "apiVersion": API_VERSION, "kind": "MeshService",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "selector": { "dataplaneLabels": { "matchLabels": chosen } },
            "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
            "identities": ids.collect::<Vec<_>>(),
        },
        "status": {
            "vips": vips,
            "addresses": [{ "hostname": format!("{name}.{namespace}.svc.cluster.local"), "origin": "Kubernetes" }],
        },
    });
    Named::of("MeshService", &service.key, &document)
}

fn port(port: &ServicePort) -> Value {
    let ServicePort { name, port, target, protocol: _ } = port;
    let mut of = json!({ "port": port });
    match target {
        None => {}
        Some(TargetPort::Number(number)) => of["targetPort"] = (*number).into(),
        Some(TargetPort::Name(name)) => of["targetPort"] = name.as_str().into(),
    }
    if let Some(name) = name {
        of["name"] = name.as_str().into();
    }
    of
}
