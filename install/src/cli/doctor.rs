// SPDX-License-Identifier: Apache-2.0
//! Command line of `doctor`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{Output, PathArgs};
use crate::kube::http::SERVICE_ACCOUNT;

/// Text below `doctor --help`.
const DOCTOR_AFTER: &str = "\
Examples:
  culvert-install doctor
  culvert-install doctor --host-root /host --output json
  culvert-install doctor --cluster --namespace shop

--cluster runs in a pod whose account may get the webhook's configuration, read namespaces, and create pods in the namespace,
which it does as a dry run only. The chart makes such an account: injector.doctor.enabled.

Exit codes: 0 all is well; 1 something needs attention; 64 bad usage.";

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_AFTER)]
pub(crate) struct DoctorArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Check the way of a pod to its sidecar, by a pod that is created as a dry run, instead of this node
    #[arg(long)]
    pub cluster: bool,
    /// Namespace of that pod [default: the first that asks for sidecars]
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub namespace: Option<String>,
    /// MutatingWebhookConfiguration of the injector, or its MutatingAdmissionPolicy in policy mode
    #[arg(long, value_name = "NAME", default_value = "culvert-injector", requires = "cluster")]
    pub webhook: String,
    /// Secret with the injector's certificate
    #[arg(long, value_name = "NAME", default_value = "culvert-injector", requires = "cluster")]
    pub secret: String,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath, requires = "cluster")]
    pub service_account: PathBuf,
}
