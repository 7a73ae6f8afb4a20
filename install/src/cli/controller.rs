// SPDX-License-Identifier: Apache-2.0
//! Command line of `controller`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::shared::long_time;
use crate::agent::options::StatusAddress;
use crate::inject::Identity;
use crate::kube::http::SERVICE_ACCOUNT;
use crate::kube::service::Service;

/// Examples below `controller --help`.
const CONTROLLER_EXAMPLES: &str = "\
Example, in a pod behind the Service culvert-controller:
  culvert-install controller --service culvert-controller.culvert-system

Exit codes: 0 ended by SIGTERM; 1 it cannot listen, or a part of it ended; 64 the command line is wrong,
or it runs in no pod.";

/// Options of `controller`.
#[derive(Debug, Args)]
#[command(after_help = CONTROLLER_EXAMPLES)]
pub(crate) struct ControllerArgs {
    /// Service in front of it, whose names its certificate has; its namespace holds the Lease and the Secret
    #[arg(long, value_name = "NAME.NAMESPACE")]
    pub service: Service,
    /// TLS address of sidecars' streams; :PORT is every address of both families
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15012")]
    pub listen: StatusAddress,
    /// Address of /healthz, /ready and /metrics
    #[arg(long, value_name = "ADDRESS", default_value = ":15090")]
    pub status_address: StatusAddress,
    /// Trust domain of all identities: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,
    /// Secret with the mesh's authority (tls.crt, tls.key); made where it is missing
    #[arg(long, value_name = "NAME", default_value = "culvert-authority")]
    pub secret: String,
    /// Life of a sidecar's certificate, which is renewed at half of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = long_time)]
    pub identity_life: Duration,
    /// Life of an authority that the controller makes; a tenth before its end the next one is published
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = long_time)]
    pub authority_life: Duration,
    /// Kinds of the mesh as CRDs: auto makes them where another program has made none
    #[arg(long, value_enum, default_value_t = CrdsArg::Auto)]
    pub crds: CrdsArg,
    /// Source of pods' identities: requests answers PodCertificateRequests beside the stream
    #[arg(long, value_enum, default_value_t = IdentityArg::Stream)]
    pub identity: IdentityArg,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath)]
    pub service_account: PathBuf,
}

/// Kinds of the mesh as CRDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CrdsArg {
    /// Made where the cluster has none by another program
    Auto,
    /// Made in any case
    Always,
    /// Left to others
    Never,
}

/// Source of pods' identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdentityArg {
    /// The sidecar makes its key, and the controller signs over the stream
    Stream,
    /// The kubelet makes it, and the controller signs PodCertificateRequests
    Requests,
    /// Another program writes it into a volume that the pod's annotation names
    Directory,
}

impl From<IdentityArg> for Identity {
    fn from(arg: IdentityArg) -> Self {
        match arg {
            IdentityArg::Stream => Self::Stream,
            IdentityArg::Requests => Self::Requests,
            IdentityArg::Directory => Self::Directory,
        }
    }
}

pub(super) fn trust_domain(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
        return Err("it is 1 to 255 lower-case letters, digits, dots, dashes and underscores".to_owned());
    }
    Ok(text.to_owned())
}
