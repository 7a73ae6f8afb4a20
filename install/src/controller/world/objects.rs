// SPDX-License-Identifier: Apache-2.0
//! The parts of Kubernetes' objects that the controller keeps. The rest of an object is dropped as it is read: 2,000 whole
//! pods take 140 MB, these parts a fourteenth of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kube::core::{NotUsed, Object, ObjectMeta};
use serde::Deserialize;

use super::super::key::Key;
use super::names::Words;
use crate::inject::{IDENTITY_FOLDER, IDENTITY_VOLUME};

/// Name of the sidecar's container.
const SIDECAR: &str = crate::inject::SIDECAR;
/// Option of a sidecar with the controller's address, as the injector writes it.
const CONTROL: &str = "--control=";
/// Option of a sidecar with the folder of its identity.
const IDENTITY: &str = "--identity=";
const TCP: &str = "TCP";
/// Label with the mesh of a pod.
const MESH: &str = "kuma.io/mesh";
/// Label that an EndpointSlice names its Service by.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Address of a Service without one.
const HEADLESS: &str = "None";
/// Type of a Service that is another name for a host, whatever it selects.
const EXTERNAL_NAME: &str = "ExternalName";

/// Labels that differ between pods of one workload, or between its versions: no policy chooses by them.
const PASSING: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
];

/// A pod as the API server sends it.
pub(crate) type RawPod = Object<PodSpec, PodStatus>;
/// A Service as the API server sends it.
pub(crate) type RawService = Object<ServiceSpec, NotUsed>;

/// Parts of a pod's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    service_account_name: Option<String>,
    node_name: Option<String>,
    host_network: bool,
}

/// Parts of a pod's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    name: String,
    mount_path: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    image: String,
    args: Vec<String>,
    ports: Vec<RawContainerPort>,
    volume_mounts: Vec<Mount>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

impl Container {
    fn knows_a_controller(&self) -> bool {
        self.args.iter().any(|arg| arg.starts_with(CONTROL))
    }

    /// Returns true if it reads an identity that is not the kubelet's by the controller.
    fn has_own_identity(&self) -> bool {
        let is_ours = |mount: &Mount| mount.name == IDENTITY_VOLUME && mount.mount_path == IDENTITY_FOLDER;
        self.args.iter().any(|arg| arg.starts_with(IDENTITY)) && !self.volume_mounts.iter().any(is_ours)
    }
}

/// Parts of a Service's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    selector: BTreeMap<String, String>,
    ports: Vec<RawServicePort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServicePort {
    name: Option<String>,
    port: u16,
    target_port: Option<TargetPort>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

/// Port or name of a container's port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum TargetPort {
    /// A number.
    Number(u16),
    /// A name, which may be another number in each pod.
    Name(String),
}

/// Parts of an EndpointSlice beside its metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawSlice {
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawSlicePort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: RawConditions,
    target_ref: Option<RawTarget>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawTarget {
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawSlicePort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerPort {
    /// Name that Services may choose it by.
    pub name: Option<Box<str>>,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// State of a pod, as far as it decides about its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may run, or does.
    Living,
    /// Its containers have ended for good.
    Ended,
}

/// A pod of the cluster's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// Unique among all pods that ever had the name.
    pub uid: Box<str>,
    /// Labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Name of its workload, as Kuma takes it where no Service is in front of the pod.
    pub workload: Box<str>,
    /// Service account.
    pub account: Box<str>,
    /// Node; empty until it is scheduled.
    pub node: Box<str>,
    /// Addresses; none until it runs.
    pub addresses: Vec<IpAddr>,
    /// TCP ports that its containers declare, but for the sidecar's.
    pub ports: Vec<ContainerPort>,
    /// Image of the sidecar; `None` without a sidecar, or with one that knows no controller: it may have no identity, so that
    /// no member could call it by TLS.
    pub sidecar: Option<Box<str>>,
    /// True if its identity is of another authority than the controller's: a volume of its own.
    pub has_own_identity: bool,
    /// Mesh that the pod names by its label; the injector hands it to the sidecar.
    pub mesh: Option<Box<str>>,
    /// True while its condition Ready is.
    pub is_ready: bool,
    /// Living, or ended.
    pub life: Life,
}

impl Pod {
    /// Reads a pod. `None` for one in its node's own network, which has no sidecar and no address of its own.
    pub(crate) fn read(raw: RawPod) -> Option<Self> {
        let Object { metadata, spec, status, .. } = raw;
        let status = status.unwrap_or_default();
        if spec.host_network {
            return None;
        }
        let key = Key::of(&metadata);
        let all = spec.containers.iter().chain(&spec.init_containers);
        let (sidecars, applications): (Vec<_>, Vec<_>) = all.partition(|one| one.name == SIDECAR);
        let ports = applications.into_iter().flat_map(|one| &one.ports).filter(|port| is_tcp(&port.protocol));
        let ports = ports
            .filter(|port| port.container_port != 0)
            .map(|port| ContainerPort { name: port.name.clone().map(Into::into), port: port.container_port });
        let mut ports: Vec<_> = ports.collect();
        ports.sort_by_key(|port| port.port);
        ports.dedup_by_key(|port| port.port);
        let mut addresses: Vec<IpAddr> =
            status.pod_ips.iter().filter_map(|one| one.ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(status.pod_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        let life = match status.phase.as_str() {
            "Succeeded" | "Failed" => Life::Ended,
            _ => Life::Living,
        };
        let is_ready = status.conditions.iter().any(|one| one.kind == "Ready" && one.status == "True");
        let labels = metadata.labels.unwrap_or_default();
        let mesh = labels.get(MESH).filter(|mesh| !mesh.is_empty());
        let workload =
            workload(metadata.generate_name.as_deref(), &labels).unwrap_or_else(|| key.name().into());
        Some(Self {
            key,
            workload,
            uid: metadata.uid.unwrap_or_default().into(),
            mesh: mesh.map(|mesh| mesh.as_str().into()),
            labels: Arc::new(labels),
            account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()).into(),
            node: spec.node_name.unwrap_or_default().into(),
            // An ended pod's address may belong to another one by now.
            addresses: if life == Life::Ended { Vec::new() } else { addresses },
            ports,
            sidecar: sidecars
                .first()
                .filter(|one| one.knows_a_controller())
                .map(|one| one.image.as_str().into()),
            has_own_identity: sidecars.first().is_some_and(|one| one.has_own_identity()),
            is_ready,
            life,
        })
    }

    /// Labels that all pods of its workload have, in every version.
    pub(crate) fn lasting_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(|(name, _)| !PASSING.contains(name))
    }

    /// Returns true if its traffic goes through a sidecar that the controller tells.
    pub(crate) fn is_onboarded(&self) -> bool {
        self.sidecar.is_some()
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Name, unique in the Service.
    pub name: Option<String>,
    /// Port that callers dial.
    pub port: u16,
    /// Port of the pods behind it; `None`: the same.
    pub target: Option<TargetPort>,
    /// Protocol spoken there, as the Service says it.
    pub protocol: Option<String>,
}

/// A Service that selects pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Namespace and name.
    pub key: Key,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Words by which host names find it.
    pub words: Words,
    /// Its own addresses; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// Labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Reads a Service. `None` for one without a selector, whose endpoints are written by hand and need be no pods, and for another
    /// name of a host.
    pub(crate) fn read(raw: RawService) -> Option<Self> {
        let Object { metadata, spec, .. } = raw;
        if spec.selector.is_empty() || spec.kind == EXTERNAL_NAME {
            return None;
        }
        let mut texts = spec.cluster_ips;
        if texts.is_empty() {
            texts.extend(spec.cluster_ip);
        }
        let addresses = texts.iter().filter(|text| *text != HEADLESS).filter_map(|text| text.parse().ok());
        let ports = spec.ports.into_iter().filter(|port| is_tcp(&port.protocol));
        let ports = ports.map(|RawServicePort { name, port, target_port, app_protocol, .. }| ServicePort {
            name,
            port,
            target: target_port,
            protocol: app_protocol,
        });
        let key = Key::of(&metadata);
        let labels = metadata.labels.unwrap_or_default();
        Some(Self {
            words: Words::of(key.name(), &labels),
            key,
            labels,
            addresses: addresses.collect(),
            selector: spec.selector,
            ports: ports.collect(),
        })
    }
}

/// Part of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Namespace and name.
    pub key: Key,
    /// Service that it belongs to.
    pub service: Key,
    /// Pods behind the Service, with the readiness that its callers go by.
    pub pods: Vec<(Key, bool)>,
    /// Endpoints that are no pods.
    pub others: usize,
    /// TCP ports of the pods.
    pub ports: Vec<u16>,
    /// The one of them that is named `status`.
    pub status: Option<u16>,
    /// Addresses of ready endpoints, with their pods.
    pub addresses: Vec<(IpAddr, Option<Key>)>,
}

/// Name of a Service's port for health and metrics.
const STATUS: &str = "status";

impl Slice {
    /// Reads an EndpointSlice. `None` for one that names no Service, or cannot be read.
    pub(crate) fn read(metadata: &ObjectMeta, data: serde_json::Value) -> Option<Self> {
        let key = Key::of(metadata);
        let service = metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let service = Key::new(key.namespace(), service);
        let RawSlice { endpoints, ports } = serde_json::from_value(data).ok()?;
        let (mut pods, mut others, mut reached) = (Vec::new(), 0, Vec::new());
        for RawEndpoint { addresses, conditions, target_ref } in endpoints.unwrap_or_default() {
            // Absent counts as ready (discovery.k8s.io/v1, EndpointConditions).
            let ready = conditions.ready.unwrap_or(true);
            let target = target_ref.filter(|target| target.kind == "Pod");
            let pod = target.map(|pod| Key::new(&pod.namespace, &pod.name));
            // Its consumers take the first. A name is none.
            if let Some(address) = addresses.first().filter(|_| ready).and_then(|text| text.parse().ok()) {
                reached.push((address, pod.clone()));
            }
            match pod {
                Some(pod) => pods.push((pod, ready)),
                None => others += addresses.len(),
            }
        }
        let ports = ports.unwrap_or_default();
        let ports = || ports.iter().filter(|port| is_tcp(&port.protocol));
        let status = ports().find(|port| port.name.as_deref() == Some(STATUS)).and_then(|port| port.port);
        let ports = ports().filter_map(|port| port.port).collect();
        Some(Self { key, service, pods, others, ports, status, addresses: reached })
    }
}

/// Name of the Deployment, StatefulSet or other owner that a pod's name is made of.
fn workload(generated: Option<&str>, labels: &BTreeMap<String, String>) -> Option<Box<str>> {
    let name = generated?.strip_suffix('-')?;
    let hash = labels.get("pod-template-hash").map(String::as_str);
    let of_deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    Some(of_deployment.unwrap_or(name).into())
}

fn is_tcp(protocol: &Option<String>) -> bool {
    protocol.as_deref().is_none_or(|name| name == TCP)
}
