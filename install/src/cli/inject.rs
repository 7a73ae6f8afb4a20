// SPDX-License-Identifier: Apache-2.0
//! Command line of `inject`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};

use super::controller::{IdentityArg, trust_domain};
use super::shared::long_time;
use crate::agent::options::StatusAddress;
use crate::kube::http::SERVICE_ACCOUNT;
use crate::kube::service::Service;

/// Examples below `inject --help`.
const INJECT_EXAMPLES: &str = "\
Examples:
  culvert-install inject --file web.yaml --image culvert:0.1.0 | kubectl apply -f -
  helm template web ./chart | culvert-install inject --file - --image culvert:0.1.0
  culvert-install inject --why web.yaml
  culvert-install inject --why web.yaml --namespace-label kubernetes.io/metadata.name=shop
  culvert-install inject --service culvert-injector.culvert-system --image culvert:0.1.0

Exit codes: 0 each pod has its sidecar or is skipped, with the reason on stderr; 1 a pod is refused,
or the file cannot be read, and --file prints nothing; 64 the command line is wrong. The webhook
(--service): 0 ended by SIGTERM; 1 it cannot listen; 64 bad usage, or it runs in no pod.";

/// Options of `inject`.
#[derive(Debug, Args)]
#[command(after_help = INJECT_EXAMPLES, group = ArgGroup::new("what").required(true).multiple(true).args(["file", "why", "service"]))]
pub(crate) struct InjectArgs {
    /// Manifest to print with sidecars; - is stdin. Comments and order stay, but for what stderr names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Print the decisions about the pods of this manifest, or of that of --file, and nothing else; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, num_args = 0..=1)]
    pub why: Option<Option<PathBuf>>,
    /// Serve as the admission webhook behind this Service, whose names its certificate has; runs until SIGTERM
    #[arg(long, value_name = "NAME.NAMESPACE", conflicts_with_all = ["file", "why"])]
    pub service: Option<Service>,
    /// Image with the sidecar
    #[arg(long, value_name = "IMAGE", required_unless_present = "why")]
    pub image: Option<String>,
    /// Shape of the sidecar where no annotation chooses one: native needs Kubernetes 1.29
    #[arg(long, value_enum, default_value_t = ShapeArg::Native)]
    pub sidecar: ShapeArg,
    /// Label of the pods' namespace; repeat the option for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, default_value = "culvert.dev/inject=enabled",
          conflicts_with = "service")]
    pub namespace_label: Vec<(String, String)>,
    /// Annotation of the pods' namespace, as openshift.io/sa.scc.uid-range=1000980000/10000; repeat for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "service")]
    pub namespace_annotation: Vec<(String, String)>,
    /// Conflist of the pods' nodes, or the culvert-cni entry alone: it has their defaults (`redirect`) and `locked` keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub conflist: Option<PathBuf>,
    /// Namespace whose pods get no sidecar; repeat for several. The cluster's own (kube-system) never get one
    #[arg(long, value_name = "NAME")]
    pub exclude_namespace: Vec<String>,
    /// Kuma's label kuma.io/sidecar-injection: on = it counts beside culvert.dev/inject; off = it is left to Kuma
    #[arg(long, value_enum, default_value_t = KumaLabelArg::On)]
    pub kuma_label: KumaLabelArg,
    /// The controller of the cluster.
    #[command(flatten)]
    pub control: ControlArgs,
    /// Settings of the webhook.
    #[command(flatten, next_help_heading = "Options of the webhook")]
    pub webhook: WebhookArgs,
}

/// Options with the controller that sidecars ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct ControlArgs {
    /// Controller that tells sidecars about the mesh, as https://culvert-controller.culvert-system.svc:15012
    #[arg(long, value_name = "URL", value_parser = control)]
    pub control: Option<String>,
    /// Trust domain of the controller's identities
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain, requires = "control")]
    pub trust_domain: String,
    /// Source of pods' identities: requests needs Kubernetes 1.37, or 1.35 by feature gates
    #[arg(long, value_enum, default_value_t = IdentityArg::Stream, requires = "control")]
    pub identity: IdentityArg,
}

/// The other two ways: clap asks for nothing that conflicts with what is given.
const OTHERS: [&str; 2] = ["file", "why"];

/// Options of `inject --service`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WebhookArgs {
    /// TLS address of the webhook, at the path /inject; :PORT is every address of both families
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:10250", requires = "service", conflicts_with_all = OTHERS)]
    pub listen: StatusAddress,
    /// Address of /healthz, /ready and /metrics
    #[arg(long, value_name = "ADDRESS", default_value = ":15090", requires = "service", conflicts_with_all = OTHERS)]
    pub status_address: StatusAddress,
    /// Secret in the Service's namespace that replicas share their certificate by; made where it is missing
    #[arg(long, value_name = "NAME", default_value = "culvert-injector", requires = "service", conflicts_with_all = OTHERS)]
    pub secret: String,
    /// MutatingWebhookConfiguration whose `caBundle`s it keeps, of webhooks that call the Service
    #[arg(long, value_name = "NAME", default_value = "culvert-injector", requires = "service", conflicts_with_all = OTHERS)]
    pub webhook: String,
    /// Life of a certificate; at a third before its end the next one is made
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = long_time, requires = "service", conflicts_with_all = OTHERS)]
    pub certificate_life: Duration,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath, requires = "service", conflicts_with_all = OTHERS)]
    pub service_account: PathBuf,
}

/// Shape of the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeArg {
    /// Init container that keeps running
    Native,
    /// Container beside the application's
    Plain,
}

/// Kuma's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KumaLabelArg {
    /// It counts beside culvert's own
    On,
    /// It counts for nothing
    Off,
}

/// Checks the address of a controller: a container's arguments are no place for a dollar, and the sidecar takes no path.
fn control(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("https://").unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "443"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.is_empty() || !host.bytes().all(allowed) || !is_port {
        return Err("it is https://NAME:PORT, without a path".to_owned());
    }
    Ok(text.to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is KEY=VALUE".to_owned()),
    }
}
