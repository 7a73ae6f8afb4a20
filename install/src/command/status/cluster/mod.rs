// SPDX-License-Identifier: Apache-2.0
//! `status --cluster`: the workloads of the cluster and their sidecars, from the API server alone.
//!
//! ```text
//! API server ──ask: page by page──▶ gather: workloads, controller ──▶ report ──render──▶ text or JSON
//! ```
//! A page is read and forgotten, so that memory follows the number of workloads and not that of pods.

mod ask;
mod gather;
mod render;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::cli::shared::Output;
use crate::cli::status::StatusArgs;
use crate::command::answer::{Answer, Colour, Exit};
use crate::kube::Client;

/// Reasons why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ClusterError {
    #[error("KUBERNETES_SERVICE_HOST is not set: --cluster runs in a pod, where the kubelet sets it")]
    NoApiServer,
    #[error("cannot begin: {0}")]
    Runtime(#[from] std::io::Error),
    #[error(transparent)]
    Unread(#[from] ask::Unread),
}

/// The cluster as the API server tells of it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct ClusterStatus {
    /// Version of this program.
    version: String,
    /// Host and port of the API server.
    api_server: String,
    /// True if no workload lacks a sidecar, every document is valid, and everything could be read.
    well: bool,
    /// The controller; `None` where none of its pods is there.
    controller: Option<Controller>,
    meshes: Vec<MeshRow>,
    /// Workloads with a sidecar, and those that should have one.
    workloads: Vec<Workload>,
    /// Number of workloads that ask for none.
    others: usize,
    invalid_documents: Vec<Invalid>,
    /// Parts of the cluster that could not be read, and the right that is missing.
    problems: Vec<String>,
}

/// The controller.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Controller {
    namespace: String,
    /// Replica that holds the Lease.
    holder: Option<String>,
    /// Time at which it last said so.
    renewed: Option<String>,
    replicas: Vec<Replica>,
}

/// A pod of the controller.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Replica {
    pod: String,
    ready: bool,
}

/// A Mesh.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MeshRow {
    name: String,
    /// Mode where no MeshTLS and no MeshIdentity says another.
    mtls: &'static str,
}

/// Pods of one owner.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Workload {
    namespace: String,
    /// Kind of the owner; `Pod` without one.
    kind: String,
    name: String,
    /// Mesh that the pods are in; `None` where its sidecars hear of no controller, or there are none.
    mesh: Option<String>,
    /// Mode that holds for its inbounds; `None` as above.
    mtls: Option<&'static str>,
    /// Pods that live.
    pods: usize,
    with_sidecar: usize,
    /// Pods that should have a sidecar, and have none.
    missing: usize,
    /// Images of the sidecars.
    sidecars: Vec<String>,
    /// Reason why those should have one.
    reason: Option<String>,
}

/// A mesh document that cannot be read.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Invalid {
    kind: &'static str,
    /// Empty for one of the whole cluster.
    namespace: String,
    name: String,
    /// Words of `culvert-sidecar validate`.
    errors: Vec<String>,
}

/// Asks the API server, and answers.
pub(super) fn run(args: &StatusArgs, colour: Colour) -> Answer {
    let status = match status(args) {
        Ok(status) => status,
        Err(error @ ClusterError::NoApiServer) => return Answer::refused(&error, Exit::Usage),
        Err(error) => return Answer::refused(&error, Exit::Attention),
    };
    let text = match args.output {
        Output::Text => render::text(&status, colour),
        Output::Json => render::json(&status),
    };
    Answer::said(text, if status.well { Exit::Well } else { Exit::Attention })
}

fn status(args: &StatusArgs) -> Result<ClusterStatus, ClusterError> {
    let client = Client::in_cluster(&args.service_account, |name| std::env::var(name).ok());
    let client = client.ok_or(ClusterError::NoApiServer)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(ask::ask(&client, &args.webhook))?;
    Ok(ClusterStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_server: client.server(),
        ..gather::judged(cluster)
    })
}
