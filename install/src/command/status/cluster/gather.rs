// SPDX-License-Identifier: Apache-2.0
//! Pods as workloads: which have a sidecar, and which should have one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use culvert_mesh::kinds::Kind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ClusterStatus, Controller, Invalid, MeshRow, Replica, Workload};
use crate::controller::compile::{Mode, base_mode, mesh_of, mode};
use crate::controller::world::{Pod, World};
use crate::inject::{Decision, Names, Namespace, SIDECAR, Settings, decide};

/// Workloads that a problem names.
const NAMED: usize = 10;

/// Prefix of a sidecar's option with the controller's address.
const CONTROL: &str = "--control=";
/// Labels of the controller's pods, by the chart.
const CONTROLLER: [(&str, &str); 2] =
    [("app.kubernetes.io/name", "culvert"), ("app.kubernetes.io/component", "controller")];
/// Label of a Deployment's pods that ends the name of their ReplicaSet.
const HASH: &str = "pod-template-hash";

/// A pod as the API server sends it; the rest of it is dropped as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPod {
    metadata: RawMetadata,
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: String,
    namespace: String,
    labels: Option<Names>,
    annotations: Option<Names>,
    owner_references: Option<Vec<RawOwner>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawOwner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    containers: Vec<RawContainer>,
    init_containers: Option<Vec<RawContainer>>,
    host_network: Option<bool>,
    node_selector: Option<Names>,
    os: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawContainer {
    name: String,
    image: String,
    args: Option<Vec<String>>,
    ports: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    phase: String,
    conditions: Option<Vec<RawCondition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl RawContainer {
    /// The parts that decisions read.
    fn value(&self) -> Value {
        let args = self.args.iter().flatten().filter(|arg| arg.starts_with(CONTROL));
        let mut value = json!({ "name": self.name, "image": self.image, "args": args.collect::<Vec<_>>() });
        if let Some(ports) = &self.ports {
            value["ports"] = ports.clone();
        }
        value
    }
}

impl RawPod {
    fn containers(&self) -> impl Iterator<Item = &RawContainer> {
        self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten())
    }

    /// The parts that decisions read, as the API server writes them.
    fn value(&self) -> Value {
        let Self { metadata, spec, .. } = self;
        let list =
            |containers: &[RawContainer]| containers.iter().map(RawContainer::value).collect::<Vec<_>>();
        let mut value = json!({
            "metadata": {
                "name": metadata.name, "namespace": metadata.namespace,
                "labels": metadata.labels, "annotations": metadata.annotations,
            },
            "spec": {
                "containers": list(&spec.containers),
                "initContainers": list(spec.init_containers.as_deref().unwrap_or_default()),
                "nodeSelector": spec.node_selector,
            },
        });
        if let Some(host_network) = spec.host_network {
            value["spec"]["hostNetwork"] = host_network.into();
        }
        if let Some(os) = &spec.os {
            value["spec"]["os"] = os.clone();
        }
        value
    }

    /// Kind and name of its workload: the Deployment behind a ReplicaSet, else its owner, else itself.
    fn owner(&self) -> (String, String) {
        let owners = self.metadata.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller == Some(true)).or_else(|| owners.first());
        let Some(RawOwner { kind, name, .. }) = owner else {
            return ("Pod".to_owned(), self.metadata.name.clone());
        };
        let hash = self.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
        let of_deployment = hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        match of_deployment.filter(|_| kind == "ReplicaSet") {
            Some(deployment) => ("Deployment".to_owned(), deployment.to_owned()),
            None => (kind.clone(), name.clone()),
        }
    }

    fn is_of_controller(&self) -> bool {
        let labels = self.metadata.labels.as_ref();
        CONTROLLER
            .iter()
            .all(|(name, value)| labels.and_then(|labels| labels.get(*name)).is_some_and(|has| has == value))
    }

    fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.any(|one| one.kind == "Ready" && one.status == "True")
    }
}

/// Pods so far.
#[derive(Debug, Default)]
pub(super) struct Pods {
    workloads: BTreeMap<(String, String, String), Counted>,
    /// The controller's pods, by their namespaces.
    controllers: BTreeMap<String, Vec<Replica>>,
}

/// Pods of one owner so far.
#[derive(Debug, Default)]
struct Counted {
    pods: usize,
    with_sidecar: usize,
    missing: usize,
    images: BTreeSet<String>,
    reason: Option<String>,
    /// A pod whose sidecar knows a controller: its documents are the cluster's.
    example: Option<Box<Pod>>,
}

impl Pods {
    /// Takes a pod in. One that has ended is none.
    pub(super) fn take(
        &mut self,
        pod: RawPod,
        namespaces: &BTreeMap<String, Namespace>,
        settings: &Settings,
    ) {
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return;
        }
        let RawMetadata { name, namespace, .. } = &pod.metadata;
        if pod.is_of_controller() {
            let replica = Replica { pod: name.clone(), ready: pod.is_ready() };
            self.controllers.entry(namespace.clone()).or_default().push(replica);
        }
        let (kind, owner) = pod.owner();
        let counted = self.workloads.entry((namespace.clone(), kind, owner)).or_default();
        counted.pods += 1;
        match pod.containers().find(|container| container.name == SIDECAR) {
            Some(sidecar) => {
                counted.with_sidecar += 1;
                counted.images.insert(sidecar.image.clone());
                if counted.example.is_none() {
                    counted.example = example(&pod).filter(|pod| pod.is_onboarded()).map(Box::new);
                }
            }
            None => {
                if let Some(reason) = should(&pod, namespaces, settings) {
                    counted.missing += 1;
                    counted.reason.get_or_insert(reason);
                }
            }
        }
    }

    /// The namespace of the controller. Of several, that with most replicas.
    pub(super) fn namespace_of_controller(&self) -> Option<&str> {
        self.controllers.iter().max_by_key(|(_, replicas)| replicas.len()).map(|(namespace, _)| &**namespace)
    }
}

/// Reads a pod as the controller does.
fn example(pod: &RawPod) -> Option<Pod> {
    Pod::read(serde_json::from_value(pod.value()).ok()?)
}

/// Returns the reason why a pod without a sidecar should have one, as the injector decides.
fn should(pod: &RawPod, namespaces: &BTreeMap<String, Namespace>, settings: &Settings) -> Option<String> {
    let namespace = namespaces.get(&pod.metadata.namespace).cloned().unwrap_or_default();
    match decide(&pod.value(), &namespace, settings) {
        Decision::Skipped(_) => None,
        Decision::Injected(injected) => {
            // Only the label counts here: the rest is about the sidecar that it would get.
            let words = injected.words.split("; ").next().unwrap_or_default();
            Some(words.strip_prefix("injected: ").unwrap_or(words).to_owned())
        }
        Decision::Refused(refusal) => Some(format!("the injector would refuse it: {refusal}")),
    }
}

/// The Lease of the controller.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    holder: Option<String>,
    renewed: Option<String>,
}

impl Lease {
    pub(super) fn read(spec: &Value) -> Self {
        let text = |name: &str| spec[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Self { holder: text("holderIdentity"), renewed: text("renewTime") }
    }
}

/// Everything that was asked for.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Mesh documents.
    pub world: World,
    pub pods: Pods,
    pub lease: Option<Lease>,
    pub problems: Vec<String>,
}

/// Judges the cluster.
pub(super) fn judged(cluster: Cluster) -> ClusterStatus {
    let Cluster { world, mut pods, lease, mut problems } = cluster;
    let leads = lease.as_ref().is_none_or(|lease| lease.holder.is_some());
    let namespace = pods.namespace_of_controller().map(str::to_owned);
    let controller = namespace.map(|namespace| {
        let mut replicas = pods.controllers.remove(&namespace).unwrap_or_default();
        replicas.sort_by(|one, other| one.pod.cmp(&other.pod));
        let Lease { holder, renewed } = lease.unwrap_or_default();
        Controller { namespace, holder, renewed, replicas }
    });
    let all = pods.workloads.len();
    let ours = pods.workloads.into_iter().filter(|(_, counted)| counted.with_sidecar + counted.missing > 0);
    let workloads: Vec<Workload> = ours.map(|(key, counted)| workload(&world, key, counted)).collect();
    let invalid_documents = invalid(&world);
    if let Some(controller) = &controller {
        problems.extend(of_controller(controller, leads));
        problems.extend(of_workloads(&workloads));
    }
    let is_missing = workloads.iter().any(|workload| workload.missing > 0);
    ClusterStatus {
        well: !is_missing && invalid_documents.is_empty() && problems.is_empty(),
        controller,
        meshes: meshes(&world),
        others: all - workloads.len(),
        workloads,
        invalid_documents,
        problems,
        ..ClusterStatus::default()
    }
}

/// What is wrong with the controller.
fn of_controller(controller: &Controller, leads: bool) -> Vec<String> {
    let Controller { namespace, replicas, .. } = controller;
    let mut problems = Vec::new();
    if !replicas.iter().any(|replica| replica.ready) {
        problems.push(format!(
            "no replica of the controller in {namespace} is ready: sidecars keep what they know, and new pods get no identity"
        ));
    } else if !leads {
        problems.push(format!(
            "no replica of the controller in {namespace} writes: its log says why, and conditions and ConfigMaps are old"
        ));
    }
    problems
}

/// What keeps workloads with sidecars out of the mesh, though there is a controller.
fn of_workloads(workloads: &[Workload]) -> Vec<String> {
    let named = |all: Vec<&Workload>| {
        let first: Vec<_> = all
            .iter()
            .take(NAMED)
            .map(|one| format!("{}/{}/{}", one.namespace, one.kind, one.name))
            .collect();
        let more = all.len().checked_sub(NAMED).filter(|more| *more > 0);
        first.join(", ") + &more.map(|more| format!(" and {more} more")).unwrap_or_default()
    };
    let with_sidecar = || workloads.iter().filter(|one| one.with_sidecar > 0);
    let apart: Vec<_> = with_sidecar().filter(|one| one.mesh.is_none()).collect();
    let lost: Vec<_> = with_sidecar().filter(|one| one.mtls == Some(word(Mode::NoMesh))).collect();
    let mut problems = Vec::new();
    if !apart.is_empty() {
        problems
            .push(format!("sidecars that know no controller, until they are restarted: {}", named(apart)));
    }
    if !lost.is_empty() {
        problems
            .push(format!("pods of a mesh without a Mesh document, which let nothing in: {}", named(lost)));
    }
    problems
}

fn workload(world: &World, (namespace, kind, name): (String, String, String), counted: Counted) -> Workload {
    let Counted { pods, with_sidecar, missing, images, reason, example } = counted;
    Workload {
        namespace,
        kind,
        name,
        mesh: example.as_ref().map(|pod| mesh_of(pod).to_owned()),
        mtls: example.as_ref().map(|pod| word(mode(world, pod))),
        pods,
        with_sidecar,
        missing,
        sidecars: images.into_iter().collect(),
        reason,
    }
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::NoMesh => "no Mesh",
        Mode::Off => "off",
        Mode::Permissive => "PERMISSIVE",
        Mode::Strict => "STRICT",
        Mode::Mixed => "mixed",
    }
}

fn meshes(world: &World) -> Vec<MeshRow> {
    let of_kind = |kind: Kind| Kind::ALL.iter().position(|one| *one == kind);
    let all = world.documents.current().filter(|document| Some(document.kind) == of_kind(Kind::Mesh));
    all.map(|document| {
        let name = document.key.name().to_owned();
        MeshRow { mtls: word(base_mode(world, &name)), name }
    })
    .collect()
}

fn invalid(world: &World) -> Vec<Invalid> {
    let wrong =
        world.documents.current().filter_map(|document| Some((document, document.read.as_ref().err()?)));
    wrong
        .map(|(document, refused)| Invalid {
            kind: Kind::ALL[document.kind].name(),
            namespace: document.key.namespace().to_owned(),
            name: document.key.name().to_owned(),
            errors: refused.0.clone(),
        })
        .collect()
}
