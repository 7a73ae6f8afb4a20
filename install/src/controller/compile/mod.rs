// SPDX-License-Identifier: Apache-2.0
//! Mesh documents for one sidecar, made of what the cluster knows. Pure.
//!
//! ```text
//! pod                 ─▶ about: its Mesh, its Dataplane, its identity's documents, policies that select it
//! address and port    ─▶ destination: the Dataplane of a pod; of a Service its MeshService and the Dataplanes behind it
//! host name           ─▶ named: the same of each Service that the name could mean
//! ```

mod callers;
mod dataplane;
mod mode;
mod permissions;
mod policies;
mod reach;
mod service;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::key::Key;
use super::world::{DEFAULT_MESH, Host, Pod, Service, World};

pub(crate) use self::callers::{Account, Callers};
pub(crate) use self::dataplane::dataplane;
pub(crate) use self::mode::{Mode, base_mode, mode};
pub(crate) use self::reach::{Reach, reach};

/// API version of mesh documents.
const API_VERSION: &str = "kuma.io/v1alpha1";
/// Label with a document's mesh.
const MESH: &str = "kuma.io/mesh";
/// Label with the namespace of what a document is about.
const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// Label with the service account of a Dataplane's pod.
const ACCOUNT: &str = "k8s.kuma.io/service-account";
/// Name of the documents about identities that the controller makes.
pub(crate) const OWN: &str = "culvert";
/// Pods behind a Service whose Dataplanes are sent: with more, a change of one would be megabytes.
pub(crate) const MOST_ENDPOINTS: usize = 1000;

/// Services whose documents answer a host name, and those that are looked at for it: most that a common word brings have no
/// member behind them, or are not meant.
const MOST_NAMED: usize = 16;
const MOST_LOOKED_AT: usize = 64;
/// Bytes of a destination's documents: a sidecar reads messages of 4 MiB.
pub(crate) const MOST_BYTES: usize = 2 << 20;

/// A document with its name on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// KIND/NAME, or KIND/NAMESPACE/NAME.
    pub name: String,
    /// The document as JSON.
    pub text: String,
}

impl Named {
    fn of(kind: &str, key: impl std::fmt::Display, document: &Value) -> Self {
        Self { name: format!("{kind}/{key}"), text: document.to_string() }
    }
}

/// Names of identities, and the authorities behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identities {
    /// Trust domain of all identities of this cluster.
    pub trust_domain: String,
    /// Authorities that members trust, in PEM; `None` where certificates come from elsewhere.
    pub authorities: Option<String>,
}

impl Identities {
    /// SPIFFE ID of an account.
    pub(crate) fn id(&self, namespace: &str, account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
    }
}

/// Returns the mesh that a pod belongs to.
pub(crate) fn mesh_of(pod: &Pod) -> &str {
    pod.mesh.as_deref().unwrap_or(DEFAULT_MESH)
}

/// Returns the documents about a pod, without those of its destinations. `None`: a permission of the pod names callers, and the
/// accounts of its mesh are missing.
pub(crate) fn about(
    world: &World,
    identities: &Identities,
    accounts: Option<&[Account]>,
    pod: &Pod,
) -> Option<Vec<Named>> {
    let own = dataplane(world, Some(identities), pod);
    let mut documents = policies::about(world, identities, accounts, pod, &own)?;
    documents.extend(trust(identities, mesh_of(pod), &documents));
    documents.push(own);
    Some(documents)
}

/// The authorities, as Kuma makes a MeshTrust of a MeshIdentity that the control plane signs by.
fn trust(identities: &Identities, mesh: &str, documents: &[Named]) -> Option<Named> {
    let pem = identities.authorities.as_ref()?;
    documents.iter().find(|one| one.name.starts_with("MeshIdentity/"))?;
    let document = json!({
        "apiVersion": API_VERSION, "kind": "MeshTrust",
        "metadata": { "name": OWN, "labels": { MESH: mesh } },
        "spec": { "trustDomain": identities.trust_domain, "caBundles": [{ "type": "Pem", "pem": { "value": pem } }] },
    });
    Some(Named::of("MeshTrust", OWN, &document))
}

/// Returns the documents of a destination for a pod of a mesh. None: no member of the mesh is there.
pub(crate) fn destination(world: &World, identities: &Identities, mesh: &str, at: SocketAddr) -> Vec<Named> {
    if let Some(pod) = world.pod_at(at.ip()) {
        let is_member = pod.is_onboarded() && mesh_of(pod) == mesh;
        return is_member.then(|| dataplane(world, Some(identities), pod)).into_iter().collect();
    }
    let Some(service) = world.service_at(at.ip()) else { return Vec::new() };
    if !service.ports.iter().any(|port| port.port == at.port()) {
        return Vec::new();
    }
    let mut answer = Answer::default();
    answer.service(world, identities, mesh, service);
    answer.documents
}

/// Returns the documents of the Services that a host name could mean, for a pod of a mesh. The sidecar decides which one it means.
pub(crate) fn named(world: &World, identities: &Identities, mesh: &str, host: &Host) -> Vec<Named> {
    let mut answer = Answer::default();
    let mut answering = 0;
    for service in world.services_named(host, MOST_LOOKED_AT) {
        answering += usize::from(answer.service(world, identities, mesh, service));
        if answering == MOST_NAMED || answer.bytes > MOST_BYTES {
            break;
        }
    }
    answer.documents
}

/// Documents of Services, up to their bound.
#[derive(Default)]
struct Answer<'w> {
    documents: Vec<Named>,
    bytes: usize,
    /// Pods whose Dataplanes are among them.
    pods: HashSet<&'w Key>,
}

impl<'w> Answer<'w> {
    /// Adds the MeshService of a Service, and the Dataplanes behind it. Returns false if no member of the mesh is there.
    fn service(
        &mut self,
        world: &'w World,
        identities: &Identities,
        mesh: &str,
        service: &'w Service,
    ) -> bool {
        let (pods, others) = world.behind(&service.key);
        let is_member = |pod: &Pod| pod.is_onboarded() && mesh_of(pod) == mesh;
        let members: Vec<&Pod> = pods.iter().map(|(pod, _)| *pod).filter(|pod| is_member(pod)).collect();
        let are_all_members = members.len() == pods.len() && others == 0;
        // While pods of a Service are onboarded one after the other, kube-proxy spreads calls over all of them. Under STRICT its
        // choice could be a member, which refuses plain connections.
        if members.is_empty() || !(are_all_members || is_strict(world, mesh)) {
            return false;
        }
        if !self.add(service::mesh_service(identities, mesh, service, &members)) {
            return true;
        }
        let ready = pods.iter().filter(|(pod, ready)| *ready && is_member(pod)).map(|(pod, _)| *pod);
        for pod in ready.take(MOST_ENDPOINTS) {
            if self.pods.insert(&pod.key) && !self.add(dataplane(world, Some(identities), pod)) {
                break;
            }
        }
        true
    }

    /// Adds a document. Returns false if it has no place, and then no other one has.
    fn add(&mut self, document: Named) -> bool {
        self.bytes += document.text.len();
        let fits = self.bytes <= MOST_BYTES;
        if fits {
            self.documents.push(document);
        }
        fits
    }
}

/// Returns true if the mesh lets in members only.
pub(crate) fn is_strict(world: &World, mesh: &str) -> bool {
    base_mode(world, mesh) == Mode::Strict
}
