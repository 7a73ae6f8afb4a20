// SPDX-License-Identifier: Apache-2.0
//! The Dataplane of a pod.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use culvert_mesh::context::Context;
use culvert_mesh::document::{Document, SPIFFE_ID};
use culvert_mesh::load::Loaded;
use culvert_mesh::model::tags::Tags;
use serde_json::{Map, Value, json};

use super::{ACCOUNT, API_VERSION, Identities, MESH, NAMESPACE, Named, mesh_of};
use crate::controller::world::{ContainerPort, Pod, Service, ServicePort, TargetPort, World};

/// Tag with the service of an inbound, named as Kuma names it.
const SERVICE: &str = "kuma.io/service";
/// Tag with the protocol of an inbound.
const PROTOCOL: &str = "kuma.io/protocol";
/// Protocols that an inbound can have.
const PROTOCOLS: [&str; 7] = ["tcp", "tls", "http", "http2", "grpc", "kafka", "mysql"];
/// Most inbounds of one pod; the sidecar takes 4,096.
const MOST_INBOUNDS: usize = 256;

/// A port that a pod offers.
struct Inbound {
    name: Option<String>,
    tags: Map<String, Value>,
}

/// Makes the Dataplane of a pod: an inbound for each port that a Service or a container names.
///
/// A pod without an address yet gets the unspecified one, which no connection has.
pub(crate) fn dataplane(world: &World, identities: Option<&Identities>, pod: &Pod) -> Named {
    of_services(world.services_of(&pod.key).map(Arc::as_ref), identities, pod)
}

/// The same of a pod and the Services in front of it, in the order of their names.
pub(super) fn of_services<'a>(
    services: impl Iterator<Item = &'a Service>,
    identities: Option<&Identities>,
    pod: &Pod,
) -> Named {
    let inbounds = inbounds(services, pod);
    let is_ready = pod.is_ready;
    let list: Vec<Value> =
        inbounds.into_iter().take(MOST_INBOUNDS).map(|(port, of)| of.json(port, is_ready)).collect();
    let address = pod.addresses.first().map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string);
    let mut labels: Map<String, Value> =
        pod.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    labels.insert(MESH.to_owned(), mesh_of(pod).into());
    labels.insert(NAMESPACE.to_owned(), pod.key.namespace().into());
    labels.insert(ACCOUNT.to_owned(), (&*pod.account).into());
    let mut document = json!({
        "apiVersion": API_VERSION, "kind": "Dataplane", "mesh": mesh_of(pod),
        "metadata": { "name": pod.key.name(), "namespace": pod.key.namespace(), "labels": labels },
        "spec": { "networking": {
            "address": address,
            "inbound": list,
            "transparentProxying": {
                "redirectPortInbound": 15006, "redirectPortOutbound": 15001,
            },
        } },
    });
    if let Some(identities) = identities.filter(|_| !pod.has_own_identity) {
        // Clients check that the server proves it.
        let id = identities.id(pod.key.namespace(), &pod.account);
        document["metadata"]["annotations"] = json!({ SPIFFE_ID: id });
    }
    Named::of("Dataplane", &pod.key, &document)
}

/// Ports of a pod. Of two Services in front of one port, the first by name gives the tags.
fn inbounds<'a>(services: impl Iterator<Item = &'a Service>, pod: &Pod) -> BTreeMap<u16, Inbound> {
    let mut inbounds = BTreeMap::new();
    for service in services {
        for port in &service.ports {
            let Some(number) = number(port, &pod.ports) else { continue };
            inbounds.entry(number).or_insert_with(|| {
                let named = pod.ports.iter().find(|declared| declared.port == number);
                Inbound {
                    name: named.and_then(|declared| declared.name.as_deref()).map(str::to_owned),
                    tags: tags(
                        pod,
                        &format!("{}_{}_svc_{}", service.key.name(), service.key.namespace(), port.port),
                        protocol(port),
                    ),
                }
            });
        }
    }
    for ContainerPort { name, port } in &pod.ports {
        inbounds.entry(*port).or_insert_with(|| Inbound {
            name: name.as_deref().map(str::to_owned),
            tags: tags(pod, &portless(pod), None),
        });
    }
    inbounds
}

/// Service of a port that no Service is in front of, and of a pod without ports.
fn portless(pod: &Pod) -> String {
    format!("{}_{}_svc", pod.workload, pod.key.namespace())
}

/// Tags of a pod without ports: it has no inbound to carry them, and calls all the same.
pub(super) fn tags_without_port(pod: &Pod) -> Tags {
    let tags = tags(pod, &portless(pod), None);
    Tags(tags.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect())
}

/// Number of the pod's port behind a Service's port. `None` where the pod has no port of that name.
fn number(port: &ServicePort, declared: &[ContainerPort]) -> Option<u16> {
    match &port.target {
        None | Some(TargetPort::Number(0)) => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => {
            declared.iter().find(|one| one.name.as_deref() == Some(name)).map(|one| one.port)
        }
    }
}

/// Tags of an inbound, as Kuma gives them: the pod's labels, the service's name, namespace and protocol.
fn tags(pod: &Pod, service: &str, protocol: Option<String>) -> Map<String, Value> {
    let lasting = pod.lasting_labels().filter(|(_, value)| !value.is_empty());
    let mut tags: Map<String, Value> = lasting.map(|(name, value)| (name.to_owned(), value.into())).collect();
    tags.insert(SERVICE.to_owned(), service.into());
    tags.insert(NAMESPACE.to_owned(), pod.key.namespace().into());
    if let Some(protocol) = protocol {
        tags.insert(PROTOCOL.to_owned(), protocol.into());
    }
    tags
}

/// Protocol of a Service's port, where it is one that a document can name: `appProtocol` takes any word.
fn protocol(port: &ServicePort) -> Option<String> {
    let word = port.protocol.as_deref()?;
    let word = match word {
        "kubernetes.io/h2c" => "http2",
        other => other,
    };
    PROTOCOLS.contains(&word).then(|| word.to_owned())
}

impl Inbound {
    fn json(self, port: u16, is_ready: bool) -> Value {
        let Self { name, tags } = self;
        let mut inbound = json!({ "port": port, "tags": tags });
        if let Some(name) = name {
            inbound["name"] = name.into();
        }
        if !is_ready {
            inbound["state"] = "NotReady".into();
        }
        inbound
    }
}

/// Reads a Dataplane that the controller made.
pub(super) fn read(mesh: &str, text: &str) -> Option<Document> {
    let context = Context { mesh: mesh.to_owned(), ..Context::default() };
    let mut loaded = Loaded::default();
    loaded.add(&context, text, Path::new("the controller"));
    for error in &loaded.errors {
        tracing::error!(%error, "a Dataplane that the controller made cannot be read, which is a bug: report it");
    }
    loaded.found.documents.pop()
}
