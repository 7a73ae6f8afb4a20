// SPDX-License-Identifier: Apache-2.0
//! `Mesh`: settings of all pods of a mesh.

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::mesh_metric::{OlderPrometheus, check_older};
use crate::model::address::HostPort;
use crate::model::log_template::Template;
use crate::model::percentage::Percentage;
use crate::model::tags::Tags;
use crate::read::part::{Part, Reported};
use crate::read::{At, Lifetime, Mapping, Span, fields, words};
use std::collections::BTreeSet;

fields! {
    /// Settings of all pods of a mesh.
    pub struct Mesh {
        /// Traffic that leaves the mesh.
        networking: optional MeshNetworking = "networking",
        /// Files and servers that connections are logged to.
        logging: optional Logging = "logging",
        /// TLS between the pods of the mesh.
        mtls: optional Mtls = "mtls",
        /// Prometheus on a port of each sidecar; a MeshMetric about the pod takes its place.
        metrics: optional MeshMetrics = "metrics",
        /// Spans of HTTP requests; culvert makes no spans.
        tracing: no_effect Tracing = "tracing",
        /// Tags that a Dataplane must have; the control plane checks them when a Dataplane comes.
        constraints: no_effect Constraints = "constraints",
        /// Preference of near endpoints, and ways by a zone's egress; a MeshLoadBalancingStrategy says which zones come first.
        routing: no_effect Routing = "routing",
        /// Services that the control plane makes of Dataplanes.
        mesh_services: no_effect MeshServices = "meshServices",
        /// Policies that the control plane does not create with the mesh.
        skip_creating_initial_policies: no_effect Vec<String> = "skipCreatingInitialPolicies",
    }
}

fields! {
    /// Traffic that leaves the mesh.
    pub struct MeshNetworking {
        /// Connections from the pods of the mesh.
        outbound: optional MeshOutbound = "outbound",
    }
}

fields! {
    /// Connections from the pods of the mesh.
    pub struct MeshOutbound {
        /// Lets connections leave for destinations that no document names. Default: true.
        passthrough: optional bool = "passthrough",
    }
}

fields! {
    /// Files and servers that connections are logged to.
    pub struct Logging {
        /// The backend that every connection is logged to; without one the backends are only defined.
        default_backend: optional String = "defaultBackend",
        /// Files and servers that take logs.
        backends: default Vec<LogBackend> = "backends",
    }
}

fields! {
    /// A file or server that takes logs.
    pub struct LogBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// A line's text, with placeholders as %START_TIME%.
        format: optional Template = "format",
        /// A file, or a TCP server that takes lines.
        kind: required LogBackendKind = "type",
        /// Path or address, by type.
        conf: required LogBackendConf = "conf",
    }
}

words! {
    /// Types of log backends.
    pub enum LogBackendKind {
        /// Lines are appended to a file.
        File = "file",
        /// Lines go to a TCP server.
        Tcp = "tcp",
    }
}

fields! {
    /// Path or address of a log backend.
    pub struct LogBackendConf {
        /// Of a file: its path, or /dev/stdout.
        path: optional String = "path",
        /// Of a TCP server: its IP address or name, and port.
        address: optional HostPort = "address",
    }
}

fields! {
    /// TLS between the pods of the mesh.
    pub struct Mtls {
        /// Name of the backend that is on. Absent: no TLS.
        enabled_backend: optional String = "enabledBackend",
        /// Backends that can be turned on.
        backends: default Vec<MtlsBackend> = "backends",
        /// Kuma's own, about a change of it; ignored.
        skip_validation: optional bool = "skipValidation",
    }
}

fields! {
    /// A way to give pods identities. culvert does not act on it: identities come from --identity.
    pub struct MtlsBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// Type of the authority, as builtin or provided; ignored.
        kind: optional String = "type",
        /// Peers that the pods of the mesh let in. Default: STRICT.
        mode: optional MtlsMode = "mode",
        /// Settings of certificates; ignored.
        dp_cert: optional DpCert = "dpCert",
        /// Settings of the authority; ignored.
        conf: optional Mapping = "conf",
        /// Kuma's own, about the authority; ignored.
        root_chain: optional RootChain = "rootChain",
    }
}

fields! {
    /// Settings of certificates.
    pub struct DpCert {
        /// Change of a certificate before it ends.
        rotation: optional Rotation = "rotation",
        /// Time to wait for a certificate.
        request_timeout: optional Span = "requestTimeout",
    }
}

fields! {
    /// Change of a certificate before it ends.
    pub struct Rotation {
        /// Lifetime of a certificate.
        expiration: optional Lifetime = "expiration",
    }
}

fields! {
    /// Settings of the authority's own certificate.
    pub struct RootChain {
        /// Time to wait for the certificate.
        request_timeout: optional Span = "requestTimeout",
    }
}

fields! {
    /// Prometheus on a port of each proxy.
    pub struct MeshMetrics {
        /// Name of the backend that is on.
        enabled_backend: optional String = "enabledBackend",
        /// Backends that can be turned on.
        backends: default Vec<MetricsBackend> = "backends",
    }
}

fields! {
    /// A way to show metrics.
    pub struct MetricsBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// Only prometheus.
        kind: required MetricsBackendKind = "type",
        /// Port, path and applications.
        conf: optional OlderPrometheus = "conf",
    }
}

words! {
    /// Types of backends of metrics.
    pub enum MetricsBackendKind {
        /// A port with Prometheus' text.
        Prometheus = "prometheus",
    }
}

fields! {
    /// Spans of HTTP requests.
    pub struct Tracing {
        /// The backend of every span, unless a TrafficTrace names another.
        default_backend: optional String = "defaultBackend",
        /// Servers that take spans.
        backends: default Vec<TracingBackend> = "backends",
    }
}

fields! {
    /// A server that takes spans.
    pub struct TracingBackend {
        /// Name that other fields choose it by.
        name: required String = "name",
        /// Percentage of requests with spans.
        sampling: optional Percentage = "sampling",
        /// Type of the server.
        kind: required TracingBackendKind = "type",
        /// Address of the server, by type.
        conf: optional Mapping = "conf",
    }
}

words! {
    /// Types of servers that take spans.
    pub enum TracingBackendKind {
        /// Zipkin, or another that speaks its protocol.
        Zipkin = "zipkin",
        /// The agent of Datadog.
        Datadog = "datadog",
    }
}

fields! {
    /// Conditions of Dataplanes.
    pub struct Constraints {
        /// Conditions of a Dataplane's tags.
        dataplane_proxy: optional DataplaneConstraints = "dataplaneProxy",
    }
}

fields! {
    /// Conditions of a Dataplane's tags.
    pub struct DataplaneConstraints {
        /// Sets of tags of which a Dataplane needs one.
        requirements: default Vec<TagConstraint> = "requirements",
        /// Sets of tags that a Dataplane must not have.
        restrictions: default Vec<TagConstraint> = "restrictions",
    }
}

fields! {
    /// A set of tags.
    pub struct TagConstraint {
        /// Tags with their values, or "*" for any.
        tags: required Tags = "tags",
    }
}

fields! {
    /// Ways of connections between zones.
    pub struct Routing {
        /// Endpoints of the same zone come first.
        locality_aware_load_balancing: optional bool = "localityAwareLoadBalancing",
        /// Connections to other zones and to external services go by way of the zone's egress.
        zone_egress: optional bool = "zoneEgress",
        /// Only a MeshTrafficPermission lets pods call external services.
        default_forbid_mesh_external_service_access: optional bool = "defaultForbidMeshExternalServiceAccess",
    }
}

fields! {
    /// Services that the control plane makes of Dataplanes.
    pub struct MeshServices {
        /// Use of these services.
        mode: optional MeshServicesMode = "mode",
    }
}

words! {
    /// Use of the services that the control plane makes.
    pub enum MeshServicesMode {
        /// There are none.
        Disabled = "Disabled",
        /// Beside those of tags.
        Everywhere = "Everywhere",
        /// Beside those of tags, where a Dataplane names them.
        ReachableBackends = "ReachableBackends",
        /// In place of those of tags.
        Exclusive = "Exclusive",
    }
}

words! {
    /// Peers that the pods of the mesh let in.
    pub enum MtlsMode {
        /// Members of the mesh.
        Strict = "STRICT",
        /// Every peer, a member or not.
        Permissive = "PERMISSIVE",
    }
}

impl Mtls {
    /// Returns the backend that is on.
    pub fn enabled(&self) -> Option<&MtlsBackend> {
        let name = self.enabled_backend.as_ref().filter(|name| !name.is_empty())?;
        self.backends.iter().find(|backend| backend.name == *name)
    }
}

impl MeshMetrics {
    /// Returns the backend that is on.
    pub fn enabled(&self) -> Option<&MetricsBackend> {
        let name = self.enabled_backend.as_ref().filter(|name| !name.is_empty())?;
        self.backends.iter().find(|backend| backend.name == *name)
    }
}

impl Mesh {
    /// Returns true if connections may leave for destinations that no document names.
    pub fn passthrough(&self) -> bool {
        let outbound = self.networking.as_ref().and_then(|networking| networking.outbound.as_ref());
        outbound.and_then(|outbound| outbound.passthrough).unwrap_or(true)
    }
}

impl Resource for Mesh {
    const NAME: &'static str = "Mesh";

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        for (name, chosen) in [
            ("mtls", "enabledBackend"),
            ("logging", "defaultBackend"),
            ("metrics", "enabledBackend"),
            ("tracing", "defaultBackend"),
        ] {
            let section = part.field(name);
            let _ = is_of_the_list(&section, chosen, at);
            let backends = section.items("backends").unwrap_or_default();
            let mut names = BTreeSet::new();
            for backend in &backends {
                if let Ok(name) = backend.need::<String>("name")
                    && !names.insert(name.clone())
                {
                    backend.problem(at, "name", format!("{name:?} again"), "each name once");
                }
                let _ = match name {
                    "logging" => has_its_place(backend, at),
                    "mtls" => certificates_end(backend, at),
                    "metrics" => {
                        check_older(&backend.field("conf"), at);
                        Ok(())
                    }
                    _ => Ok(()),
                };
            }
        }
    }
}

fn is_of_the_list(section: &Part<'_>, chosen: &str, at: &mut At<'_>) -> Result<(), Reported> {
    let Some(name) = section.get::<String>(chosen)?.filter(|name| !name.is_empty()) else { return Ok(()) };
    let names = section.items("backends")?.into_iter().map(|backend| backend.need::<String>("name"));
    let names = names.collect::<Result<Vec<_>, Reported>>()?;
    if !names.contains(&name) {
        let list = if names.is_empty() { "which is empty".into() } else { names.join(", ") };
        section.problem(at, chosen, format!("{name:?}"), format!("a backend of the list: {list}"));
    }
    Ok(())
}

/// Checks the lifetime of the certificate that Kuma makes for an authority of its own.
fn certificates_end(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Reported> {
    if backend.get::<String>("type")?.as_deref() == Some("builtin") {
        backend.field("conf").field("caCert").check::<Lifetime>("expiration", at);
    }
    Ok(())
}

fn has_its_place(backend: &Part<'_>, at: &mut At<'_>) -> Result<(), Reported> {
    let field = match backend.need::<LogBackendKind>("type")? {
        LogBackendKind::File => "path",
        LogBackendKind::Tcp => "address",
    };
    let conf = backend.field("conf");
    if !conf.has(field)? || conf.get::<String>(field)?.is_some_and(|text| text.is_empty()) {
        conf.problem(at, field, "nothing", "this field is required by the backend's type");
    }
    Ok(())
}
