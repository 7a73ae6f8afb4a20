// SPDX-License-Identifier: Apache-2.0
//! Command line of `status`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{Output, PathArgs};
use crate::kube::http::SERVICE_ACCOUNT;

/// Text below `status --help`.
const STATUS_AFTER: &str = "\
The agent is asked by its socket in --state-dir. Where none answers, the pods are listed from the
runtime's CRI socket (else from the attachments' records) and each is looked at once, which changes
nothing.

--cluster runs in a pod whose account may list pods, namespaces and the kinds of kuma.io, and get the
webhook's configuration and the controller's Lease. The chart makes one: injector.doctor.enabled.

Examples:
  culvert-install status
  culvert-install status --host-root /host --output json
  culvert-install status --cluster

Exit codes: 0 every onboarded pod is redirected, and what each pod is is known; 1 a pod needs
attention; 64 bad usage. With --cluster: 0 every pod that asks for a sidecar has one, and every
mesh document is valid; 1 otherwise, and where something cannot be read; 64 bad usage.";

/// Options of `status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_AFTER)]
pub(crate) struct StatusArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// List the workloads of the cluster and their sidecars, the meshes, the controller and invalid documents instead
    #[arg(long)]
    pub cluster: bool,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// MutatingWebhookConfiguration of the injector, or its MutatingAdmissionPolicy: the namespaces that it leaves out
    #[arg(long, value_name = "NAME", default_value = "culvert-injector", requires = "cluster")]
    pub webhook: String,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath, requires = "cluster")]
    pub service_account: PathBuf,
}
